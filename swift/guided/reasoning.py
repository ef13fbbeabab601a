"""Adds free reasoning in tags before what a grammar allows. Knows no tool-call format and no schema."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from swift.agent import ReasoningTags
from swift.agent.reasoning_parser import ReasoningParser
from swift.guided.lark import Special, literals, quoted, split_at_special_tokens

Rule = Literal["edge", "inside", "after", "content"]
"""Where a reply begins: before optional reasoning, inside reasoning, after reasoning, inside the content."""


class Position(NamedTuple):
    """A position in a reply. `tags`: the reasoning tags before it."""

    rule: Rule
    tags: str


def position_after(thinking: ReasoningTags, text: str) -> Position:
    """The position at the end of `text`, the beginning of a reply."""
    parser = ReasoningParser(thinking, text)
    if parser.state == "reasoning":
        return Position("inside", thinking.open)
    ended = f"{thinking.open}{thinking.close}"
    if parser.state == "content":
        return Position("content", f"{ended}{thinking.answer}")
    return Position("after", ended) if parser.parted else Position("edge", "")


def thinking_first(lines: Sequence[str], thinking: ReasoningTags, special: Special) -> list[str]:
    """The lines of a grammar with optional reasoning first; content opens as it does in such replies.

    Text that begins with the opening tag is reasoning, so nothing in it can be taken for a call.
    """
    opening, closing, answer = (split_at_special_tokens(text.strip(), special) for text in thinking)
    words = opening[0] if special(opening[0]) is None else ""
    opens = f"OPEN {literals(opening[1:], special)}" if words else f"WS? {literals(opening, special)}"
    ends = f"FREE {literals(closing, special)}"
    if special(closing[0]) is None:
        ends = f"ends {literals(closing[1:], special)}"
    return [
        *(_changed(line, literals(answer, special)) for line in lines),
        "start: edge",
        f"edge: ({opens} thought)? after",
        "inside: thought after",
        "after: WS? body",
        f"thought: {ends}",
        # only this terminal begins with white space, so that the lexer can decide
        r"WS: /[ \n]{1,16}/",
        rf"OPEN: /[ \n]{{0,16}}/ {quoted(words or ' ')}",
        rf"SAID: FREE & ~((/[ \n]/{f' | {quoted(words)}' if words else ''}) FREE)",
        r"FREE: /(.|\n)*/",
        f"ends[lazy]: FREE {quoted(closing[0])}",
    ]


def starting_at(text: str, rule: Rule) -> str:
    """The text of a grammar from `thinking_first`, for replies that start at `rule`."""
    text = re.sub(r"^start: edge$", f"start: {'after' if rule == 'content' else rule}", text, flags=re.MULTILINE)
    return re.sub(r"^said: .* plain$", "said: plain", text, flags=re.MULTILINE) if rule == "content" else text


def _changed(line: str, answer: str) -> str:
    name, _, what = line.partition(": ")
    if name == "start":
        return f"body: {re.sub(r'(?<=[|] )TEXT(?= )', 'SAID', what)}"
    if name == "said":
        what = "SAID" if what == "TEXT" else what
        return f"said: {answer} plain\nplain: {what}" if answer else f"said: {what}"
    return f"{line} & SAID" if name == "BEFORE" else line
