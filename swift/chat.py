"""The values that every room of the house shares. Knows no tokenizer, no file and no library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool. `arguments` is JSON text, kept byte for byte as the row or the model wrote it."""

    name: str
    arguments: str = "{}"
    id: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool on offer. `spec` is what the user gave, wrapper (`{"type": "function", ...}`) included."""

    spec: dict[str, Any]

    @property
    def function(self) -> dict[str, Any]:
        """The description without its OpenAI wrapper."""
        inner = self.spec.get("function")
        return inner if isinstance(inner, dict) else self.spec

    @property
    def wrapped(self) -> dict[str, Any]:
        """The description within OpenAI's wrapper."""
        return self.spec if "function" in self.spec else {"type": "function", "function": self.spec}

    @property
    def name(self) -> str:
        return str(self.function.get("name") or self.function.get("name_for_model") or "")

    @property
    def label(self) -> str:
        """The name shown to people; the tool's own name unless `name_for_human` says otherwise."""
        return str(self.function.get("name_for_human") or self.name)

    @property
    def description(self) -> str:
        return str(self.function.get("description") or self.function.get("description_for_model") or "")

    @property
    def parameters(self) -> Any:
        """A JSON schema of the arguments, or what stands in its place; `{}` when there is none."""
        return self.function.get("parameters", {})


PLACE = "\ufffc"
"""Unicode's own character for an object in a text: where an image stands in the content of a message that has one."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture. `source` is what it is called: a path or a URL. `data` is its file; empty: it is read when needed."""

    source: str
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` None leaves the loss to the loss scale; a number multiplies it, 0 never trains it.

    Each of the `images` stands at a PLACE of the content, in order; without images that character is text.
    `reasoning` is what the assistant thinks before it answers or calls; it is not part of the content.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    weight: float | None = None
    tool_call_id: str = ""
    name: str = ""
    images: tuple[Image, ...] = ()
    reasoning: str = ""

    @property
    def parts(self) -> tuple[str | Image, ...]:
        """The content as texts and the images between them. ValueError where these are not as many as their places."""
        if not self.images:
            return (self.content,)
        texts = self.content.split(PLACE)
        if len(texts) != len(self.images) + 1:
            raise ValueError(f"{len(self.images)} images for {len(texts) - 1} places in the {self.role}'s message")
        parts: list[str | Image] = [texts[0]]
        for image, text in zip(self.images, texts[1:], strict=True):
            parts += [image, text]
        return tuple(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A training row or a running dialogue.

    A system message, where there is one, comes first; an empty one means "no system text" and a missing one
    means "the template's default". One assistant message alone is text for pre-training. `source` and `line`
    say where the row came from, for reports. `template_kwargs` are variables for the model's own chat template,
    such as `enable_thinking`.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    source: str = ""
    line: int = 0
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """True for a row without a dialogue: plain text to pre-train on."""
        return len(self.messages) == 1 and self.messages[0].role == "assistant"

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for message in self.messages for image in message.images)

    def with_messages(self, messages: tuple[Message, ...]) -> Conversation:
        return replace(self, messages=messages)


class Sample(NamedTuple):
    """A rendered row: `tokens` and, as long, the loss weight of predicting each of them (0: not trained).

    `inputs` makes what the model needs beside them (the pixels of images), so that it need not be kept.
    """

    tokens: list[int]
    weights: list[float]
    source: str = ""
    inputs: Callable[[], Mapping[str, Any]] | None = None

    @property
    def trained(self) -> int:
        """The number of tokens that carry weight."""
        return sum(weight != 0 for weight in self.weights)


class Usage(NamedTuple):
    prompt_tokens: int
    completion_tokens: int


FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


class Logprob(NamedTuple):
    """A token of a reply, its bytes and its log probability under the model; `top`: the likeliest in its place."""

    token: int
    data: bytes
    logprob: float
    top: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A step of a reply while it is made: new text or reasoning, more of a call, or (last) why it ended and its cost.

    A `tool_call` with a name begins a call; one without a name adds to the arguments of the call before.
    """

    text: str = ""
    tool_call: ToolCall | None = None
    finish: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[Logprob, ...] = field(default=())
    reasoning: str = ""


class Draft:
    """A reply that is put together from its deltas."""

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self.finish: FinishReason | None = None
        self.usage = Usage(0, 0)
        self._text: list[str] = []
        self._reasoning: list[str] = []

    def add(self, delta: Delta) -> None:
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        if delta.tool_call is not None:
            if delta.tool_call.name:
                self.calls.append(delta.tool_call)
            else:
                begun = self.calls[-1]
                self.calls[-1] = replace(begun, arguments=begun.arguments + delta.tool_call.arguments)
        self.finish = delta.finish or self.finish
        self.usage = delta.usage or self.usage

    @property
    def message(self) -> Message:
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        return Message("assistant", text, tuple(self.calls), reasoning=reasoning)
