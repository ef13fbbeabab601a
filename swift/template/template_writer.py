"""Writes dialogues as spans by a built-in template (templates.toml). Knows no loss scale."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple, Protocol

from swift.chat import Image
from swift.template.template import Element, Template

Kind = Literal["template", "format", "given", "system", "tool_output", "reply", "stop"]
"""The author of a text. It decides which special tokens are recognised in it: all in text of the template, those of
the tool-call format in text of the format and the model, none in text of users and tools.

`system` is a system message after the first turn.
"""


class Span(NamedTuple):
    """A part of a rendered dialogue. `scale`: (text, weight) of its parts; `ids` replaces its text by token ids.

    `context`: the text before it, back to the last special token, if both are tokenised together.
    """

    text: str
    kind: Kind
    scale: tuple[tuple[str, float], ...] = ()
    ids: tuple[int, ...] = ()
    image: Image | None = None
    context: str = ""


NOTHING = Span("", "given")


ReplyPart = tuple[str, Kind, float | None]
"""A part of the assistant's turn: (text, author, weight of the message)."""


class Turn(NamedTuple):
    """A prompt of the user or a tool, and the reply.

    `raw`: the prompt is a complete turn, up to the beginning of the reply.
    """

    prompt: tuple[Span, ...]
    by_tool: bool
    raw: bool
    reply: tuple[ReplyPart, ...]

    @property
    def query(self) -> str:
        return "".join(span.text for span in self.prompt)

    @property
    def by_user(self) -> Turn:
        """The turn with its system messages as text of the user, on separate lines."""
        spans: list[Span] = []
        before: Kind = "given"
        for span in self.prompt:
            if spans and "system" in (span.kind, before):
                spans.append(Span("\n", "given"))
            spans.append(span._replace(kind="given") if span.kind == "system" else span)
            before = span.kind
        return self._replace(prompt=tuple(spans))


class Writer(Protocol):
    """What the Renderer needs of a built-in template: the end of replies, and the spans before each."""

    closing: list[Span]
    default_system: str

    def prompts(self, system: Span, turns: Sequence[Turn]) -> list[list[Span]]:
        """For each turn, the spans between the previous reply (or the beginning) and its reply."""
        ...


