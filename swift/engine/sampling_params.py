"""How a reply is sampled and where it ends. Imports no torch, so that a client of a server can use it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swift.guided.guide import Guide


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a reply is sampled and where it ends. The defaults are plain sampling up to the end of the context.

    `max_tokens` None: as many as the context allows. `clip`: cut a `max_tokens` that exceeds the context instead of
    raising an error. `temperature` 0: the argmax (greedy decoding). `top_k` 0, `top_p` 1 and `min_p` 0 are off.
    `repetition_penalty` counts the prompt and the reply; `presence_penalty` and `frequency_penalty` count the reply
    alone, as OpenAI's do. `stop`: strings that end the reply. `include_stop` None: keep a stop string of the tool-call
    format in the reply, cut any other. `logprobs`: return the log probability of each token, and of the `top_logprobs`
    most probable ones. `confidence`: return the confidence of each tool call. `min_confidence`: a
    reply whose calls have less, all together, is made in words instead; None: as the checkpoint's calibration says. A
    chat does that; an engine alone ignores it. `min_tokens`: exclude stop tokens from
    shorter replies. `guide`: the grammar of the reply; it masks all other tokens. `adapter`: the name of a LoRA
    adapter; '' is the base model.

    Raises ValueError, which names the parameter, for a value out of range.
    """

    max_tokens: int | None = None
    clip: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    include_stop: bool | None = None
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    confidence: bool = False
    min_confidence: float | None = None
    min_tokens: int = 0
    guide: Guide | None = None
    adapter: str = ""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("temperature", self.temperature, 0, math.inf),
            ("top_k", self.top_k, 0, math.inf),
            ("min_p", self.min_p, 0, 1),
            ("min_tokens", self.min_tokens, 0, math.inf),
            ("presence_penalty", self.presence_penalty, -2, 2),
            ("frequency_penalty", self.frequency_penalty, -2, 2),
            ("top_logprobs", self.top_logprobs, 0, 20),
        ):
            if not low <= value <= high or value == math.inf:
                bounds = f"{low} or more" if high == math.inf else f"from {low} to {high}"
                raise ValueError(f"{name} must be {bounds}, not {value}")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence must be from 0 to 1, not {self.min_confidence}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be 1 or more, not {self.max_tokens}")
        if self.guide and self.ignore_eos:
            raise ValueError("ignore_eos: a reply that follows a grammar ends where the grammar ends")
        if not all(self.stop):
            raise ValueError("stop must not contain an empty string")
        for token, bias in self.logit_bias.items():
            if not -100 <= bias <= 100:
                raise ValueError(f"logit_bias of token {token} must be from -100 to 100, not {bias}")
