"""Messages <-> tokens and loss weights: the only place that makes prompts. Knows no model and no torch.

A dialogue is rendered as spans: text of the template, of the user and of tools, text of the model, and the token that
ends its turn. Span borders are turns and tool outputs, never changes of loss weight, and each span is tokenised
separately. So training, the dialogue and the server agree on every token, and each prompt is a prefix of the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from itertools import chain, groupby
from typing import Any, NamedTuple, TypeVar

from swift.agent import ReasoningTags, ToolFormat, tool_format
from swift.agent.reply import read_reply, split_observations
from swift.chat import Conversation, Message, Sample, Tool
from swift.template.image_processor import ImageProcessor
from swift.template.loss_scale import AUTO, loss_scale, with_reasoning_weight
from swift.template.offset_tokenizer import OffsetTokenizer
from swift.template.reply_spans import ReplySpans, closing_weight
from swift.template.segments import SegmentBuilder, warn_once
from swift.template.span_tokens import SpanTokenizer
from swift.template.template import Template
from swift.template.template_probe import PLAIN
from swift.template.template_writer import NOTHING, Kind, Span, TableWriter, Turn
from swift.template.tokenizer_template import HistoryReasoning, TokenizerTemplate
from swift.template.turns import TurnSplitter

T = TypeVar("T")
_QUERY = "\ue000"  # placeholder for the user's text


class Stop(NamedTuple):
    """What ends a reply: token ids, and stop strings if the end of a template is not a single token."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]


class Prompt(NamedTuple):
    """The tokens of a prompt. `prefill`: the beginning of the reply that it contains, such as an open <think>."""

    tokens: list[int]
    prefill: str = ""


class Rendered(NamedTuple):
    """A sample with its text. `pieces`: (text, weight) of runs of tokens with equal weight.

    `authors`: (text, author) of its spans. The texts of both join to `text`.
    """

    sample: Sample
    text: str
    pieces: list[tuple[str, float]]
    authors: list[tuple[str, Kind]]


