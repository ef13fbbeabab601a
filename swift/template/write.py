"""How a chat template writes rounds, as pieces of text: from a table of ours, or from the tokenizer's own Jinja."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple, Protocol

from jinja2 import TemplateError

from swift.chat import PLACE, Image
from swift.template.template import Element, Template

Kind = Literal["template", "form", "given", "system", "environment", "reply", "stop"]
"""Who wrote a text. Special tokens are read in what a template wrote, a form's marks in what it and the model wrote.

`system` is the text of a system message that comes after the first turn.
"""


class Piece(NamedTuple):
    """A stretch of a rendered dialogue. `ids` stand for a piece that is tokens, `image` for one that is a picture."""

    text: str
    kind: Kind
    scale: tuple[tuple[str, float], ...] = ()
    ids: tuple[int, ...] = ()
    image: Image | None = None


NOTHING = Piece("", "given")


Spoken = tuple[str, Kind, float | None]
"""A part of the assistant's turn: its text, who wrote it, and the weight that the message itself gives."""


class Turn(NamedTuple):
    """What the model is told by whom, and what it answers, in order.

    `raw`: what it is told is a whole turn already, up to where the assistant speaks.
    """

    told: tuple[Piece, ...]
    by_tool: bool
    raw: bool
    reply: tuple[Spoken, ...]

    @property
    def query(self) -> str:
        return "".join(piece.text for piece in self.told)

    @property
    def by_user(self) -> Turn:
        """The same turn with its system messages as words of the user's, each on lines of its own."""
        pieces: list[Piece] = []
        before: Kind = "given"
        for piece in self.told:
            if pieces and "system" in (piece.kind, before):
                pieces.append(Piece("\n", "given"))
            pieces.append(piece._replace(kind="given") if piece.kind == "system" else piece)
            before = piece.kind
        return self._replace(told=tuple(pieces))


class Writer(Protocol):
    """What a Renderer needs of a chat template: what closes a reply, and what stands before each."""

    closing: list[Piece]
    default_system: str

    def asking(self, system: Piece, turns: Sequence[Turn]) -> list[list[Piece]]:
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
        self._bos = [Piece(tokenizer.decode([bos]), "template", ids=(bos,))] if begins else []
        self._apart = _turns_apart(template)

    def asking(self, system: Piece, turns: Sequence[Turn]) -> list[list[Piece]]:
        """Raises ValueError for a system text or a further round that the template has no place for."""
        if self.template.chat_sep is None and len(turns) > 1:
            raise ValueError(f"template {self.template.name!r} takes a single round, this dialogue has {len(turns)}")
        between = self._elements(self.template.chat_sep or (), "template")
        asked: list[list[Piece]] = []
        for index, turn in enumerate(turns):
            asked.append((between if index else self._open(system)) + self._asked(turn, index))
        return asked

    def _asked(self, turn: Turn, index: int) -> list[Piece]:
        """What the turn is told, up to where the assistant speaks."""
        if turn.raw:
            return self._framed(turn.told)
        if any(piece.kind == "system" for piece in turn.told):
            return self._with_system(turn, index)
        shape = (self.template.tool_prompt if turn.by_tool else None) or self.template.prompt
        return self._elements(shape, "template", query=self._framed(turn.told), round=index)

    def _with_system(self, turn: Turn, index: int) -> list[Piece]:
        """System messages in their place, where the template's system text is a turn of its own; else as the user's."""
        if self._apart is None or turn.by_tool:
            return self._asked(turn.by_user, index)
        pieces: list[Piece] = []
        for system, run in groupby(turn.told, key=lambda piece: piece.kind == "system"):
            if system:
                for piece in run:
                    pieces += self._elements((self._apart.system,), "template", system=piece)
            else:
                pieces += self._elements((self._apart.user,), "template", query=self._framed(list(run)), round=index)
        return [*pieces, Piece(self._apart.assistant, "template")]

    def _framed(self, told: Sequence[Piece]) -> list[Piece]:
        pieces: list[Piece] = []
        for piece in told:
            before, after = self._around_image if piece.image else ("", "")
            pieces += [Piece(before, "template"), piece, Piece(after, "template")]
        return [piece for piece in pieces if piece.text]

    def _open(self, system: Piece) -> list[Piece]:
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
        system: Piece = NOTHING,
        query: Sequence[Piece] = (),
        round: int = 0,
    ) -> list[Piece]:
        given = {"{{SYSTEM}}": [system], "{{QUERY}}": query}
        numbers = {"{{ROUND0}}": str(round), "{{ROUND1}}": str(round + 1)}
        pieces: list[Piece] = []
        for element in elements:
            if isinstance(element, tuple):
                ids = tuple(self._token(each) for each in element)
                pieces.append(Piece(self.tokenizer.decode(list(ids)), kind, ids=ids))
                continue
            for text in re.split(r"(\{\{[A-Z0-9]+\}\})", element):
                pieces += given.get(text, [Piece(numbers.get(text, text), kind)])
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


