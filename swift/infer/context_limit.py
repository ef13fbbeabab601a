"""Whether texts can fit a context at all, told before they are tokenised. Knows no request and no engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from swift.engine.sampling import TooLong
from swift.template.token_lower_bound import TokenLowerBound


class ContextLimit:
    """Checks texts against a context in tokens; None: there is no end to it. `trims`: templates drop spaces around."""

    def __init__(self, tokenizer: Any, context: int | None, trims: bool = False) -> None:
        self._tokenizer, self._context, self._trims = tokenizer, context, trims

    def check(self, texts: Sequence[str]) -> None:
        """Raises TooLong where a prompt that holds all of `texts` has more tokens than the context, for sure."""
        # A token is at least a byte, so most prompts need no look at the vocabulary.
        if self._context is None or sum(map(len, texts)) * 4 <= self._context:
            return
        least = 0
        for text in texts:
            least += self._bound(text.strip() if self._trims else text, self._context - least)
            if least >= self._context:
                raise TooLong(
                    f"the prompt has {least} tokens or more: that is more than the model's context of {self._context}"
                )

    @cached_property
    def _bound(self) -> TokenLowerBound:
        return TokenLowerBound(self._tokenizer)
