"""How a tool ends without a value."""


class TimeLimitError(Exception):
    """The call exceeded its time limit. A text, where there is one, tells the model what else that means."""


class ToolError(Exception):
    """The tool refuses a call. Its text is for the model as it is, without the name of an exception."""
