"""What a step minimises and what an evaluation measures: an interface, and plain likelihood. Knows no optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from swift.chat import Sample
from swift.train.batch import Batch, collate, pack
from swift.train.loss import no_grad_scores, score, trained

LogLikelihoods = Callable[[Batch], Tensor]
"""The log-likelihood of each row of a batch under the model as it is, without a gradient."""
Reduce = Callable[[Sequence[float]], list[float]]
"""The sums over all ranks."""


class Objective(Protocol):
    """A loss over the samples of a step, whatever micro-batches and ranks they are divided into."""

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """A padded batch."""

    def pack(self, samples: Sequence[Sample]) -> Batch:
        """A batch without padding."""

    def totals(self, batches: Iterable[Batch], log_likelihoods: LogLikelihoods) -> Sequence[float]:
        """Numbers of the step that its loss needs, of this rank's batches; they are summed over ranks.

        May remove from the batches what no micro-batch needs.
        """

    def loss(self, model: nn.Module, head: nn.Module, batch: Batch, totals: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The share of a micro-batch in the loss of the step, and its figures: sums, to be added up until `report`."""

    def report(self, figures: Sequence[float]) -> dict[str, float]:
        """What log lines say of the sums of figures."""

    def evaluate(
        self, model: nn.Module, head: nn.Module, batches: Callable[[], Iterator[Batch]], reduce: Reduce
    ) -> dict[str, float]:
        """The loss over all batches, and other metrics by name. `batches` begins anew at each call."""


class Likelihood:
    """sum(weight x NLL) / trained tokens, in nats."""

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return collate(samples)

    def pack(self, samples: Sequence[Sample]) -> Batch:
        return pack(samples)

    def totals(self, batches: Iterable[Batch], log_likelihoods: LogLikelihoods) -> Sequence[float]:
        return (sum(int(trained(batch["weights"]).sum()) for batch in batches),)

    def loss(self, model: nn.Module, head: nn.Module, batch: Batch, totals: Sequence[float]) -> tuple[Tensor, Tensor]:
        return score(model, head, batch).loss / max(totals[0], 1), torch.empty(0)

    def report(self, figures: Sequence[float]) -> dict[str, float]:
        return {}

    def evaluate(
        self, model: nn.Module, head: nn.Module, batches: Callable[[], Iterator[Batch]], reduce: Reduce
    ) -> dict[str, float]:
        """Loss (nats per trained token) and accuracy over the trained tokens."""
        totals = [0.0, 0.0, 0.0]
        for batch in batches():
            scores = no_grad_scores(model, head, batch)
            found = (scores.loss.item(), scores.hit.sum().item(), len(scores.nll))
            totals = [total + more for total, more in zip(totals, found, strict=True)]
        loss, hits, counted = reduce(totals)
        return {"loss": loss / max(counted, 1), "acc": hits / max(counted, 1)}
