"""Judged completions -> samples of preference training, within a maximum length. Knows no loss.

A sample holds one row after the other: the dialogue with the preferred completion and the one with the rejected, or the
one that a label is about. Each is rendered as for training and serving; only the tokens of completions have a weight.
The prompt is rendered for each dialogue: what a template is given (a variable for reasoning, a fallback) depends on the
whole dialogue, and rendering is a small part of the milliseconds of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from swift.chat import Conversation, Preference, Sample
from swift.template.render import Renderer
from swift.template.truncation import Strategy, TooLongError, Truncated, shorter_dialogues


def truncate(renderer: Renderer, row: Conversation, max_length: int, strategy: Strategy) -> list[Truncated]:
    """The sample of a row, each of whose dialogues has at most `max_length` tokens (-1: no limit).

    `truncation_left` drops the oldest rounds of the prompt, from both dialogues alike. With `error`, raises ValueError
    for a row that is too long.
    """
    assert isinstance(row, Preference), row
    try:
        sample = _sample(renderer, row)
    except ValueError as reason:
        return [Truncated(row, None, "unrendered", str(reason))]
    longest = _longest(sample)
    if max_length < 0 or longest <= max_length:
        return [Truncated(row, sample, "kept")]
    over = f"{longest} tokens, more than --max_length {max_length}"
    if strategy == "error":
        raise TooLongError(f"{row.source}:{row.line}: {over}")
    if strategy == "truncation_left":
        for shorter in _without_oldest_rounds(row):
            sample = _sample(renderer, shorter)
            if _longest(sample) <= max_length:
                return [Truncated(shorter, sample, "cut")]
        over += ", and its last question and its completions are too long by themselves"
    return [Truncated(row, None, "dropped", over)]


def _sample(renderer: Renderer, row: Preference) -> Sample:
    dialogues = [row, *([row.other] if row.other else [])]
    return Sample.joined([renderer.encode(each) for each in dialogues], row.label)


def _longest(sample: Sample) -> int:
    assert sample.judged, sample
    return max(sample.judged.rows)


def _without_oldest_rounds(row: Preference) -> Iterator[Preference]:
    """The row without the oldest round of its prompt, without the two oldest, and so on; the last question stays."""
    rounds = sum(message.role == "user" for message in row.messages[: row.prompt])
    for shorter in islice(shorter_dialogues(row), rounds - 1):
        assert isinstance(shorter, Preference)
        left_out = len(row.messages) - len(shorter.messages)
        yield Preference(
            shorter.messages,
            row.tools,
            row.source,
            row.line,
            row.template_kwargs,
            row.prompt - left_out,
            row.rejected,
            row.label,
        )
