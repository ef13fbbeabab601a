"""The weighted next-token loss. Knows a causal language model and weights; no rows, no optimiser."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.autograd import Function
from transformers import PreTrainedModel

LOGIT_ROWS = 256
"""Rows of logits that a frozen head computes at a time."""
FP32_ROWS = 8
"""Rows of these that are in fp32 at a time: few enough to stay in a processor's cache."""
CHUNK = 64
"""Rows of logits of any other head that are in fp32 at a time."""


class Scores(NamedTuple):
    """One entry for each trained token of a batch."""

    nll: Tensor
    hit: Tensor  # True where the token is the model's argmax; empty unless requested
    weights: Tensor

    @property
    def loss(self) -> Tensor:
        """Sum of weight x negative log-likelihood, in nats; divide by the tokens of the step, not of this batch."""
        return (self.nll * self.weights).sum()


@runtime_checkable
class LossHead(Protocol):
    """A head that computes the loss without storing logits."""

    def nll(
        self, hidden_NI: Tensor, scale: float, targets_N: Tensor, hits: bool, sums: Any = None
    ) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood of each target for logits times `scale`, and whether it is the argmax.

        `sums` receives the gradient of the head's own weight (see `score`).
        """


def trained(weights: Tensor) -> Tensor:
    """Mask of predicted tokens with a weight, (rows, tokens - 1): the first token of a row is never predicted."""
    return weights[:, 1:] != 0


def score(model: nn.Module, head: nn.Module, batch: Mapping[str, Any], hits: bool = False) -> Scores:
    """Runs `model`, possibly wrapped by PEFT or DDP, and scores its trained tokens in fp32.

    `head` is the module of `model` that computes logits. It receives only the hidden states that predict a trained
    token: a packed model takes their positions as an argument, other models through a hook on the head. A packed model
    adds gradients of its weights to the batch's `sums` (micro_batches.Sums), if there are any.
    """
    wanted = trained(batch["weights"])
    targets, weights = batch["input_ids"][:, 1:][wanted], batch["weights"][:, 1:][wanted]
    if "rows" in batch:
        # transformers passes a 4-D mask on unchanged and builds none; the blocks know where rows end
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("weights", "row_of")}
        inputs |= {"wanted": wanted[0].nonzero()[:, 0], "attention_mask": torch.empty(1, 1, 0, 0)}
        base = _unwrapped(model)
        ours = isinstance(head, LossHead)
        if base is not None and (ours or (type(head) is nn.Linear and not head.weight.requires_grad)):
            hidden = base.get_decoder()(**inputs, use_cache=False).last_hidden_state[0]
            scale = 1 / getattr(base.config, "logits_scaling", 1.0)  # Granite's
            if isinstance(head, LossHead):
                return Scores(*head.nll(hidden, scale, targets, hits, batch.get("sums")), weights)
            nll, hit = _HeadNll.apply(hidden, head.weight, head.bias, scale, targets, hits)  # type: ignore[no-untyped-call]
            return Scores(nll, hit, weights)
        logits = model(**inputs, use_cache=False).logits[0]
    else:
        inputs = {name: tensor for name, tensor in batch.items() if name != "weights"}
        with _only_at(head, wanted):
            logits = model(**inputs, use_cache=False).logits
    nll = _Nll.apply(logits, targets)  # type: ignore[no-untyped-call]
    hit = logits.detach().argmax(-1) == targets if hits else targets.new_zeros(0, dtype=torch.bool)
    return Scores(nll, hit, weights)


class RowScores(NamedTuple):
    """One entry for each row of a batch."""

    log_likelihood: Tensor
    """The sum of weight x log-likelihood of its trained tokens, in nats."""
    tokens: Tensor
    """The sum of their weights."""


def score_rows(model: nn.Module, head: nn.Module, batch: Mapping[str, Any]) -> RowScores:
    """`score`, summed over the tokens of each row. A batch may have `judged` beside the inputs of the model, and
    `row_of` where a row of the model holds several (prefixes)."""
    inputs = {name: each for name, each in batch.items() if name != "judged"}
    scores = score(model, head, inputs)
    return RowScores(_by_row(batch, -scores.nll * scores.weights), row_tokens(batch))


def row_tokens(batch: Mapping[str, Any]) -> Tensor:
    """The sum of the weights of each row's trained tokens."""
    return _by_row(batch, batch["weights"][:, 1:][trained(batch["weights"])])


def _by_row(batch: Mapping[str, Any], values_N: Tensor) -> Tensor:
    """The sum over the trained tokens of each row."""
    wanted = trained(batch["weights"])
    if "rows" in batch:
        row_of_T = batch["row_of"][0] if "row_of" in batch else _row_numbers(batch["rows"].to(wanted.device))
        rows_N, count = row_of_T[1:][wanted[0]], int(row_of_T.max()) + 1
    else:
        rows_N, count = wanted.nonzero()[:, 0], len(wanted)
    return values_N.new_zeros(count).index_add(0, rows_N, values_N)


