"""Flags of preference training. Does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RlhfType = Literal["dpo", "kto", "orpo"]


@dataclass(frozen=True)
class PreferenceFlags:
    """Preferences"""

    rlhf_type: RlhfType = "dpo"
    """Method: dpo and orpo learn from pairs of completions, kto from completions with a label; orpo has no reference"""
    beta: float = 0.1
    """How strongly the model is held to the reference model; for orpo the factor of the odds ratio (lambda)"""
    loss_type: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """Loss of dpo"""
    label_smoothing: float = 0.0
    """Probability that the label of a pair is wrong, for dpo's sigmoid loss"""
    rpo_alpha: float | None = None
    """Factor of the likelihood of chosen completions that is added to dpo's loss; none adds nothing"""
    desirable_weight: float = 1.0
    """Weight of desirable completions in kto's loss"""
    undesirable_weight: float = 1.0
    """Weight of undesirable completions in kto's loss"""
