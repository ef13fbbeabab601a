"""Finds rows that share text or function names with a benchmark. Knows no benchmark.

The measure is that of GPT-3 and others: 8 words in a row (arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from swift.chat import Conversation

N = 8
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_]+")


class Question(NamedTuple):
    """What a benchmark shows to a model: the user's words, and the names of the functions that it offers."""

    benchmark: str
    text: str
    functions: tuple[str, ...] = ()


class Overlap:
    """The n-grams and function names of benchmarks. Keeps hashes, never the questions."""

    def __init__(self, questions: Iterable[Question], allowed: Iterable[str] = ()) -> None:
        """`allowed`: names of functions that may be those of a benchmark, such as the user's own."""
        self._grams: dict[int, str] = {}
        self._names: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        for benchmark, text, functions in questions:
            self.counts[benchmark] = self.counts.get(benchmark, 0) + 1
            self._grams.update(dict.fromkeys(_grams(text), benchmark))
            self._names.update(dict.fromkeys(map(_plain, functions), benchmark))
        for name in allowed:
            self._names.pop(_plain(name), None)

    def __call__(self, conversation: Conversation) -> str:
        """The benchmark that shares 8 words in a row or the name of a function with a conversation, and which of the
        two; empty if none does."""
        for tool in conversation.tools:
            if benchmark := self._names.get(_plain(tool.name)):
                return f"{benchmark} (function name)"
        for message in conversation.messages:
            if message.role == "user":
                for gram in _grams(message.content):
                    if benchmark := self._grams.get(gram):
                        return f"{benchmark} ({N} words)"
        return ""


def _grams(text: str) -> Iterator[int]:
    words = _WORD.findall(text.casefold())
    return (hash(tuple(words[at : at + N])) for at in range(len(words) - N + 1))


def _plain(name: str) -> str:
    """A name without its style: getWeather, get_weather and Get.Weather are one."""
    return re.sub(r"[\W_]", "", name).casefold()
