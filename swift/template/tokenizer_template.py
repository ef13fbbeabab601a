"""The chat template that came with a tokenizer, as the Renderer needs it: masks, variables, ends. Knows no dialogue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import Any, Literal

from swift.chat import PLACE, Message
from swift.template.jinja_environment import Refused
from swift.template.sandbox import ChatTemplate
from swift.template.template_messages import Wire
from swift.template.template_probe import CALL, TOOL, TemplateTraits, asked_length, explore
from swift.template.template_writer import Span

HistoryReasoning = Literal["template", "keep", "strip"]
SWITCH = "enable_thinking"
"""The variable by which templates are told whether the model thinks."""
KEEPING: Mapping[str, bool] = {
    "preserve_thinking": True,
    "keep_thinking": True,
    "truncate_history_thinking": False,
    "clear_thinking": False,
}
"""Variables by which templates are told to leave the thoughts of earlier rounds where they are."""
_CONTENT = "\ue000"  # stands for a text while the template writes around it
BEFORE, AFTER = "\ue002", "\ue003"  # for what is written around a thought that the template is not to see
ALONE = "\ue004"  # the same behind a thought without content: calls have a space of their own
MASKED = "\ue010"
_MASK = re.compile("\ue010([0-9]+)\ue011")


class TokenizerTemplate:
    """The tokenizer's own template, masks for what somebody typed, and what its probes have shown.

    `stops` are tokens known to end a reply, the usual first; `wanted` is the text form of calls, or AUTO. `mark` is the
    token at which the model sees an image, "" where it sees none. `variables` reach the template, `today` is its date.
    """

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
        self._parts = bool(mark)  # templates of models that see want parts, and some of them nothing else
        try:
            self.nature: TemplateTraits = explore(self._tooled, words, self.stops, wanted, self._parts)
        except Refused:
            self._parts = not self._parts
            self.nature = explore(self._tooled, words, self.stops, wanted, self._parts)
        if not self.nature.end:
            raise ValueError("neither the chat template nor the tokenizer says what ends a reply")
        self._typed = [each.content for each in added if each.special]
        self.special = _any_of(self._typed)
        self._shows_special = all(repr(text)[1:-1] == text for text in self._typed)
        self.added = _any_of(words)
        self.trailing = re.compile(rf"(?:\s*{self.added.pattern})+\s*\Z")
        opening, closing = (re.escape(each) for each in self.nature.thinking[:2])
        self.opened = re.compile(rf"{opening}\s*(?P<closed>{closing}\s*)?\Z")
        self.nothing = re.compile(rf"\A{opening}\s*{closing}\s*")
        self._empty = re.compile(rf"\s*{opening}\s*{closing}\s*(?={BEFORE})")
        self.closing = [Span(self.nature.end, "stop")]
        if history == "keep" and not self.keeping and self.nature.thinking.answer:
            raise ValueError(
                "--history_reasoning keep: this chat template has no place for thoughts of earlier rounds: "
                "take template or strip"
            )

    @property
    def variables(self) -> frozenset[str]:
        """The names that the template reads."""
        return self._plain.variables | self._tooled.variables

    @property
    def ends(self) -> tuple[str, ...]:
        """The tokens that end a reply."""
        return tuple(dict.fromkeys([self.nature.end, self.nature.call_end]))

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """The special tokens that the template writes within replies."""
        asked: Wire = {"role": "user", "content": _CONTENT}
        said: Wire = {
            "role": "assistant",
            "content": _CONTENT,
            **({self.nature.key: _CONTENT} if self.nature.key else {}),
        }
        found = self.special.findall(self.nature.before + self.nature.after)
        for reply, tools in ((said, []), (self.nature.calling.message([CALL]), [TOOL])):
            try:
                prompt, whole = self.render([asked], tools, True, {}), self.render([asked, reply], tools, False, {})
            except Refused:
                continue
            found += self.special.findall(whole[asked_length(prompt, whole) :])
        return tuple(mark for mark in dict.fromkeys(found) if mark not in self.ends)

    @cached_property
    def opening(self) -> str:
        """What the template writes between the user's text and a reply."""
        return self.render([{"role": "user", "content": _CONTENT}], [], True, {}).rpartition(_CONTENT)[2]

    def is_off(self, variables: Mapping[str, Any]) -> bool:
        """Whether prompts say that there is no thought, though the template has a switch and nobody used it."""
        said = SWITCH in {**self._variables, **variables} or SWITCH not in self._tooled.variables
        return not said and self.opening.rstrip().endswith(self.nature.thinking.close)

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
        shaped = [self._shaped(message) for message in messages] if self._parts else messages
        text = template.render(shaped, tools, generate, {**keeping, **self._variables, **variables})
        if BEFORE not in text:
            return text
        before, after = self.nature.before, self.nature.after
        text = self._empty.sub("", text).replace(BEFORE, before)
        return text.replace(AFTER, after).replace(ALONE, after.rstrip())

    @property
    def given(self) -> dict[str, Any]:
        """The variables that reach every rendering: the user's, and the date's."""
        return {**self._plain.dated, **self._variables}

    def wire(self, message: Message) -> Wire:
        """A message as OpenAI's clients send it, in the shape that the template reads."""
        wire = self.nature.wire(message)
        return self._shaped(wire) if self._parts else wire

    def _shaped(self, message: Wire) -> Wire:
        """The message with its content as parts."""
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
        if self._shows_special and not self.special.search(repr(value)):  # in C, where most values end
            return value
        if isinstance(value, dict):
            return {key: self.masked(each, allowed) for key, each in value.items()}
        return [self.masked(each, allowed) for each in value] if isinstance(value, list | tuple) else value

    def typed(self, text: str) -> str:
        """The text with what was typed in its place again."""
        return _MASK.sub(lambda found: self._typed[int(found[1])], text) if MASKED in text else text


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    any_of = "|".join(re.escape(each) for each in sorted(filter(None, texts), key=len, reverse=True))
    return re.compile(f"({any_of or '(?!)'})")
