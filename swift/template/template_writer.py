"""How a chat template writes rounds, as pieces of text: from a table of ours, or from the tokenizer's own Jinja."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple, Protocol

from swift.chat import Image
from swift.template.template import Element, Template

Kind = Literal["template", "format", "given", "system", "environment", "reply", "stop"]
"""Who wrote a text. Special tokens are read in what a template wrote, a form's marks in what it and the model wrote.

`system` is the text of a system message that comes after the first turn.
"""


class Span(NamedTuple):
    """A part of a rendered dialogue. `ids` stand for a piece that is tokens, `image` for one that is a picture.

    `behind` is the text before it, back to the last special token, where the piece is tokenised as going on from it.
    """

    text: str
    kind: Kind
    scale: tuple[tuple[str, float], ...] = ()
    ids: tuple[int, ...] = ()
    image: Image | None = None
    behind: str = ""


NOTHING = Span("", "given")


ReplyPart = tuple[str, Kind, float | None]
"""A part of the assistant's turn: its text, who wrote it, and the weight that the message itself gives."""


class Turn(NamedTuple):
    """What the model is told by whom, and what it answers, in order.

    `raw`: what it is told is a whole turn already, up to where the assistant speaks.
    """

    told: tuple[Span, ...]
    by_tool: bool
    raw: bool
    reply: tuple[ReplyPart, ...]

    @property
    def query(self) -> str:
        return "".join(piece.text for piece in self.told)

    @property
    def by_user(self) -> Turn:
        """The same turn with its system messages as words of the user's, each on lines of its own."""
        pieces: list[Span] = []
        before: Kind = "given"
        for piece in self.told:
            if pieces and "system" in (piece.kind, before):
                pieces.append(Span("\n", "given"))
            pieces.append(piece._replace(kind="given") if piece.kind == "system" else piece)
            before = piece.kind
        return self._replace(told=tuple(pieces))


class Writer(Protocol):
    """What a Renderer needs of a chat template: what closes a reply, and what stands before each."""

    closing: list[Span]
    default_system: str

    def asking(self, system: Span, turns: Sequence[Turn]) -> list[list[Span]]:
        """For each turn, all that stands between the reply before it (or the beginning) and its own reply."""
        ...


class TableWriter:
    """Writes by a table of templates.toml. `opening` is the token that the tokenizer itself puts first, if any.

    `mark` is the token at which the model sees an image, "" where it sees none.
    """

    def __init__(self, template: Template, tokenizer: Any, opening: int | None, mark: str = "") -> None:
        self._around_image = (template.image or mark).split(mark) if mark else []
        if mark and len(self._around_image) != 2:
            raise ValueError(f"template {template.name!r} shows an image as {template.image!r}, this model at {mark!r}")
        self.template = template
        self.tokenizer = tokenizer
        self.default_system = template.default_system
        self.closing = self._elements(template.suffix, "stop")
        bos = tokenizer.bos_token_id
        begins = template.auto_add_bos and bos is not None and bos == opening
        self._bos = [Span(tokenizer.decode([bos]), "template", ids=(bos,))] if begins else []
        self._apart = _turns_apart(template)

    def asking(self, system: Span, turns: Sequence[Turn]) -> list[list[Span]]:
        """Raises ValueError for a system text or a further round that the template has no place for."""
        if self.template.chat_sep is None and len(turns) > 1:
            raise ValueError(f"template {self.template.name!r} takes a single round, this dialogue has {len(turns)}")
        between = self._elements(self.template.chat_sep or (), "template")
        asked: list[list[Span]] = []
        for index, turn in enumerate(turns):
            asked.append((between if index else self._open(system)) + self._asked(turn, index))
        return asked

    def _asked(self, turn: Turn, index: int) -> list[Span]:
        """What the turn is told, up to where the assistant speaks."""
        if turn.raw:
            return self._framed(turn.told)
        if any(piece.kind == "system" for piece in turn.told):
            return self._with_system(turn, index)
        shape = (self.template.tool_prompt if turn.by_tool else None) or self.template.prompt
        return self._elements(shape, "template", query=self._framed(turn.told), round=index)

    def _with_system(self, turn: Turn, index: int) -> list[Span]:
        """System messages in their place, where the template's system text is a turn of its own; else as the user's."""
        if self._apart is None or turn.by_tool:
            return self._asked(turn.by_user, index)
        pieces: list[Span] = []
        for system, run in groupby(turn.told, key=lambda piece: piece.kind == "system"):
            if system:
                for piece in run:
                    pieces += self._elements((self._apart.system,), "template", system=piece)
            else:
                pieces += self._elements((self._apart.user,), "template", query=self._framed(list(run)), round=index)
        return [*pieces, Span(self._apart.assistant, "template")]

    def _framed(self, told: Sequence[Span]) -> list[Span]:
        pieces: list[Span] = []
        for piece in told:
            before, after = self._around_image if piece.image else ("", "")
            pieces += [Span(before, "template"), piece, Span(after, "template")]
        return [piece for piece in pieces if piece.text]

    def _open(self, system: Span) -> list[Span]:
        if not system.text:
            return self._bos + self._elements(self.template.prefix, "template")
        if self.template.system_prefix is None:
            raise ValueError(f"template {self.template.name!r} has no place for a system text: {system.text[:40]!r}")
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
        pieces: list[Span] = []
        for element in elements:
            if isinstance(element, tuple):
                ids = tuple(self._token(each) for each in element)
                pieces.append(Span(self.tokenizer.decode(list(ids)), kind, ids=ids))
                continue
            for text in re.split(r"(\{\{[A-Z0-9]+\}\})", element):
                pieces += given.get(text, [Span(numbers.get(text, text), kind)])
        return [piece for piece in pieces if piece.text]

    def _token(self, name: str | int) -> int:
        token = name if isinstance(name, int) else getattr(self.tokenizer, name)  # e.g. "eos_token_id"
        if token is None:
            raise ValueError(f"template {self.template.name!r} needs the tokenizer's {name}, which it does not have")
        return int(token)


class _Apart(NamedTuple):
    """The turns of a template one by one; `assistant` is what opens a reply."""

    system: str
    user: str
    assistant: str


def _turns_apart(of: Template) -> _Apart | None:
    """The turns of a template whose every turn ends with the text that ends a reply; None for other templates."""
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
    return _Apart(system.removeprefix(_one_text(of.prefix) or ""), asked.removesuffix(opening), opening)


def _one_text(elements: Sequence[Element] | None) -> str | None:
    return elements[0] if elements and len(elements) == 1 and isinstance(elements[0], str) else None
