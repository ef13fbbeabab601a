"""The served models as OpenAI lists them. Knows no engine."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, cast

from openai.types import Model


def model_card(name: str, owned_by: str, root: str | None = None) -> Model:
    """A served model in the list of models; `root`: the base model of an adapter."""
    parts = {} if root is None else {"parent": root}
    return Model(id=name, object="model", created=int(time.time()), owned_by=owned_by, **cast(Any, parts))


def model_list(cards: Sequence[Model]) -> str:
    return json.dumps({"object": "list", "data": [each.model_dump(exclude_unset=True) for each in cards]})
