"""A reply's thought, text and calls on the screen, while they come. Knows no model and no prompt."""

from __future__ import annotations

from swift.agent import SAMPLE_ARGUMENTS, ToolFormat, call_template
from swift.agent.reply import THINK_TAGS
from swift.chat import Delta, Draft, ToolCall
from swift.infer.terminal_output import TerminalOutput

_NAME = "\ue000"  # no form writes it of its own accord


class ReplyView:
    """Shows of a reply what is not shown yet: `show` after each delta, or once at the end.

    `offered`: there are tools, so a thought opens with the form's word for it, if any. Otherwise it is a BLOCK.
    """

    def __init__(self, tool_format: ToolFormat, screen: TerminalOutput, offered: bool) -> None:
        self._format = tool_format
        self._word = tool_format.syntax.thought if offered else ""
        self._in_block = False
        self._screen = screen
        self._draft = Draft()
        self._thought = self._text = 0  # how much of each is on the screen
        self._calls = ""

    def add(self, delta: Delta) -> None:
        self._draft.add(delta)

    def show(self, whole: bool = False) -> None:
        """`whole`: the reply is over and was not cut, so its last call is whole."""
        reply = self._draft.message
        if thought := reply.reasoning[self._thought :]:
            self._show_thought(thought)
            self._thought = len(reply.reasoning)
        shown = self._word and reply.content == reply.reasoning  # a thought alone is the answer too
        if (text := reply.content[self._text :]) and not shown:
            self._leave_thought()
            self._screen.say(text)
            self._text = len(reply.content)
        if reply.tool_calls:
            self._show_calls(whole)
        if whole and self._in_block:
            self._screen.show(f"\n{THINK_TAGS.close}\n", "thought")

    def _show_thought(self, thought: str) -> None:
        begins = not self._thought
        if self._word and begins and not thought.lstrip().startswith(self._word):
            thought = f"{self._word} {thought.lstrip()}"
        if not self._word and not self._in_block:
            self._screen.fresh()
            thought = f"{THINK_TAGS.open}\n{thought}" if begins else f"{THINK_TAGS.open}{thought}"
            self._in_block = True
        self._screen.show(thought, "thought")

    def _leave_thought(self) -> None:
        """Before what is said, or the first call where nothing is."""
        if self._in_block:
            self._screen.show(f"\n{THINK_TAGS.close}\n\n", "thought")
            self._in_block = False
        elif self._word and self._thought and not self._text:
            self._screen.fresh()

    def _show_calls(self, whole: bool) -> None:
        reply = self._draft.message
        calls = self._begun()
        if whole:
            written = self._format.call(reply.content, reply.tool_calls)[len(reply.content) :]
            # arguments that are no JSON object after all stay as they came
            calls = written if written.startswith(self._calls) else calls + call_template(self._format).tail
        if not self._calls and calls:
            self._leave_thought()
        new = calls.removeprefix(self._calls)
        mark = next((mark for mark in self._format.syntax.stop if new.endswith(mark)), "")
        self._screen.show(new.removesuffix(mark), "call")
        self._screen.show(mark, "observation")
        self._calls = calls

    def _begun(self) -> str:
        """What the form will have written of the calls by now, where their arguments are written as they come."""
        reply = self._draft.message
        if self._format.syntax.tags or not all(call.arguments.startswith("{") for call in reply.tool_calls[:-1]):
            return self._calls
        parts = call_template(self._format)
        first = self._format.call(reply.content, [ToolCall(_NAME, SAMPLE_ARGUMENTS)])
        opening = first[len(reply.content) : first.index(_NAME, len(reply.content))]
        *before, last = reply.tool_calls
        written = "".join(f"{call.name}{parts.between}{call.arguments}{parts.middle}" for call in before)
        arguments = last.arguments if last.arguments.startswith("{") else ""
        return f"{opening}{written}{last.name}{parts.between}{arguments}"
