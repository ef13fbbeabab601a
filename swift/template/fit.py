"""Rows that are longer than the model may read: left out, cut at a turn, or refused. Never cut inside a turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from swift.chat import Conversation, Message, Sample
from swift.template.render import Renderer

Strategy = Literal["delete", "truncation_left", "error"]
Fate = Literal["kept", "cut", "dropped"]
FATES: tuple[Fate, ...] = ("kept", "cut", "dropped")


class Fitted(NamedTuple):
    """A row within the limit, or None and why there is none. `conversation` is the row as it was kept."""

    conversation: Conversation
    sample: Sample | None
    fate: Fate
    reason: str = ""


class Lengths:
    """How many rows of each source were kept, cut and dropped, and the reasons of the dropped ones."""

    def __init__(self) -> None:
        self.fates: dict[str, Counter[Fate]] = {}
        self.reasons: list[str] = []

    def add(self, conversation: Conversation, fitted: Fitted) -> None:
        self.fates.setdefault(conversation.source, Counter())[fitted.fate] += 1
        if fitted.reason:
            self.reasons.append(f"{conversation.source}:{conversation.line}: {fitted.reason}")

    def lines(self, named: int = 5) -> list[str]:
        """For people: a line a source, then the first `named` rows that were dropped."""
        found = [
            f"{source}: " + ", ".join(f"{fates[fate]} {fate}" for fate in FATES) for source, fates in self.fates.items()
        ]
        more = len(self.reasons) - named
        return [*found, *self.reasons[:named], *([f"... and {more} more rows dropped"] if more > 0 else [])]


def fit(renderer: Renderer, conversation: Conversation, max_length: int, strategy: Strategy) -> Fitted:
    """Render a row within `max_length` tokens (-1: no limit).

    `truncation_left` leaves out the oldest rounds, never the system text or the closing token; plain text loses
    its beginning. Raises ValueError under `error`.
    """
    try:
        sample = renderer.encode(conversation)
    except ValueError as reason:
        return Fitted(conversation, None, "dropped", str(reason))
    length = len(sample.tokens)
    if max_length < 0 or length <= max_length:
        return Fitted(conversation, sample, "kept")
    over = f"{length} tokens, more than --max_length {max_length}"
    if strategy == "error":
        raise ValueError(f"{conversation.source}:{conversation.line}: {over}")
    if strategy == "delete":
        return Fitted(conversation, None, "dropped", over)
    if conversation.is_text:
        return Fitted(conversation, _tail(sample, max_length), "cut")
    for shorter in _shorter(conversation):
        cut = renderer.encode(shorter)
        if len(cut.tokens) <= max_length:
            return Fitted(shorter, cut, "cut")
    return Fitted(conversation, None, "dropped", f"{over}, and its last round alone is too long")


def fit_all(
    renderer: Renderer, rows: Iterable[Conversation], max_length: int, strategy: Strategy, lengths: Lengths
) -> Iterator[Sample]:
    """The samples of the rows that fit, in order; `lengths` keeps account of all of them."""
    for conversation in rows:
        fitted = fit(renderer, conversation, max_length, strategy)
        lengths.add(conversation, fitted)
        if fitted.sample is not None:
            yield fitted.sample


def _shorter(conversation: Conversation) -> Iterator[Conversation]:
    """The row without its oldest round, without its two oldest, and so on."""
    messages = conversation.messages
    system: tuple[Message, ...] = messages[:1] if messages[0].role == "system" else ()
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    for start in starts[1:]:
        yield conversation.with_messages(system + messages[start:])


def _tail(sample: Sample, length: int) -> Sample:
    return Sample(sample.tokens[-length:], sample.weights[-length:], sample.source)
