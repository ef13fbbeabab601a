"""Dialogues laid out by the chat template that came with the tokenizer, as stretches.

A stretch is a prompt of the template's and the replies that follow in it. While each prompt begins with the one before
and its reply, a dialogue is one stretch. Where the template writes earlier rounds otherwise once a later one follows
(most leave thoughts out), a new stretch begins, in which the earlier replies are part of the prompt.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, NamedTuple, TypeVar

from swift.agent import Thinking
from swift.chat import PLACE, Conversation, Message
from swift.template.exchange import Exchange, Exchanges, Reply, Wire
from swift.template.nature import Nature, explore
from swift.template.sandbox import ChatTemplate, Refused
from swift.template.spoken import Speech, closing_weight
from swift.template.words import Words
from swift.template.write import Kind, Piece, Spoken

log = logging.getLogger("swift.template")

HistoryReasoning = Literal["template", "keep", "strip"]
KEEPING: Mapping[str, bool] = {
    "preserve_thinking": True,
    "keep_thinking": True,
    "truncate_history_thinking": False,
    "clear_thinking": False,
}
"""Variables by which templates are told to leave the thoughts of earlier rounds where they are."""
_CONTENT, _THOUGHT = "\ue000", "\ue001"  # stand for a reply's texts while the template writes around them
_BEFORE, _AFTER = "\ue002", "\ue003"  # for what is written around a thought that the template is not to see
T = TypeVar("T")
_MASKED = "\ue010"
_MASK = re.compile("\ue010([0-9]+)\ue011")


class Asking(NamedTuple):
    """A prompt as pieces, and what of the reply stands in it."""

    pieces: list[Piece]
    begun: str


class OwnLayout:
    """Lays dialogues out by the tokenizer's own template.

    `stops` are tokens known to end a reply, the usual first; `wanted` is the text form of calls, or AUTO. `mark` is the
    token at which the model sees an image, "" where it sees none. `variables` reach the template, `today` is its date.
    """

    default_system = ""

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str],
        wanted: str = "AUTO",
        mark: str = "",
        history: HistoryReasoning = "template",
        variables: Mapping[str, Any] | None = None,
        today: date | None = None,
    ) -> None:
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer brings no chat template: name one with --template_type")
        sources = (tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[{}]))
        self._plain, self._tooled = (ChatTemplate(each, tokenizer.special_tokens_map, today) for each in sources)
        self._variables = dict(variables or {})
        self.mark = mark
        self.history = history
        added = list(tokenizer.added_tokens_decoder.values())
        words = [each.content for each in added]
        self.stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        self.nature: Nature = explore(self._tooled, words, self.stops, wanted, bool(mark))
        if not self.nature.end:
            raise ValueError("neither the chat template nor the tokenizer says what ends a reply")
        self._typed = [each.content for each in added if each.special]
        self.special = _any_of(self._typed)
        self.added = _any_of(words)
        self.trailing = re.compile(rf"(?:\s*{self.added.pattern})+\s*\Z")
        opening, closing = (re.escape(each) for each in self.nature.thinking[:2])
        self.opened = re.compile(rf"{opening}\s*(?P<closed>{closing}\s*)?\Z")
        self._empty = re.compile(rf"\s*{opening}\s*{closing}\s*(?={_BEFORE})")
        self.closing = [Piece(self.nature.end, "stop")]
        if history == "keep" and not self.keeping and self.nature.thinking.answer:
            raise ValueError("--history_reasoning keep: this chat template has no place for thoughts of earlier rounds")

    @property
    def thinking(self) -> Thinking | None:
        """How thoughts are written by a template that knows of any."""
        return self.nature.thinking if self.nature.thinks else None

    @property
    def ends(self) -> tuple[str, ...]:
        """The tokens that end a reply."""
        return tuple(dict.fromkeys([self.nature.end, self.nature.call_end]))

    @property
    def opening(self) -> str:
        """What the template writes between the user's text and a reply."""
        return self.render([{"role": "user", "content": _CONTENT}], [], True, {}).rpartition(_CONTENT)[2]

    def bind(self, speech: Speech, words: Words) -> OwnDialogues:
        return OwnDialogues(self, speech, words)

    # Rendering -------------------------------------------------------------------------------------------------------

    @property
    def keeping(self) -> dict[str, bool]:
        """The variables that keep thoughts of earlier rounds, of those that the template reads."""
        return {name: value for name, value in KEEPING.items() if name in self._tooled.variables}

    def render(
        self, messages: Sequence[Wire], tools: Sequence[Wire], generate: bool, variables: Mapping[str, Any]
    ) -> str:
        """The template's text of masked messages. Raises Refused."""
        keeping = self.keeping if self.history == "keep" else {}
        template = self._tooled if tools else self._plain
        shaped = [self._shaped(message) for message in messages] if self.mark else messages
        text = template.render(shaped, tools, generate, {**keeping, **self._variables, **variables})
        if _BEFORE not in text:
            return text
        return self._empty.sub("", text).replace(_BEFORE, self.nature.before).replace(_AFTER, self.nature.after)

    def _shaped(self, message: Wire) -> Wire:
        """Templates of models that see want parts, and some of them nothing else."""
        content = message.get("content")
        if not isinstance(content, str):
            return message
        cut = re.split(f"({PLACE})", content) if message["role"] == "user" else [content]
        parts = [{"type": "image"} if text == PLACE else {"type": "text", "text": text} for text in cut if text]
        return {**message, "content": parts}

    def masked(self, value: Any, allowed: Sequence[str] = ()) -> Any:
        """A text, or all texts of a value, with the special tokens that somebody typed in it out of the way."""
        if isinstance(value, str):
            if not self.special.search(value):
                return value
            mask = {text: f"\ue010{index}\ue011" for index, text in enumerate(self._typed) if text not in allowed}
            return self.special.sub(lambda found: mask.get(found[0], found[0]), value)
        if isinstance(value, dict):
            return {key: self.masked(each, allowed) for key, each in value.items()}
        return [self.masked(each, allowed) for each in value] if isinstance(value, list | tuple) else value

    def typed(self, text: str) -> str:
        """The text with what was typed in its place again."""
        return _MASK.sub(lambda found: self._typed[int(found[1])], text) if _MASKED in text else text


