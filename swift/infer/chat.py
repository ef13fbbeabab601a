"""The interface of all chats: messages in, deltas out. Knows no model, no server and no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from swift.chat import Delta, Draft, FinishReason, Message, Tool, Usage
from swift.engine.sampling_params import SamplingParams

DEFAULT_PARAMS = SamplingParams()


class Deltas(Iterator[Delta], Protocol):
    """A reply that is being generated. Closing it cancels the generation; a LocalChat's may be closed from any
    thread."""

    def close(self) -> None: ...


class Chat(Protocol):
    """A local model (LocalChat), a server (RemoteChat), or a script in a test.

    A trailing assistant message is continued: the deltas contain the new text alone. The last delta has the finish
    reason and the usage. `template_kwargs`: variables for the model's chat template, such as `enable_thinking`.
    Raises ValueError, before the first delta, for a request that cannot be answered.
    """

    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        params: SamplingParams = DEFAULT_PARAMS,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Deltas: ...


class Reply(NamedTuple):
    """A complete reply, with its finish reason and usage."""

    message: Message
    finish: FinishReason
    usage: Usage


def collect(deltas: Iterator[Delta]) -> Reply:
    """Waits for the end of a reply and joins its deltas."""
    draft = Draft()
    for delta in deltas:
        draft.add(delta)
    return Reply(draft.message, draft.finish or "cancelled", draft.usage)
