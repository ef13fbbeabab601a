"""Sampled tokens -> reasoning and content that is safe to show, up to a stop string. Knows no engine and no prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from swift.agent.reasoning_parser import ReasoningParser, ReplyText
from swift.agent.result_marks import RESULT_MARKS, in_argument_string

REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are not (yet) a character."""


class StopString(NamedTuple):
    """A text that ends a reply; `keep`: it stays in the reply."""

    text: str
    keep: bool


class Detokenizer:
    """Turns tokens into text one by one, and never returns half a character.

    `before`: the last tokens of the prompt. Some decoders drop the space before the first word they see.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._shown = list(before)  # tokens whose text has been returned, kept as context
        self._new: list[int] = []

    def push(self, token: int) -> str:
        self._new.append(token)
        return self._text(final=False)

    def flush(self) -> str:
        """The rest of the text; at the end of a reply, an incomplete character too."""
        return self._text(final=True) if self._new else ""

    def _text(self, final: bool) -> str:
        before, text = self._decode(self._shown), self._decode(self._shown + self._new)
        if not final and (len(text) <= len(before) or text.endswith(REPLACEMENT)):
            return ""
        self._shown, self._new = self._new, []
        return text[len(before) :]


class StopChecker:
    """Passes text up to the first of `stop_strings`, and holds back text that may be the beginning of one.

    A mark of a tool-call format (`Observation:`) does not end a reply within a string of a call's arguments. Text from
    such a mark on is held back until the string is closed, or until a line break shows that its quote was forgotten:
    then the reply ends at the mark. `before`: the text that the reply continues.
    """

    def __init__(self, stop_strings: Sequence[StopString], before: str = "") -> None:
        self._plain = tuple(stop for stop in stop_strings if stop.text not in RESULT_MARKS)
        self._marks = tuple(stop for stop in stop_strings if stop.text in RESULT_MARKS)
        self._stops = (*self._plain, *self._marks)
        self._passed = before  # kept where there are marks
        self._held = ""
        self.ended: StopString | None = None

    def push(self, text: str) -> str:
        if self.ended is not None:
            return ""
        self._held += text
        # The leftmost match wins; of several that begin there, the longest.
        found = [(at, -len(stop.text), stop) for stop in self._plain if (at := self._held.find(stop.text)) >= 0]
        size = len(self._held)
        known = min(found)[0] - min(found)[1] if found else size
        undecided = size
        for stop in self._marks:
            at, is_mark = self._find_mark(stop.text, known)
            if is_mark:
                found.append((at, -len(stop.text), stop))
            elif at >= 0:
                undecided = min(undecided, at)
        if found:
            at, _, self.ended = min(found)
            passed = self._held[: at + len(self.ended.text) * self.ended.keep]
            self._held = ""
            return passed
        hold = max((partial_overlap(self._held, stop.text) for stop in self._stops), default=0)
        cut = min(size - hold, undecided)
        passed, self._held = self._held[:cut], self._held[cut:]
        if self._marks:
            self._passed += passed
        return passed

    def _find_mark(self, mark: str, end: int) -> tuple[int, bool]:
        """The first `mark` in the held text up to `end` that ends the reply, or that a string without an end contains,
        and whether it ends the reply; (-1, False) if there is none."""
        at = self._held.find(mark, 0, end)
        while at >= 0:
            text = self._passed + self._held[:end]
            inside = in_argument_string(text, len(self._passed) + at, mark)
            if not inside:
                return at, inside is False
            at = self._held.find(mark, at + len(mark), end)
        return -1, False

    def flush(self) -> str:
        """The text that is held back: at the end of the reply, it is no stop string."""
        passed, self._held = self._held, ""
        return passed


class ReplyStream:
    """Tokens -> reasoning and content: a Detokenizer, a ReasoningParser and StopCheckers in a row.

    `turn`: stop strings that end the reply anywhere; `stop_strings` end it in the content alone. `before`: the last
    tokens of the prompt; `continues`: the text that the reply continues, "" for a new reply.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop_strings: Sequence[StopString] = (),
        before: Sequence[int] = (),
        reasoning: ReasoningParser | None = None,
        turn: Sequence[StopString] = (),
        continues: str = "",
    ) -> None:
        self._characters = Detokenizer(decode, before)
        self._turn, self._content = StopChecker(turn), StopChecker(stop_strings, continues)
        self._reasoning = reasoning or ReasoningParser(None)
        self.token_text = ""
        """The text that the last token completed, before anything is held back or cut."""

    @property
    def ended(self) -> StopString | None:
        """The stop string that ended the reply, if one did."""
        return self._content.ended or self._turn.ended

    @property
    def reasons(self) -> bool:
        """Whether the last token is within a reasoning block."""
        return self._reasoning.state == "reasoning"

    def push(self, token: int) -> ReplyText:
        self.token_text = self._characters.push(token)
        return self._parse(self._turn.push(self.token_text))

    def flush(self) -> ReplyText:
        self.token_text = self._characters.flush()
        parsed = self._parse(self._turn.push(self.token_text) + self._turn.flush())
        rest = self._reasoning.end()
        return parsed + ReplyText(rest.reasoning, self._content.push(rest.content) + self._content.flush())

    def _parse(self, text: str) -> ReplyText:
        parsed = self._reasoning.push(text)
        return ReplyText(parsed.reasoning, self._content.push(parsed.content))


def partial_overlap(text: str, marker: str) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of `marker`, in any letter case."""
    sizes = range(min(len(text), len(marker) - 1), 0, -1)
    return next((size for size in sizes if text[-size:].lower() == marker[:size].lower()), 0)
