"""Renders dialogues by the tokenizer's own chat template, as segments. Runs no Jinja itself.

A segment is a prompt of the template and the replies that follow in it. While each prompt begins with the previous
prompt and reply, a dialogue is one segment. If the template rewrites earlier rounds once a later round follows (most
drop reasoning), a new segment begins, in which the earlier replies are part of the prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, TypeVar

from swift.chat import PLACE, Conversation, Message, Tool
from swift.template.completions import CONTENT, REASONING, Completion, Completions
from swift.template.fallbacks import fallbacks
from swift.template.jinja_environment import RenderError, constant
from swift.template.offset_tokenizer import OffsetTokenizer
from swift.template.reply_spans import ReplySpans, closing_weight
from swift.template.template_messages import Exchange, Reply, TemplateMessages, Wire
from swift.template.template_writer import Kind, ReplyPart, Span
from swift.template.tokenizer_template import AFTER, ALONE, BEFORE, MASKED, THINKING_SWITCH, TokenizerTemplate

log = logging.getLogger("swift.template")
T = TypeVar("T")


class PromptSpans(NamedTuple):
    """A prompt as spans. `prefill`: the beginning of the reply that it contains."""

    spans: list[Span]
    prefill: str


class SegmentBuilder:
    """Renders conversations by a template, a tool-call format and loss weights, and a tokenizer."""

    def __init__(self, layout: TokenizerTemplate, reply_spans: ReplySpans, encoder: OffsetTokenizer) -> None:
        self.layout = layout
        self._encoder = encoder
        self.native = bool(layout.traits.format_name)
        self._reply_spans = reply_spans
        self._exchanges = TemplateMessages(reply_spans, layout.traits, self.native)
        self._completions = Completions(layout, reply_spans.tool_format)

    @property
    def describes_tools(self) -> bool:
        """Whether the template itself describes tools."""
        return self.native and self.layout.traits.describes_tools

    def segments(self, conversation: Conversation, system: str) -> list[list[Span]]:
        """The spans of each segment, with the final stop token. `system`: the system prompt, "" for none."""
        return self._rendered(conversation, system, _Dialogue.segments)

    def prompt(self, conversation: Conversation, system: str) -> PromptSpans:
        """The prompt for generation. Continues a trailing assistant message."""
        return self._rendered(conversation, system, _Dialogue.prompt)

    def closed(self, conversation: Conversation, system: str) -> list[Span]:
        """The dialogue as it stands, without the opening of a reply."""
        return self._rendered(conversation, system, _Dialogue.closed)

    def _rendered(self, conversation: Conversation, system: str, render: Callable[[_Dialogue], T]) -> T:
        """The rendered dialogue; if the template rejects the tools, again with their optional fields filled in."""
        try:
            return self._with_fallbacks(conversation, system, render)
        except RenderError as refusal:
            complete = tuple(map(_complete, conversation.tools))
            if complete == conversation.tools:
                raise
            try:
                return self._with_fallbacks(replace(conversation, tools=complete), system, render)
            except RenderError:
                raise refusal from None

    def _with_fallbacks(self, conversation: Conversation, system: str, render: Callable[[_Dialogue], T]) -> T:
        """The rendered dialogue; if the template rejects or drops a part of it, the closest variant that it renders."""
        refusal: RenderError | None = None
        given = list(map(self.layout.with_typed_places, conversation.messages))
        for messages, its_system in fallbacks(given, system, self.native):
            try:
                dialogue = self._dialogue(conversation, messages, its_system)
                found = render(dialogue)
            except RenderError as reason:
                refusal = refusal or reason
                continue
            if not dialogue.dropped:
                return found
            refusal = refusal or RenderError(dialogue.dropped)
        dialogue = self._dialogue(conversation, given, system)
        try:
            found = render(dialogue)
        except RenderError:
            raise refusal or RenderError("the chat template renders no messages") from None
        warn_once(dialogue.dropped)
        return found

    def _dialogue(self, conversation: Conversation, messages: Sequence[Message], system: str) -> _Dialogue:
        exchanges = self._exchanges.of(messages, bool(conversation.tools))
        tools = [tool.wrapped for tool in conversation.tools] if self.native else []
        return _Dialogue(
            self.layout, self._completions, self._reply_spans, self._encoder, conversation, exchanges, tools, system
        )


class Segment:
    """A segment under construction. `is_exact`: tokenising `text` as a whole gives the tokens of its spans."""

    def __init__(self, images: Iterable[Span]) -> None:
        self.spans: list[Span] = []
        self.text = ""
        self.is_exact = True
        self.images = iter(images)

    def is_continued_by(self, prompt: str) -> bool:
        return self.is_exact and prompt.startswith(self.text)


class _Dialogue:
    """One dialogue while it is rendered. Texts are masked until they become spans."""

    def __init__(
        self,
        layout: TokenizerTemplate,
        completions: Completions,
        reply_spans: ReplySpans,
        encoder: OffsetTokenizer,
        conversation: Conversation,
        exchanges: list[Exchange],
        tools: list[Wire],
        system: str,
    ) -> None:
        self._layout = layout
        self._traits = layout.traits
        self._completions = completions
        self._reply_spans = reply_spans
        self._encoder = encoder
        self._exchanges = exchanges
        self._images = [Span(PLACE, "given", image=image) for image in conversation.images]
        self._tools = [constant(layout.mask(tool)) for tool in tools]
        self._variables = conversation.template_kwargs
        self._allowed = (*reply_spans.tool_format.syntax.special, *layout.special_in_replies)
        self._system = [Wire(role="system", content=layout.mask(system))] if system else []
        self._history: list[Wire] = [*self._system]
        for exchange in exchanges:
            self._history += map(layout.mask, exchange.prompt)
            if exchange.reply:
                self._history.append(self._history_message(exchange.reply))
        self._prompts: dict[int, str] = {}
        self.dropped = ""

    # Prompts ---------------------------------------------------------------------------------------------------------

    def segments(self) -> list[list[Span]]:
        has_reasoning = any(each.reply and each.reply.reasoning for each in self._exchanges)
        if has_reasoning and self._layout.thinking_is_off(self._variables):
            self._variables = {**self._variables, THINKING_SWITCH: True}
            warn_once(
                f"rows have reasoning, which this model's chat template omits by default: training sets "
                f"{THINKING_SWITCH} true, and serving needs --{THINKING_SWITCH} true as well; "
                f"--{THINKING_SWITCH} false drops reasoning"
            )
        return [segment.spans for segment in self._segments(len(self._exchanges))]

    def prompt(self) -> PromptSpans:
        index, exchange = len(self._exchanges) - 1, self._exchanges[-1]
        prompt = self._prompt(index)
        segment = Segment(self._images)
        if any(each.reply and each.reply.has_tool_output for each in self._exchanges[:-1]):  # tool outputs are spans
            *_, segment = self._segments(index)
        self._add_prompt(segment if segment.is_continued_by(prompt) else (segment := Segment(self._images)), prompt)
        opened = self._layout.open_reasoning.search(prompt)
        prefill = opened[0] if opened else ""
        if exchange.reply:
            reply_spans, text = self._continued_reply(index, exchange, exchange.reply, prompt)
            segment.spans += reply_spans
            prefill += text
        return PromptSpans(segment.spans, self._layout.unmask(prefill))

    def closed(self) -> list[Span]:
        segment = Segment(self._images)
        text = self._layout.render(self._history, self._tools, False, self._variables)
        self.dropped = _missing(self._history, text)
        self._add_prompt(segment, text)
        return segment.spans

    def _segments(self, count: int) -> Iterator[Segment]:
        """The segments of the first `count` exchanges."""
        segment = Segment(self._images)
        for index, exchange in enumerate(self._exchanges[:count]):
            assert exchange.reply
            if self._is_greeting(index):
                continue
            prompt = self._prompt(index)
            if not segment.is_continued_by(prompt):
                yield segment
                segment = Segment(self._images)
            self._add_prompt(segment, prompt)
            self._add_reply(segment, index, exchange, exchange.reply)
        yield segment

    def _is_greeting(self, index: int) -> bool:
        """Whether the assistant speaks first and the template has no prompt for it: it is part of the next prompt."""
        if self._exchanges[index].prompt or len(self._exchanges) == 1:
            return False
        try:
            self._prompt(index)
        except RenderError:
            warn_once(
                "rows begin with the assistant, which this chat template has no prompt for: that message is not trained"
            )
            return True
        return False

    def _prompt(self, index: int) -> str:
        """The template's prompt for a reply."""
        if index not in self._prompts:
            messages = self._before(index)
            self._prompts[index] = prompt = self._layout.render(messages, self._tools, True, self._variables)
            self.dropped = self.dropped or _missing(messages, prompt)
        return self._prompts[index]

    def _before(self, index: int) -> list[Wire]:
        count = len(self._system) + sum(len(each.prompt) + 1 for each in self._exchanges[:index])
        return self._history[: count + len(self._exchanges[index].prompt)]

    def _history_message(self, reply: Reply) -> Wire:
        """A reply in the history of later prompts."""
        wire: Wire = self._layout.mask(reply.history, self._allowed)
        key = self._traits.reasoning_key
        others = {name: value for name, value in wire.items() if name != key}
        if self._layout.history == "strip":
            return others
        if self._layout.history == "keep" and reply.reasoning and not self._layout.keep_variables:
            content = str(others.get("content") or "").removeprefix(wire.get(key) or "")
            reasoning = f"{BEFORE}{self._layout.mask(reply.reasoning.strip())}{AFTER if content else ALONE}"
            return {**others, "content": reasoning + content}
        return wire

    def _add_prompt(self, segment: Segment, prompt: str) -> None:
        """Adds the rest of a prompt to a segment, with user text and template text as separate spans."""
        mark = self._layout.image_token
        more = prompt[len(segment.text) :]
        segment.text = prompt
        for number, part in enumerate(more.split(mark) if mark and self._images else [more]):
            if number:
                segment.spans.append(_next(segment.images))
            if MASKED not in part:
                segment.spans.append(Span(part, "template"))
                continue
            for place, text in enumerate(self._layout.special.split(part)):
                kind: Kind = "given" if MASKED in text and not place % 2 else "template"
                segment.spans.append(Span(self._layout.unmask(text), kind))
        segment.spans = [span for span in segment.spans if span.text]

    # Replies ---------------------------------------------------------------------------------------------------------

    def _add_reply(self, segment: Segment, index: int, exchange: Exchange, reply: Reply) -> None:
        """Adds a reply and the token that ends it."""
        parts = _stripped(reply.parts) if self._traits.strips else list(reply.parts)
        text, end = self._completion(index, reply, parts, segment.text)
        reply_spans, is_exact = self._reply_to_spans(exchange, reply, parts, text, segment.text)
        closing = Span(end, "stop", ((end, closing_weight(reply_spans, reply.weight)),))
        segment.spans += [*reply_spans, closing]
        segment.text += self._text(text, reply, parts) + end
        segment.is_exact = is_exact or reply.has_tool_output

    def _continued_reply(self, index: int, exchange: Exchange, reply: Reply, prompt: str) -> tuple[list[Span], str]:
        """(spans, masked text) of a reply that generation continues."""
        parts = list(reply.parts)
        if not (parts or reply.reasoning or reply.calls):
            return [], ""
        text, _ = self._completion(index, reply, parts, prompt)
        last = "" if reply.calls else CONTENT if parts else REASONING
        if last and last in text:
            text = text[: text.rfind(last) + 1]
        return self._reply_to_spans(exchange, reply, parts, text, prompt)[0], self._text(text, reply, parts)

    def _text(self, text: str, reply: Reply, parts: Sequence[ReplyPart]) -> str:
        """The masked text of a completion."""
        content = self._layout.mask("".join(part for part, _, _ in parts), self._allowed)
        return text.replace(REASONING, self._layout.mask(reply.reasoning.strip())).replace(CONTENT, content)

    def _completion(self, index: int, reply: Reply, parts: Sequence[ReplyPart], prompt: str) -> Completion:
        before = self._before(index)
        predicted = None
        if index + 1 < len(self._exchanges) and not self._variables:
            predicted = self._completions.predict(reply, bool(parts), prompt, before)
        if predicted and self._prompt(index + 1).startswith(
            prompt + self._text(predicted.text, reply, parts) + predicted.end
        ):
            return predicted
        return self._completions.complete(reply, bool(parts), prompt, before, self._tools, self._variables)

    def _reply_to_spans(
        self, exchange: Exchange, reply: Reply, parts: Sequence[ReplyPart], text: str, prompt: str
    ) -> tuple[list[Span], bool]:
        """The spans of a reply, and whether tokenising prompt and reply as one text gives the same tokens."""
        spans: list[Span] = []
        before, reasoning, rest = text.rpartition(REASONING)
        if reasoning:
            opening = self._layout.unmask(before)
            spans.append(
                self._reply_spans.reasoning_span(opening, reply.reasoning.strip(), reply.weight, exchange.last)
            )
        lead, content, trail = rest.partition(CONTENT)
        first: ReplyPart = (self._layout.unmask(lead), "reply", reply.weight)
        last: ReplyPart = (self._layout.unmask(trail), "reply", reply.weight)
        for part in _joined([first, *(parts if content else ()), last]):
            if part[1] == "stop":
                spans.append(Span(part[0], "stop", ((part[0], closing_weight(spans, reply.weight)),)))
            else:
                spans.append(self._reply_spans.weighted_span(part, exchange.query, exchange.last))
        spans = _together(spans)
        context = self._layout.special.split(prompt)[-1]
        if not spans or not context or MASKED in context or spans[0].kind != "reply":
            return spans, True
        is_exact = self._encoder.is_boundary(context, spans[0].text)
        return [spans[0]._replace(context=context if is_exact else ""), *spans[1:]], is_exact


