"""The base model and the LoRA adapters that requests can name. Knows no engine and no route."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from openai.types import Model

from swift.serve.bad_request import BadRequest
from swift.serve.formats.model_cards import model_card


class AdapterHost(Protocol):
    """An engine that can serve LoRA adapters next to the base model."""

    def add_adapter(self, name: str, folder: str) -> None: ...
    def remove_adapter(self, name: str) -> None: ...


class ServedModels:
    """The base model and its adapters, by the names that requests use."""

    def __init__(self, base: str, owned_by: str, adapters: Iterable[str] = ()) -> None:
        self.base, self._owned_by = base, owned_by
        self._cards = {base: model_card(base, owned_by)}
        for name in adapters:
            self.add(name)

    def add(self, name: str) -> None:
        self._cards[name] = model_card(name, self._owned_by, self.base)

    def remove(self, name: str) -> None:
        del self._cards[name]

    def __contains__(self, name: str) -> bool:
        return name in self._cards

    def __iter__(self) -> Iterator[Model]:
        return iter(self._cards.values())

    def find(self, name: str) -> Model:
        """The model card of `name`. Raises BadRequest (404), which lists the known models."""
        if name not in self._cards:
            raise BadRequest(
                f"model '{name[:200]}' not found; available models: {', '.join(self._cards)}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return self._cards[name]

    def adapter(self, name: str) -> str:
        """The `SamplingParams.adapter` of a model: "" for the base model. Raises BadRequest as `find` does."""
        self.find(name)
        return "" if name == self.base else name
