"""Rows that teach a model its name and author. Reads only its own file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from swift.chat import Conversation, Message

NAME = "self-cognition"
FILE = Path(__file__).with_name("self_cognition.jsonl")
LANGUAGES = ("zh", "en")


def conversations(names: Sequence[str], authors: Sequence[str]) -> list[Conversation]:
    """All rows with names filled in. `names`, `authors`: one for both languages, or a Chinese and an English one."""
    name = _by_language(names, "--model_name")
    author = _by_language(authors, "--model_author")
    filled = []
    with FILE.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            row = json.loads(text)
            values = {"{{NAME}}": name[row["tag"]], "{{AUTHOR}}": author[row["tag"]]}
            turns = Message("user", _fill(row["query"], values)), Message("assistant", _fill(row["response"], values))
            filled.append(Conversation(turns, source=NAME, line=line))
    return filled


def _by_language(values: Sequence[str], flag: str) -> dict[str, str]:
    given = [value.strip() for value in values]
    if not given or len(given) > len(LANGUAGES) or not all(given):
        raise ValueError(f"self-cognition rows need {flag}: one for both languages, or a Chinese and an English one")
    return dict(zip(LANGUAGES, (given[0], given[-1]), strict=True))


def _fill(text: str, values: dict[str, str]) -> str:
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text
