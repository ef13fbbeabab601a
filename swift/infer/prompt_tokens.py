"""Texts and dialogues <-> the token ids that a model of this process reads. Knows no wire format and no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swift.chat import Message, Tool
from swift.template import Renderer


class PromptTokens:
    """`context`: the largest number of tokens of a prompt and its reply together, None without a limit."""

    def __init__(self, renderer: Renderer, context: int | None) -> None:
        self._renderer, self.context = renderer, context

    def of_text(self, text: str, special: bool = True) -> list[int]:
        """`special`: with the tokens that the tokenizer puts around a text, such as a first BOS."""
        if special:
            return self._renderer.raw_prompt_tokens(text)
        ids: list[int] = self._renderer.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def of_dialogue(
        self, messages: Sequence[Message], tools: Sequence[Tool], template_kwargs: Mapping[str, Any], opens: bool
    ) -> list[int]:
        """`opens`: the tokens end with the opening of a reply, or continue a trailing assistant message, as for a chat.

        Raises ValueError for a dialogue that the chat template rejects.
        """
        render = self._renderer.prompt_tokens if opens else self._renderer.closed_tokens
        return list(render(messages, tools, template_kwargs))

    def strings(self, tokens: Sequence[int]) -> list[str]:
        """Each token as the vocabulary writes it."""
        return [str(each) for each in self._renderer.tokenizer.convert_ids_to_tokens(list(tokens))]

    def text(self, tokens: Sequence[int]) -> str:
        """Raises ValueError for an id that is no token of the model."""
        size = len(self._renderer.tokenizer)
        for place, token in enumerate(tokens):
            if not 0 <= token < size:
                raise ValueError(f"[{place}]: {token} is not a token of the model (0 to {size - 1})")
        return self._renderer.decode(tokens)
