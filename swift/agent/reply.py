"""Replies as text: reasoning, content and calls, and tool results in between. Knows no token and no template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from swift.agent import ReasoningTags, Syntax, ToolFormat
from swift.agent.reasoning_parser import ReasoningParser, ReplyText
from swift.agent.result_marks import find_mark
from swift.chat import Message, Tool

THINK_TAGS = ReasoningTags("<think>", "</think>")
"""The tags of reasoning in the terminal and in saved rows, for all models."""

# Writing and reading -------------------------------------------------------------------------------------------------


def write_reply(
    tool_format: ToolFormat, message: Message, offered: bool = False, after_result: bool = False, block: bool = False
) -> str:
    """The text of an assistant message. `offered`: tools are offered; `after_result`: it follows a tool result.

    With tools, reasoning and answer get the labels of the format (`Thought:`, `Final Answer:`), unless the content has
    them already. Reasoning without a label is dropped or, with `block`, written first between THINK_TAGS.
    """
    said, syntax = tool_format.call(message.content, message.tool_calls), tool_format.syntax
    word = syntax.thought if offered else ""
    thought = ""
    if message.reasoning and not word and block:
        thought = f"{THINK_TAGS.open}\n{message.reasoning}\n{THINK_TAGS.close}\n\n"
    if not offered:
        return thought + said
    if message.reasoning and word and not _opens_line((word,), message.content):
        thought = f"{word} {message.reasoning}\n"
    names_answer = syntax.answer and (after_result or not syntax.answer_after_result)
    if message.tool_calls or not said or not names_answer or _opens_line(_words(syntax), message.content):
        return thought + said
    return f"{thought}{syntax.answer} {said}"


def read_reply(
    tool_format: ToolFormat,
    text: str,
    tools: Sequence[Tool] = (),
    thinking: ReasoningTags | None = None,
    prefill: str = "",
) -> Message:
    """The text of a reply -> a message, the inverse of `write_reply`. `tools`: those offered.

    `thinking`: the tags of the model's reasoning; `prefill`: the beginning of the reply that the prompt contains.
    """
    thoughts, split = ReasoningParser(thinking, prefill), LabelParser(tool_format.syntax)
    told = thoughts.push(text) + thoughts.end()
    content, calls = tool_format.parse(told.content, tools)
    said = split.push(content) + split.end(answers=not calls)
    reasoning = "\n".join(filter(None, (told.reasoning, said.reasoning)))
    return Message("assistant", said.content, calls, reasoning=reasoning)


class LabelParser:
    """Splits a streamed reply at the labels of reasoning and answer; a call ends both.

    Labels are removed. For a format without labels all is content.
    """

    def __init__(self, syntax: Syntax) -> None:
        self._marks = syntax
        self._words = _words(syntax)
        any_of = "|".join(map(re.escape, self._words)) or r"(?!)"
        self._word = re.compile(rf"^[ \t]*({any_of})", re.MULTILINE | re.IGNORECASE)
        self._thinks = self._answers = False
        self._text = ""  # held back: possibly the beginning of a label, or white space before one
        self._at_line_start = True
        self._opened = False  # after a label: white space belongs to it
        self._reasoning, self._content = "", ""

    def push(self, text: str) -> ReplyText:
        """Adds text and returns what can be emitted."""
        self._text += text
        told = ReplyText()
        while found := self._next_label():
            told += self._add(self._text[: found.start()].rstrip()) + self._consume_label(found)
        size = len(self._text) if self._answers or not self._words else self._safe()
        piece, self._text = self._text[:size], self._text[size:]
        self._at_line_start = self._at_line_start and not piece
        return told + self._add(piece)

    def end(self, answers: bool) -> ReplyText:
        """Returns the text held back. `answers`: the reply has no calls, so reasoning alone is its content."""
        held, self._text = self._text, ""
        told = self._add(held.rstrip() if self._thinks else held)
        return told + ReplyText("", self._reasoning if answers and not self._content else "")

    def _next_label(self) -> re.Match[str] | None:
        if self._opened:
            stripped = self._text.lstrip()
            self._at_line_start = self._at_line_start or "\n" in self._text[: len(self._text) - len(stripped)]
            self._text, self._opened = stripped, not stripped
        if self._answers:
            return None
        # `^` also matches at the beginning of the buffer, which may be within a line
        first = 0 if self._at_line_start else self._text.find("\n")
        return None if first < 0 else self._word.search(self._text, first)

    def _consume_label(self, found: re.Match[str]) -> ReplyText:
        """Consumes a label; the text after it starts a new line."""
        word = found[1].casefold()
        thinks = word == self._marks.thought.casefold()
        self._answers = word == self._marks.answer.casefold()
        opens = thinks or self._answers
        earlier = self._reasoning if thinks else self._content
        self._text = self._text[found.end() if opens else found.start(1) :]
        self._thinks, self._opened, self._at_line_start = thinks, opens, False
        return self._add("\n" if earlier else "")

    def _safe(self) -> int:
        """The length of the buffer that cannot be part of a label, nor of the white space before one."""
        line = self._text.rfind("\n") + 1
        begins = self._text[line:].lstrip(" \t").casefold()
        if (line or self._at_line_start) and any(word.casefold().startswith(begins) for word in self._words):
            return len(self._text[:line].rstrip())
        return len(self._text.rstrip())

    def _add(self, piece: str) -> ReplyText:
        said = ReplyText(piece, "") if self._thinks else ReplyText("", piece)
        self._reasoning += said.reasoning
        self._content += said.content
        return said


def _words(syntax: Syntax) -> tuple[str, ...]:
    """The texts that end reasoning at the beginning of a line; none for a format without labels."""
    opening = tuple(word for word in (syntax.thought, syntax.answer) if word)
    return (*opening, *syntax.call, *syntax.stop) if opening else ()


def _opens_line(words: Sequence[str], text: str) -> bool:
    any_of = "|".join(map(re.escape, words))
    return bool(words) and re.search(rf"^[ \t]*(?:{any_of})", text, re.MULTILINE | re.IGNORECASE) is not None


# Tool results within a reply ------------------------------------------------------------------------------------------


class _ResultBorder(NamedTuple):
    """The text after which a tool result begins, and a pattern of where the model continues."""

    mark: str
    back: re.Pattern[str]


_RESULT_BORDERS = (
    _ResultBorder(
        "Observation:", re.compile(r"^(?=[ \t]*(?:Thought|Action|Action Input|Final Answer):)", re.MULTILINE)
    ),
    _ResultBorder("✿RESULT✿:", re.compile(r"^(?=[ \t]*✿(?:RETURN|FUNCTION)✿:)", re.MULTILINE)),
    _ResultBorder("<|observation|>", re.compile(r"<\|assistant\|>\n?")),
)
_CALLS = ("Action:", "Action Input:", "✿FUNCTION✿:", "<|observation|>")


def split_observations(text: str, agent: bool = False) -> list[tuple[str, bool]]:
    """Splits a turn into (text, False) of the model and (text, True) of tools.

    A result runs from `Observation:` to the next line that begins with a keyword; keywords within a line belong to the
    result. `Observation:` within a string of a call's arguments begins no result. Only turns that contain a call are
    split, or all with `agent` (tools were offered).
    """
    for mark, back in _RESULT_BORDERS:
        if mark in text and (agent or any(each in text for each in _CALLS)):
            return list(_split_at(text, mark, back))
    return [(text, False)]


def _split_at(text: str, mark: str, back: re.Pattern[str]) -> list[tuple[str, bool]]:
    parts: list[tuple[str, bool]] = []
    start = 0
    while (at := find_mark(text, mark, start)) >= 0:
        result_start = at + len(mark)
        match = back.search(text, result_start)
        end = match.end() if match else len(text)
        parts.append((text[start:result_start], False))
        if end > result_start:
            parts.append((text[result_start:end], True))
        start = end
    if start < len(text):
        parts.append((text[start:], False))
    return parts
