"""Messages <-> tokens and weights: the one place where a prompt is made. Knows no model and no torch.

A dialogue is laid out as pieces: what the template writes, what the user and the environment wrote, what the model
wrote, and the token that ends its turn. Pieces are cut where turns and the environment's text begin and end, never
where a loss weight changes, and each is tokenised by itself. So training, the dialogue and the server agree on every
token, and each prompt is a prefix of the next.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import groupby, pairwise
from typing import Any, NamedTuple, TypeVar

from swift.agent import ReasoningTags, ToolFormat, tool_format
from swift.agent.reply import read_reply, split_observations, write_reply
from swift.chat import PLACE, Conversation, Image, Message, Sample, Tool
from swift.template.image_processor import ImageProcessor
from swift.template.loss_scale import AUTO, loss_scale, with_thoughts
from swift.template.offset_tokenizer import OffsetTokenizer, Special
from swift.template.reply_spans import ReplySpans, closing_weight
from swift.template.segments import SegmentBuilder, tell_once
from swift.template.split_points import Encoded
from swift.template.template import Template
from swift.template.template_probe import PLAIN
from swift.template.template_writer import NOTHING, Kind, ReplyPart, Span, TableWriter, Turn
from swift.template.tokenizer_template import HistoryReasoning, TokenizerTemplate

T = TypeVar("T")
_QUERY = "\ue000"  # stands for the user's text while a template writes around it
_SPECIAL: dict[Kind, Special] = {
    "template": "all",
    "stop": "all",
    "format": "marks",
    "reply": "marks",
    "given": "none",
    "system": "none",
    "environment": "none",
}


class Stop(NamedTuple):
    """What ends a reply: token ids, and texts where a template's end is no single token."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]


class Prompt(NamedTuple):
    """A prompt, and what of the reply stands in it already: a thought that the template opens, for example."""

    tokens: list[int]
    prefill: str = ""


class Rendered(NamedTuple):
    """A row with everything a reader wants to see; the pieces join neighbouring tokens of equal weight."""

    sample: Sample
    text: str
    pieces: list[tuple[str, float]]


