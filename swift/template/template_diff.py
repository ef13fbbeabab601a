"""Compares the Renderer's tokens with those of the model's own chat template. Knows no detail of rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from jinja2 import TemplateError

from swift.chat import Conversation, Image, Message, Sample
from swift.template.render import Renderer
from swift.template.template_messages import Wire
from swift.template.tokenizer_template import TokenizerTemplate

SHOWN = 12
"""The number of tokens shown on each side of a difference."""


class Difference(NamedTuple):
    """The first difference. `at`: its index in the tokens; `ours`, `template`: up to SHOWN tokens from there on.
    `before`: the common text before it."""

    at: int
    before: str
    ours: tuple[int, ...]
    template: tuple[int, ...]


class Comparison(NamedTuple):
    """A prompt, or a whole dialogue, compared with the chat template's rendering of the same messages.

    `message`: the number of the reply after the prompt, from 1; None: the whole dialogue. `round`: the number of user
    turns up to there; `part`: the index of the sample. `refusal`: why the template renders nothing. `leaves_prompt`:
    the template renders the finished reply differently from its own prompt, which equals ours.
    """

    message: int | None
    round: int
    part: int
    difference: Difference | None = None
    refusal: str = ""
    leaves_prompt: bool = False

    @property
    def is_same(self) -> bool:
        return self.difference is None and not self.refusal


class _RefusedError(ValueError):
    """The chat template rejects the messages."""


class TemplateDiff:
    """Compares a renderer with `apply_chat_template` of the same tokenizer.

    `own`: the tokenizer's template, which converts messages. `system`: the system prompt of dialogues without one;
    None: the template's default.
    """

    def __init__(self, renderer: Renderer, own: TokenizerTemplate, system: str | None = None) -> None:
        self._renderer = renderer
        self._tokenizer = renderer.tokenizer
        self._own = own
        self._system = system

    def compare(self, conversation: Conversation) -> list[Comparison]:
        """The comparison of each prompt, then of the whole dialogue; empty for plain text. Raises ValueError."""
        if conversation.is_text:
            return []
        messages = conversation.messages
        samples = self._renderer.samples(conversation)
        found: list[Comparison] = []
        for index, message in enumerate(messages):
            if index and message.role == "assistant" and messages[index - 1].role != "assistant":
                found.append(self._prompt(conversation, index, samples))
        return [*found, self._whole(conversation, samples, found[-1] if found else None)]

    def _whole(self, conversation: Conversation, samples: Sequence[Sample], last: Comparison | None) -> Comparison:
        """Compares the dialogue in the last sample. `last`: the comparison of its last prompt."""
        ours = samples[-1].tokens
        whole = Comparison(None, _rounds(conversation.messages), len(samples) - 1)
        try:
            theirs = self._apply(conversation, len(conversation.messages), generate=False)
            difference = self._at_end(ours, theirs)
            if difference is None or last is None or last.message is None or not last.is_same:
                return whole._replace(difference=difference)
            prompt = self._apply(conversation, last.message - 1, generate=True)
        except _RefusedError as reason:
            return whole._replace(refusal=str(reason))
        return whole._replace(difference=difference, leaves_prompt=difference.at < len(prompt))

    def _at_end(self, ours: list[int], theirs: list[int]) -> Difference | None:
        """The difference of whole dialogues. White space and a missing stop token at the end are ignored."""
        follows = theirs[: len(ours)] == ours and not self._renderer.decode(theirs[len(ours) :]).strip()
        is_open = theirs == ours[:-1] and ours[-1] in self._renderer.stop.tokens
        return None if follows or is_open else self._difference(ours, theirs)

    def _prompt(self, conversation: Conversation, index: int, samples: Sequence[Sample]) -> Comparison:
        """Compares the prompt of a reply, as in the sample that trains the reply."""
        before = conversation.messages[:index]
        prompt = self._renderer.prompt_tokens(before, conversation.tools, conversation.template_kwargs)
        begins = [_common_prefix(sample.tokens, prompt) for sample in samples]
        part = begins.index(max(begins))
        # the trained tokens, if they differ from the served ones
        ours = prompt if begins[part] == len(prompt) else samples[part].tokens
        compared = Comparison(index + 1, _rounds(before), part)
        try:
            theirs = self._apply(conversation, index, generate=True)
        except _RefusedError as reason:
            return compared._replace(refusal=str(reason))
        if ours is not prompt and ours[: len(theirs)] == theirs:
            return compared
        return compared._replace(difference=self._difference(ours, theirs))

    def _difference(self, ours: Sequence[int], theirs: Sequence[int]) -> Difference | None:
        if ours == theirs:
            return None
        at = _common_prefix(ours, theirs)
        before = self._renderer.decode(ours[max(at - SHOWN, 0) : at])
        return Difference(at, before, tuple(ours[at : at + SHOWN]), tuple(theirs[at : at + SHOWN]))

    # chat template ----------------------------------------------------------------------------------------------------

    def _apply(self, conversation: Conversation, count: int, generate: bool) -> list[int]:
        """The template's tokens of the first `count` messages. Raises _RefusedError with the rejected message."""
        wire = [self._own.wire(message) for message in self._with_system(conversation.messages[:count])]
        tools = [tool.wrapped for tool in conversation.tools]
        variables = {**self._own.fixed_variables, **conversation.template_kwargs}
        try:
            text = self._text(wire, tools, generate, variables)
        except _RefusedError as reason:
            number = self._first_rejected(wire, tools, variables) - (len(wire) - count)
            which = f"message {number}" if number > 0 else "the system prompt"
            raise _RefusedError(f"the chat template rejects {which}: {reason}") from None
        images = [image for message in conversation.messages[:count] for image in message.images]
        return [
            int(token) for token in self._tokenizer(self._with_images(text, images), add_special_tokens=False).input_ids
        ]

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        if messages and messages[0].role == "system":
            return list(messages if messages[0].content else messages[1:])
        return [*([Message("system", self._system)] if self._system else []), *messages]

    def _text(self, wire: Sequence[Wire], tools: Sequence[Wire], generate: bool, variables: Mapping[str, Any]) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                list(wire), tools=list(tools) or None, add_generation_prompt=generate, tokenize=False, **variables
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as reason:
            raise _RefusedError(str(reason)) from None
        return str(text)

    def _first_rejected(self, wire: Sequence[Wire], tools: Sequence[Wire], variables: Mapping[str, Any]) -> int:
        """The number of the first message from which on the template renders nothing."""
        for taken in range(len(wire) - 1, 0, -1):
            try:
                self._text(wire[:taken], tools, False, variables)
            except _RefusedError:
                continue
            return taken + 1
        return 1

    def _with_images(self, text: str, images: Sequence[Image]) -> str:
        """The text with the placeholder text of each image."""
        image_processor = self._renderer.image_processor
        if not image_processor or not images:
            return text
        parts = text.split(image_processor.mark)
        if len(parts) != len(images) + 1:
            return text
        shown = [*image_processor.texts(images), ""]
        return "".join(part + image for part, image in zip(parts, shown, strict=True))


def _rounds(messages: Sequence[Message]) -> int:
    return sum(message.role == "user" for message in messages)


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common prefix of two token lists."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
