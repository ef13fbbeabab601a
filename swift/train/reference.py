"""Log-likelihoods of rows without a gradient, as under a reference model. Knows no loss and no optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from swift.chat import Sample
from swift.system.progress import tracked
from swift.train import prefixes
from swift.train.batch import FULL_BATCH, Batch, collate, pack, select_samples
from swift.train.lazy_datasets import lengths
from swift.train.loss import score_rows
from swift.train.ranks import Ranks

TOKENS = 2 * FULL_BATCH
"""Tokens that are computed at a time."""


def log_likelihoods(model: nn.Module, head: nn.Module, batch: Batch) -> Tensor:
    """The log-likelihood of each row, in nats. A packed batch is computed in parts of about `TOKENS` tokens."""
    with torch.no_grad():
        if "rows" not in batch:
            return score_rows(model, head, batch).log_likelihood
        found = batch["weights"].new_zeros(len(batch["rows"]))
        for rows in _parts(batch["rows"].tolist()):
            found[rows] = score_rows(model, head, select_samples(batch, rows)).log_likelihood
        return found


def _of_samples(model: nn.Module, head: nn.Module, batch: Batch, rows_of_sample: int) -> Tensor:
    """The log-likelihood of each row, computed as training computes it: in bf16, what is rounded then cancels out."""
    groups = [group for groups in prefixes.by_sample(batch, rows_of_sample) for group in groups]
    if not any(group.shared for group in groups):
        return log_likelihoods(model, head, batch)
    with torch.no_grad():
        return score_rows(model, head, prefixes.select(batch, groups)).log_likelihood


def of_samples(
    model: Any,
    samples: Sequence[Sample],
    *,
    packed: bool,
    share_prefixes: bool = False,
    adapter: bool = False,
    ranks: Ranks | None = None,
) -> Tensor:
    """The log-likelihoods of the rows of judged samples, (samples, rows of each), in nats.

    Of a model with an adapter of PEFT they are those without it, unless `adapter`. Each of `ranks` computes its share.
    `packed`: the model takes rows without padding; `share_prefixes`: training computes once what the rows of a sample
    begin with (prefixes).
    """
    model.eval()
    head = model.get_output_embeddings()
    size = lengths(samples)
    ranks = ranks or Ranks(first=True, world=1)
    mine = list(range(ranks.rank, len(samples), ranks.world))
    found = torch.zeros(len(samples), 2, device=model.device)
    with _without_adapter(model, isinstance(model, PeftModel) and not adapter):
        parts = list(_parts([size[at] for at in mine]))
        for part in tracked(parts, "log-likelihoods of the reference", len(parts)):
            taken = [mine[at] for at in part]
            rows = [row for at in taken for row in samples[at].rows]
            batch = (pack if packed else collate)(rows)
            batch = {name: each.to(model.device) for name, each in batch.items()}
            each = len(rows) // len(taken)
            made = _of_samples(model, head, batch, each) if share_prefixes else log_likelihoods(model, head, batch)
            found[taken] = made.float().view(len(taken), -1)
    return ranks.sum(found).cpu()


def _parts(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The indices of rows, longest first, in parts of at most `TOKENS` tokens, or of one row."""
    part: list[int] = []
    total = 0
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True):
        if part and total + lengths[row] > TOKENS:
            yield part
            part, total = [], 0
        part.append(row)
        total += lengths[row]
    if part:
        yield part


@contextmanager
def _without_adapter(model: Any, off: bool) -> Iterator[None]:
    """Within, PEFT's adapter is off if `off`. What is trained stays as it was: PEFT sets it anew when it returns."""
    if not off:
        yield
        return
    trained = [each for each in model.parameters() if each.requires_grad]
    with model.disable_adapter():
        yield
    model.requires_grad_(False)
    for each in trained:
        each.requires_grad_(True)
