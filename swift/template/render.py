"""Messages <-> tokens and weights: the one place where a prompt is made. Knows no model and no torch.

A dialogue is laid out as pieces: what the template writes, what the user and the environment wrote, what the model
wrote, and the token that ends its turn. Pieces are cut where turns and the environment's text begin and end, never
where a loss weight changes, and each is tokenised by itself. So training, the dialogue and the server agree on every
token, and each prompt is a prefix of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from swift.agent import Form, Thinking, form
from swift.agent.reply import environment, read_reply, write_reply
from swift.chat import PLACE, Conversation, Image, Message, Sample, Tool
from swift.template.cuts import Encoded
from swift.template.sight import Sight
from swift.template.template import Template
from swift.template.weigh import AUTO, loss_scale
from swift.template.words import Special, Words
from swift.template.write import NOTHING, JinjaWriter, Kind, Piece, Spoken, TableWriter, Turn, Writer

_RESULT = "\ue003"  # stands for a tool's text while the form writes around it
_SPECIAL: dict[Kind, Special] = {
    "template": "all",
    "stop": "all",
    "form": "marks",
    "reply": "marks",
    "given": "none",
    "system": "none",
    "environment": "none",
}


class Stop(NamedTuple):
    """What ends a reply: token ids, and texts where a template's end is no single token."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]


class Asked(NamedTuple):
    """A prompt, and what of the reply stands in it already: a thought that the template opens, for example."""

    tokens: list[int]
    begun: str = ""


class Rendered(NamedTuple):
    """A row with everything a reader wants to see; the pieces join neighbouring tokens of equal weight."""

    sample: Sample
    text: str
    pieces: list[tuple[str, float]]


