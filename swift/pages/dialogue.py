"""A dialogue as a chat: what each side says, calls of tools and their results drawn apart. Parses no format."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import NamedTuple

ROLES = {"user": "user", "assistant": "model", "tool": "result", "system": "system prompt"}


class Call(NamedTuple):
    """`arguments`: as text."""

    name: str
    arguments: str


class Turn(NamedTuple):
    """`role`: user, assistant, tool or system. `thought`: reasoning before the text. `note`: small text below."""

    role: str
    text: str
    calls: tuple[Call, ...] = ()
    thought: str = ""
    note: str = ""


def chat(turns: Iterable[Turn]) -> str:
    return f'<div class="chat">{"".join(map(_turn, turns))}</div>'


def _turn(turn: Turn) -> str:
    parts = [f'<div class="role">{html.escape(ROLES.get(turn.role, turn.role))}</div>']
    if turn.thought.strip():
        parts.append(f'<div class="thought">{html.escape(turn.thought.strip())}</div>')
    if turn.text.strip():
        parts.append(f'<div class="said">{html.escape(turn.text.strip())}</div>')
    parts += [
        f'<div class="call"><b>{html.escape(call.name)}</b><code>{html.escape(call.arguments)}</code></div>'
        for call in turn.calls
    ]
    if len(parts) == 1:
        parts.append('<div class="said empty">(nothing)</div>')
    if turn.note:
        parts.append(f'<div class="note">{html.escape(turn.note)}</div>')
    role = turn.role if turn.role in ROLES else "other"
    return f'<div class="turn {role}">{"".join(parts)}</div>'