class JinjaWriter:
    """Writes by the chat template that came with the tokenizer.

    Texts are put into the finished prompt afterwards, so that a template never trims or rewrites them. Each prompt
    must begin with the prompt and the reply before it: a template that rewrites earlier turns is refused.
    """

    default_system = ""

    def __init__(self, tokenizer: Any, mark: str = "") -> None:
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer brings no chat template: name one with --template_type")
        self.tokenizer = tokenizer
        self._mark = mark
        probe = Turn((NOTHING,), False, False, (("", "reply", None),))
        after = self._render(NOTHING, [probe], generate=False).rsplit(_reply(0), 1)[1]
        special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        stop = next((each for each in special if after.lstrip().startswith(each)), tokenizer.eos_token)
        if stop is None:
            raise ValueError("neither the chat template nor the tokenizer says what ends a reply")
        self.closing = [Piece(stop, "stop")]

    def asking(self, system: Piece, turns: Sequence[Turn]) -> list[list[Piece]]:
        """System messages after the first turn stand in their place if the template has one, else as the user's."""
        if any(piece.kind == "system" for turn in turns for piece in turn.told):
            try:
                return self._asking(system, turns)
            except ValueError:
                turns = [turn.by_user for turn in turns]
        return self._asking(system, turns)

    def _asking(self, system: Piece, turns: Sequence[Turn]) -> list[list[Piece]]:
        asked: list[list[Piece]] = []
        before = ""
        for index, turn in enumerate(turns):
            if turn.raw:
                asked.append([*self.closing, *turn.told])
                before += _reply(index)
                continue
            prompt = self._render(system, turns[: index + 1], generate=True)
            if not prompt.startswith(before):
                raise ValueError(
                    f"the tokenizer's chat template rewrites round {index} once round {index + 1} follows, so a prompt "
                    "would not be a prefix of the whole dialogue: name a template with --template_type"
                )
            asked.append(_filled(prompt[len(before) :], system, turn.told, self._mark))
            before = prompt + _reply(index)
        return asked

    def _render(self, system: Piece, turns: Sequence[Turn], generate: bool) -> str:
        """The prompt with marks for the texts. A raw turn and the reply after it count to the reply before."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": _SYSTEM}] if system.text else []
        for index, turn in enumerate(turns):
            if turn.raw and messages:
                messages[-1]["content"] += _reply(index)
                continue
            messages += _messages(turn.told)
            if index < len(turns) - 1 or not generate:
                messages.append({"role": "assistant", "content": _reply(index)})
        if self._mark:  # templates of models that see want parts, and some of them nothing else
            messages = [{**each, "content": _parts(each["content"])} for each in messages]
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))
        except TemplateError as reason:
            raise ValueError(f"the tokenizer's chat template refuses this dialogue: {reason}") from None


# Private-use characters stand for texts while Jinja renders: no template looks for them.
_SYSTEM, _QUERY = "\ue000", "\ue001"


def _reply(index: int) -> str:
    return f"\ue002{index};"


def _messages(told: Sequence[Piece]) -> list[dict[str, Any]]:
    """A mark for every run of texts, and a place for every image between them; a message for each who speaks."""
    messages: list[dict[str, Any]] = []
    for number, run in enumerate(_runs(told)):
        role = "system" if run[0].kind == "system" else "user"
        if not messages or messages[-1]["role"] != role:
            messages.append({"role": role, "content": ""})
        messages[-1]["content"] += PLACE if run[0].image else f"{_QUERY}{number};"
    return messages


def _runs(told: Sequence[Piece]) -> list[list[Piece]]:
    """What a turn is told, cut before and after each image and each system message."""
    runs: list[list[Piece]] = []
    for piece in told:
        alone = piece.image or piece.kind == "system"
        if alone or not runs or runs[-1][0].image or runs[-1][0].kind == "system":
            runs.append([])
        runs[-1].append(piece)
    return runs or [[NOTHING]]


def _parts(content: str) -> list[dict[str, str]]:
    cut = re.split(f"({PLACE})", content)
    return [{"type": "image"} if text == PLACE else {"type": "text", "text": text} for text in cut if text]


def _filled(text: str, system: Piece, told: Sequence[Piece], mark: str) -> list[Piece]:
    """The template's text with what its marks stand for. Images come in the order that the template gives them."""
    runs = _runs(told)
    images = [piece for piece in told if piece.image]
    shown = iter(images)
    pieces: list[Piece] = []
    missing = {number for number, run in enumerate(runs) if not run[0].image}
    for part in re.split(f"({_SYSTEM}|{_QUERY}[0-9]+;)", text):
        if part == _SYSTEM:
            pieces.append(system)
        elif part.startswith(_QUERY):
            number = int(part[1:-1])
            pieces += runs[number]
            missing.discard(number)
        else:
            first, *others = part.split(mark) if images else [part]
            pieces.append(Piece(first, "template"))
            for other in others:
                pieces += [next(shown, NOTHING), Piece(other, "template")]
    if missing:
        raise ValueError("the chat template leaves a message of this dialogue out: name one with --template_type")
    if sum(piece.image is not None for piece in pieces) != len(images) or next(shown, None):
        raise ValueError(
            f"the chat template has no place for {len(images)} images in a turn: name one with --template_type"
        )
    return [piece for piece in pieces if piece.text]
