"""The confidence of tool calls: log probabilities of tokens -> a probability. Knows no model and no chat."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from swift.agent import CallTemplate, Syntax
from swift.chat import ToolCall


class Calibration(NamedTuple):
    """Probability of a call -> how often calls of that probability are right: `p ** (1 / temperature)`.

    Dividing log probabilities by a temperature that is fitted on held-out examples is temperature scaling (Guo et al.
    2017, arXiv 1706.04599), here on the log probability of the whole call. The product over the calls of a reply stays
    the calibrated probability of all of them.

    `min_confidence`: calls of a reply are not made if the calibrated probability of all of them is below it.
    """

    temperature: float = 1.0
    min_confidence: float = 0.0

    def __call__(self, log_probability: float) -> float:
        return math.exp(log_probability / self.temperature)


UNCALIBRATED = Calibration()


class Span(NamedTuple):
    """Characters of a text, from `start` to before `end`."""

    start: int
    end: int


class Opening(NamedTuple):
    """Where a reply begins to call: the tokens before, and the first token that is more than white space."""

    before: tuple[int, ...]
    token: int


class ReplyTokens:
    """The tokens of a reply: the text that each one adds, and its log probability."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._texts: list[str] = []
        self._starts: list[int] = []
        self._logprobs: list[float] = []
        self._length = 0

    def add(self, token: int, text: str, logprob: float) -> None:
        """`text`: what the token completes; "" while a character is incomplete."""
        self._tokens.append(token)
        self._texts.append(text)
        self._starts.append(self._length)
        self._logprobs.append(logprob)
        self._length += len(text)

    def flush(self, text: str) -> None:
        """Text of the last tokens that comes at the end of the reply."""
        self._texts.append(text)
        self._length += len(text)

    def log_probability(self, text: str, span: Span, first: int = 0) -> tuple[float, int] | None:
        """(the sum over the tokens that overlap a span of `text`, the number of the token after them).

        `text`: a part of the reply, such as its content after the reasoning. Tokens before `first` do not count. None
        if the span is not found or a token's log probability is unknown.
        """
        place = self._place(text, span)
        if place is None:
            return None
        start, end = place
        total, after = 0.0, first
        for index, token in enumerate(self._spans()):
            if token.start >= end:
                break
            after = max(after, index + 1)
            if index >= first and token.end > start:
                total += self._logprobs[index]
        return None if math.isnan(total) else (total, after)

    def opening(self, text: str, span: Span) -> Opening | None:
        """Where a span of `text` begins; None if it is not found."""
        place = self._place(text, span)
        if place is None:
            return None
        within = [number for number, token in enumerate(self._spans()) if token.start >= place.start]
        # the first bytes of a character have no text yet
        first = next((number for number in within if not self._texts[number].isspace()), None)
        return None if first is None else Opening(tuple(self._tokens[: within[0]]), self._tokens[first])

    def _place(self, text: str, span: Span) -> Span | None:
        """A span of `text` in the whole reply."""
        whole = "".join(self._texts)
        offset = whole.rfind(text)  # reasoning may contain the same call, so the last one is meant
        if offset < 0:  # reasoning was cut out of the middle
            text, span = text[span.start : span.end], Span(0, span.end - span.start)
            offset = whole.rfind(text)
        return Span(offset + span.start, offset + span.end) if text and offset >= 0 else None

    def _spans(self) -> list[Span]:
        """The text of each token; tokens that share a character all have it."""
        spans: list[Span] = []
        end = following = self._length
        for start in reversed(self._starts):
            if start < following:
                end, following = following, start
            spans.append(Span(start, end))
        return spans[::-1]


