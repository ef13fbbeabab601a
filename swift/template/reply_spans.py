"""Splits an assistant's turn by author and applies loss weights. Knows no chat template and no token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swift.agent import ToolFormat
from swift.agent.reply import split_observations
from swift.template.loss_scale import LossScale
from swift.template.template_writer import Kind, ReplyPart, Span

_RESULT = "\ue003"  # placeholder for a tool's text


class ReplySpans:
    """The spans of replies, by tool-call format and loss scale. `reasoning_weight` multiplies the loss of reasoning."""

    def __init__(self, tool_format: ToolFormat, scale: LossScale, reasoning_weight: float = 1.0) -> None:
        self.tool_format = tool_format
        self.scale = scale
        self.reasoning_weight = reasoning_weight

    def split_authors(self, text: str, tools: bool, weight: float | None) -> Iterator[ReplyPart]:
        """The parts of an assistant's text by author. An observation ends like a result that the format writes."""
        spoken = ""
        for part, outside in split_observations(text, agent=tools):
            if not outside:
                yield part, "reply", weight
            elif self.tool_format.syntax.special and spoken.endswith(self.tool_format.syntax.stop):
                opening, between, closing = self.tool_format.result([_RESULT] * 2).split(_RESULT)
                results = part.removeprefix(opening).removesuffix(closing).split(between)
                yield from ((span.text, span.kind, None) for span in self.result_spans(results, "tool_output"))
            else:
                yield part if part.endswith("\n") else f"{part}\n", "tool_output", None
            spoken = part

    def result_spans(self, texts: Sequence[str], kind: Kind) -> list[Span]:
        """Tool results in the text of the format. The format's special tokens are spans of their own, so that the same
        characters within a result remain text."""
        if not self.tool_format.syntax.special:
            return [Span(self.tool_format.result(texts), kind)]
        written = self.tool_format.result([_RESULT] * len(texts)).split(_RESULT)
        between = [Span(text, "format") for text in written]
        spans = [between[0]]
        for text, after in zip(texts, between[1:], strict=True):
            spans += [Span(text, kind), after]
        return [span for span in spans if span.text]

    def weighted_span(self, part: ReplyPart, query: str, last: bool) -> Span:
        """A part of a reply to `query` with its weights. `last`: no user turn follows."""
        text, kind, weight = part
        if kind != "reply" or weight == 0:
            return Span(text, kind, ((text, 0.0),))
        factor = 1.0 if weight is None else weight
        return Span(text, kind, tuple((span, w * factor) for span, w in self.scale(text, query, last)))

    def reasoning_span(self, before: str, thought: str, weight: float | None, last: bool) -> Span:
        """The text that opens reasoning, and the reasoning, as one span."""
        factor = (1.0 if weight is None else weight) * self.scale(" ", "", last)[0][1]
        return Span(before + thought, "reply", ((before, factor), (thought, factor * self.reasoning_weight)))


def closing_weight(spoken: Sequence[Span], weight: float | None) -> float:
    """The weight of the token that ends a turn: that of the message, if the end of the reply is trained."""
    trained = any(each for span in spoken[-1:] for _, each in span.scale)
    return (1.0 if weight is None else weight) if trained else 0.0