class Renderer:
    """One chat template, one text form for tools and one loss scale over one tokenizer.

    `tokenizer` is a fast tokenizer of transformers; `template` None takes the chat template that came with it.
    `form_name` AUTO is the text form in which that template itself writes calls, else ReAct.
    `system` replaces the template's default system text; "" means none. `image_processor` turns images into text and
    tensors; None: the model takes no images. `eos`: more ids that end a reply, of the model's generation_config.
    The rest is for the tokenizer's own template: `reasoning_weight` multiplies the loss of thoughts,
    `history_reasoning` decides on those of earlier rounds, `template_kwargs` are its variables, `today` its date
    (None: the day it is).
    Raises ValueError for what does not fit.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Template | None,
        format_name: str = "AUTO",
        scale: str = AUTO,
        system: str | None = None,
        image_processor: ImageProcessor | None = None,
        eos: Sequence[int] = (),
        reasoning_weight: float = 1.0,
        history_reasoning: HistoryReasoning = "template",
        template_kwargs: Mapping[str, Any] | None = None,
        today: date | None = None,
    ) -> None:
        if format_name != "AUTO":
            tool_format(format_name)  # names first
        loss_scale(scale)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self._eos = tuple(dict.fromkeys(each for each in (tokenizer.eos_token_id, *eos) if each is not None))
        mark = image_processor.mark if image_processor else ""
        layout = None
        if template is None:
            stops = [str(each) for each in tokenizer.convert_ids_to_tokens(list(self._eos))]
            layout = TokenizerTemplate(tokenizer, stops, format_name, mark, history_reasoning, template_kwargs, today)
        elif template_kwargs:
            names = ", ".join(template_kwargs)
            raise ValueError(f"{names}: template {template.name!r} has no variables, the model's own template may have")
        self.format_name = (layout.nature.format_name if layout else "") or (
            "react_en" if format_name == "AUTO" else format_name
        )
        self.tool_format: ToolFormat = tool_format(self.format_name)
        self.scale = loss_scale(scale, self.format_name)
        self._words = OffsetTokenizer(tokenizer, [*self.tool_format.syntax.special, *(layout.marks if layout else ())])
        scale_of_text = self.scale if layout else with_thoughts(self.scale, PLAIN, reasoning_weight)
        self._speech = ReplySpans(self.tool_format, scale_of_text, reasoning_weight)
        self._own = SegmentBuilder(layout, self._speech, self._words) if layout else None
        self._table = TableWriter(template, tokenizer, self._words.opening, mark) if template else None
        self.thinking: ReasoningTags | None = layout.nature.thinking if layout else PLAIN
        self.supports_thinking = layout is not None and layout.nature.thinks
        self._opening = self._reply_opening()
        self._closing = layout.closing if layout else self.writer.closing
        default_system = "" if layout else self.writer.default_system
        self.default_system = default_system if system is None else system
        self.stop = self._stop()

    @property
    def uses_tokenizer_template(self) -> bool:
        """Whether the chat template that came with the tokenizer lays dialogues out."""
        return self._own is not None

    @property
    def variables(self) -> frozenset[str]:
        """The names of variables that the tokenizer's own chat template reads; a table of ours reads none."""
        return self._own.layout.variables if self._own else frozenset()

    @property
    def writer(self) -> TableWriter:
        """What lays dialogues out where a table of ours does. Raises ValueError where the model's own template does."""
        if self._table is None:
            raise ValueError("the tokenizer's own chat template lays dialogues out")
        return self._table

    @property
    def layout(self) -> TokenizerTemplate:
        """The model's own template. Raises ValueError where a table of ours lays dialogues out."""
        if self._own is None:
            raise ValueError("a table of ours lays dialogues out, not the tokenizer's own chat template")
        return self._own.layout

    def samples(self, conversation: Conversation) -> list[Sample]:
        """The row as training sees it: one sample, or one for each stretch of a dialogue whose template rewrites
        earlier rounds; no reply is trained twice. Raises ValueError for a dialogue it cannot lay out."""
        return [self._sample(conversation, pieces) for pieces in self.segments(conversation)]

    def encode(self, conversation: Conversation) -> Sample:
        """The only sample of a row, closed by the stop token. Raises ValueError, also where it takes several."""
        return _only(self.samples(conversation))

    def show(self, conversation: Conversation) -> Rendered:
        """The only sample of a row with its text. Raises ValueError as `encode` does."""
        return _only(self.show_samples(conversation))

    def show_samples(self, conversation: Conversation) -> list[Rendered]:
        """`samples` with their texts."""
        return [self._shown_sample(conversation, pieces) for pieces in self.segments(conversation)]

    def _sample(self, conversation: Conversation, pieces: Sequence[Span]) -> Sample:
        tokens: list[int] = []
        weights: list[float] = []
        for piece in _merged(pieces, self._words):
            ids, laid = self._weighed(piece)
            tokens += ids
            weights += laid
        shown = tuple(piece.image for piece in pieces if piece.image)
        inputs = partial(self.image_processor.inputs, shown, tokens) if self.image_processor and shown else None
        return Sample(tokens, weights, conversation.source, inputs)

    def _shown_sample(self, conversation: Conversation, pieces: Sequence[Span]) -> Rendered:
        spans: list[tuple[str, float]] = []
        for piece in _merged(pieces, self._words):
            spans += zip(_texts(piece.text, self._encoded(piece)), self._weighed(piece)[1], strict=True)
        grouped = groupby(spans, key=lambda span: span[1])
        runs = [("".join(text for text, _ in run), weight) for weight, run in grouped]
        return Rendered(self._sample(conversation, pieces), "".join(text for text, _ in runs), runs)

    def prompt_tokens(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """What generation starts from. A trailing assistant message, or an inline tool result, is continued."""
        return self.prompt(messages, tools, template_kwargs).tokens

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> Prompt:
        """`prompt_tokens`, and what it holds of the reply. `template_kwargs` reach the model's own chat template."""
        if not messages:
            raise ValueError("there are no messages to answer")
        conversation = Conversation(tuple(messages), tuple(tools), template_kwargs=template_kwargs or {})
        if self._own:
            pieces, prefill = self._own.asking(*self._with_system(conversation))
            pieces = self._shown(pieces)
        else:
            pieces, prefill = self._layout(conversation, close=False), ""
        return Prompt([token for piece in _merged(pieces, self._words) for token in self._ids(piece)], prefill)

    def raw_prompt_tokens(self, text: str) -> list[int]:
        """The tokens of a prompt written by hand. A reply that it begins is cut and closed as in a dialogue."""
        # a template of plain text has nothing that opens a reply
        before, opening, prefill = text.rpartition(self._opening) if self._opening else ("", "", text)
        if not opening or not any(outside for _, outside in split_observations(prefill)):
            return self._words.opened(text)
        said = [Span(part, kind) for part, kind, _ in self._speech.said(prefill, tools=False, weight=None)]
        return [*self._words.opened(before + opening), *(token for piece in said for token in self._ids(piece))]

    def inputs(self, messages: Sequence[Message], prompt: Sequence[int]) -> dict[str, Any] | None:
        """What the model needs beside `prompt`, made of the same messages; None where they hold no image."""
        shown = Conversation(tuple(messages)).images
        return self.image_processor.inputs(shown, prompt) if self.image_processor and shown else None

    def parse(self, text: str, tools: Sequence[Tool] = (), prefill: str = "") -> Message:
        """The text of a reply to whom `tools` were offered -> a message, its thought and calls taken out.

        `prefill` is what the prompt holds of the reply.
        """
        return read_reply(self.tool_format, text, tools, self.thinking, prefill)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def segments(self, conversation: Conversation) -> list[list[Span]]:
        """What `samples` tokenises, in order. Of several, those in which nothing is trained are left out."""
        for name in conversation.template_kwargs:
            if name not in self.variables:
                tell_once(f"rows set {name!r}, which this chat template does not read")
        if conversation.is_text:
            message = conversation.messages[0]
            weight = 1.0 if message.weight is None else message.weight
            return [[Span(message.content, "reply", ((message.content, weight),)), *self._close(weight)]]
        if conversation.messages[-1].role != "assistant":
            raise ValueError("the last message is not the assistant's: there is nothing to learn")
        if self._own:
            found = self._own.segments(*self._with_system(conversation))
            teaching = [pieces for pieces in found if any(weight for piece in pieces for _, weight in piece.scale)]
            return [self._shown(pieces) for pieces in teaching or found[-1:]]
        return [self._layout(conversation, close=True)]

    def _with_system(self, conversation: Conversation) -> tuple[Conversation, str]:
        """A dialogue for the model's own template, and its system text apart."""
        _check_images(conversation, self.image_processor)
        system, messages = _split_system(conversation.messages)
        text = self.default_system if system is None else system
        assert self._own
        if conversation.tools and not self._own.offers:
            text = self.tool_format.system(conversation.tools, text)
        return conversation.with_messages(tuple(messages)), text

    def _layout(self, conversation: Conversation, close: bool) -> list[Span]:
        _check_images(conversation, self.image_processor)
        system, messages = _split_system(conversation.messages)
        text = self.default_system if system is None else system
        offer = Span(text, "given")
        if conversation.tools:
            offer = Span(self.tool_format.system(conversation.tools, text), "format")
        turns = list(self._turns(messages, bool(conversation.tools)))
        pieces: list[Span] = []
        closing = 0.0
        for index, (turn, asking) in enumerate(zip(turns, self.writer.asking(offer, turns), strict=True)):
            pieces += self._ending(asking, closing) if index else asking
            spoken = [self._speech.weighed(part, turn.query, index == len(turns) - 1) for part in turn.reply]
            pieces += spoken
            closing = closing_weight(spoken, turn.reply[-1][2] if turn.reply else None)
        return self._shown(pieces + self._close(closing) if close else pieces)

    def _shown(self, pieces: list[Span]) -> list[Span]:
        """The pieces with the text that stands for each image."""
        images = [piece.image for piece in pieces if piece.image]
        if not images:
            return pieces
        assert self.image_processor, images
        texts = iter(self.image_processor.texts(images))
        return [piece._replace(text=next(texts), kind="template") if piece.image else piece for piece in pieces]

    def _turns(self, messages: Sequence[Message], tools: bool) -> Iterator[Turn]:
        """Group messages into rounds; inline tool results belong to the assistant's side of theirs."""
        told: list[Span] = []
        by_tool = False
        reply: list[ReplyPart] = []
        for role, group in groupby(self._placed(messages), key=lambda message: message.role):
            run = list(group)
            if role == "assistant":
                # one text where neighbours weigh the same: the second may be what the environment wrote
                for weight, texts in groupby(run, key=lambda message: message.weight):
                    after_result = by_tool or bool(reply and reply[-1][1] != "reply")
                    said = "".join(self._written(message, tools, after_result) for message in texts)
                    reply += self._speech.said(said, tools, weight)
            elif role == "tool" and self.tool_format.syntax.inline and reply:
                results = self._speech.results([message.content for message in run], "environment")
                reply += [(piece.text, piece.kind, None) for piece in results]
            else:
                if reply:
                    yield Turn(tuple(told), by_tool, by_tool and self.tool_format.syntax.results == "raw", tuple(reply))
                    told, by_tool, reply = [], False, []
                if role == "system":
                    told += [Span(message.content, "system") for message in run if message.content]
                    continue
                told += [Span("\n", "given")] if told and told[-1].kind != "system" else []
                by_tool = role == "tool"
                if by_tool:
                    told += self._speech.results([message.content for message in run], "given")
                else:
                    told += self._asked(run)
        if not told and not (messages and messages[0].role == "assistant"):
            raise ValueError("there is no user message")
        yield Turn(tuple(told), by_tool, by_tool and self.tool_format.syntax.results == "raw", tuple(reply))

    def _written(self, message: Message, tools: bool, after_result: bool) -> str:
        """A reply's text. A thought for which the form has no word opens it, as most models write thoughts."""
        text = write_reply(self.tool_format, message, tools, after_result)
        if not message.reasoning or (tools and self.tool_format.syntax.thought):
            return text
        return f"{PLAIN.open}\n{message.reasoning}\n{PLAIN.close}\n\n{text}"

    def _placed(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, where a form writes results as a whole turn with system texts behind them in the result."""
        placed: list[Message] = []
        for message in messages:
            last = placed[-1] if placed else None
            if message.role == "system" and last and last.role == "tool" and self.tool_format.syntax.results == "raw":
                placed[-1] = replace(last, content=f"{last.content}\n\n{message.content}")
            else:
                placed.append(message)
        return placed

    def _asked(self, run: Sequence[Message]) -> list[Span]:
        """What users say, message by message on lines of their own."""
        if not any(message.images for message in run):
            return [Span("\n".join(message.content for message in run), "given")]
        pieces: list[Span] = []
        for message in run:
            pieces += [Span("\n", "given")] if pieces else []
            for part in message.parts:
                image = part if isinstance(part, Image) else None
                pieces.append(Span(PLACE, "given", image=image) if image else Span(str(part), "given"))
        return pieces

    def _close(self, weight: float) -> list[Span]:
        return [piece._replace(scale=((piece.text, weight),)) for piece in self._closing]

    def _ending(self, following: list[Span], weight: float) -> list[Span]:
        """What follows a turn; where it opens with the stop token, that token ends the turn and is trained with it."""
        text, stop = _text(following), _text(self._closing)
        if not text.startswith(stop) or not following[0].text.startswith(stop):
            return following
        rest = following[0].text[len(stop) :]
        return [*self._close(weight), *([following[0]._replace(text=rest, ids=())] if rest else []), *following[1:]]

    def _encoded(self, piece: Span) -> Encoded:
        if piece.ids:
            return Encoded(list(piece.ids), [0] * len(piece.ids))
        if piece.behind:
            return self._words.after(piece.behind, piece.text, _SPECIAL[piece.kind])
        return self._words.encode(piece.text, _SPECIAL[piece.kind])

    def _weighed(self, piece: Span) -> tuple[Sequence[int], list[float]]:
        """The tokens of a piece and the weight of each; offsets are only asked for where it has several weights."""
        weights = {weight for text, weight in piece.scale if text}
        if len(weights) > 1:
            encoded = self._encoded(piece)
            return encoded.ids, _laid_on(piece.scale, encoded)
        ids = self._ids(piece)
        return ids, [*weights, 0.0][:1] * len(ids)

    def _ids(self, piece: Span) -> Sequence[int]:
        if piece.behind:
            return self._encoded(piece).ids
        return piece.ids or self._words.ids(piece.text, _SPECIAL[piece.kind])

    def _reply_opening(self) -> str:
        """What the template writes between the user's text and a reply."""
        if self._own:
            return self._own.layout.opening
        [asking] = self.writer.asking(NOTHING, [Turn((Span(_QUERY, "given"),), False, False, ())])
        return _text(asking).rpartition(_QUERY)[2]

    def _stop(self) -> Stop:
        if self._own:
            ends = [self._words.ids(end, "all") for end in self._own.layout.ends]
            texts = [end for end, ids in zip(self._own.layout.ends, ends, strict=True) if len(ids) > 1]
        else:
            ends = [[token for piece in self._closing for token in self._ids(piece)]]
            texts = [_text(self._closing)] if len(ends[0]) > 1 else []
        tokens = dict.fromkeys([*(ids[0] for ids in ends if len(ids) == 1), *self._eos])
        return Stop(tuple(tokens), tuple(texts))


def _merged(pieces: Sequence[Span], words: OffsetTokenizer) -> Iterator[Span]:
    """Join what the template and the user wrote, so that it is tokenised as one text, as other programs do it."""

    def joins(piece: Span) -> bool:
        return not piece.ids and (
            piece.kind == "template" or (piece.kind in ("given", "system") and not words.typed(piece.text))
        )

    for together, run in groupby(pieces, key=joins):
        if together:
            yield Span(_text(list(run)), "template")
        else:
            yield from run


def _laid_on(scale: Sequence[tuple[str, float]], encoded: Encoded) -> list[float]:
    """The weight of each token: that of its first character, white space aside if it has any other."""
    count = len(encoded.ids)
    if not scale:
        return [0.0] * count
    whole = "".join(text for text, _ in scale)
    weights: list[float] = []
    end = 0
    for text, weight in scale[:-1]:
        end += len(text)
        weights += [weight] * (_first_behind(end, whole, encoded.starts) - len(weights))
    return weights + [scale[-1][1]] * (count - len(weights))


def _first_behind(end: int, text: str, starts: Sequence[int]) -> int:
    """The number of the first token that begins at `end` or behind it, white space aside if it has any other."""
    first = bisect_left(starts, end)
    if not first:
        return first
    start = starts[first - 1]
    token = text[start : starts[first] if first < len(starts) else len(text)]
    white = len(token) - len(token.lstrip() or token)
    return first - 1 if start + white >= end else first


def _texts(text: str, encoded: Encoded) -> list[str]:
    """The characters of each token; a character of several tokens goes to the last of them."""
    borders = [0, *encoded.starts[1:], len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


def _text(pieces: Sequence[Span]) -> str:
    return "".join(piece.text for piece in pieces)


def _only(found: Sequence[T]) -> T:
    if len(found) > 1:
        raise ValueError(f"the chat template rewrites earlier rounds: this dialogue takes {len(found)} samples")
    return found[0]


def _check_images(conversation: Conversation, image_processor: ImageProcessor | None) -> None:
    strange = [message.role for message in conversation.messages if message.images and message.role != "user"]
    if strange:
        raise ValueError(f"only a user's message can show an image, not the {strange[0]}'s")
    if conversation.images and image_processor is None:
        raise ValueError("this model takes no images")
    for message in conversation.messages:
        _ = message.parts  # which are as many as its images and their places say


def _split_system(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    """The system text at the front (None: not given), and the rest."""
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return None, messages
