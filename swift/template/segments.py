"""Dialogues by a tokenizer's own chat template, as stretches of pieces. Runs no Jinja itself.

A stretch is a prompt of the template's and the replies that follow in it. While each prompt begins with the one before
and its reply, a dialogue is one stretch. Where the template writes earlier rounds otherwise once a later one follows
(most leave thoughts out), a new stretch begins, in which the earlier replies are part of the prompt.
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
from swift.template.completions import CONTENT, THOUGHT, Completion, Completions
from swift.template.fallbacks import variants
from swift.template.jinja_environment import Refused, constant
from swift.template.offset_tokenizer import OffsetTokenizer
from swift.template.reply_spans import ReplySpans, closing_weight
from swift.template.template_messages import Exchange, Reply, TemplateMessages, Wire
from swift.template.template_writer import Kind, ReplyPart, Span
from swift.template.tokenizer_template import AFTER, ALONE, BEFORE, MASKED, SWITCH, TokenizerTemplate

log = logging.getLogger("swift.template")
T = TypeVar("T")


class Asking(NamedTuple):
    """A prompt as pieces, and what of the reply stands in it."""

    pieces: list[Span]
    prefill: str


class SegmentBuilder:
    """A layout, the speech of its replies and the words of its tokenizer."""

    def __init__(self, layout: TokenizerTemplate, speech: ReplySpans, words: OffsetTokenizer) -> None:
        self.layout = layout
        self._words = words
        self.native = bool(layout.nature.format_name)
        self._speech = speech
        self._exchanges = TemplateMessages(speech, layout.nature, self.native)
        self._bodies = Completions(layout, speech.tool_format)

    @property
    def offers(self) -> bool:
        """Whether the template itself tells of tools."""
        return self.native and self.layout.nature.offers

    def segments(self, conversation: Conversation, system: str) -> list[list[Span]]:
        """The pieces of each stretch, closed. `system` is the system text, "" for none."""
        return self._tried(conversation, system, _Dialogue.segments)

    def asking(self, conversation: Conversation, system: str) -> Asking:
        """What generation starts from. A trailing assistant message is continued."""
        return self._tried(conversation, system, _Dialogue.asking)

    def _tried(self, conversation: Conversation, system: str, lay: Callable[[_Dialogue], T]) -> T:
        """The dialogue; where the template refuses tools as they are, these have what they need not say."""
        try:
            return self._closest(conversation, system, lay)
        except Refused as refusal:
            whole = tuple(map(_whole, conversation.tools))
            if whole == conversation.tools:
                raise
            try:
                return self._closest(replace(conversation, tools=whole), system, lay)
            except Refused:
                raise refusal from None

    def _closest(self, conversation: Conversation, system: str, lay: Callable[[_Dialogue], T]) -> T:
        """The dialogue as it is; where the template refuses or leaves out a part of it, what comes closest to it."""
        refusal: Refused | None = None
        for messages, told in variants(conversation.messages, system, self.native):
            try:
                dialogue = self._dialogue(conversation, messages, told)
                laid = lay(dialogue)
            except Refused as reason:
                refusal = refusal or reason
                continue
            if not dialogue.left_out:
                return laid
            refusal = refusal or Refused(dialogue.left_out)
        dialogue = self._dialogue(conversation, conversation.messages, system)
        try:
            laid = lay(dialogue)
        except Refused:
            raise refusal or Refused("the chat template takes no messages") from None
        tell_once(dialogue.left_out)
        return laid

    def _dialogue(self, conversation: Conversation, messages: Sequence[Message], system: str) -> _Dialogue:
        exchanges = self._exchanges.of(messages, bool(conversation.tools))
        tools = [tool.wrapped for tool in conversation.tools] if self.native else []
        return _Dialogue(self.layout, self._bodies, self._speech, self._words, conversation, exchanges, tools, system)


class Segment:
    """A stretch while it grows. `text` is all of it, `whole`: its tokens are those of the text, cut where they were."""

    def __init__(self, images: Iterable[Span]) -> None:
        self.pieces: list[Span] = []
        self.text = ""
        self.whole = True
        self.images = iter(images)

    def goes_on(self, prompt: str) -> bool:
        return self.whole and prompt.startswith(self.text)


class _Dialogue:
    """One dialogue while it is laid out. Texts are masked until they are pieces."""

    def __init__(
        self,
        layout: TokenizerTemplate,
        bodies: Completions,
        speech: ReplySpans,
        words: OffsetTokenizer,
        conversation: Conversation,
        exchanges: list[Exchange],
        tools: list[Wire],
        system: str,
    ) -> None:
        self._layout = layout
        self._nature = layout.nature
        self._bodies = bodies
        self._speech = speech
        self._words = words
        self._exchanges = exchanges
        self._images = [Span(PLACE, "given", image=image) for image in conversation.images]
        self._tools = [constant(layout.masked(tool)) for tool in tools]
        self._variables = conversation.template_kwargs
        self._allowed = (*speech.tool_format.syntax.special, *layout.marks)
        self._system = [Wire(role="system", content=layout.masked(system))] if system else []
        self._history: list[Wire] = [*self._system]
        for exchange in exchanges:
            self._history += map(layout.masked, exchange.told)
            if exchange.reply:
                self._history.append(self._past(exchange.reply))
        self._prompts: dict[int, str] = {}
        self.left_out = ""

    # Prompts ---------------------------------------------------------------------------------------------------------

    def segments(self) -> list[list[Span]]:
        if any(each.reply and each.reply.thought for each in self._exchanges) and self._layout.is_off(self._variables):
            self._variables = {**self._variables, SWITCH: True}
            tell_once(
                f"rows bring thoughts, and this model's chat template leaves them off: they are trained with {SWITCH} "
                f"true, which serving then needs too (--{SWITCH} true); --{SWITCH} false leaves thoughts out"
            )
        return [stretch.pieces for stretch in self._segments(len(self._exchanges))]

    def asking(self) -> Asking:
        index, exchange = len(self._exchanges) - 1, self._exchanges[-1]
        prompt = self._prompt(index)
        stretch = Segment(self._images)
        if any(each.reply and each.reply.mixed for each in self._exchanges[:-1]):  # what the environment wrote is cut
            *_, stretch = self._segments(index)
        self._ask(stretch if stretch.goes_on(prompt) else (stretch := Segment(self._images)), prompt)
        opened = self._layout.opened.search(prompt)
        prefill = opened[0] if opened else ""
        if exchange.reply:
            spoken, text = self._continued(index, exchange, exchange.reply, prompt)
            stretch.pieces += spoken
            prefill += text
        return Asking(stretch.pieces, self._layout.typed(prefill))

    def _segments(self, count: int) -> Iterator[Segment]:
        """The stretches of the first `count` exchanges."""
        stretch = Segment(self._images)
        for index, exchange in enumerate(self._exchanges[:count]):
            assert exchange.reply
            if self._is_greeting(index):
                continue
            prompt = self._prompt(index)
            if not stretch.goes_on(prompt):
                yield stretch
                stretch = Segment(self._images)
            self._ask(stretch, prompt)
            self._reply(stretch, index, exchange, exchange.reply)
        yield stretch

    def _is_greeting(self, index: int) -> bool:
        """Whether the assistant speaks first, and the template has no prompt for that: it is a part of the next."""
        if self._exchanges[index].told or len(self._exchanges) == 1:
            return False
        try:
            self._prompt(index)
        except Refused:
            tell_once("the assistant speaks first in rows, and this chat template has no prompt for that: not trained")
            return True
        return False

    def _prompt(self, index: int) -> str:
        """The template's prompt for a reply."""
        if index not in self._prompts:
            messages = self._before(index)
            self._prompts[index] = prompt = self._layout.render(messages, self._tools, True, self._variables)
            self.left_out = self.left_out or _missing(messages, prompt)
        return self._prompts[index]

    def _before(self, index: int) -> list[Wire]:
        count = len(self._system) + sum(len(each.told) + 1 for each in self._exchanges[:index])
        return self._history[: count + len(self._exchanges[index].told)]

    def _past(self, reply: Reply) -> Wire:
        """A reply as a part of the history."""
        wire: Wire = self._layout.masked(reply.history, self._allowed)
        key = self._nature.key
        others = {name: value for name, value in wire.items() if name != key}
        if self._layout.history == "strip":
            return others
        if self._layout.history == "keep" and reply.thought and not self._layout.keeping:
            content = str(others.get("content") or "").removeprefix(wire.get(key) or "")
            thought = f"{BEFORE}{self._layout.masked(reply.thought.strip())}{AFTER if content else ALONE}"
            return {**others, "content": thought + content}
        return wire

    def _ask(self, stretch: Segment, prompt: str) -> None:
        """Adds what a prompt has more than the stretch, what was typed in it apart from what the template wrote."""
        mark = self._layout.mark
        more = prompt[len(stretch.text) :]
        stretch.text = prompt
        for number, part in enumerate(more.split(mark) if mark and self._images else [more]):
            if number:
                stretch.pieces.append(_next(stretch.images))
            if MASKED not in part:
                stretch.pieces.append(Span(part, "template"))
                continue
            for place, segment in enumerate(self._layout.special.split(part)):
                kind: Kind = "given" if MASKED in segment and not place % 2 else "template"
                stretch.pieces.append(Span(self._layout.typed(segment), kind))
        stretch.pieces = [piece for piece in stretch.pieces if piece.text]

    # Replies ---------------------------------------------------------------------------------------------------------

    def _reply(self, stretch: Segment, index: int, exchange: Exchange, reply: Reply) -> None:
        """Adds a reply and the token that ends it."""
        parts = _stripped(reply.parts) if self._nature.trims else list(reply.parts)
        body, end = self._body(index, reply, parts, stretch.text)
        spoken, joint = self._spoken(exchange, reply, parts, body, stretch.text)
        closing = Span(end, "stop", ((end, closing_weight(spoken, reply.weight)),))
        stretch.pieces += [*spoken, closing]
        stretch.text += self._text(body, reply, parts) + end
        stretch.whole = joint or reply.mixed

    def _continued(self, index: int, exchange: Exchange, reply: Reply, prompt: str) -> tuple[list[Span], str]:
        """A reply that is to go on."""
        parts = list(reply.parts)
        if not (parts or reply.thought or reply.calls):
            return [], ""
        body, _ = self._body(index, reply, parts, prompt)
        last = "" if reply.calls else CONTENT if parts else THOUGHT
        if last and last in body:
            body = body[: body.rfind(last) + 1]
        return self._spoken(exchange, reply, parts, body, prompt)[0], self._text(body, reply, parts)

    def _text(self, body: str, reply: Reply, parts: Sequence[ReplyPart]) -> str:
        """The text of a body, masked."""
        text = self._layout.masked("".join(part for part, _, _ in parts), self._allowed)
        return body.replace(THOUGHT, self._layout.masked(reply.thought.strip())).replace(CONTENT, text)

    def _body(self, index: int, reply: Reply, parts: Sequence[ReplyPart], prompt: str) -> Completion:
        before = self._before(index)
        likely = None
        if index + 1 < len(self._exchanges) and not self._variables:
            likely = self._bodies.likely(reply, bool(parts), prompt, before)
        if likely and self._prompt(index + 1).startswith(prompt + self._text(likely.text, reply, parts) + likely.end):
            return likely
        return self._bodies.of(reply, bool(parts), prompt, before, self._tools, self._variables)

    def _spoken(
        self, exchange: Exchange, reply: Reply, parts: Sequence[ReplyPart], body: str, prompt: str
    ) -> tuple[list[Span], bool]:
        """A reply's pieces, and whether their tokens are those that they have behind the prompt in one text."""
        said: list[Span] = []
        before, thought, rest = body.rpartition(THOUGHT)
        if thought:
            opening = self._layout.typed(before)
            said.append(self._speech.thought(opening, reply.thought.strip(), reply.weight, exchange.last))
        lead, content, trail = rest.partition(CONTENT)
        first: ReplyPart = (self._layout.typed(lead), "reply", reply.weight)
        last: ReplyPart = (self._layout.typed(trail), "reply", reply.weight)
        for part in _joined([first, *(parts if content else ()), last]):
            if part[1] == "stop":
                said.append(Span(part[0], "stop", ((part[0], closing_weight(said, reply.weight)),)))
            else:
                said.append(self._speech.weighed(part, exchange.query, exchange.last))
        said = _together(said)
        behind = self._layout.special.split(prompt)[-1]
        if not said or not behind or MASKED in behind or said[0].kind != "reply":
            return said, True
        joint = self._words.joins(behind, said[0].text)
        return [said[0]._replace(behind=behind if joint else ""), *said[1:]], joint


