"""Who wrote what of an assistant's turn, and how much each part of it weighs. Knows no chat template and no token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swift.agent import ToolFormat
from swift.agent.reply import split_observations
from swift.template.loss_scale import LossScale
from swift.template.template_writer import Kind, ReplyPart, Span

_RESULT = "\ue003"  # stands for a tool's text while the form writes around it


class ReplySpans:
    """The text form of a dialogue and the loss weights of its replies; `reasoning_weight` multiplies thoughts' own."""

    def __init__(self, tool_format: ToolFormat, scale: LossScale, reasoning_weight: float = 1.0) -> None:
        self.tool_format = tool_format
        self.scale = scale
        self.reasoning_weight = reasoning_weight

    def said(self, text: str, tools: bool, weight: float | None) -> Iterator[ReplyPart]:
        """Who wrote what of an assistant's text. An observation ends as a result that the form writes itself does."""
        spoken = ""
        for part, outside in split_observations(text, agent=tools):
            if not outside:
                yield part, "reply", weight
            elif self.tool_format.syntax.special and spoken.endswith(self.tool_format.syntax.stop):
                opening, between, closing = self.tool_format.result([_RESULT] * 2).split(_RESULT)
                results = part.removeprefix(opening).removesuffix(closing).split(between)
                yield from ((piece.text, piece.kind, None) for piece in self.results(results, "environment"))
            else:
                yield part if part.endswith("\n") else f"{part}\n", "environment", None
            spoken = part

    def results(self, texts: Sequence[str], kind: Kind) -> list[Span]:
        """What tools returned as the form tells it, the form's own marks apart from the same characters in a result."""
        if not self.tool_format.syntax.special:
            return [Span(self.tool_format.result(texts), kind)]
        written = self.tool_format.result([_RESULT] * len(texts)).split(_RESULT)
        between = [Span(text, "format") for text in written]
        pieces = [between[0]]
        for text, after in zip(texts, between[1:], strict=True):
            pieces += [Span(text, kind), after]
        return [piece for piece in pieces if piece.text]

    def weighed(self, part: ReplyPart, query: str, last: bool) -> Span:
        """A part of a reply to `query` with its weights; `last`: no user turn comes after it."""
        text, kind, weight = part
        if kind != "reply" or weight == 0:
            return Span(text, kind, ((text, 0.0),))
        factor = 1.0 if weight is None else weight
        return Span(text, kind, tuple((piece, w * factor) for piece, w in self.scale(text, query, last)))

    def thought(self, before: str, thought: str, weight: float | None, last: bool) -> Span:
        """What opens a thought, and the thought, as one piece."""
        factor = (1.0 if weight is None else weight) * self.scale(" ", "", last)[0][1]
        return Span(before + thought, "reply", ((before, factor), (thought, factor * self.reasoning_weight)))


def closing_weight(spoken: Sequence[Span], weight: float | None) -> float:
    """The weight of the token that ends a turn: the message's own, where anything of its end is trained."""
    trained = any(each for piece in spoken[-1:] for _, each in piece.scale)
    return (1.0 if weight is None else weight) if trained else 0.0
