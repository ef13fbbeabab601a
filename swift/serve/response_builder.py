"""The interface of what turns deltas into responses, one class a wire format. Knows no HTTP and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel

from swift.chat import Delta, Draft, Usage


class ResponseBuilder(Protocol):
    """Collects the deltas of all choices; `drafts` has what each choice is so far.

    A stream is `start`, `add` for each delta, and `end`: `frame` is the text of one event, and `end` that of the last
    events with whatever closes the stream. `response` is the complete response instead. `failed` is the text that
    reports an error within a stream, whose status has been sent; nothing follows it.
    """

    @property
    def drafts(self) -> Sequence[Draft]: ...
    @property
    def usage(self) -> Usage: ...

    def start(self) -> list[BaseModel]: ...
    def add(self, index: int, delta: Delta) -> list[BaseModel]: ...
    def end(self) -> str: ...
    def frame(self, event: BaseModel) -> str: ...
    def failed(self, message: str) -> str: ...
    def response(self) -> BaseModel: ...


def as_json(value: BaseModel) -> str:
    """JSON with exactly the keys that were set: OpenAI sends `finish_reason: null`, but no `audio: null`."""
    return value.model_dump_json(exclude_unset=True, warnings=False)
