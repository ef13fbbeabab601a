"""Variants of a dialogue that a chat template rejects. Knows no Jinja."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from swift.chat import Message


def fallbacks(messages: Sequence[Message], system: str, native: bool) -> Iterator[tuple[Sequence[Message], str]]:
    """(messages, system prompt) in order of increasing change: unchanged; with late system messages as user text and
    call ids that all templates accept; without content between reasoning and a call; with the system prompt in the
    first user message."""
    yield messages, system
    changed = list(_joined_user_messages(messages))
    changed = _with_short_ids(changed) if native else changed
    if changed != list(messages):
        yield changed, system
    shortened = [_without_content(message) for message in changed] if native else changed
    if shortened != changed:
        yield shortened, system
    if system and (first := next((at for at, each in enumerate(shortened) if each.role == "user"), None)) is not None:
        asked = shortened[first]
        shortened[first] = replace(asked, content=f"{system}\n\n{asked.content}")
        yield shortened, ""


def _joined_user_messages(messages: Sequence[Message]) -> Iterator[Message]:
    """Joins consecutive user messages, and system messages after the first turn, to one."""
    asked: list[Message] = []
    for index, message in enumerate(messages):
        if message.role == "user" or (message.role == "system" and index):
            asked.append(message)
            continue
        yield from _one(asked)
        asked = []
        yield message
    yield from _one(asked)


def _one(asked: Sequence[Message]) -> Iterator[Message]:
    if asked:
        images = tuple(image for message in asked for image in message.images)
        yield replace(asked[0], role="user", content="\n".join(each.content for each in asked), images=images)


def _with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """The messages with call ids of nine letters and digits, which Mistral's templates require."""
    ids: dict[str, str] = {}
    waiting: list[str] = []
    found: list[Message] = []
    for message in messages:
        calls = []
        for call in message.tool_calls:
            new = f"call{len(ids):05d}"
            ids[call.id or new] = new
            waiting.append(new)
            calls.append(replace(call, id=new))
        if message.role == "tool":
            own = ids.get(message.tool_call_id) or next(iter(waiting), "")
            waiting = [each for each in waiting if each != own]
            message = replace(message, tool_call_id=own)
        found.append(replace(message, tool_calls=tuple(calls)))
    return found


def _without_content(message: Message) -> Message:
    """Moves content between reasoning and calls into the reasoning: some templates reject such content."""
    if not (message.tool_calls and message.reasoning and message.content):
        return message
    return replace(message, reasoning=f"{message.reasoning}\n{message.content}", content="")