class OwnDialogues:
    """A layout, the speech of its replies and the words of its tokenizer."""

    def __init__(self, layout: OwnLayout, speech: Speech, words: Words) -> None:
        self.layout = layout
        self._words = words
        self.native = bool(layout.nature.form)
        self._speech = speech
        self._exchanges = Exchanges(speech, layout.nature, self.native)

    @property
    def offers(self) -> bool:
        """Whether the template itself tells of tools."""
        return self.native and self.layout.nature.offers

    def stretches(self, conversation: Conversation, system: str) -> list[list[Piece]]:
        """The pieces of each stretch, closed. `system` is the system text, "" for none."""
        return self._tried(conversation, system, _Dialogue.stretches)

    def asking(self, conversation: Conversation, system: str) -> Asking:
        """What generation starts from. A trailing assistant message is continued."""
        return self._tried(conversation, system, _Dialogue.asking)

    def _tried(self, conversation: Conversation, system: str, lay: Callable[[_Dialogue], T]) -> T:
        """The dialogue as it is; where the template refuses or leaves out a part of it, what comes closest to it."""
        refusal: Refused | None = None
        for messages in _variants(conversation.messages, self.native):
            try:
                dialogue = self._dialogue(conversation, messages, system)
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
        _tell_once(dialogue.left_out)
        return laid

    def _dialogue(self, conversation: Conversation, messages: Sequence[Message], system: str) -> _Dialogue:
        exchanges = self._exchanges.of(messages, bool(conversation.tools))
        tools = [tool.wrapped for tool in conversation.tools] if self.native else []
        return _Dialogue(self.layout, self._speech, self._words, conversation, exchanges, tools, system)


class _Stretch:
    """A stretch while it grows. `text` is all of it, `whole`: its tokens are those of the text, cut where they were."""

    def __init__(self, images: Iterable[Piece]) -> None:
        self.pieces: list[Piece] = []
        self.text = ""
        self.whole = True
        self.images = iter(images)

    def goes_on(self, prompt: str) -> bool:
        return self.whole and prompt.startswith(self.text)


