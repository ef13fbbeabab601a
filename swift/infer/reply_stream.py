"""Sampled tokens -> reasoning and content that is safe to show, up to a stop string. Knows no engine and no prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from swift.agent.reasoning_parser import ReasoningParser, ReplyText

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
    """Passes text up to the first of `stop_strings`, and holds back text that may be the beginning of one."""

    def __init__(self, stop_strings: Sequence[StopString]) -> None:
        self._stops = tuple(stop_strings)
        self._held = ""
        self.ended: StopString | None = None

    def push(self, text: str) -> str:
        if self.ended is not None:
            return ""
        self._held += text
        # The leftmost match wins; of several that begin there, the longest.
        found = [(at, -len(stop.text), stop) for stop in self._stops if (at := self._held.find(stop.text)) >= 0]
        if found:
            at, _, self.ended = min(found)
            passed = self._held[: at + len(self.ended.text) * self.ended.keep]
            self._held = ""
            return passed
        hold = max((partial_overlap(self._held, stop.text) for stop in self._stops), default=0)
        cut = len(self._held) - hold
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed

    def flush(self) -> str:
        """The text that is held back: at the end of the reply, it is no stop string."""
        passed, self._held = self._held, ""
        return passed


class ReplyStream:
    """Tokens -> reasoning and content: a Detokenizer, a ReasoningParser and StopCheckers in a row.

    `turn`: stop strings that end the reply anywhere; `stop_strings` end it in the content alone. `before`: the last
    tokens of the prompt.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stop_strings: Sequence[StopString] = (),
        before: Sequence[int] = (),
        reasoning: ReasoningParser | None = None,
        turn: Sequence[StopString] = (),
    ) -> None:
        self._characters = Detokenizer(decode, before)
        self._turn, self._content = StopChecker(turn), StopChecker(stop_strings)
        self._reasoning = reasoning or ReasoningParser(None)
        self.token_text = ""
        """The text that the last token completed, before anything is held back or cut."""

    @property
    def ended(self) -> StopString | None:
        """The stop string that ended the reply, if one did."""
        return self._content.ended or self._turn.ended

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
