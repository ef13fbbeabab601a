"""Deltas -> a Completion or its parts. Knows no HTTP and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.completion_choice import Logprobs
from pydantic import BaseModel

from swift.chat import Delta, Logprob
from swift.serve.formats.choice_builder import ChoiceBuilder, ResponseOptions, token_text


class CompletionBuilder(ChoiceBuilder):
    """Deltas -> a Completion or its parts; OpenAI uses one type for both."""

    def __init__(self, options: ResponseOptions) -> None:
        super().__init__("cmpl", options)
        self._offsets = [0] * len(self.drafts)

    def start(self) -> list[BaseModel]:
        return []

    def add(self, index: int, delta: Delta) -> list[BaseModel]:
        self._collect(index, delta)
        events: list[BaseModel] = []
        if delta.text or delta.logprobs:
            events.append(self._event([self._choice(index, delta.text, self._logprobs(index, delta.logprobs))]))
        if delta.finish is not None:
            events.append(self._event([self._choice(index, "", None, self._finish(index))]))
        return events

    def _last(self) -> list[BaseModel]:
        return [self._event([], self._usage())] if self.options.include_usage else []

    def response(self) -> Completion:
        self._offsets = [0] * len(self.drafts)
        choices = [
            self._choice(index, draft.message.content, self._logprobs(index, self.logprobs[index]), self._finish(index))
            for index, draft in enumerate(self.drafts)
        ]
        completion = self._event(choices)
        completion.usage = self._usage()
        return completion

    def _logprobs(self, index: int, logprobs: Sequence[Logprob]) -> Logprobs | None:
        if self.options.top_logprobs is None:
            return None
        offsets: list[int] = []
        for each in logprobs:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token_text(each))
        return Logprobs(
            tokens=[token_text(each) for each in logprobs],
            token_logprobs=[each.logprob for each in logprobs],
            top_logprobs=[{token_text(other): other.logprob for other in each.top} for each in logprobs],
            text_offset=offsets,
        )

    def _finish(self, index: int) -> Literal["stop", "length"]:
        return "length" if self.drafts[index].finish == "length" else "stop"

    def _choice(
        self, index: int, text: str, logprobs: Logprobs | None, finish: Literal["stop", "length"] | None = None
    ) -> CompletionChoice:
        # Without validation: the type does not allow None, which all parts of a stream but the last have.
        return CompletionChoice.model_construct(index=index, text=text, logprobs=logprobs, finish_reason=finish)

    def _event(self, choices: list[CompletionChoice], usage: CompletionUsage | None = None) -> Completion:
        event = Completion.model_construct(
            id=self.id, object="text_completion", created=self.created, model=self.options.model, choices=choices
        )
        if self.options.include_usage:
            event.usage = usage
        return event
