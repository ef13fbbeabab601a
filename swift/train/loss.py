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

MADE = 256
"""Rows of logits that a frozen head makes at a time."""
WIDE = 8
"""Rows of these that are in fp32 at a time: few enough to stay in a processor's cache."""
CHUNK = 64
"""Rows of logits of any other head that are in fp32 at a time."""


class Scores(NamedTuple):
    """One entry for every trained token of a batch."""

    nll: Tensor
    hit: Tensor  # True where the model's first choice is the token; empty unless asked for
    weights: Tensor

    @property
    def loss(self) -> Tensor:
        """The sum of weight x negative log-likelihood; divide by the tokens of the whole step, not of this batch."""
        return (self.nll * self.weights).sum()


@runtime_checkable
class LossHead(Protocol):
    """A head that makes no logits."""

    def nll(
        self, hidden_NI: Tensor, scale: float, targets_N: Tensor, hits: bool, sums: Any = None
    ) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood of each target, its logits times `scale`, and whether it is the first choice.

        `sums`: where the gradient of the head's own weight goes (see `score`).
        """


def trained(weights: Tensor) -> Tensor:
    """Where a token is predicted with weight. The first token of a row has nothing before it to be predicted from."""
    return weights[:, 1:] != 0


def score(model: nn.Module, head: nn.Module, batch: Mapping[str, Any], hits: bool = False) -> Scores:
    """Runs `model` (wrapped for PEFT or several ranks or not) and scores its trained tokens in fp32.

    `head` is the module inside `model` that makes logits. It sees only the hidden states that predict a trained token:
    a model that takes rows without padding (`packed`) is told which, another one's head gets them by a hook. Such a
    model adds the gradients of its weights to `sums` (lanes.Sums), where the batch has that.
    """
    wanted = trained(batch["weights"])
    targets, weights = batch["input_ids"][:, 1:][wanted], batch["weights"][:, 1:][wanted]
    if "rows" in batch:
        # a mask of four dimensions is passed on as it is, so none is made; the blocks know the rows' ends
        inputs = {name: tensor for name, tensor in batch.items() if name != "weights"}
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


def _unwrapped(model: nn.Module) -> PreTrainedModel | None:
    """The model without PEFT's wrapper; None for one that has to be called through another, as several ranks' has."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner if isinstance(inner, PreTrainedModel) else None


_ROOM = threading.local()


def _room(rows: int, width: int, like: Tensor) -> Tensor:
    """Memory for so many logits, the same at each call of a thread: fresh pages would cost more than the sums."""
    shape = (max(rows, MADE), width)
    held: Tensor | None = getattr(_ROOM, "held", None)
    if held is None or (held.shape, held.dtype, held.device) != (shape, like.dtype, like.device):
        held = _ROOM.held = like.new_empty(shape)
    return held[:rows]


class _HeadNll(Function):
    """The negative log-likelihood of each target from hidden states, and whether it is the first choice, by a frozen
    head. Logits are there for `MADE` tokens at a time; the gradient is made beside them, but for its factor."""

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
        for start in range(0, len(targets_N), MADE):
            at = slice(start, start + MADE)
            logits = _room(len(targets_N[at]), len(weight_VI), hidden_NI)
            torch.mm(hidden_NI[at], weight_VI.T, out=logits)
            if bias_V is not None:
                logits += bias_V
            for first in range(0, len(logits), WIDE):
                few = slice(start + first, min(start + first + WIDE, len(targets_N)))
                narrow, targets = logits[first : first + WIDE], targets_N[few, None]
                shares = narrow.float().mul_(scale)
                if hits:
                    hit_N[few] = shares.argmax(-1) == targets[:, 0]
                right, most = shares.gather(-1, targets), shares.amax(-1, keepdim=True)
                total = shares.sub_(most).exp_().sum(-1, keepdim=True)
                nll_N[few] = (total.log() + most - right)[:, 0]
                if gradient_NI is not None:
                    shares.mul_(scale / total).scatter_add_(-1, targets, shares.new_full(targets.shape, -scale))
                    narrow.copy_(shares)
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
    """The negative log-likelihood of each target, in fp32 without ever holding all logits in fp32."""

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
            shares = (logits.float() - scale[:, None]).exp_()
            shares[torch.arange(len(targets), device=targets.device), targets] -= 1
            torch.mul(shares, dnll[:, None], out=shares)
            gradient.copy_(shares)
        return gradient_NV, None


@contextmanager
def _only_at(head: nn.Module, wanted: Tensor) -> Iterator[None]:
    """Within, `head` is given the (trained tokens, width) rows of its (rows, tokens, width) input.

    A hook, because the models' own `logits_to_keep` selects the same positions in every row, and because the call has
    to go through the outermost wrapper's forward.
    """

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        # From the right: some tuners put virtual tokens before the row.
        return (hidden[:, -wanted.shape[1] - 1 : -1][wanted], *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def output_head(model: Any) -> nn.Module:
    """The module that makes logits, in a transformers model or one wrapped by PEFT."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise ValueError(f"{type(model).__name__} has no language-model head, so it cannot be trained on text")
    return head


def no_grad_scores(model: nn.Module, head: nn.Module, batch: Mapping[str, Tensor]) -> Scores:
    with torch.no_grad():
        return score(model, head, batch, hits=True)