class Renderer:
    """A chat template, a tool-call format and a loss scale for one tokenizer.

    `tokenizer`: a fast tokenizer of transformers; `template` None uses its own chat template.
    `format_name` AUTO is the format in which that template renders calls, else ReAct.
    `system` replaces the default system prompt of the template; "" means none. `image_processor` turns images into
    text and tensors; None: the model takes no images. `eos`: more token ids that end a reply, from generation_config.
    For the tokenizer's own template: `reasoning_weight` multiplies the loss of reasoning, `history_reasoning` keeps or
    strips that of earlier rounds, `template_kwargs` are its variables, `today` its date (None: the current date).
    Raises ValueError for an unknown name, or a combination that is not supported.
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
            tool_format(format_name)  # reports an unknown name first
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
            raise ValueError(
                f"{names}: template {template.name!r} has no variables; only a model's own chat template has"
            )
        self.format_name = (layout.traits.format_name if layout else "") or (
            "react_en" if format_name == "AUTO" else format_name
        )
        self.tool_format: ToolFormat = tool_format(self.format_name)
        self.scale = loss_scale(scale, self.format_name)
        self._encoder = OffsetTokenizer(
            tokenizer, [*self.tool_format.syntax.special, *(layout.special_in_replies if layout else ())]
        )
        self._span_tokens = SpanTokenizer(self._encoder)
        scale_of_text = self.scale if layout else with_reasoning_weight(self.scale, PLAIN, reasoning_weight)
        self._reply_spans = ReplySpans(self.tool_format, scale_of_text, reasoning_weight)
        self._turns = TurnSplitter(self.tool_format, self._reply_spans)
        self._own = SegmentBuilder(layout, self._reply_spans, self._encoder) if layout else None
        self._table = TableWriter(template, tokenizer, self._encoder.first_token, mark) if template else None
        self.thinking: ReasoningTags | None = layout.traits.thinking if layout else PLAIN
        self.supports_thinking = layout is not None and layout.traits.has_reasoning
        self._opening = self._reply_opening()
        self._closing = layout.closing if layout else self.writer.closing
        default_system = "" if layout else self.writer.default_system
        self.default_system = default_system if system is None else system
        self.stop = self._stop()

    @property
    def uses_tokenizer_template(self) -> bool:
        """Whether dialogues are rendered by the tokenizer's own chat template."""
        return self._own is not None

    @property
    def variables(self) -> frozenset[str]:
        """The variables that the tokenizer's own chat template reads; empty for a built-in template."""
        return self._own.layout.variables if self._own else frozenset()

    @property
    def writer(self) -> TableWriter:
        """The writer of a built-in template. Raises ValueError if the tokenizer's own template is used."""
        if self._table is None:
            raise ValueError("dialogues are rendered by the tokenizer's own chat template")
        return self._table

    @property
    def layout(self) -> TokenizerTemplate:
        """The tokenizer's own template. Raises ValueError if a built-in template is used."""
        if self._own is None:
            raise ValueError("dialogues are rendered by a built-in template, not by the tokenizer's own")
        return self._own.layout

    def samples(self, conversation: Conversation) -> list[Sample]:
        """The training samples of a row: one, or one per segment if the template rewrites earlier rounds.

        Each reply is trained once. Raises ValueError for a dialogue that cannot be rendered.
        """
        return [self._sample(conversation, spans) for spans in self.segments(conversation)]

    def encode(self, conversation: Conversation) -> Sample:
        """The only sample of a row. Raises ValueError if it cannot be rendered or takes several samples."""
        return _only(self.samples(conversation))

    def show(self, conversation: Conversation) -> Rendered:
        """The only sample of a row with its text. Raises ValueError as `encode` does."""
        return _only(self.show_samples(conversation))

    def show_samples(self, conversation: Conversation) -> list[Rendered]:
        """`samples` with their texts."""
        return [self._rendered(conversation, spans) for spans in self.segments(conversation)]

    def _sample(self, conversation: Conversation, spans: Sequence[Span]) -> Sample:
        tokens, weights = self._span_tokens.weighed(spans)
        shown = tuple(span.image for span in spans if span.image)
        inputs = partial(self.image_processor.inputs, shown, tokens) if self.image_processor and shown else None
        return Sample(tokens, weights, conversation.source, inputs)

    def _rendered(self, conversation: Conversation, spans: Sequence[Span]) -> Rendered:
        grouped = groupby(self._span_tokens.texts(spans), key=lambda token: token[1])
        runs = [("".join(text for text, _ in run), weight) for weight, run in grouped]
        authors = [(span.text, span.kind) for span in spans]
        return Rendered(self._sample(conversation, spans), "".join(text for text, _ in runs), runs, authors)

    def prompt_tokens(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """The tokens from which generation starts. Continues a trailing assistant message or inline tool result."""
        return self.prompt(messages, tools, template_kwargs).tokens

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> Prompt:
        """`prompt_tokens` with the prefill of the reply. `template_kwargs`: variables for the model's own template."""
        if not messages:
            raise ValueError("there are no messages to reply to")
        conversation = Conversation(tuple(messages), tuple(tools), template_kwargs=template_kwargs or {})
        if self._own:
            spans, prefill = self._own.prompt(*self._with_system(conversation))
            spans = self._with_image_text(spans)
        else:
            spans, prefill = self._layout(conversation, close=False), ""
        return Prompt(self._span_tokens.tokens(spans), prefill)

    def closed_tokens(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """The tokens of a dialogue as it stands: its last turn is closed, and no reply is opened.

        Raises ValueError for a built-in template whose turns cannot be told apart.
        """
        conversation = Conversation(tuple(messages), tuple(tools), template_kwargs=template_kwargs or {})
        if self._own:
            spans = self._with_image_text(self._own.closed(*self._with_system(conversation)))
        elif messages[-1].role == "assistant":
            spans = self._layout(conversation, close=True)
        else:
            spans = self.writer.without_opening(self._layout(conversation, close=False))
        return self._span_tokens.tokens(spans)

    def raw_prompt_tokens(self, text: str) -> list[int]:
        """The tokens of a hand-written prompt. The beginning of a reply in it is tokenised as in a dialogue."""
        # a plain-text template has no text that opens a reply
        before, opening, prefill = text.rpartition(self._opening) if self._opening else ("", "", text)
        if not opening or not any(by_tool for _, by_tool in split_observations(prefill)):
            return self._encoder.ids_with_special_tokens(text)
        parts = self._reply_spans.split_authors(prefill, tools=False, weight=None)
        reply = [self._span_tokens.ids(Span(part, kind)) for part, kind, _ in parts]
        return [*self._encoder.ids_with_special_tokens(before + opening), *chain.from_iterable(reply)]

    def inputs(self, messages: Sequence[Message], prompt: Sequence[int]) -> dict[str, Any] | None:
        """The image tensors for `prompt`, made from the same messages; None without images."""
        shown = Conversation(tuple(messages)).images
        return self.image_processor.inputs(shown, prompt) if self.image_processor and shown else None

    def parse(self, text: str, tools: Sequence[Tool] = (), prefill: str = "") -> Message:
        """The text of a reply -> a message with reasoning and tool calls parsed. `tools`: those offered.

        `prefill`: the beginning of the reply that the prompt contains.
        """
        return read_reply(self.tool_format, text, tools, self.thinking, prefill)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def segments(self, conversation: Conversation) -> list[list[Span]]:
        """The spans of each sample, in order. Segments without trained text are dropped if there are others."""
        for name in conversation.template_kwargs:
            if name not in self.variables:
                warn_once(f"rows set {name!r}, which this chat template ignores")
        if conversation.is_text:
            message = conversation.messages[0]
            weight = 1.0 if message.weight is None else message.weight
            return [[Span(message.content, "reply", ((message.content, weight),)), *self._close(weight)]]
        if conversation.messages[-1].role != "assistant":
            raise ValueError("the last message is not from the assistant: there is nothing to train on")
        if self._own:
            found = self._own.segments(*self._with_system(conversation))
            teaching = [spans for spans in found if any(weight for span in spans for _, weight in span.scale)]
            return [self._with_image_text(spans) for spans in teaching or found[-1:]]
        return [self._layout(conversation, close=True)]

    def _with_system(self, conversation: Conversation) -> tuple[Conversation, str]:
        """(dialogue without system prompt, system prompt) for the model's own template."""
        self._check_images(conversation)
        system, messages = _split_system(conversation.messages)
        text = self.default_system if system is None else system
        assert self._own
        if conversation.tools and not self._own.describes_tools:
            text = self.tool_format.system(conversation.tools, text)
        return conversation.with_messages(tuple(messages)), text

    def _layout(self, conversation: Conversation, close: bool) -> list[Span]:
        self._check_images(conversation)
        system, messages = _split_system(conversation.messages)
        text = self.default_system if system is None else system
        offer = Span(text, "given")
        if conversation.tools:
            offer = Span(self.tool_format.system(conversation.tools, text), "format")
        turns = list(self._turns.turns(messages, bool(conversation.tools)))
        spans: list[Span] = []
        closing = 0.0
        for index, (turn, prompts) in enumerate(zip(turns, self.writer.prompts(offer, turns), strict=True)):
            spans += self._ending(prompts, closing) if index else prompts
            spoken = [self._reply_spans.weighted_span(part, turn.query, index == len(turns) - 1) for part in turn.reply]
            spans += spoken
            closing = closing_weight(spoken, turn.reply[-1][2] if turn.reply else None)
        return self._with_image_text(spans + self._close(closing) if close else spans)

    def _with_image_text(self, spans: list[Span]) -> list[Span]:
        """The spans with the placeholder text of each image."""
        images = [span.image for span in spans if span.image]
        if not images:
            return spans
        assert self.image_processor, images
        texts = iter(self.image_processor.texts(images))
        return [span._replace(text=next(texts), kind="template") if span.image else span for span in spans]

    def _check_images(self, conversation: Conversation) -> None:
        for message in conversation.messages:
            if not message.images:
                continue
            if message.role not in ("user", "tool"):
                raise ValueError(f"only user messages and tool results can have images, not {message.role} messages")
            if self.image_processor is None:
                raise ValueError("this model takes no images")
            if message.role == "tool" and not self._shows_result_images:
                what = "the model's chat template" if self._own and self._own.native else self.format_name
                raise ValueError(f"images in tool results are not supported by {what}")
            _ = message.parts  # raises if images and places differ in number

    @property
    def _shows_result_images(self) -> bool:
        """Whether tool results can have images: in the model's chat template, or because a format writes results as
        messages of the user."""
        if self._own and self._own.native:
            return self._own.layout.shows_result_images
        return self.tool_format.syntax.results == "turn"

    def _close(self, weight: float) -> list[Span]:
        return [span._replace(scale=((span.text, weight),)) for span in self._closing]

    def _ending(self, following: list[Span], weight: float) -> list[Span]:
        """The spans after a turn. A stop token at their beginning belongs to the turn and has its weight."""
        text, stop = _text(following), _text(self._closing)
        if not text.startswith(stop) or not following[0].text.startswith(stop):
            return following
        rest = following[0].text[len(stop) :]
        return [*self._close(weight), *([following[0]._replace(text=rest, ids=())] if rest else []), *following[1:]]

    def _reply_opening(self) -> str:
        """The template's text between the user's text and a reply."""
        if self._own:
            return self._own.layout.opening
        [prompts] = self.writer.prompts(NOTHING, [Turn((Span(_QUERY, "given"),), False, False, ())])
        return _text(prompts).rpartition(_QUERY)[2]

    def _stop(self) -> Stop:
        if self._own:
            ends = [self._encoder.ids(end, "all") for end in self._own.layout.ends]
            texts = [end for end, ids in zip(self._own.layout.ends, ends, strict=True) if len(ids) > 1]
        else:
            ends = [[token for span in self._closing for token in self._span_tokens.ids(span)]]
            texts = [_text(self._closing)] if len(ends[0]) > 1 else []
        tokens = dict.fromkeys([*(ids[0] for ids in ends if len(ids) == 1), *self._eos])
        return Stop(tuple(tokens), tuple(texts))


def _text(spans: Sequence[Span]) -> str:
    return "".join(span.text for span in spans)


def _only(found: Sequence[T]) -> T:
    if len(found) > 1:
        raise ValueError(f"the chat template rewrites earlier rounds: this dialogue takes {len(found)} samples")
    return found[0]


def _split_system(messages: Sequence[Message]) -> tuple[str | None, Sequence[Message]]:
    """(the leading system prompt, None if there is none; the other messages)."""
    if messages and messages[0].role == "system":
        return messages[0].content, messages[1:]
    return None, messages
