"""The types of dialogues: messages, tools, samples, deltas. Uses only the standard library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call. `arguments`: JSON text, kept byte for byte as in the row or the reply.

    `confidence`: the probability, 0 to 1, that the model gives to this call; None: unknown.
    """

    name: str
    arguments: str = "{}"
    id: str = ""
    confidence: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """An offered tool. `spec`: its description as given, with or without the wrapper `{"type": "function", ...}`."""

    spec: dict[str, Any]

    @property
    def function(self) -> dict[str, Any]:
        """The description without OpenAI's wrapper."""
        inner = self.spec.get("function")
        return inner if isinstance(inner, dict) else self.spec

    @property
    def wrapped(self) -> dict[str, Any]:
        """The description in OpenAI's wrapper."""
        return self.spec if "function" in self.spec else {"type": "function", "function": self.spec}

    @property
    def name(self) -> str:
        return str(self.function.get("name") or self.function.get("name_for_model") or "")

    @property
    def label(self) -> str:
        """The display name: `name_for_human`, or the name."""
        return str(self.function.get("name_for_human") or self.name)

    @property
    def description(self) -> str:
        return str(self.function.get("description") or self.function.get("description_for_model") or "")

    @property
    def parameters(self) -> Any:
        """The parameters as given, usually a JSON schema; `{}` if there are none."""
        return self.function.get("parameters", {})