class _Dialogue:
    """One dialogue while it is laid out. Texts are masked until they are pieces."""

    def __init__(
        self,
        layout: OwnLayout,
        speech: Speech,
        words: Words,
        conversation: Conversation,
        exchanges: list[Exchange],
        tools: list[Wire],
        system: str,
    ) -> None:
        self._layout = layout
        self._nature = layout.nature
        self._speech = speech
        self._words = words
        self._exchanges = exchanges
        self._images = [Piece(PLACE, "given", image=image) for image in conversation.images]
        self._tools = layout.masked(tools)
        self._variables = conversation.template_kwargs
        self._allowed = speech.form.marks.special
        self._system = [Wire(role="system", content=layout.masked(system))] if system else []
        self._history: list[Wire] = [*self._system]
        for exchange in exchanges:
            self._history += map(layout.masked, exchange.told)
            if exchange.reply:
                self._history.append(self._past(exchange.reply))
        self.left_out = ""

    # Prompts ---------------------------------------------------------------------------------------------------------

    def stretches(self) -> list[list[Piece]]:
        return [stretch.pieces for stretch in self._stretches(len(self._exchanges))]

    def asking(self) -> Asking:
        index, exchange = len(self._exchanges) - 1, self._exchanges[-1]
        prompt = self._prompt(index)
        stretch = _Stretch(self._images)
        if any(each.reply and each.reply.mixed for each in self._exchanges[:-1]):  # what the environment wrote is cut
            *_, stretch = self._stretches(index)
        self._ask(stretch if stretch.goes_on(prompt) else (stretch := _Stretch(self._images)), prompt)
        opened = self._layout.opened.search(prompt)
        begun = opened[0] if opened else ""
        if exchange.reply:
            spoken, text = self._continued(index, exchange, exchange.reply, prompt)
            stretch.pieces += spoken
            begun += text
        return Asking(stretch.pieces, self._layout.typed(begun))

    def _stretches(self, count: int) -> Iterator[_Stretch]:
        """The stretches of the first `count` exchanges."""
        stretch = _Stretch(self._images)
        for index, exchange in enumerate(self._exchanges[:count]):
            assert exchange.reply
            prompt = self._prompt(index)
            if not stretch.goes_on(prompt):
                yield stretch
                stretch = _Stretch(self._images)
            self._ask(stretch, prompt)
            self._reply(stretch, index, exchange, exchange.reply)
        yield stretch

    def _prompt(self, index: int) -> str:
        """The template's prompt for a reply."""
        messages = self._before(index)
        prompt = self._layout.render(messages, self._tools, True, self._variables)
        self.left_out = self.left_out or _missing(messages, prompt)
        return prompt

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
            thought = f"{_BEFORE}{self._layout.masked(reply.thought.strip())}{_AFTER}"
            content = str(others.get("content") or "").removeprefix(wire.get(key) or "")
            return {**others, "content": thought + content}
        return wire

    def _ask(self, stretch: _Stretch, prompt: str) -> None:
        """Adds what a prompt has more than the stretch, what was typed in it apart from what the template wrote."""
        mark = self._layout.mark
        more = prompt[len(stretch.text) :]
        stretch.text = prompt
        for number, part in enumerate(more.split(mark) if mark and self._images else [more]):
            if number:
                stretch.pieces.append(_next(stretch.images))
            if _MASKED not in part:
                stretch.pieces.append(Piece(part, "template"))
                continue
            for place, segment in enumerate(self._layout.special.split(part)):
                kind: Kind = "given" if _MASKED in segment and not place % 2 else "template"
                stretch.pieces.append(Piece(self._layout.typed(segment), kind))
        stretch.pieces = [piece for piece in stretch.pieces if piece.text]

    # Replies ---------------------------------------------------------------------------------------------------------

    def _reply(self, stretch: _Stretch, index: int, exchange: Exchange, reply: Reply) -> None:
        """Adds a reply and the token that ends it."""
        parts = _stripped(reply.parts) if self._nature.trims else list(reply.parts)
        body, end = self._body(index, reply, parts, stretch.text)
        spoken, joint = self._spoken(exchange, reply, parts, body, stretch.text)
        closing = Piece(end, "stop", ((end, closing_weight(spoken, reply.weight)),))
        stretch.pieces += [*spoken, closing]
        stretch.text += self._text(body, reply, parts) + end
        stretch.whole = joint or reply.mixed

    def _continued(self, index: int, exchange: Exchange, reply: Reply, prompt: str) -> tuple[list[Piece], str]:
        """A reply that is to go on."""
        parts = list(reply.parts)
        if not (parts or reply.thought or reply.calls):
            return [], ""
        body, _ = self._body(index, reply, parts, prompt)
        last = "" if reply.calls else _CONTENT if parts else _THOUGHT
        if last and last in body:
            body = body[: body.rfind(last) + 1]
        return self._spoken(exchange, reply, parts, body, prompt)[0], self._text(body, reply, parts)

    def _text(self, body: str, reply: Reply, parts: Sequence[Spoken]) -> str:
        """The text of a body, masked."""
        text = self._layout.masked("".join(part for part, _, _ in parts), self._allowed)
        return body.replace(_THOUGHT, self._layout.masked(reply.thought.strip())).replace(_CONTENT, text)

    def _body(self, index: int, reply: Reply, parts: Sequence[Spoken], prompt: str) -> tuple[str, str]:
        """What the model writes behind the prompt, with marks for its thought and its content, and the token that
        ends it."""
        nature, opened = self._nature, self._layout.opened.search(prompt)
        off = opened is not None and opened["closed"] is not None  # thoughts are
        content = _CONTENT if parts else ""
        target = nature.calling.message([], content) if reply.calls else Wire(role="assistant", content=content)
        if reply.calls:
            target["tool_calls"] = self._layout.masked(reply.calls, self._allowed)
        if reply.thought and nature.key and not off:
            target[nature.key] = _THOUGHT
        whole = self._layout.render([*self._before(index), target], self._tools, False, self._variables)
        tail = self._behind(prompt, opened, whole)
        if tail is None:  # it writes finished replies in a way of their own: the reply as the form has it
            tail = self._speech.form.call(content, reply.called) + nature.end
        thinks = bool(reply.thought) and not off and _THOUGHT not in tail  # a template that leaves thoughts out
        if opened and not off and _THOUGHT not in tail:
            closing = nature.thinking.close
            rest = tail.lstrip().removeprefix(closing).lstrip() if tail.lstrip().startswith(closing) else tail
            tail = (_THOUGHT + nature.after + rest) if thinks else tail if rest != tail else nature.after + tail
        elif thinks:
            tail = nature.before + _THOUGHT + nature.after + tail
        return self._cut(tail, bool(reply.calls))

    def _behind(self, prompt: str, opened: re.Match[str] | None, whole: str) -> str | None:
        """What the template writes of a finished reply behind the prompt for it; None where that is not to be told."""
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        if opened and whole.startswith(prompt[: opened.start()]):
            rest = whole[opened.start() :]
            opening, closing = self._nature.thinking[:2]
            if not rest.lstrip().startswith(opening):
                return rest.lstrip()
            within = rest.lstrip().removeprefix(opening)
            return within.partition(closing)[2].lstrip() if opened["closed"] else within.lstrip()
        return None

    def _cut(self, tail: str, calls: bool) -> tuple[str, str]:
        """What the model writes up to the token that ends its turn, and that token."""
        end = self._nature.call_end if calls else self._nature.end
        ends = {end, self._nature.end, *self._layout.stops, *self._speech.form.marks.stop}
        run = self._layout.trailing.search(tail)
        for found in self._layout.added.finditer(tail, run.start()) if run else ():
            if found[0] in ends:
                return tail[: found.start()], found[0]
        return tail, end

    def _spoken(
        self, exchange: Exchange, reply: Reply, parts: Sequence[Spoken], body: str, prompt: str
    ) -> tuple[list[Piece], bool]:
        """A reply's pieces, and whether their tokens are those that they have behind the prompt in one text."""
        said: list[Piece] = []
        before, thought, rest = body.rpartition(_THOUGHT)
        if thought:
            opening = self._layout.typed(before)
            said.append(self._speech.thought(opening, reply.thought.strip(), reply.weight, exchange.last))
        lead, content, trail = rest.partition(_CONTENT)
        first: Spoken = (self._layout.typed(lead), "reply", reply.weight)
        last: Spoken = (self._layout.typed(trail), "reply", reply.weight)
        for part in _joined([first, *(parts if content else ()), last]):
            if part[1] == "stop":
                said.append(Piece(part[0], "stop", ((part[0], closing_weight(said, reply.weight)),)))
            else:
                said.append(self._speech.weighed(part, exchange.query, exchange.last))
        said = _together(said)
        behind = self._layout.special.split(prompt)[-1]
        if not said or not behind or _MASKED in behind or said[0].kind != "reply":
            return said, True
        joint = self._words.joins(behind, said[0].text)
        return [said[0]._replace(behind=behind if joint else ""), *said[1:]], joint


