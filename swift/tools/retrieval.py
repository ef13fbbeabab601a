"""Selects the tools that fit a dialogue, by words, where there are too many to offer. Knows no model."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from swift.agent.schemas import argument_schema
from swift.chat import Message, Tool
from swift.tools.bound_tool import BoundTool
from swift.tools.loop import Tools

K1, B = 1.2, 0.75
"""BM25's usual parameters: how soon repeated terms saturate, and how much long texts are discounted."""
NAME_WEIGHT = 2.0
"""A term in a tool's name counts as this many in its description."""
STEM = 5
"""Letters of a word that count: "summarize" and "summary" are one term."""
EARLIER = 0.3
"""Weight of a message relative to the one after it."""
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_RUNS = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Retriever:
    """Offers at most `max_tools` of `tools`, in their order: those called before, then those that BM25 ranks highest.

    The query is the dialogue up to its latest user message, which counts most. It does not change while the calls of
    that message run, so neither does the beginning of the prompt.
    """

    def __init__(self, tools: Tools, max_tools: int) -> None:
        self._tools = tools
        self._most = max_tools
        self._index = Index(())

    def offer(self, messages: Sequence[Message]) -> Sequence[BoundTool]:
        """The tools to offer for the next reply: all, if there are no more than `max_tools`."""
        present = self._tools() if callable(self._tools) else self._tools
        if len(present) <= self._most:
            return present
        specs = [bound.tool for bound in present]
        if specs != self._index.tools:
            self._index = Index(specs)
        called = [call.name for message in reversed(messages) for call in reversed(message.tool_calls)]
        numbers = {bound.name: number for number, bound in enumerate(present)}
        used = [numbers[name] for name in called if name in numbers]
        best = list(dict.fromkeys([*used, *self._index.ranked(_query(messages))]))[: self._most]
        return [present[number] for number in sorted(best)]


class Index:
    """BM25F over the names, descriptions and parameters of tools (Robertson and Zaragoza 2009, "The Probabilistic
    Relevance Framework: BM25 and Beyond", sections 3.5 and 3.6), with an inverse document frequency that is never
    negative, ln(1 + (N - n + 0.5) / (n + 0.5)).
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.tools = list(tools)
        counts = [_frequencies(tool) for tool in tools]
        lengths = [sum(count.values()) for count in counts]
        mean = sum(lengths) / max(1, len(lengths)) or 1.0
        having = Counter(term for count in counts for term in count)
        self._weights: list[dict[str, float]] = []
        for count, length in zip(counts, lengths, strict=True):
            norm = K1 * (1 - B + B * length / mean)
            self._weights.append(
                {
                    term: math.log1p((len(counts) - having[term] + 0.5) / (having[term] + 0.5))
                    * (K1 + 1) * frequency / (frequency + norm)
                    for term, frequency in count.items()
                }
            )  # fmt: skip

    def ranked(self, query: Mapping[str, float]) -> list[int]:
        """The numbers of all tools, best first; equally good ones in their order."""
        scores = self.scores(query)
        return sorted(range(len(scores)), key=lambda number: -scores[number])

    def scores(self, query: Mapping[str, float]) -> list[float]:
        """The score of each tool for a query, terms with weights."""
        return [sum(weight * own.get(term, 0.0) for term, weight in query.items()) for own in self._weights]


def terms(text: str) -> Iterator[str]:
    """The terms of a text or name: beginnings of words in lower case, and pairs of adjacent CJK characters."""
    for run in _RUNS.findall(text):
        if re.match(f"[{CJK}]", run):
            yield from (run[at : at + 2] for at in range(max(1, len(run) - 1)))
        else:
            yield from (_singular(word.lower())[:STEM] for word in _CAMEL.split(run))


def _singular(word: str) -> str:
    """The word without the ending of a plural (Harman 1991, "How effective is suffixing?": the S stemmer)."""
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return f"{word[:-3]}y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith(("us", "ss")) else word


def _query(messages: Sequence[Message]) -> dict[str, float]:
    """Terms with weights: 1 for those of the latest user message, less for those of messages before it."""
    last = max((number for number, message in enumerate(messages) if message.role == "user"), default=-1)
    asked = [message for message in messages[: last + 1] if message.role in ("user", "assistant")]
    return _sum((term, EARLIER**age) for age, message in enumerate(reversed(asked)) for term in terms(message.content))


def _frequencies(tool: Tool) -> dict[str, float]:
    """How often the terms of a tool occur, those of names weighted."""
    label = tool.label if tool.label != tool.name else ""
    weighted = [(NAME_WEIGHT, tool.name), (1.0, f"{label} {tool.description}")]
    for name, text in _parameters(argument_schema(tool)):
        weighted += [(1.0, name), (1.0, text)]
    return _sum((term, weight) for weight, text in weighted for term in terms(text))


def _sum(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for term, weight in pairs:
        sums[term] += weight
    return sums


def _parameters(schema: Any) -> Iterator[tuple[str, str]]:
    """(name, description and values) of the parameters in a schema, also of nested ones."""
    if not isinstance(schema, dict):
        return
    properties = schema.get("properties")
    for name, field in properties.items() if isinstance(properties, dict) else ():
        if isinstance(field, dict):
            values = field.get("enum")
            listed = " ".join(map(str, values)) if isinstance(values, list) else ""
            yield str(name), f"{field.get('description', '')} {listed}"
            yield from _parameters(field)
            yield from _parameters(field.get("items"))
