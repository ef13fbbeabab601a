"""The weighted next-token loss. Knows a causal language model and weights; no rows, no optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

CHUNK = 64
"""Rows of logits that are in fp32 at a time."""


class Scores(NamedTuple):
    """One entry for every trained token of a batch."""

    nll: Tensor
    weights: Tensor
    hit: Tensor  # True where the model's first choice is the token; empty unless asked for

    @property
    def loss(self) -> Tensor:
        """The sum of weight x negative log-likelihood; divide by the tokens of the whole step, not of this batch."""
        return (self.nll * self.weights).sum()


def trained(weights: Tensor) -> Tensor:
    """Where a token is predicted with weight. The first token of a row has nothing before it to be predicted from."""
    return weights[:, 1:] != 0


def score(model: nn.Module, head: nn.Module, batch: Mapping[str, Tensor], hits: bool = False) -> Scores:
    """Runs `model` (wrapped for PEFT or several ranks or not) and scores its trained tokens in fp32.

    `head` is the module inside `model` that makes logits. It sees only the hidden states that predict a trained token:
    a model that takes rows without padding (`packed`) is told which, another one's head gets them by a hook.
    """
    wanted = trained(batch["weights"])
    if "rows" in batch:
        # a mask of four dimensions is passed on as it is, so none is made; the blocks know the rows' ends
        places = wanted[0].nonzero()[:, 0]
        inputs = {name: batch[name] for name in ("input_ids", "position_ids", "rows")}
        output = model(**inputs, wanted=places, attention_mask=torch.empty(1, 1, 0, 0), use_cache=False)
        logits = output.logits[0]
    else:
        inputs = {name: tensor for name, tensor in batch.items() if name != "weights"}
        with _only_at(head, wanted):
            output = model(**inputs, use_cache=False)
        logits = output.logits
    targets = batch["input_ids"][:, 1:][wanted]
    nll: Tensor = _Nll.apply(logits, targets)  # type: ignore[no-untyped-call]
    hit = logits.detach().argmax(-1) == targets if hits else targets.new_zeros(0, dtype=torch.bool)
    return Scores(nll, batch["weights"][:, 1:][wanted], hit)


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
