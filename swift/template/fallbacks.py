"""What comes closest to a dialogue that a chat template does not take as it is. Knows no Jinja."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from swift.chat import Message


def variants(messages: Sequence[Message], system: str, native: bool) -> Iterator[tuple[Sequence[Message], str]]:
    """The messages and their system text; then with late system texts as the user's and ids of calls that every
    template takes, without words before a call behind a thought, with the system text before the user's first."""
    yield messages, system
    changed = list(_by_user(messages))
    changed = _numbered(changed) if native else changed
    if changed != list(messages):
        yield changed, system
    spoken = [_without_words(message) for message in changed] if native else changed
    if spoken != changed:
        yield spoken, system
    if system and (first := next((at for at, each in enumerate(spoken) if each.role == "user"), None)) is not None:
        asked = spoken[first]
        spoken[first] = replace(asked, content=f"{system}\n\n{asked.content}")
        yield spoken, ""


def _by_user(messages: Sequence[Message]) -> Iterator[Message]:
    """Neighbouring users' messages as one, system messages after the first turn among them."""
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


def _numbered(messages: Sequence[Message]) -> list[Message]:
    """The messages with ids of nine letters and digits for calls and their results, which is what Mistral's want."""
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


def _without_words(message: Message) -> Message:
    """A message that thinks, speaks and calls as one that only thinks and calls: some templates know no other."""
    if not (message.tool_calls and message.reasoning and message.content):
        return message
    return replace(message, reasoning=f"{message.reasoning}\n{message.content}", content="")
