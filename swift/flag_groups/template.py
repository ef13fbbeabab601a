"""Flags of the chat template, the tool-call format and loss weights. Does nothing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from swift.flags import flag


@dataclass(frozen=True)
class TemplateFlags:
    """Template"""

    template_type: str = flag("AUTO", alias=("template",))
    """Chat template; AUTO selects the model's"""
    system: str | None = None
    """System prompt of dialogues without one; none keeps the template's default, '' sends none"""
    agent_template: str = flag("AUTO", alias=("tools_prompt",))
    """Tool-call format; AUTO selects that of the model's own chat template, else ReAct"""
    enable_thinking: bool | None = None
    """Turn reasoning on or off where the model's own chat template has a switch; none leaves its default"""
    chat_template_kwargs: dict[str, Any] = flag({})
    """Variables for the model's own chat template, as JSON: {"reasoning_effort": "low"}"""
    history_reasoning: Literal["template", "keep", "strip"] = "template"
    """Reasoning of earlier rounds: as the model's own template does, keep all, or strip all"""
    reasoning_weight: float = 1.0
    """Loss weight of reasoning, multiplied with other weights; 0 does not train it"""
    template_date: str = "AUTO"
    """Date for chat templates that use one, such as 2026-01-31; AUTO: today, but 2025-01-01 for training and for
    models trained here"""
    loss_scale: str = "AUTO"
    """Loss weights of reply tokens: AUTO (tool calls count twice), names joined by + (react, last_round ...) or a JSON
    file"""
    use_loss_scale: bool | None = None
    """Deprecated form of --loss_scale: true means AUTO, false means default"""
    max_length: int = 2048
    """Maximum tokens of a row; -1 for no limit"""
    truncation_strategy: Literal["delete", "truncation_left", "error"] = flag(
        "delete", values={"ignore": "delete", "left": "truncation_left", "raise": "error"}
    )
    """What to do with longer rows: drop them, cut their oldest turns, or stop"""
    max_pixels: int | None = None
    """Maximum pixels of an image, width x height; larger images are scaled down; none keeps the processor's limit"""

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range and for flags that contradict each other."""
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"--max_pixels {self.max_pixels}: must be 1 or more")
        if not 0 <= self.reasoning_weight < math.inf:
            raise ValueError(f"--reasoning_weight {self.reasoning_weight:g}: must be 0 or more, and finite")
        self._check_variables()
        self.date(trained=True)
        for name, value in (("template_type", self.template_type), ("agent_template", self.agent_template)):
            if value != "AUTO" and value.upper() == "AUTO":
                raise ValueError(f"--{name} {value}: did you mean AUTO?")
        if self.template_type != "AUTO":
            self.check_table(self.template_type)
        if self.use_loss_scale is False and self.loss_scale not in ("AUTO", "react", "default", "none"):
            raise ValueError(f"--use_loss_scale false contradicts --loss_scale {self.loss_scale}: give one of them")
        if self.use_loss_scale and self.loss_scale in ("default", "none"):
            raise ValueError(f"--use_loss_scale true contradicts --loss_scale {self.loss_scale}: give one of them")
        if self.max_length < -1 or self.max_length == 0:
            raise ValueError(f"--max_length: {self.max_length} is not a length (-1 for no limit)")

    def _check_variables(self) -> None:
        """Raises ValueError for variables that cannot be passed to a chat template."""
        thinking = self.chat_template_kwargs.get("enable_thinking", self.enable_thinking)
        if thinking is not None and not isinstance(thinking, bool):
            raise ValueError(
                f"--chat_template_kwargs: enable_thinking must be true or false, not {json.dumps(thinking)}"
            )
        if self.enable_thinking is not None and thinking != self.enable_thinking:
            raise ValueError("--enable_thinking contradicts --chat_template_kwargs: give one of them")
        given = ("messages", "tools", "documents", "add_generation_prompt")
        if taken := next((name for name in given if name in self.kwargs), None):
            raise ValueError(f"--chat_template_kwargs: every template already gets {taken!r}: leave it out")

    def check_table(self, name: str) -> None:
        """Raises ValueError for flags that the registered template `name` would ignore."""
        without = f"the registered template {name!r} has no"
        if self.kwargs:
            flag = "--chat_template_kwargs" if self.chat_template_kwargs else "--enable_thinking"
            raise ValueError(f"{flag}: {without} variables: leave it out")
        if self.history_reasoning == "strip":
            raise ValueError(f"--history_reasoning strip: template {name!r} keeps all reasoning: use keep")
        if self.template_date != "AUTO":
            raise ValueError(f"--template_date {self.template_date}: {without} date: leave it out")

    @property
    def kwargs(self) -> dict[str, Any]:
        """The variables for the model's own chat template."""
        thinking = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        return {**self.chat_template_kwargs, **thinking}

    def date(self, trained: bool) -> date | None:
        """The date that chat templates see; None for today. `trained`: for training, or a model trained here."""
        if self.template_date == "AUTO":
            return date(2025, 1, 1) if trained else None
        try:
            day = date.fromisoformat(self.template_date)
        except ValueError:
            day = None
        if day is None or day.isoformat() != self.template_date:  # only newer Pythons read other notations
            raise ValueError(f"--template_date {self.template_date}: not a date, such as 2026-01-31")
        return day

    @property
    def scale(self) -> str:
        """The loss scale after `use_loss_scale` is applied."""
        return "default" if self.use_loss_scale is False and self.loss_scale in ("AUTO", "react") else self.loss_scale
