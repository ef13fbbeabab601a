"""Replies of a model to requests, in a file of JSON lines that only grows. Knows neither the model nor the requests."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from swift.chat import Message


class Reply(NamedTuple):
    """A reply and the tokens that it took, as the server counts them. `refused`: why the server refused the request."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: str = ""


class ReplyCache:
    """The replies of a file, by the hash of their request. Threads may add replies at the same time."""

    def __init__(self, path: Path) -> None:
        """Raises OSError for a file that cannot be read. `broken` counts the lines that are not a reply, such as
        one that an earlier run did not finish."""
        self.path, self.broken = path, 0
        self._known: dict[str, Reply] = {}
        self._lock = threading.Lock()
        # A run that was killed may have left half a character.
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                reply = Reply(row["reply"], row["prompt_tokens"], row["completion_tokens"], row.get("refused", ""))
                self._known[row["key"]] = reply
            except (ValueError, KeyError, TypeError):
                self.broken += bool(line.strip())
        self._begins_line = not text or text.endswith("\n")

    @property
    def is_empty(self) -> bool:
        return not self._known

    def get(self, key: str) -> Reply | None:
        return self._known.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Appends a reply, in the file before the call returns. Raises OSError."""
        row = {"key": key, **reply._asdict()}
        row["reply"] = row.pop("text")
        if not reply.refused:
            del row["refused"]
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with self._lock:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line if self._begins_line else f"\n{line}")
            self._begins_line = True
            self._known[key] = reply


def key_of(model: str, messages: Sequence[Message], max_tokens: int) -> str:
    """The hash of a request."""
    request = [model, max_tokens, *([message.role, message.content] for message in messages)]
    return hashlib.sha256(json.dumps(request, ensure_ascii=False).encode()).hexdigest()
