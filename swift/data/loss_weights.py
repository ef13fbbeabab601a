"""Reads the loss weight of a message from its keys. Knows no role and no other message."""

from __future__ import annotations

import math
from typing import Any

from swift.data.row_values import BadRow, Row

TRAINED = ("loss", "train", "training", "trainable", "train_on")
"""Keys whose value is true or 1 for a message that is trained, false or 0 for one that is not."""

MASKED = ("mask",)
"""Keys whose value is true or 1 for a message that is not trained."""

NUMBERS = ("weight", "loss_scale", "loss_weight")
"""Keys whose value multiplies the message's loss."""

WEIGHT_KEYS = (*TRAINED, *MASKED, *NUMBERS)
_KEYS = frozenset(WEIGHT_KEYS)


def weight_of(item: Row, number: int) -> float | None:
    """The weight of message `number`: None if no key sets it, 0 if it is not trained. Raises BadRow."""
    if _KEYS.isdisjoint(item):
        return None
    switches = {key: _switch(item[key], key, number) for key in (*TRAINED, *MASKED) if item.get(key) is not None}
    weights = {key: _number(item[key], key, number) for key in NUMBERS if item.get(key) is not None}
    trained = _agreed({key: on != (key in MASKED) for key, on in switches.items()}, number)
    weight: float | None = _agreed(weights, number)
    if trained is None or (trained and weight is not None):
        return weight
    return 1.0 if trained else 0.0


def _switch(value: Any, key: str, number: int) -> bool:
    if value not in (0, 1):
        raise BadRow("bad-weight", f"message {number}: {key!r} must be true or false, not {value!r}")
    return bool(value)


def _number(value: Any, key: str, number: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise BadRow("bad-weight", f"message {number}: {key!r} must be a number >= 0, not {value!r}")
    return float(value)


def _agreed(values: dict[str, Any], number: int) -> Any:
    """The value on which all keys agree; None if there are none."""
    if len(set(values.values())) > 1:
        raise BadRow("bad-weight", f"message {number}: {' and '.join(map(repr, values))} contradict each other")
    return next(iter(values.values()), None)