def _complete(tool: Tool) -> Tool:
    """The tool with description and parameters, which are optional in OpenAI's format."""
    function = tool.function
    given = function.get("parameters") or {}
    parameters = {"type": "object", "properties": {}, **given} if isinstance(given, dict) else given
    return Tool({"type": "function", "function": {"description": "", **function, "parameters": parameters}})


def _missing(messages: Sequence[Wire], prompt: str) -> str:
    """The message that is missing from a prompt, as an error message; "" if none is."""
    for message in messages:
        if message["role"] in ("system", "user"):
            for text in map(str.strip, str(message["content"]).split(PLACE)):
                if text not in prompt:
                    return f"the chat template drops the {message['role']} message {text[:40]!r}"
    return ""


def _next(images: Iterator[Span]) -> Span:
    if image := next(images, None):
        return image
    raise RenderError("the chat template has more images than the dialogue: choose a template with --template_type")


def _stripped(parts: Sequence[ReplyPart]) -> list[ReplyPart]:
    """The parts of a text, stripped of white space at both ends."""
    text = "".join(part for part, _, _ in parts)
    front, back = len(text) - len(text.lstrip()), len(text.rstrip())
    kept: list[ReplyPart] = []
    at = 0
    for part, kind, weight in parts:
        kept.append((part[max(front - at, 0) : max(back - at, 0)], kind, weight))
        at += len(part)
    return [part for part in kept if part[0]]


def _joined(parts: Iterable[ReplyPart]) -> list[ReplyPart]:
    """Joins neighbouring parts of the same author and weight."""
    runs = groupby(filter(itemgetter(0), parts), itemgetter(1, 2))
    return [("".join(text for text, _, _ in run), kind, weight) for (kind, weight), run in runs]


def _together(spans: Sequence[Span]) -> list[Span]:
    """Joins neighbouring spans of the model, which are tokenised together."""
    found: list[Span] = []
    for span in spans:
        if found and span.kind == found[-1].kind == "reply":
            last = found[-1]
            found[-1] = Span(last.text + span.text, "reply", last.scale + span.scale)
        else:
            found.append(span)
    return found


@cache
def warn_once(text: str) -> None:
    """Logs a warning that applies to many rows once."""
    log.warning("%s", text)