def _missing(messages: Sequence[Wire], prompt: str) -> str:
    """Why a prompt does not say all that it is given; "" if it does."""
    for message in messages:
        if message["role"] in ("system", "user"):
            for text in map(str.strip, str(message["content"]).split(PLACE)):
                if text not in prompt:
                    return f"the chat template leaves out the {message['role']}'s message {text[:40]!r}"
    return ""


def _next(images: Iterator[Piece]) -> Piece:
    if image := next(images, None):
        return image
    raise Refused("the chat template shows more images than there are: name one with --template_type")


def _stripped(parts: Sequence[Spoken]) -> list[Spoken]:
    """The parts of a text without the white space around it."""
    text = "".join(part for part, _, _ in parts)
    front, back = len(text) - len(text.lstrip()), len(text.rstrip())
    kept: list[Spoken] = []
    at = 0
    for part, kind, weight in parts:
        kept.append((part[max(front - at, 0) : max(back - at, 0)], kind, weight))
        at += len(part)
    return [part for part in kept if part[0]]


def _joined(parts: Iterable[Spoken]) -> list[Spoken]:
    """The parts, neighbours by the same writer and of the same weight as one."""
    runs = groupby(filter(itemgetter(0), parts), itemgetter(1, 2))
    return [("".join(text for text, _, _ in run), kind, weight) for (kind, weight), run in runs]


