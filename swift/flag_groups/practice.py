"""Flags of the training in a round of practice. Does nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RoundFlags:
    """Training of a round"""

    keep: int = 2
    """Different successes to train on, or failures to pair, for each task that is solved sometimes"""
    always_share: float = 0.2
    """Share of the rows that comes from tasks that are always solved"""
    show_answers: bool = True
    """Train the right calls of tasks that are never solved too, where --tasks or made tasks say them"""
    general_ratio: float = 0.25
    """rft: general rows to mix in, as a multiple of the rows that were kept"""
    learning_rate: float | None = None
    """Peak learning rate; none means 5e-4 for rft and 1e-5 for dpo"""
    epochs: float = 1.0
    """Passes over the rows of a round"""
    batch_size: int = 8
    """Rows of a training step"""
    lora_rank: int = 16
    """Rank of a new adapter"""