class TableWriter:
    """Renders by a table of templates.toml. `opening`: the token that the tokenizer puts first, if any.

    `mark`: the image token of the model, "" if it takes no images.
    """

    def __init__(self, template: Template, tokenizer: Any, opening: int | None, mark: str = "") -> None:
        self._around_image = (template.image or mark).split(mark) if mark else []
        if mark and len(self._around_image) != 2:
            raise ValueError(f"template {template.name!r} has the image token {template.image!r}, this model {mark!r}")
        self.template = template
        self.tokenizer = tokenizer
        self.default_system = template.default_system
        self.closing = self._elements(template.suffix, "stop")
        bos = tokenizer.bos_token_id
        begins = template.auto_add_bos and bos is not None and bos == opening
        self._bos = [Span(tokenizer.decode([bos]), "template", ids=(bos,))] if begins else []
        self._separate = _separate_turns(template)

    def prompts(self, system: Span, turns: Sequence[Turn]) -> list[list[Span]]:
        """As in Writer. Raises ValueError for a system prompt or a second round that the template cannot render."""
        if self.template.chat_sep is None and len(turns) > 1:
            raise ValueError(f"template {self.template.name!r} supports a single round, this dialogue has {len(turns)}")
        between = self._elements(self.template.chat_sep or (), "template")
        asked: list[list[Span]] = []
        for index, turn in enumerate(turns):
            asked.append((between if index else self._open(system)) + self._prompt(turn, index))
        return asked

    def without_opening(self, spans: Sequence[Span]) -> list[Span]:
        """A prompt without the text that opens the reply. Raises ValueError if the template's turns are one text."""
        opening = self._separate.assistant if self._separate else ""
        if not opening or not spans or not spans[-1].text.endswith(opening):
            raise ValueError(f"template {self.template.name!r} cannot end before the opening of a reply")
        return [*spans[:-1], spans[-1]._replace(text=spans[-1].text.removesuffix(opening))]

    def _prompt(self, turn: Turn, index: int) -> list[Span]:
        """The prompt of a turn, up to the beginning of the reply."""
        if turn.raw:
            return self._framed(turn.prompt)
        if any(span.kind == "system" for span in turn.prompt):
            return self._with_system(turn, index)
        shape = (self.template.tool_prompt if turn.by_tool else None) or self.template.prompt
        return self._elements(shape, "template", query=self._framed(turn.prompt), round=index)

    def _with_system(self, turn: Turn, index: int) -> list[Span]:
        """System messages as turns if the template has such turns, else as text of the user."""
        if self._separate is None or turn.by_tool:
            return self._prompt(turn.by_user, index)
        spans: list[Span] = []
        for system, run in groupby(turn.prompt, key=lambda span: span.kind == "system"):
            if system:
                for span in run:
                    spans += self._elements((self._separate.system,), "template", system=span)
            else:
                spans += self._elements((self._separate.user,), "template", query=self._framed(list(run)), round=index)
        return [*spans, Span(self._separate.assistant, "template")]

    def _framed(self, told: Sequence[Span]) -> list[Span]:
        spans: list[Span] = []
        for span in told:
            before, after = self._around_image if span.image else ("", "")
            spans += [Span(before, "template"), span, Span(after, "template")]
        return [span for span in spans if span.text]

    def _open(self, system: Span) -> list[Span]:
        if not system.text:
            return self._bos + self._elements(self.template.prefix, "template")
        if self.template.system_prefix is None:
            raise ValueError(f"template {self.template.name!r} does not support a system prompt: {system.text[:40]!r}")
        return self._bos + self._elements(self.template.system_prefix, "template", system=system)

    def _elements(
        self,
        elements: Sequence[Element],
        kind: Kind,
        *,
        system: Span = NOTHING,
        query: Sequence[Span] = (),
        round: int = 0,
    ) -> list[Span]:
        given = {"{{SYSTEM}}": [system], "{{QUERY}}": query}
        numbers = {"{{ROUND0}}": str(round), "{{ROUND1}}": str(round + 1)}
        spans: list[Span] = []
        for element in elements:
            if isinstance(element, tuple):
                ids = tuple(self._token(each) for each in element)
                spans.append(Span(self.tokenizer.decode(list(ids)), kind, ids=ids))
                continue
            for text in re.split(r"(\{\{[A-Z0-9]+\}\})", element):
                spans += given.get(text, [Span(numbers.get(text, text), kind)])
        return [span for span in spans if span.text]

    def _token(self, name: str | int) -> int:
        token = name if isinstance(name, int) else getattr(self.tokenizer, name)  # e.g. "eos_token_id"
        if token is None:
            raise ValueError(f"template {self.template.name!r} needs the tokenizer's {name}, which is not set")
        return int(token)


class _SeparateTurns(NamedTuple):
    """The system and user turns of a template. `assistant`: the text that opens a reply."""

    system: str
    user: str
    assistant: str


def _separate_turns(of: Template) -> _SeparateTurns | None:
    """The turns of a template in which every turn ends with the text that ends a reply; None for others."""
    system, asked, end = _one_text(of.system_prefix), _one_text(of.prompt), _one_text(of.suffix)
    if not (system and asked and end):
        return None
    after_system, after_query = system.partition("{{SYSTEM}}")[2], asked.partition("{{QUERY}}")[2]
    if not (after_system.startswith(end) and after_query.startswith(end)):
        return None
    between = after_system.removeprefix(end)
    if between.strip() or not after_query.startswith(end + between):
        return None
    opening = after_query.removeprefix(end + between)
    return _SeparateTurns(system.removeprefix(_one_text(of.prefix) or ""), asked.removesuffix(opening), opening)


def _one_text(elements: Sequence[Element] | None) -> str | None:
    return elements[0] if elements and len(elements) == 1 and isinstance(elements[0], str) else None