class Renderer:
    """One chat template, one text form for tools and one loss scale over one tokenizer.

    `tokenizer` is a fast tokenizer of transformers; `template` None takes the chat template that came with it.
    `system` replaces the template's default system text; "" means none. `sight` is what the model sees images with;
    None: it sees none. Raises ValueError for what does not fit.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Template | None,
        form_name: str = "react_en",
        scale: str = AUTO,
        system: str | None = None,
        sight: Sight | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.sight = sight
        self.form: Form = form(form_name)
        self.form_name = form_name
        self.thinking: Thinking | None = None
        self.scale = loss_scale(scale, form_name)
        self._words = Words(tokenizer, self.form.marks.special)
        mark = sight.mark if sight else ""
        self.writer: Writer = (
            TableWriter(template, tokenizer, self._words.opening, mark) if template else JinjaWriter(tokenizer, mark)
        )
        self._opening = self._reply_opening()
        self.default_system = self.writer.default_system if system is None else system
        self.stop = self._stop()

    def encode(self, conversation: Conversation) -> Sample:
        """The row as training sees it, closed by the stop token. Raises ValueError for a dialogue it cannot lay out."""
        tokens: list[int] = []
        weights: list[float] = []
        for piece in _merged(self.pieces(conversation), self._words):
            ids, laid = self._weighed(piece)
            tokens += ids
            weights += laid
        shown = conversation.images
        inputs = partial(self.sight.inputs, shown, tokens) if self.sight and shown else None
        return Sample(tokens, weights, conversation.source, inputs)

    def show(self, conversation: Conversation) -> Rendered:
        """The row as training sees it, with its text."""
        spans: list[tuple[str, float]] = []
        for piece in _merged(self.pieces(conversation), self._words):
            spans += zip(_texts(piece.text, self._encoded(piece)), self._weighed(piece)[1], strict=True)
        grouped = groupby(spans, key=lambda span: span[1])
        runs = [("".join(text for text, _ in run), weight) for weight, run in grouped]
        return Rendered(self.encode(conversation), "".join(text for text, _ in runs), runs)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """What generation starts from. A trailing assistant message, or an inline tool result, is continued."""
        if not messages:
            raise ValueError("there are no messages to answer")
        pieces = self._layout(Conversation(tuple(messages), tuple(tools)), close=False)
        return [token for piece in _merged(pieces, self._words) for token in self._ids(piece)]

    def ask(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> Asked:
        """`prompt`, and what it holds of the reply. `template_kwargs` reach the model's own chat template."""
        return Asked(self.prompt(messages, tools))

    def continued(self, text: str) -> list[int]:
        """The tokens of a prompt written by hand. A reply that it begins is cut and closed as in a dialogue."""
        # a template of plain text has nothing that opens a reply
        before, opening, begun = text.rpartition(self._opening) if self._opening else ("", "", text)
        if not opening or not any(outside for _, outside in environment(begun)):
            return self._words.opened(text)
        said = [Piece(part, kind) for part, kind, _ in self._said(begun, tools=False, weight=None)]
        return [*self._words.opened(before + opening), *(token for piece in said for token in self._ids(piece))]

    def inputs(self, messages: Sequence[Message], prompt: Sequence[int]) -> dict[str, Any] | None:
        """What the model needs beside `prompt`, made of the same messages; None where they hold no image."""
        shown = Conversation(tuple(messages)).images
        return self.sight.inputs(shown, prompt) if self.sight and shown else None

    def parse(self, text: str, tools: Sequence[Tool] = ()) -> Message:
        """The text of a reply to whom `tools` were offered -> a message, the calls in it taken out."""
        return read_reply(self.form, text, tools)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def pieces(self, conversation: Conversation) -> list[Piece]:
        """What `encode` tokenises, in order."""
        if conversation.is_text:
            message = conversation.messages[0]
            weight = 1.0 if message.weight is None else message.weight
            return [Piece(message.content, "reply", ((message.content, weight),)), *self._close(weight)]
        if conversation.messages[-1].role != "assistant":
            raise ValueError("the last message is not the assistant's: there is nothing to learn")
        return self._layout(conversation, close=True)

    def _layout(self, conversation: Conversation, close: bool) -> list[Piece]:
        if conversation.images and (
            strange := [m.role for m in conversation.messages if m.images and m.role != "user"]
        ):
            raise ValueError(f"only a user's message can show an image, not the {strange[0]}'s")
        system, messages = _split_system(conversation.messages)
        text = self.default_system if system is None else system
        offer = Piece(text, "given")
        if conversation.tools:
            offer = Piece(self.form.system(conversation.tools, text), "form")
        turns = list(self._turns(messages, bool(conversation.tools)))
        pieces: list[Piece] = []
        closing = 0.0
        for index, (turn, asking) in enumerate(zip(turns, self.writer.asking(offer, turns), strict=True)):
            pieces += self._ending(asking, closing) if index else asking
            spoken = [self._spoken(part, turn.query, index == len(turns) - 1) for part in turn.reply]
            pieces += spoken
            closing = _closing_weight(turn, spoken)
        return self._shown(pieces + self._close(closing) if close else pieces)

    def _shown(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces with the text that stands for each image."""
        images = [piece.image for piece in pieces if piece.image]
        if not images:
            return pieces
        assert self.sight, images
        texts = iter(self.sight.texts(images))
        return [piece._replace(text=next(texts), kind="template") if piece.image else piece for piece in pieces]

    def _turns(self, messages: Sequence[Message], tools: bool) -> Iterator[Turn]:
        """Group messages into rounds; inline tool results belong to the assistant's side of theirs."""
        told: list[Piece] = []
        by_tool = False
        reply: list[Spoken] = []
        for role, group in groupby(self._placed(messages), key=lambda message: message.role):
            run = list(group)
            if role == "assistant":
                # one text where neighbours weigh the same: the second may be what the environment wrote
                for weight, texts in groupby(run, key=lambda message: message.weight):
                    after_result = by_tool or bool(reply and reply[-1][1] != "reply")
                    said = "".join(write_reply(self.form, message, tools, after_result) for message in texts)
                    reply += self._said(said, tools, weight)
            elif role == "tool" and self.form.marks.inline and reply:
                results = self._results([message.content for message in run], "environment")
                reply += [(piece.text, piece.kind, None) for piece in results]
            else:
                if reply:
                    yield Turn(tuple(told), by_tool, by_tool and self.form.marks.results == "raw", tuple(reply))
                    told, by_tool, reply = [], False, []
                if role == "system":
                    told += [Piece(message.content, "system") for message in run if message.content]
                    continue
                told += [Piece("\n", "given")] if told and told[-1].kind != "system" else []
                by_tool = role == "tool"
                if by_tool:
                    told += self._results([message.content for message in run], "given")
                else:
                    told += self._asked(run)
        if not told and not (messages and messages[0].role == "assistant"):
            raise ValueError("there is no user message")
        yield Turn(tuple(told), by_tool, by_tool and self.form.marks.results == "raw", tuple(reply))

    def _placed(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, where a form writes results as a whole turn with system texts behind them in the result."""
        placed: list[Message] = []
        for message in messages:
            last = placed[-1] if placed else None
            if message.role == "system" and last and last.role == "tool" and self.form.marks.results == "raw":
                placed[-1] = replace(last, content=f"{last.content}\n\n{message.content}")
            else:
                placed.append(message)
        return placed

    def _said(self, text: str, tools: bool, weight: float | None) -> Iterator[Spoken]:
        """Who wrote what of an assistant's text. An observation ends as a result that the form writes itself does."""
        spoken = ""
        for part, outside in environment(text, agent=tools):
            if not outside:
                yield part, "reply", weight
            elif self.form.marks.special and spoken.endswith(self.form.marks.stop):
                opening, between, closing = self.form.result([_RESULT] * 2).split(_RESULT)
                results = part.removeprefix(opening).removesuffix(closing).split(between)
                yield from ((piece.text, piece.kind, None) for piece in self._results(results, "environment"))
            else:
                yield part if part.endswith("\n") else f"{part}\n", "environment", None
            spoken = part

    def _asked(self, run: Sequence[Message]) -> list[Piece]:
        """What users say, message by message on lines of their own."""
        if not any(message.images for message in run):
            return [Piece("\n".join(message.content for message in run), "given")]
        if self.sight is None:
            raise ValueError("this model takes no images")
        pieces: list[Piece] = []
        for message in run:
            pieces += [Piece("\n", "given")] if pieces else []
            for part in message.parts:
                image = part if isinstance(part, Image) else None
                pieces.append(Piece(PLACE, "given", image=image) if image else Piece(str(part), "given"))
        return pieces

    def _results(self, texts: Sequence[str], kind: Kind) -> list[Piece]:
        """What tools returned as the form tells it, the form's own marks apart from the same characters in a result."""
        if not self.form.marks.special:
            return [Piece(self.form.result(texts), kind)]
        written = self.form.result([_RESULT] * len(texts)).split(_RESULT)
        between = [Piece(text, "form") for text in written]
        pieces = [between[0]]
        for text, after in zip(texts, between[1:], strict=True):
            pieces += [Piece(text, kind), after]
        return [piece for piece in pieces if piece.text]

    def _spoken(self, part: Spoken, query: str, last: bool) -> Piece:
        text, kind, weight = part
        if kind != "reply" or weight == 0:
            return Piece(text, kind, ((text, 0.0),))
        factor = 1.0 if weight is None else weight
        return Piece(text, kind, tuple((piece, w * factor) for piece, w in self.scale(text, query, last)))

    def _close(self, weight: float) -> list[Piece]:
        return [piece._replace(scale=((piece.text, weight),)) for piece in self.writer.closing]

    def _ending(self, following: list[Piece], weight: float) -> list[Piece]:
        """What follows a turn; where it opens with the stop token, that token ends the turn and is trained with it."""
        text, stop = _text(following), _text(self.writer.closing)
        if not text.startswith(stop) or not following[0].text.startswith(stop):
            return following
        rest = following[0].text[len(stop) :]
        return [*self._close(weight), *([following[0]._replace(text=rest, ids=())] if rest else []), *following[1:]]

    def _encoded(self, piece: Piece) -> Encoded:
        if piece.ids:
            return Encoded(list(piece.ids), [0] * len(piece.ids))
        return self._words.encode(piece.text, _SPECIAL[piece.kind])

    def _weighed(self, piece: Piece) -> tuple[Sequence[int], list[float]]:
        """The tokens of a piece and the weight of each; offsets are only asked for where it has several weights."""
        weights = {weight for text, weight in piece.scale if text}
        if len(weights) > 1:
            encoded = self._encoded(piece)
            return encoded.ids, _laid_on(piece.scale, encoded)
        ids = self._ids(piece)
        return ids, [*weights, 0.0][:1] * len(ids)

    def _ids(self, piece: Piece) -> Sequence[int]:
        return piece.ids or self._words.ids(piece.text, _SPECIAL[piece.kind])

    def _reply_opening(self) -> str:
        """What the template writes between the user's text and a reply."""
        [asking] = self.writer.asking(NOTHING, [Turn((Piece(_RESULT, "given"),), False, False, ())])
        return _text(asking).rpartition(_RESULT)[2]

    def _stop(self) -> Stop:
        ids = [token for piece in self.writer.closing for token in self._ids(piece)]
        tokens = dict.fromkeys([*(ids if len(ids) == 1 else ()), self.tokenizer.eos_token_id])
        return Stop(tuple(t for t in tokens if t is not None), () if len(ids) == 1 else (_text(self.writer.closing),))


def _merged(pieces: Sequence[Piece], words: Words) -> Iterator[Piece]:
    """Join what the template and the user wrote, so that it is tokenised as one text, as other programs do it."""

    def joins(piece: Piece) -> bool:
        return not piece.ids and (
            piece.kind == "template" or (piece.kind in ("given", "system") and not words.typed(piece.text))
        )

    for together, run in groupby(pieces, key=joins):
        if together:
            yield Piece(_text(list(run)), "template")
        else:
            yield from run


def _laid_on(scale: Sequence[tuple[str, float]], encoded: Encoded) -> list[float]:
    """The weight of each token: that of its first character, white space aside if it has any other."""
    if not scale:
        return [0.0] * len(encoded.ids)
    weights: list[float] = []
    pieces = iter(scale)
    text, weight = next(pieces)
    end = len(text)
    whole = "".join(text for text, _ in scale)
    for start, after in zip(encoded.starts, [*encoded.starts[1:], len(whole)], strict=True):
        token = whole[start:after]
        start += len(token) - len(token.lstrip() or token)
        while start >= end and (following := next(pieces, None)):
            text, weight = following
            end += len(text)
        weights.append(weight)
    return weights


def _texts(text: str, encoded: Encoded) -> list[str]:
    """The characters of each token; a character of several tokens goes to the last of them."""
    borders = [0, *encoded.starts[1:], len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _closing_weight(turn: Turn, spoken: Sequence[Piece]) -> float:
    """The weight of the token that ends a turn: the message's own, where anything of its end is trained."""
    trained = any(weight for piece in spoken[-1:] for _, weight in piece.scale)
    own = turn.reply[-1][2] if turn.reply else None
    return (1.0 if own is None else own) if trained else 0.0


def _split_system(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    """The system text at the front (None: not given), and the rest."""
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return None, messages