def _whole(tool: Tool) -> Tool:
    """The tool with a description and parameters, which OpenAI's tools need not have."""
    function = tool.function
    given = function.get("parameters") or {}
    parameters = {"type": "object", "properties": {}, **given} if isinstance(given, dict) else given
    return Tool({"type": "function", "function": {"description": "", **function, "parameters": parameters}})


def _missing(messages: Sequence[Wire], prompt: str) -> str:
    """Why a prompt does not say all that it is given; "" if it does."""
    for message in messages:
        if message["role"] in ("system", "user"):
            for text in map(str.strip, str(message["content"]).split(PLACE)):
                if text not in prompt:
                    return f"the chat template leaves out the {message['role']}'s message {text[:40]!r}"
    return ""


def _next(images: Iterator[Span]) -> Span:
    if image := next(images, None):
        return image
    raise Refused("the chat template shows more images than there are: name one with --template_type")


def _stripped(parts: Sequence[ReplyPart]) -> list[ReplyPart]:
    """The parts of a text without the white space around it."""
    text = "".join(part for part, _, _ in parts)
    front, back = len(text) - len(text.lstrip()), len(text.rstrip())
    kept: list[ReplyPart] = []
    at = 0
    for part, kind, weight in parts:
        kept.append((part[max(front - at, 0) : max(back - at, 0)], kind, weight))
        at += len(part)
    return [part for part in kept if part[0]]


def _joined(parts: Iterable[ReplyPart]) -> list[ReplyPart]:
    """The parts, neighbours by the same writer and of the same weight as one."""
    runs = groupby(filter(itemgetter(0), parts), itemgetter(1, 2))
    return [("".join(text for text, _, _ in run), kind, weight) for (kind, weight), run in runs]


def _together(pieces: Sequence[Span]) -> list[Span]:
    """The pieces, neighbours that the model wrote as one: they are tokenised together."""
    found: list[Span] = []
    for piece in pieces:
        if found and piece.kind == found[-1].kind == "reply":
            last = found[-1]
            found[-1] = Span(last.text + piece.text, "reply", last.scale + piece.scale)
        else:
            found.append(piece)
    return found


@cache
def tell_once(text: str) -> None:
    """Warns of what holds for many rows."""
    log.warning("%s", text)
