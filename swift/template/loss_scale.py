"""Loss scales: the text of a reply -> parts with loss weights. Knows no token.

AUTO weights calls in the tool-call format of the dialogue. The weights of ReAct's keywords follow ModelScope-Agent
(arXiv 2309.00986): tool names and arguments have weight 2, observations 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from swift.agent import ReasoningTags, ToolFormat, tool_format
from swift.agent.result_marks import in_argument_string
from swift.system.nearest import closest, nearest_path

WeightedTexts = list[tuple[str, float]]
"""The parts of a text in order, with their weights."""


class Rules(NamedTuple):
    """One scale. `keywords`: keyword -> (its weight, the weight of the text up to the next keyword).

    `patterns`: regular expression -> weight of each match. `queries`: text contained in the prompt -> weight of the
    whole reply. `last_round`: replies before the last user turn have weight 0. `calls`: calls in this format, else in
    ReAct's, have weight 2.
    """

    keywords: Mapping[str, tuple[float, float]] = MappingProxyType({})
    patterns: Mapping[str, float] = MappingProxyType({})
    queries: Mapping[str, float] = MappingProxyType({})
    last_round: bool = False
    calls: ToolFormat | None = None


AUTO = "AUTO"
_REACT = {
    "Action:": (2.0, 2.0),
    "Action Input:": (2.0, 2.0),
    "Thought:": (1.0, 1.0),
    "Final Answer:": (1.0, 1.0),
    "Observation:": (2.0, 0.0),
}
_FLAN_KEYS = ("Name:", "ACTION:", "Tool:", "Command", "Arguments:", "action input", "ACTION_INPUT:")
_FLAN_QUERIES = (
    "What is the tool you want to use",
    "What are the required parameter names",
    "What is the value of",
)
SCALES: dict[str, Rules] = {
    "default": Rules(),
    "none": Rules(),
    "react": Rules(_REACT),
    "alpha_umi": Rules(_REACT | {"Next:": (2.0, 2.0)}),
    "agentflan": Rules(
        _REACT | {"Action:": (1.0, 3.0), "Action Input:": (1.0, 3.0)} | dict.fromkeys(_FLAN_KEYS, (1.0, 3.0)),
        queries=dict.fromkeys(_FLAN_QUERIES, 3.0),
    ),
    "qwen": Rules({"✿FUNCTION✿:": (2.0, 2.0), "✿ARGS✿:": (2.0, 2.0), "✿RETURN✿:": (1.0, 1.0), "✿RESULT✿:": (2.0, 0.0)}),
    "hermes": Rules(patterns={r"(?s)<tool_call>.+?</tool_call>": 2.0}),
    "ignore_empty_think": Rules(patterns={r"\A(?:<think>)?\s*</think>\s*": 0.0}),
    "last_round": Rules(last_round=True),
}


class LossScale:
    """One or more scales, whose weights are multiplied."""

    def __init__(self, named: Mapping[str, Rules]) -> None:
        self.names, self.rules = tuple(named), tuple(named.values())

    def __call__(self, reply: str, query: str = "", last: bool = True) -> WeightedTexts:
        """The weighted parts of `reply` to the prompt `query`. `last`: no user turn follows."""
        if not last and any(rules.last_round for rules in self.rules):
            return [(reply, 0.0)]
        weighed = [_apply(rules, reply, query) for rules in self.rules if not rules.last_round]
        return _multiply(weighed) if weighed else [(reply, 1.0)]

    def unmatched(self, texts: Sequence[str]) -> list[str]:
        """The names of scales whose keywords or patterns match none of the trained texts."""
        return [
            name
            for name, rules in zip(self.names, self.rules, strict=True)
            if (wanted := _wanted(rules)) and not any(re.search(each, text) for text in texts for each in wanted)
        ]


def _wanted(rules: Rules) -> list[str]:
    """Regular expressions of what a scale weights, except weight 0, which is not trained."""
    patterns = [pattern for pattern, weight in rules.patterns.items() if weight]
    return [*map(re.escape, rules.keywords), *patterns] if not rules.queries else []


@cache
def loss_scale(spec: str, format_name: str = "react_en") -> LossScale:
    """`AUTO`, `react`, `last_round+hermes`, or the path of a JSON file -> a scale.

    AUTO weights tool names and arguments by 2, in the format `format_name`. A file maps a keyword to two weights (of
    the keyword, of the text after it) or a regular expression to one, at its top level or under "response"; under
    "query" it maps a text in the prompt to the weight of the whole reply.
    Raises ValueError for an unknown name or a malformed file.
    """
    return LossScale({name: _rules(name, format_name) for name in map(str.strip, spec.split("+"))})


def with_reasoning_weight(scale: LossScale, thinking: ReasoningTags, weight: float) -> LossScale:
    """The scale, multiplied by `weight` within reasoning at the beginning of a reply."""
    if weight == 1:
        return scale
    opening, closing = re.escape(thinking.open), re.escape(thinking.close)
    thought = Rules(patterns={rf"(?s)(?<=\A{opening}\n).+?(?=\n{closing})": weight})
    return LossScale({**dict(zip(scale.names, scale.rules, strict=True)), "reasoning": thought})


def _rules(name: str, format_name: str) -> Rules:
    if name == AUTO:
        call_format = tool_format(format_name)
        return SCALES["react"] if "Action:" in call_format.syntax.call else Rules(calls=call_format)
    if name in SCALES:
        return SCALES[name]
    if name.endswith(".json") or Path(name).is_file():
        return _read(Path(name))
    known = [AUTO, *SCALES]
    near = closest(name, known, n=1, cutoff=0.0)[0]
    raise ValueError(f"unknown loss scale {name!r}: did you mean {near!r}? ({', '.join(known)}, or a JSON file)")


def _read(path: Path) -> Rules:
    if not path.is_file():
        raise ValueError(f"loss scale {path}: no such file{nearest_path(path)}")
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise ValueError(f"loss scale {path}: cannot be read: {reason}") from None
    if not isinstance(table, dict):
        raise ValueError(f"loss scale {path}: expected an object of keyword -> weights, found {type(table).__name__}")
    sections = table if set(table) <= {"response", "query"} else {"response": table}
    keywords: dict[str, tuple[float, float]] = {}
    patterns: dict[str, float] = {}
    for key, value in sections.get("response", {}).items():
        weights = _weights(path, key, value)
        if len(weights) == 2:
            keywords[key] = (weights[0], weights[1])
        else:
            try:
                re.compile(key)
            except re.error as reason:
                raise ValueError(f"loss scale {path}: {key!r} is not a regular expression: {reason}") from None
            patterns[key] = weights[0]
    queries = {key: _weights(path, key, value)[0] for key, value in sections.get("query", {}).items()}
    return Rules(keywords, patterns, queries)


def _weights(path: Path, key: str, value: Any) -> list[float]:
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (1, 2) or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ValueError(f"loss scale {path}: {key!r} needs two weights (or one, for a pattern), not {value!r}")
    if any(n < 0 for n in numbers):
        raise ValueError(f"loss scale {path}: {key!r} has a negative weight: {value!r}")
    return [float(n) for n in numbers]


def _apply(rules: Rules, reply: str, query: str) -> WeightedTexts:
    for needle, weight in rules.queries.items():
        if needle in query:
            return [(reply, weight)]
    layers = [_by_keyword(rules.keywords, reply)] if rules.keywords else []
    layers += [_by_pattern(pattern, weight, reply) for pattern, weight in rules.patterns.items()]
    layers += [_by_call(rules.calls, reply)] if rules.calls else []
    return _multiply(layers) if layers else [(reply, 1.0)]


def _by_keyword(keywords: Mapping[str, tuple[float, float]], text: str) -> WeightedTexts:
    """Scans from left to right. Of several keywords that match, the first in the table wins."""
    parts: WeightedTexts = []
    matches = _any_keyword(tuple(keywords)).finditer(text)
    # `Observation:` in an argument begins no observation; in an unfinished one neither.
    found = [match for match in matches if in_argument_string(text, match.start(), match[0]) is False]
    if not found or found[0].start():
        parts.append((text[: found[0].start()] if found else text, 1.0))
    for index, match in enumerate(found):
        after = found[index + 1].start() if index + 1 < len(found) else len(text)
        own, following = keywords[match[0]]
        parts += [(match[0], own), (text[match.end() : after], following)]
    return parts


@cache
def _any_keyword(keywords: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(each) for each in keywords))


def _by_call(call_format: ToolFormat, text: str) -> WeightedTexts:
    content, calls = call_format.parse(text)
    if calls:
        begins = len(content) if text.startswith(content) else _first(call_format.syntax.call, text)
        behind = "" if begins else content.strip()  # Gemma's templates write content after the calls
        ends = len(text.removesuffix(behind))
        parts = ((text[:begins], 1.0), (text[begins:ends], 2.0), (text[ends:], 1.0))
        return [(part, weight) for part, weight in parts if part]
    return _by_keyword(_REACT, text) if _REACT_CALL.search(text) else [(text, 1.0)]


def _first(texts: Sequence[str], text: str) -> int:
    """The position of the first of the texts; 0 if there is none."""
    return min((at for each in texts if (at := text.find(each)) >= 0), default=0)


_REACT_CALL = re.compile(r"^[ \t]*Action:.*\n\s*Action Input:", re.MULTILINE)


def _by_pattern(pattern: str, weight: float, text: str) -> WeightedTexts:
    parts: WeightedTexts = []
    done = 0
    for match in re.finditer(pattern, text):
        if match.start() > done:
            parts.append((text[done : match.start()], 1.0))
        if match[0]:
            parts.append((match[0], weight))
        done = match.end()
    if done < len(text) or not parts:
        parts.append((text[done:], 1.0))
    return parts


def _multiply(layers: Sequence[WeightedTexts]) -> WeightedTexts:
    """Multiplies the weights of several partitions of the same text, splitting at all borders."""
    if len(layers) == 1:
        return layers[0]
    product = layers[0]
    for layer in layers[1:]:
        merged: WeightedTexts = []
        left, right = (iter([(text, weight) for text, weight in each if text]) for each in (product, layer))
        (a, x), (b, y) = next(left, ("", 1.0)), next(right, ("", 1.0))
        while a or b:
            size = min(len(a), len(b))
            merged.append((a[:size], x * y))
            a, b = a[size:], b[size:]
            if not a:
                a, x = next(left, ("", 1.0))
            if not b:
                b, y = next(right, ("", 1.0))
        product = merged
    return product
