"""Replies with calls that the model itself hardly believes in: it answers in words instead. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from swift.chat import Delta, Draft, ToolCall, Usage, UsageDetails
from swift.engine.interface import Busy
from swift.infer.chat import Deltas
from swift.infer.confidence import Opening


class WithoutDoubtfulCalls:
    """A reply whose calls are made only if their confidence, the product over all of them, is at least `least`.

    Text and reasoning before the first call come as they are generated; calls come when all of them are complete.
    Otherwise the reply goes on from before its first call, where the model has to say something else: `again` generates
    that from the tokens before the call, without the token that began it. Calls whose confidence is unknown are made,
    and so are those of a model that has nothing else to say, or of an engine that is too busy for a second attempt.

    `opening`: where the first call began, once `first` has ended. `shows`: calls keep their confidence.
    """

    def __init__(
        self,
        first: Deltas,
        least: float,
        opening: Callable[[], Opening | None],
        again: Callable[[Opening], Deltas],
        shows: bool,
    ) -> None:
        self._least, self._opening, self._again, self._shows = least, opening, again, shows
        self._current, self._closed = first, False
        self._deltas = self._reply()

    def __iter__(self) -> WithoutDoubtfulCalls:
        return self

    def __next__(self) -> Delta:
        return next(self._deltas)

    def close(self) -> None:
        """May be called from another thread."""
        self._closed = True
        self._current.close()

    def _reply(self) -> Iterator[Delta]:
        held: list[Delta] = []
        for delta in self._current:
            if held or delta.tool_call or delta.finish:
                held.append(delta)
            else:
                yield delta
        draft = Draft()
        for delta in held:
            draft.add(delta)
        opening = self._opening() if self._doubts(draft.calls) else None
        if opening is None or self._closed:
            yield from self._shown(held)
            return
        try:
            self._current = self._again(opening)
        except Busy:
            yield from self._shown(held)
            return
        if self._closed:  # meanwhile, by another thread
            self._current.close()
        yield from self._instead(held, draft)

    def _doubts(self, calls: Sequence[ToolCall]) -> bool:
        known = [call.confidence for call in calls if call.confidence is not None]
        return bool(calls) and len(known) == len(calls) and math.prod(known) < self._least

    def _instead(self, held: Sequence[Delta], first: Draft) -> Iterator[Delta]:
        """The second attempt: its text, and its end with the usage of both. The calls, if it has no text."""
        said = False
        for delta in self._current:
            said = said or bool(delta.text.strip())
            if delta.finish is None:
                if delta.tool_call is None:
                    yield replace(delta, usage=None, details=None)
                continue
            generated = first.usage.completion_tokens + (delta.usage.completion_tokens if delta.usage else 0)
            usage = Usage(first.usage.prompt_tokens, generated)
            if not said and delta.finish != "cancelled":
                yield from self._shown([*held[:-1], replace(held[-1], usage=usage)])
                return
            reasoning = first.details.reasoning_tokens + (delta.details.reasoning_tokens if delta.details else 0)
            finish = "stop" if delta.finish == "tool_calls" else delta.finish
            details = UsageDetails(first.details.cached_tokens, reasoning)
            yield replace(delta, finish=finish, usage=usage, details=details, declined=tuple(first.calls))

    def _shown(self, deltas: Sequence[Delta]) -> Iterator[Delta]:
        for delta in deltas:
            call = delta.tool_call
            if self._shows or call is None or call.confidence is None:
                yield delta
            elif call.name or call.arguments:
                yield replace(delta, tool_call=replace(call, confidence=None))
