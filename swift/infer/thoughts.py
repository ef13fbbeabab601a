"""A thought before what a grammar allows: it is free up to the text that ends it. Knows no form and no schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from swift.agent import Thinking
from swift.agent.thoughts import Thoughts
from swift.infer.lark import quoted

Special = Callable[[str], int | None]
"""The token that a text is alone, if it is a special one."""
Rule = Literal["edge", "inside", "after", "content"]
"""What a reply begins with: a thought or none, the rest of a thought, what follows a thought, the rest of content."""

_MARK = re.compile(r"(<[^<>\s]+>|\[[^\[\]\s]+\])")
"""What is a token of its own in many vocabularies."""


class Reached(NamedTuple):
    """How far a reply has come. `marks`: those that stand in it."""

    rule: Rule
    marks: str


def reached(thinking: Thinking, text: str) -> Reached:
    """How far the reply has come that begins with `text`."""
    thoughts = Thoughts(thinking, text)
    if thoughts.place == "thought":
        return Reached("inside", thinking.open)
    ended = f"{thinking.open}{thinking.close}"
    if thoughts.place == "content":
        return Reached("content", f"{ended}{thinking.answer}")
    return Reached("after", ended) if thoughts.parted else Reached("edge", "")


def thinking_first(lines: Sequence[str], thinking: Thinking, special: Special) -> list[str]:
    """The lines of a grammar, for replies that may think before. Content opens as it does in such replies.

    Text that begins like a thought is one, so nothing in it can be taken for a call.
    """
    opening, closing, answer = (_parts(text.strip(), special) for text in thinking)
    words = opening[0] if special(opening[0]) is None else ""
    first, rest = ("OPEN", opening[1:]) if words else ("WS?", opening)
    return [
        *(_changed(line, " ".join(_literals(answer, special))) for line in lines),
        "start: edge",
        f"edge: ({' '.join([first, *_literals(rest, special)])} thought)? after",
        "inside: thought after",
        "after: WS? body",
        # white space is told apart by the lexer alone, so no other text begins with it
        r"WS: /[ \n]{1,16}/",
        *([rf"OPEN: /[ \n]{{0,16}}/ {quoted(words)}"] if words else []),
        rf"BLOCK: (/[ \n]/{f' | {quoted(words)}' if words else ''}) FREE",
        r"FREE: /(.|\n)*/",
        *_ending(closing, special),
    ]


def starting(text: str, rule: Rule) -> str:
    """The text of a grammar that thinks first, for replies that have come as far as `rule`."""
    text = re.sub(r"^start: edge$", f"start: {'after' if rule == 'content' else rule}", text, flags=re.MULTILINE)
    return re.sub(r"^said: .* plain$", "said: plain", text, flags=re.MULTILINE) if rule == "content" else text


def _changed(line: str, answer: str) -> str:
    name, _, what = line.partition(": ")
    if name == "start":
        return f"body: {what}"
    if name == "said" and answer:
        return f"said: {answer} plain\nplain: {what}"
    return f"{line} & ~BLOCK" if name in ("TEXT", "BEFORE") else line


def _ending(closing: Sequence[str], special: Special) -> list[str]:
    """The rules of a thought: what ends it is looked for in free text, or is a token that no free text holds."""
    if special(closing[0]) is not None:
        return [f"thought: {' '.join(['FREE', *_literals(closing, special)])}"]
    ends = f"ends[lazy]: FREE {quoted(closing[0])}"
    return [f"thought: {' '.join(['ends', *_literals(closing[1:], special)])}", ends]


def _parts(text: str, special: Special) -> list[str]:
    """The text, cut around special tokens."""
    parts: list[str] = []
    for part in filter(None, _MARK.split(text)):
        if parts and special(part) is None and special(parts[-1]) is None:
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def _literals(parts: Sequence[str], special: Special) -> list[str]:
    tokens = [(part, special(part)) for part in parts]
    return [quoted(part) if token is None else f"<[{token}]>" for part, token in tokens]