def _row_numbers(lengths: Tensor) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def _unwrapped(model: nn.Module) -> PreTrainedModel | None:
    """The model without PEFT's wrapper; None for one that has to be called through a wrapper, such as DDP."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner if isinstance(inner, PreTrainedModel) else None


_BUFFER = threading.local()


def _buffer(rows: int, width: int, like: Tensor) -> Tensor:
    """Memory for logits, reused by each thread: touching fresh pages would cost more than the arithmetic."""
    shape = (max(rows, LOGIT_ROWS), width)
    held: Tensor | None = getattr(_BUFFER, "held", None)
    if held is None or (held.shape, held.dtype, held.device) != (shape, like.dtype, like.device):
        held = _BUFFER.held = like.new_empty(shape)
    return held[:rows]


class _HeadNll(Function):
    """Negative log-likelihood of each target from hidden states, and whether it is the argmax, for a frozen head.

    Logits exist for `LOGIT_ROWS` tokens at a time; the gradient is computed with them, up to the factor of backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NI: Tensor,
        weight_VI: Tensor,
        bias_V: Tensor | None,
        scale: float,
        targets_N: Tensor,
        hits: bool,
    ) -> tuple[Tensor, Tensor]:
        nll_N = hidden_NI.new_empty(len(targets_N), dtype=torch.float32)
        hit_N = torch.empty(len(targets_N) if hits else 0, dtype=torch.bool, device=hidden_NI.device)
        gradient_NI = torch.empty_like(hidden_NI) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets_N), LOGIT_ROWS):
            at = slice(start, start + LOGIT_ROWS)
            logits = _buffer(len(targets_N[at]), len(weight_VI), hidden_NI)
            torch.mm(hidden_NI[at], weight_VI.T, out=logits)
            if bias_V is not None:
                logits += bias_V
            for first in range(0, len(logits), FP32_ROWS):
                few = slice(start + first, min(start + first + FP32_ROWS, len(targets_N)))
                narrow, targets = logits[first : first + FP32_ROWS], targets_N[few, None]
                scores = narrow.float().mul_(scale)
                if hits:
                    hit_N[few] = scores.argmax(-1) == targets[:, 0]
                right, peak = scores.gather(-1, targets), scores.amax(-1, keepdim=True)
                total = scores.sub_(peak).exp_().sum(-1, keepdim=True)
                nll_N[few] = (total.log() + peak - right)[:, 0]
                if gradient_NI is not None:
                    scores.mul_(scale / total).scatter_add_(-1, targets, scores.new_full(targets.shape, -scale))
                    narrow.copy_(scores)
            if gradient_NI is not None:
                torch.mm(logits, weight_VI, out=gradient_NI[at])
        ctx.save_for_backward(gradient_NI)
        ctx.mark_non_differentiable(hit_N)
        return nll_N, hit_N

    @staticmethod
    def backward(ctx: Any, dnll_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_NI,) = ctx.saved_tensors
        return (gradient_NI * dnll_N[:, None]).to(gradient_NI.dtype), None, None, None, None, None


class _Nll(Function):
    """Negative log-likelihood of each target in fp32, without holding all logits in fp32."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        scales = [chunk.float().logsumexp(-1) for chunk in logits_NV.split(CHUNK)]
        scale_N = torch.cat(scales) if scales else logits_NV.new_zeros(0, dtype=torch.float32)
        ctx.save_for_backward(logits_NV, targets_N, scale_N)
        return scale_N - logits_NV.gather(-1, targets_N[:, None])[:, 0].float()

    @staticmethod
    def backward(ctx: Any, dnll_N: Tensor) -> tuple[Tensor | None, ...]:
        logits_NV, targets_N, scale_N = ctx.saved_tensors
        gradient_NV = torch.empty_like(logits_NV)
        chunks = (each.split(CHUNK) for each in (logits_NV, targets_N, scale_N, dnll_N, gradient_NV))
        for logits, targets, scale, dnll, gradient in zip(*chunks, strict=True):
            scores = (logits.float() - scale[:, None]).exp_()
            scores[torch.arange(len(targets), device=targets.device), targets] -= 1
            torch.mul(scores, dnll[:, None], out=scores)
            gradient.copy_(scores)
        return gradient_NV, None


@contextmanager
def _only_at(head: nn.Module, wanted: Tensor) -> Iterator[None]:
    """Within, `head` receives the (trained tokens, hidden) rows of its (rows, tokens, hidden) input.

    A hook, because the models' own `logits_to_keep` selects the same positions in every row, and because the call has
    to go through the outermost wrapper's forward.
    """

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        # counted from the right: some tuners prepend virtual tokens
        return (hidden[:, -wanted.shape[1] - 1 : -1][wanted], *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def output_head(model: Any) -> nn.Module:
    """The module that computes logits, in a transformers model or one wrapped by PEFT."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise ValueError(f"{type(model).__name__} has no language-model head: it cannot be trained on text")
    return head


def no_grad_scores(model: nn.Module, head: nn.Module, batch: Mapping[str, Tensor]) -> Scores:
    with torch.no_grad():
        return score(model, head, batch, hits=True)
