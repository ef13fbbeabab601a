"""Finds lines that begin with a keyword of a text format (ReAct, Qwen), or a misspelt one. Knows no call and no row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

from swift.agent import call_template, tool_format

Kind = Literal["thought", "call", "input", "result", "answer"]


class Keywords(NamedTuple):
    """The keywords of a tool-call format. `known`: spelling -> what its line holds; `foreign`: their translations.

    `call` to `answer`: the keywords with their colons. `opening`: the first characters of lines with a keyword or a
    misspelt one. `label`: the word before a colon. `bare`: a keyword whose colon is missing.
    """

    call: str
    input: str
    result: str
    answer: str
    known: Mapping[str, Kind]
    foreign: Mapping[str, str]
    opening: frozenset[str]
    label: re.Pattern[str]
    bare: re.Pattern[str]


class KeywordMatch(NamedTuple):
    """A keyword at the beginning of a line: its start, and the start of the text after it.

    `written`: the misspelt keyword, "" if it is correct; `right`: the correct keyword with its colon.
    """

    kind: Kind
    start: int
    end: int
    right: str
    written: str = ""


def _of_form(name: str) -> tuple[str, str, str, str, Mapping[str, Kind]]:
    call_format = tool_format(name)
    marks = call_format.syntax
    call, result, answer, arguments = (
        marks.call[0],
        marks.stop[0],
        marks.answer,
        call_template(call_format).between.strip(),
    )
    kinds: dict[str, Kind] = {call: "call", arguments: "input", result: "result", answer: "answer"}
    if marks.thought:
        kinds[marks.thought] = "thought"
    return call, arguments, result, answer, {word.removesuffix(":"): kind for word, kind in kinds.items()}


_DECORATION = " \t*_#>`~-"
_LEAD = r"[ \t*_#>`~-]*"
# Words at one typing mistake from a keyword that are legitimate labels.
_OTHER_WORDS = frozenset({"auction", "taught", "though"})

REACT = Keywords(
    *_of_form("react_en"),
    foreign=dict.fromkeys(("思考", "想法"), "Thought")
    | dict.fromkeys(("行动", "动作", "操作"), "Action")
    | dict.fromkeys(("行动输入", "动作输入", "操作输入"), "Action Input")
    | dict.fromkeys(("观察", "观察结果", "观测"), "Observation")
    | dict.fromkeys(("最终答案", "最终回答"), "Final Answer"),
    opening=frozenset("AOTFaotf思想行动操观最"),
    label=re.compile(rf"{_LEAD}(?P<word>[^\W\d_][\w \t-]{{1,16}}?)[ \t*_`]*[:：][*_`]*"),
    bare=re.compile(
        rf"{_LEAD}(?:(?P<word>Action Inputs?|Actions?|Observations?|Final Answers?)(?![\w:：'’-])|"
        r"(?P<thought>Thoughts?)(?=[*_` \t]*$|[ \t]+(?:I|We|It|The|This|Now)\b|[ \t]*[一-鿿]))[*_`]*"
    ),
)
QWEN = Keywords(
    *_of_form("qwen_en"),
    foreign=dict.fromkeys(("✿函数✿", "✿工具✿", "✿功能✿", "✿函数名✿", "✿TOOL✿"), "✿FUNCTION✿")
    | dict.fromkeys(("✿参数✿", "✿输入✿", "✿ARGUMENTS✿", "✿INPUT✿"), "✿ARGS✿")
    | dict.fromkeys(("✿结果✿", "✿观察✿", "✿OBSERVATION✿"), "✿RESULT✿")
    | dict.fromkeys(("✿返回✿", "✿回复✿", "✿回答✿", "✿ANSWER✿"), "✿RETURN✿"),
    opening=frozenset("✿❀"),
    label=re.compile(rf"{_LEAD}(?P<word>[✿❀][^✿❀:：\n]{{1,16}}[✿❀]?)[ \t*_`]*[:：][*_`]*"),
    bare=re.compile(rf"{_LEAD}(?P<word>[✿❀][^✿❀:：\n]{{1,16}}[✿❀])[*_`]*"),
)


def find_keywords(text: str, keywords: Keywords) -> list[KeywordMatch]:
    """Every line of `text` that begins with a keyword or a misspelt one, in order."""
    found: list[KeywordMatch] = []
    known, opening = keywords.known, keywords.opening
    at = 0
    for line in text.split("\n"):
        first = line[:1]
        if first in opening or (first in _DECORATION and line.lstrip(_DECORATION)[:1] in opening):
            colon = line.find(":", 0, 24)
            word = line[:colon].lstrip(" \t")
            if colon > 0 and word in known:
                found.append(KeywordMatch(known[word], at, at + colon + 1, f"{word}:"))
            elif mark := _near(line, at, keywords):
                found.append(mark)
        at += len(line) + 1
    return found


def _near(line: str, at: int, keywords: Keywords) -> KeywordMatch | None:
    match = keywords.label.match(line)
    word = match and _meant(match["word"], keywords is QWEN)
    if not match or not word:
        match = keywords.bare.match(line)
        word = match and _meant(match["word"] or "Thought", keywords is QWEN)
        if not match or not word:
            return None
    return KeywordMatch(keywords.known[word], at, at + match.end(), f"{word}:", match[0].strip())


@lru_cache(4096)
def _meant(written: str, flowers: bool) -> str:
    """The keyword that a label was meant to be; "" for an unrelated word."""
    keywords = QWEN if flowers else REACT
    if written in keywords.foreign:
        return keywords.foreign[written]
    plain = _plain(written)
    if flowers:
        plain_foreign = {_plain(word): right for word, right in keywords.foreign.items()}
        if plain in plain_foreign:
            return plain_foreign[plain]
    by_plain = {_plain(word): word for word in keywords.known}
    if plain in by_plain:
        return by_plain[plain]
    if plain in _OTHER_WORDS:
        return ""
    steps = {right: _distance(plain, each) for each, right in by_plain.items() if each[:1] == plain[:1]}
    nearest = min(steps, key=lambda right: steps[right], default="")
    return nearest if nearest and steps[nearest] <= (1 if len(nearest) < 9 else 2) else ""


def _plain(word: str) -> str:
    """A word without numbers and underscores, in lower case."""
    return " ".join(re.sub(r"[^\w]|[\d_]", " ", word).split()).casefold()


def _distance(one: str, other: str) -> int:
    """Damerau-Levenshtein distance (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, wanted in enumerate(other, 1):
            step = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                step = min(step, last[j - 2] + 1)
            row.append(step)
    return row[-1]