def _together(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces, neighbours that the model wrote as one: they are tokenised together."""
    found: list[Piece] = []
    for piece in pieces:
        if found and piece.kind == found[-1].kind == "reply":
            last = found[-1]
            found[-1] = Piece(last.text + piece.text, "reply", last.scale + piece.scale)
        else:
            found.append(piece)
    return found


# What comes closest to a dialogue that a template does not take -------------------------------------------------------


def _variants(messages: Sequence[Message], native: bool) -> Iterator[Sequence[Message]]:
    """The messages; then with late system texts as the user's and ids of calls that every template takes."""
    yield messages
    merged = list(_by_user(messages))
    if native:
        merged = _numbered(merged)
    if merged != list(messages):
        yield merged
    spoken = [_without_words(message) for message in merged]
    if native and spoken != merged:
        yield spoken


def _by_user(messages: Sequence[Message]) -> Iterator[Message]:
    """Neighbouring users' messages as one, system messages after the first turn among them."""
    asked: list[Message] = []
    for index, message in enumerate(messages):
        if message.role == "user" or (message.role == "system" and index):
            asked.append(message)
            continue
        yield from _one(asked)
        asked = []
        yield message
    yield from _one(asked)


def _one(asked: Sequence[Message]) -> Iterator[Message]:
    if asked:
        images = tuple(image for message in asked for image in message.images)
        yield replace(asked[0], role="user", content="\n".join(each.content for each in asked), images=images)


def _numbered(messages: Sequence[Message]) -> list[Message]:
    """The messages with ids of nine letters and digits for calls and their results, which is what Mistral's want."""
    ids: dict[str, str] = {}
    waiting: list[str] = []
    found: list[Message] = []
    for message in messages:
        calls = []
        for call in message.tool_calls:
            new = f"call{len(ids):05d}"
            ids[call.id or new] = new
            waiting.append(new)
            calls.append(replace(call, id=new))
        if message.role == "tool":
            own = ids.get(message.tool_call_id) or next(iter(waiting), "")
            waiting = [each for each in waiting if each != own]
            message = replace(message, tool_call_id=own)
        found.append(replace(message, tool_calls=tuple(calls)))
    return found


def _without_words(message: Message) -> Message:
    """A message that thinks, speaks and calls as one that only thinks and calls: some templates know no other."""
    if not (message.tool_calls and message.reasoning and message.content):
        return message
    return replace(message, reasoning=f"{message.reasoning}\n{message.content}", content="")


@cache
def _tell_once(text: str) -> None:
    log.warning("%s", text)


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    any_of = "|".join(re.escape(each) for each in sorted(filter(None, texts), key=len, reverse=True))
    return re.compile(f"({any_of or '(?!)'})")
