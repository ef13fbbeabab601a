"""Refuses prompts that cannot fit the context before they are tokenised. Knows no request and no engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from swift.engine.sampling import TooLong
from swift.template.token_lower_bound import TokenLowerBound


class ContextLimit:
    """`context`: tokens, None for no limit. `trims`: the chat template strips white space around messages."""

    def __init__(self, tokenizer: Any, context: int | None, trims: bool = False) -> None:
        self._tokenizer, self._context, self._trims = tokenizer, context, trims

    def check(self, texts: Sequence[str]) -> None:
        """Raises TooLong if every prompt that contains `texts` has more tokens than the context."""
        # A token has at least one byte and a character at most four, so most prompts need no bound.
        if self._context is None or sum(map(len, texts)) * 4 <= self._context:
            return
        least = 0
        for text in texts:
            least += self._bound(text.strip() if self._trims else text, self._context - least)
            if least >= self._context:
                raise TooLong(
                    f"the prompt has at least {least} tokens, more than the model's context of {self._context}"
                )

    @cached_property
    def _bound(self) -> TokenLowerBound:
        return TokenLowerBound(self._tokenizer)
