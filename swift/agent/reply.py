"""An assistant's reply as text: its thought, its answer or calls, and what the environment wrote in between."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from swift.agent import ReasoningTags, Syntax, ToolFormat
from swift.agent.reasoning_parser import ReasoningParser, ReplyText
from swift.chat import Message, Tool

THINK_TAGS = ReasoningTags("<think>", "</think>")
"""How a thought is written for people and in saved rows, whatever the model's own marks are."""

# Writing and reading -------------------------------------------------------------------------------------------------


def write_reply(
    tool_format: ToolFormat, message: Message, offered: bool = False, after_result: bool = False, block: bool = False
) -> str:
    """The text of an assistant's message; `offered`: there are tools, `after_result`: it follows a tool's result.

    Where tools are on offer, a form that has words for a thought and an answer opens them with these. Content in which
    such words stand already is text of the form and stays as it is. A thought for which there is no word is left out,
    or (`block`) stands before all that in a BLOCK.
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
    """The text of a reply to whom `tools` were offered -> a message, the inverse of `write_reply`.

    `thinking`: the texts around the model's thoughts; `prefill`: what of the reply the prompt holds already.
    """
    thoughts, split = ReasoningParser(thinking, prefill), LabelParser(tool_format.syntax)
    told = thoughts.push(text) + thoughts.end()
    content, calls = tool_format.parse(told.content, tools)
    said = split.push(content) + split.end(answers=not calls)
    reasoning = "\n".join(filter(None, (told.reasoning, said.reasoning)))
    return Message("assistant", said.content, calls, reasoning=reasoning)


class LabelParser:
    """Tells thought and answer apart in a reply's text while it is made; a call mark ends both.

    The words that open them belong to neither. A form without such words has content alone.
    """

    def __init__(self, syntax: Syntax) -> None:
        self._marks = syntax
        self._words = _words(syntax)
        any_of = "|".join(map(re.escape, self._words)) or r"(?!)"
        self._word = re.compile(rf"^[ \t]*({any_of})", re.MULTILINE | re.IGNORECASE)
        self._thinks = self._answers = False
        self._text = ""  # what is held back: it may be the beginning of a word, or the white space before one
        self._at_line_start = True
        self._opened = False  # a word was just read: white space behind it belongs to it
        self._reasoning, self._content = "", ""

    def push(self, text: str) -> ReplyText:
        """What of the reply so far can be told."""
        self._text += text
        told = ReplyText()
        while found := self._next_word():
            told += self._add(self._text[: found.start()].rstrip()) + self._go_on(found)
        size = len(self._text) if self._answers or not self._words else self._safe()
        piece, self._text = self._text[:size], self._text[size:]
        self._at_line_start = self._at_line_start and not piece
        return told + self._add(piece)

    def end(self, answers: bool) -> ReplyText:
        """What is still held. `answers`: the reply is whole and calls nothing, so a thought alone is the answer."""
        held, self._text = self._text, ""
        told = self._add(held.rstrip() if self._thinks else held)
        return told + ReplyText("", self._reasoning if answers and not self._content else "")

    def _next_word(self) -> re.Match[str] | None:
        if self._opened:
            stripped = self._text.lstrip()
            self._at_line_start = self._at_line_start or "\n" in self._text[: len(self._text) - len(stripped)]
            self._text, self._opened = stripped, not stripped
        if self._answers:
            return None
        # `^` matches at the beginning of the text too, which may be in the middle of a line
        first = 0 if self._at_line_start else self._text.find("\n")
        return None if first < 0 else self._word.search(self._text, first)

    def _go_on(self, found: re.Match[str]) -> ReplyText:
        """Takes a word in; what comes after it stands on a line of its own."""
        word = found[1].casefold()
        thinks = word == self._marks.thought.casefold()
        self._answers = word == self._marks.answer.casefold()
        opens = thinks or self._answers
        earlier = self._reasoning if thinks else self._content
        self._text = self._text[found.end() if opens else found.start(1) :]
        self._thinks, self._opened, self._at_line_start = thinks, opens, False
        return self._add("\n" if earlier else "")

    def _safe(self) -> int:
        """How much of the text can be no part of a word to come, nor of the white space before it."""
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
    """The texts that end a thought, where they open a line; none in a form that has no words for thought or answer."""
    opening = tuple(word for word in (syntax.thought, syntax.answer) if word)
    return (*opening, *syntax.call, *syntax.stop) if opening else ()


def _opens_line(words: Sequence[str], text: str) -> bool:
    any_of = "|".join(map(re.escape, words))
    return bool(words) and re.search(rf"^[ \t]*(?:{any_of})", text, re.MULTILINE | re.IGNORECASE) is not None


# What the environment wrote -------------------------------------------------------------------------------------------


class _Writer(NamedTuple):
    """Who speaks after which mark, in a turn that holds the environment's text too: `back` is where the model does."""

    mark: str
    back: re.Pattern[str]


_WRITERS = (
    _Writer("Observation:", re.compile(r"^(?=[ \t]*(?:Thought|Action|Action Input|Final Answer):)", re.MULTILINE)),
    _Writer("✿RESULT✿:", re.compile(r"^(?=[ \t]*✿(?:RETURN|FUNCTION)✿:)", re.MULTILINE)),
    _Writer("<|observation|>", re.compile(r"<\|assistant\|>\n?")),
)
_AGENT = ("Action:", "Action Input:", "✿FUNCTION✿:", "<|observation|>")


def split_observations(text: str, agent: bool = False) -> list[tuple[str, bool]]:
    """Cut a turn into what the model wrote (False) and what the environment wrote (True).

    The environment's text runs from `Observation:` to the next line that opens with a keyword of the model's: a
    keyword inside a line of the observation is the environment's. A turn counts as an agent's when it names an
    action, or when `agent` says that tools were offered.
    """
    for mark, back in _WRITERS:
        if mark in text and (agent or any(each in text for each in _AGENT)):
            return list(_alternate(text, mark, back))
    return [(text, False)]


def _alternate(text: str, mark: str, back: re.Pattern[str]) -> list[tuple[str, bool]]:
    parts: list[tuple[str, bool]] = []
    start = 0
    while (at := text.find(mark, start)) >= 0:
        spoken = at + len(mark)
        match = back.search(text, spoken)
        end = match.end() if match else len(text)
        parts.append((text[start:spoken], False))
        if end > spoken:
            parts.append((text[spoken:end], True))
        start = end
    if start < len(text):
        parts.append((text[start:], False))
    return parts
