"""The tokenizer's own chat template for the Renderer: masking, variables, stop tokens. Knows no dialogue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import cached_property
from typing import Any, Literal

from swift.chat import PLACE, Message
from swift.template.jinja_environment import RenderError
from swift.template.sandbox import ChatTemplate
from swift.template.template_messages import Wire
from swift.template.template_probe import CALL, TOOL, TemplateTraits, common_prompt_length, probe
from swift.template.template_writer import Span

HistoryReasoning = Literal["template", "keep", "strip"]
THINKING_SWITCH = "enable_thinking"
"""The template variable that turns reasoning on or off."""
KEEP_VARIABLES: Mapping[str, bool] = {
    "preserve_thinking": True,
    "keep_thinking": True,
    "truncate_history_thinking": False,
    "clear_thinking": False,
}
"""Template variables that keep the reasoning of earlier rounds."""
_CONTENT = "\ue000"  # placeholder for a text
BEFORE, AFTER = "\ue002", "\ue003"  # placeholders around reasoning that is hidden from the template
ALONE = "\ue004"  # AFTER for reasoning without content: calls bring their own white space
MASKED = "\ue010"
_MASK = re.compile("\ue010([0-9]+)\ue011")


class TokenizerTemplate:
    """The tokenizer's own template with the traits that probing found, and masks for special tokens in user text.

    `stops`: tokens known to end a reply, the usual one first; `wanted`: the tool-call format, or AUTO. `mark`: the
    image token, "" for a text model. `variables` are passed to the template, `today` is its date.
    Raises ValueError for a template that cannot be used.
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
            raise ValueError("the tokenizer has no chat template: choose one with --template_type")
        sources = (tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[{}]))
        self._plain, self._tooled = (ChatTemplate(each, tokenizer.special_tokens_map, today) for each in sources)
        self._variables = dict(variables or {})
        self.image_token = mark
        self.history = history
        added = list(tokenizer.added_tokens_decoder.values())
        words = [each.content for each in added]
        self.stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        self._parts = bool(mark)  # templates of image models take lists of parts, some nothing else
        try:
            self.traits: TemplateTraits = probe(self._tooled, words, self.stops, wanted, self._parts)
        except RenderError:
            self._parts = not self._parts
            self.traits = probe(self._tooled, words, self.stops, wanted, self._parts)
        if not self.traits.end:
            raise ValueError("neither the chat template nor the tokenizer defines the end of a reply")
        special = [each.content for each in added if each.special]
        self.special = _any_of(special)
        self._shows_special = all(repr(text)[1:-1] == text for text in special)
        self._special_texts = [*special, PLACE]  # what masks stand for
        self.added = _any_of(words)
        self.trailing = re.compile(rf"(?:\s*{self.added.pattern})+\s*\Z")
        opening, closing = (re.escape(each) for each in self.traits.thinking[:2])
        self.open_reasoning = re.compile(rf"{opening}\s*(?P<closed>{closing}\s*)?\Z")
        self.empty_reasoning = re.compile(rf"\A{opening}\s*{closing}\s*")
        self._empty = re.compile(rf"\s*{opening}\s*{closing}\s*(?={BEFORE})")
        self.closing = [Span(self.traits.end, "stop")]
        if history == "keep" and not self.keep_variables and self.traits.thinking.answer:
            raise ValueError(
                "--history_reasoning keep: this chat template cannot render the reasoning of earlier rounds: "
                "use template or strip"
            )

    @property
    def variables(self) -> frozenset[str]:
        """The variables that the template reads."""
        return self._plain.variables | self._tooled.variables

    @property
    def ends(self) -> tuple[str, ...]:
        """The tokens that end a reply."""
        return tuple(dict.fromkeys([self.traits.end, self.traits.call_end]))

    @cached_property
    def special_in_replies(self) -> tuple[str, ...]:
        """The special tokens that the template writes within replies."""
        asked: Wire = {"role": "user", "content": _CONTENT}
        said: Wire = {
            "role": "assistant",
            "content": _CONTENT,
            **({self.traits.reasoning_key: _CONTENT} if self.traits.reasoning_key else {}),
        }
        found = self.special.findall(self.traits.before + self.traits.after)
        for reply, tools in ((said, []), (self.traits.convention.message([CALL]), [TOOL])):
            try:
                prompt, whole = self.render([asked], tools, True, {}), self.render([asked, reply], tools, False, {})
            except RenderError:
                continue
            found += self.special.findall(whole[common_prompt_length(prompt, whole) :])
        return tuple(mark for mark in dict.fromkeys(found) if mark not in self.ends)

    @cached_property
    def opening(self) -> str:
        """The template's text between the user's text and a reply."""
        return self.render([{"role": "user", "content": _CONTENT}], [], True, {}).rpartition(_CONTENT)[2]

    @cached_property
    def shows_result_images(self) -> bool:
        """Whether the template writes the image token for an image in a tool's result."""
        if not self.image_token:
            return False
        asked: Wire = {"role": "user", "content": [{"type": "text", "text": _CONTENT}]}
        result: Wire = {"role": "tool", "content": [{"type": "image"}], "name": CALL.name, "tool_call_id": CALL.id}
        messages = [asked, self.traits.convention.message([CALL]), result]
        try:
            text = self._tooled.render(messages, [TOOL], True, self._variables)
        except RenderError:
            return False
        return text.count(self.image_token) == 1

    def thinking_is_off(self, variables: Mapping[str, Any]) -> bool:
        """Whether reasoning is off by default: the template has a switch that is not set, and closes the block."""
        said = THINKING_SWITCH in {**self._variables, **variables} or THINKING_SWITCH not in self._tooled.variables
        return not said and self.opening.rstrip().endswith(self.traits.thinking.close)

    # Rendering -------------------------------------------------------------------------------------------------------

    @property
    def keep_variables(self) -> dict[str, bool]:
        """The variables of this template that keep the reasoning of earlier rounds."""
        return {name: value for name, value in KEEP_VARIABLES.items() if name in self._tooled.variables}

    def render(
        self, messages: Sequence[Wire], tools: Sequence[Wire], generate: bool, variables: Mapping[str, Any]
    ) -> str:
        """Renders masked messages. Raises RenderError."""
        keep_variables = self.keep_variables if self.history == "keep" else {}
        template = self._tooled if tools else self._plain
        shaped = [self._shaped(message) for message in messages] if self._parts else messages
        text = template.render(shaped, tools, generate, {**keep_variables, **self._variables, **variables})
        if BEFORE not in text:
            return text
        before, after = self.traits.before, self.traits.after
        text = self._empty.sub("", text).replace(BEFORE, before)
        return text.replace(AFTER, after).replace(ALONE, after.rstrip())

    @property
    def fixed_variables(self) -> dict[str, Any]:
        """The variables of every rendering: the user's and the date."""
        return {**self._plain.dated, **self._variables}

    def wire(self, message: Message) -> Wire:
        """A message in OpenAI's format, in the variant that the template reads."""
        wire = self.traits.wire(message)
        return self._shaped(wire) if self._parts else wire

    def _shaped(self, message: Wire) -> Wire:
        """The message with its content as a list of parts."""
        content = message.get("content")
        if not isinstance(content, str):
            return message
        has_images = message["role"] == "user" or (message["role"] == "tool" and self.shows_result_images)
        cut = re.split(f"({PLACE})", content) if has_images else [content]
        parts = [{"type": "image"} if text == PLACE else {"type": "text", "text": text} for text in cut if text]
        return {**message, "content": parts}

    def mask(self, value: Any, allowed: Sequence[str] = ()) -> Any:
        """Replaces special tokens in a text, or in all texts of a value, by masks, except those in `allowed`."""
        if isinstance(value, str):
            if not self.special.search(value):
                return value
            mask = {
                text: f"\ue010{index}\ue011" for index, text in enumerate(self._special_texts) if text not in allowed
            }
            return self.special.sub(lambda found: mask.get(found[0], found[0]), value)
        if self._shows_special and not self.special.search(repr(value)):  # fast path, taken by most values
            return value
        if isinstance(value, dict):
            return {key: self.mask(each, allowed) for key, each in value.items()}
        return [self.mask(each, allowed) for each in value] if isinstance(value, list | tuple) else value

    def with_typed_places(self, message: Message) -> Message:
        """The message; the character PLACE in one without images is masked, because it is text."""
        if message.images or PLACE not in message.content or not self.image_token:
            return message
        return replace(message, content=message.content.replace(PLACE, f"\ue010{len(self._special_texts) - 1}\ue011"))

    def unmask(self, text: str) -> str:
        """The text with masks replaced by the original characters."""
        return _MASK.sub(lambda found: self._special_texts[int(found[1])], text) if MASKED in text else text


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    any_of = "|".join(re.escape(each) for each in sorted(filter(None, texts), key=len, reverse=True))
    return re.compile(f"({any_of or '(?!)'})")