class CallConfidence:
    """The confidence of each call of a reply, in order, as the calls become complete.

    It is the probability of the tokens from the opening of the call to the end of its arguments, given the prompt and
    the reply before them. The opening stands for the decision to call at all. Reasoning and text before or between
    calls do not count, and the tokens that the format prescribes hardly do: they are nearly certain.
    """

    def __init__(
        self, tokens: ReplyTokens, syntax: Syntax, template: CallTemplate, calibration: Calibration = UNCALIBRATED
    ) -> None:
        self.tokens, self._calibration = tokens, calibration
        self._places = CallPlaces(syntax, template)
        self._token = self._done = 0
        self.opening: Opening | None = None
        """Where the first call began, once it has been asked for."""

    def of_next(self, text: str, begin: int, calls: Sequence[ToolCall]) -> float | None:
        """The confidence of the first call that has not been asked for; None if it is unknown.

        `text`: the reply so far without reasoning; `begin`: where its content ends; `calls`: those that it contains.
        """
        if self._done >= len(calls):
            return None
        span = self._places.spans(text, begin, calls)[self._done]
        if not self._done:
            self.opening = self.tokens.opening(text, span)
        self._done += 1
        found = self.tokens.log_probability(text, span, self._token)
        if found is None:
            return None
        log_probability, self._token = found
        return self._calibration(log_probability)


class CallPlaces:
    """Finds calls in the text of a reply."""

    def __init__(self, syntax: Syntax, template: CallTemplate) -> None:
        self._verbatim = syntax.tags is None
        self._marker = re.compile("|".join(map(re.escape, syntax.call)) or r"(?!)", re.IGNORECASE)
        # Thoughts with a label end in a line break in any case, before a call as before an answer.
        self._space_counts = not syntax.thought
        closing = _common_prefix(template.middle, template.tail)
        unfinished = closing.rfind("<")  # of a tag that differs after its first letters
        self._closing = closing[: unfinished if unfinished > closing.rfind(">") else None].strip()
        before = _common_prefix(template.head[::-1], template.middle[::-1])[::-1].split()[-1:]
        self._before_name = rf"{re.escape(before[0])}\s*" if before else ""
        self._after_name = rf"\s*{re.escape(template.between.strip()[:1])}"

    def spans(self, text: str, begin: int, calls: Sequence[ToolCall]) -> list[Span]:
        """The text of each call: from its opening, or the space before it, to the end of its arguments.

        Arguments that the text does not contain as they are end with the text around them.
        """
        found: list[Span] = []
        at = begin if text[begin:].strip() else 0
        for index, call in enumerate(calls):
            name = self._find(text, call.name, at)
            opening = at if index == 0 and at else self._opening(text, at, name)
            opening = opening if self._space_counts else _after_space(text, opening)
            at = self._end(text, name + len(call.name), call, calls[index + 1].name if index + 1 < len(calls) else "")
            found.append(Span(opening, max(at, opening)))
        return found

    def _find(self, text: str, name: str, at: int) -> int:
        """Where a call's name is written; `at` if it is not found."""
        written = re.escape(name)
        for pattern in (f"{self._before_name}({written}){self._after_name}", f"({written})"):
            if found := re.compile(pattern, re.IGNORECASE).search(text, at):
                return found.start(1)
        return at

    def _opening(self, text: str, at: int, name: int) -> int:
        """Where the call with the name at `name` begins: at its marker, with the space before it; else at `at`."""
        markers = [match.start() for match in self._marker.finditer(text, at, name)]
        return max(at, len(text[: markers[-1]].rstrip())) if markers else at

    def _end(self, text: str, at: int, call: ToolCall, following: str) -> int:
        """The end of the arguments of a call whose name ends at `at`."""
        if self._verbatim and call.arguments.strip():
            place = text.find(call.arguments, at)
            if place >= 0 and not self._marker.search(text, at, place):
                return place + len(call.arguments)
        limit = self._find(text, following, at) if following else len(text)
        closing = text.rfind(self._closing, at, limit) if self._closing else -1
        return closing + len(self._closing) if closing >= 0 else max(at, len(text[:limit].rstrip()))


def _after_space(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def _common_prefix(left: str, right: str) -> str:
    size = next((index for index, pair in enumerate(zip(left, right, strict=False)) if len(set(pair)) > 1), None)
    return left[: min(len(left), len(right)) if size is None else size]