PLACE = "\ufffc"
"""U+FFFC, object replacement character: the place of an image in a message's content."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image. `source`: a path or URL; `data`: the bytes of its file, empty if it is read when needed."""

    source: str
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """A message. `weight` multiplies the loss of the loss scale: None means 1, 0 means not trained.

    The n-th of `images` is at the n-th PLACE of the content; without images that character is text. `reasoning`: the
    assistant's reasoning before content and calls; it is not part of the content. `declined`: calls that the model
    wrote and hardly believed in, so that the reply went on in words instead; they are not part of it either.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    weight: float | None = None
    tool_call_id: str = ""
    name: str = ""
    images: tuple[Image, ...] = ()
    reasoning: str = ""
    declined: tuple[ToolCall, ...] = field(default=(), compare=False)

    @property
    def parts(self) -> tuple[str | Image, ...]:
        """The content as texts and images, in order. Raises ValueError if images and places differ in number."""
        if not self.images:
            return (self.content,)
        texts = self.content.split(PLACE)
        if len(texts) != len(self.images) + 1:
            raise ValueError(f"{len(self.images)} images for {len(texts) - 1} places in the {self.role} message")
        parts: list[str | Image] = [texts[0]]
        for image, text in zip(self.images, texts[1:], strict=True):
            parts += [image, text]
        return tuple(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A training row or a dialogue in progress.

    A system message comes first; an empty one means no system prompt, a missing one the template's default. A single
    assistant message is text for pre-training. `source`, `line`: the origin of the row, for reports.
    `template_kwargs`: variables for the model's own chat template, such as `enable_thinking`.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    source: str = ""
    line: int = 0
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """Whether the row is plain text for pre-training."""
        return len(self.messages) == 1 and self.messages[0].role == "assistant"

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for message in self.messages for image in message.images)

    def with_messages(self, messages: tuple[Message, ...]) -> Conversation:
        return replace(self, messages=messages)


@dataclass(frozen=True, slots=True)
class Preference(Conversation):
    """A dialogue whose messages from number `prompt` on are a completion that people or a program have judged.

    They preferred it to the messages `rejected`, or, where there are none, called it desirable or not (`label`).
    """

    prompt: int = 0
    rejected: tuple[Message, ...] = ()
    label: bool = True

    @property
    def other(self) -> Conversation | None:
        """The dialogue that ends with the rejected completion; None if there is none."""
        if not self.rejected:
            return None
        messages = self.messages[: self.prompt] + self.rejected
        return Conversation(messages, self.tools, self.source, self.line, self.template_kwargs)


class Judged(NamedTuple):
    """What a sample of preference training knows beside its tokens.

    `rows`: the tokens are those of several rows, one after another, with these lengths. `label`: whether the first row
    is desirable. `reference`: the log-likelihood, in nats, of each row under the reference model.
    """

    rows: tuple[int, ...]
    label: bool = True
    reference: tuple[float, ...] = ()


class Sample(NamedTuple):
    """A tokenised sample: `tokens`, and the loss weight of each (same length; 0: not trained).

    `inputs` computes further model inputs, such as pixels, on demand. `judged`: for preference training alone.
    """

    tokens: list[int]
    weights: list[float]
    source: str = ""
    inputs: Callable[[], Mapping[str, Any]] | None = None
    judged: Judged | None = None

    @classmethod
    def joined(cls, rows: Sequence[Sample], label: bool = True) -> Sample:
        """One sample of several rows, for preference training."""
        tokens = [token for row in rows for token in row.tokens]
        weights = [weight for row in rows for weight in row.weights]
        return cls(tokens, weights, rows[0].source, judged=Judged(tuple(len(row.tokens) for row in rows), label))

    @property
    def rows(self) -> list[Sample]:
        """The rows that were joined; of any other sample itself."""
        if self.judged is None:
            return [self]
        ends = list(accumulate(self.judged.rows))
        parts = [slice(end - length, end) for end, length in zip(ends, self.judged.rows, strict=True)]
        return [Sample(self.tokens[part], self.weights[part], self.source) for part in parts]

    @property
    def trained(self) -> int:
        """The number of tokens with a weight other than 0."""
        return sum(weight != 0 for weight in self.weights)


class Usage(NamedTuple):
    prompt_tokens: int
    completion_tokens: int


class UsageDetails(NamedTuple):
    """`cached_tokens`: of the prompt, those whose keys and values were in the prefix cache; None: unknown.
    `reasoning_tokens`: of the reply, those within reasoning blocks."""

    cached_tokens: int | None = None
    reasoning_tokens: int = 0


FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


class Logprob(NamedTuple):
    """A token of a reply, its bytes and its log probability. `top`: the most probable tokens at its position."""

    token: int
    data: bytes
    logprob: float
    top: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of a streamed reply: text, reasoning, a part of a call, or finally the finish reason and the usage.

    A `tool_call` with a name begins a call; one without a name continues the arguments of the previous call. The last
    part of a call has its confidence, if it is known. `stop`: the stop string that ended the reply, if one did and the
    chat knows it. `details` come with the usage. The first delta may have those of the prompt alone. `declined`: see
    Message; in the last one.
    """

    text: str = ""
    tool_call: ToolCall | None = None
    finish: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[Logprob, ...] = field(default=())
    reasoning: str = ""
    stop: str = field(default="", compare=False)
    details: UsageDetails | None = field(default=None, compare=False)
    declined: tuple[ToolCall, ...] = field(default=(), compare=False)


class Draft:
    """Assembles a reply from its deltas."""

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self.declined: tuple[ToolCall, ...] = ()
        self.finish: FinishReason | None = None
        self.usage = Usage(0, 0)
        self.details = UsageDetails()
        self._text: list[str] = []
        self._reasoning: list[str] = []

    def add(self, delta: Delta) -> None:
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        if delta.tool_call is not None:
            if delta.tool_call.name:
                self.calls.append(delta.tool_call)
            else:
                last = self.calls[-1]
                more = delta.tool_call
                known = last.confidence if more.confidence is None else more.confidence
                self.calls[-1] = replace(last, arguments=last.arguments + more.arguments, confidence=known)
        self.declined = delta.declined or self.declined
        self.finish = delta.finish or self.finish
        self.usage = delta.usage or self.usage
        self.details = delta.details or self.details

    @property
    def message(self) -> Message:
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        return Message("assistant", text, tuple(self.calls), reasoning=reasoning, declined=self.declined)
