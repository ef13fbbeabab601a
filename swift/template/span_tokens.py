"""Spans -> tokens with loss weights: what is tokenised together, and the weight of each token. Knows no template."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from swift.template.offset_tokenizer import OffsetTokenizer, Special
from swift.template.split_points import Encoded
from swift.template.template_writer import Kind, Span

_SPECIAL: dict[Kind, Special] = {
    "template": "all",
    "stop": "all",
    "format": "marks",
    "reply": "marks",
    "given": "none",
    "system": "none",
    "tool_output": "none",
}


class SpanTokenizer:
    """Tokenises the spans of a dialogue; those of the template and the user that stand together are one text."""

    def __init__(self, encoder: OffsetTokenizer) -> None:
        self._encoder = encoder

    def tokens(self, spans: Sequence[Span]) -> list[int]:
        return [token for span in _merged(spans, self._encoder) for token in self.ids(span)]

    def weighed(self, spans: Sequence[Span]) -> tuple[list[int], list[float]]:
        """(tokens, the loss weight of each)."""
        tokens: list[int] = []
        weights: list[float] = []
        for span in _merged(spans, self._encoder):
            ids, their_weights = self._weighed(span)
            tokens += ids
            weights += their_weights
        return tokens, weights

    def texts(self, spans: Sequence[Span]) -> list[tuple[str, float]]:
        """(text, loss weight) of each token."""
        tokens: list[tuple[str, float]] = []
        for span in _merged(spans, self._encoder):
            tokens += zip(_texts(span.text, self._encoded(span)), self._weighed(span)[1], strict=True)
        return tokens

    def ids(self, span: Span) -> Sequence[int]:
        if span.context:
            return self._encoded(span).ids
        return span.ids or self._encoder.ids(span.text, _SPECIAL[span.kind])

    def _encoded(self, span: Span) -> Encoded:
        if span.ids:
            return Encoded(list(span.ids), [0] * len(span.ids))
        if span.context:
            return self._encoder.encode_after(span.context, span.text, _SPECIAL[span.kind])
        return self._encoder.encode(span.text, _SPECIAL[span.kind])

    def _weighed(self, span: Span) -> tuple[Sequence[int], list[float]]:
        """(tokens, weights) of a span. Offsets are computed only for spans with several weights."""
        weights = {weight for text, weight in span.scale if text}
        if len(weights) > 1:
            encoded = self._encoded(span)
            return encoded.ids, _token_weights(span.scale, encoded)
        ids = self.ids(span)
        return ids, [*weights, 0.0][:1] * len(ids)


def _merged(spans: Sequence[Span], encoder: OffsetTokenizer) -> Iterator[Span]:
    """Joins spans of the template and the user, so that they are tokenised as one text, as other programs do."""

    def joins(span: Span) -> bool:
        return not span.ids and (
            span.kind == "template" or (span.kind in ("given", "system") and not encoder.has_special(span.text))
        )

    for together, run in groupby(spans, key=joins):
        if together:
            yield Span("".join(each.text for each in run), "template")
        else:
            yield from run


def _token_weights(scale: Sequence[tuple[str, float]], encoded: Encoded) -> list[float]:
    """The weight of each token: that of its first character that is not white space, if it has one."""
    count = len(encoded.ids)
    if not scale:
        return [0.0] * count
    whole = "".join(text for text, _ in scale)
    weights: list[float] = []
    end = 0
    for text, weight in scale[:-1]:
        end += len(text)
        weights += [weight] * (_first_token_at(end, whole, encoded.starts) - len(weights))
    return weights + [scale[-1][1]] * (count - len(weights))


def _first_token_at(end: int, text: str, starts: Sequence[int]) -> int:
    """The index of the first token at or after `end`, leading white space ignored."""
    first = bisect_left(starts, end)
    if not first:
        return first
    start = starts[first - 1]
    token = text[start : starts[first] if first < len(starts) else len(text)]
    white = len(token) - len(token.lstrip() or token)
    return first - 1 if start + white >= end else first


def _texts(text: str, encoded: Encoded) -> list[str]:
    """The characters of each token. A character of several tokens belongs to the last."""
    borders = [0, *encoded.starts[1:], len(text)]
    return [text[start:end] for start, end in pairwise(borders)]
