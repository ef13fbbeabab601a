"""What a step minimises and what an evaluation measures: an interface, and plain likelihood. Knows no optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from swift.chat import Sample
from swift.train.batch import Batch, collate, pack
from swift.train.loss import Scores, no_grad_scores, score, trained

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
    """sum(weight x NLL) / trained tokens, in nats.

    Of two or more `sources`, which are values of `Sample.source`, each one's loss is reported too: `loss/SOURCE`, and
    in log lines `trained_tokens/SOURCE`. Samples of other sources count in the whole loss only.
    """

    def __init__(self, sources: Sequence[str] = ()) -> None:
        self._sources = tuple(sources) if len(sources) > 1 else ()
        self._numbers = {name: number for number, name in enumerate(self._sources)}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self._with_sources(collate(samples), samples)

    def pack(self, samples: Sequence[Sample]) -> Batch:
        return self._with_sources(pack(samples), samples)

    def _with_sources(self, batch: Batch, samples: Sequence[Sample]) -> Batch:
        """The batch with `sources`, the number of each token's source: of tokens, since rows are split and grouped."""
        if not self._sources:
            return batch
        other = len(self._sources)
        numbers_R = torch.tensor([self._numbers.get(sample.source, other) for sample in samples] or [other])
        if "rows" in batch:
            return {**batch, "sources": numbers_R.repeat_interleave(batch["rows"])[None]}
        return {**batch, "sources": numbers_R[:, None].expand_as(batch["weights"]).contiguous()}

    def totals(self, batches: Iterable[Batch], log_likelihoods: LogLikelihoods) -> Sequence[float]:
        return (sum(int(trained(batch["weights"]).sum()) for batch in batches),)

    def loss(self, model: nn.Module, head: nn.Module, batch: Batch, totals: Sequence[float]) -> tuple[Tensor, Tensor]:
        inputs = {name: each for name, each in batch.items() if name != "sources"}
        scores = score(model, head, inputs)
        return scores.loss / max(totals[0], 1), self._sums(batch, scores)

    def _sums(self, batch: Mapping[str, Any], scores: Scores) -> Tensor:
        """The loss of each source, then its trained tokens. Waits for no GPU."""
        if not self._sources:
            return torch.empty(0)
        weights, numbers = batch["weights"][:, 1:], batch["sources"][:, 1:]
        wanted = trained(batch["weights"])
        each = (scores.nll.detach() * scores.weights).float()
        loss = torch.zeros_like(weights, dtype=torch.float32).masked_scatter(wanted, each)
        of = numbers == torch.arange(len(self._sources), device=numbers.device)[:, None, None]
        found = torch.where(of, torch.stack([loss, wanted.to(loss.dtype)])[:, None], 0.0)
        return found.sum((2, 3)).flatten()

    def report(self, figures: Sequence[float]) -> dict[str, float]:
        found: dict[str, float] = {}
        count = len(self._sources)
        for name, loss, tokens in zip(self._sources, figures[:count], figures[count:], strict=True):
            if tokens:
                found |= {f"loss/{name}": loss / tokens, f"trained_tokens/{name}": round(tokens)}
        return found

    def evaluate(
        self, model: nn.Module, head: nn.Module, batches: Callable[[], Iterator[Batch]], reduce: Reduce
    ) -> dict[str, float]:
        """Loss (nats per trained token) and accuracy over the trained tokens."""
        totals = [0.0] * (3 + 2 * len(self._sources))
        for batch in batches():
            scores = no_grad_scores(model, head, {name: each for name, each in batch.items() if name != "sources"})
            found = (scores.loss.item(), scores.hit.sum().item(), len(scores.nll), *self._sums(batch, scores).tolist())
            totals = [total + more for total, more in zip(totals, found, strict=True)]
        loss, hits, counted, *sums = reduce(totals)
        by_source = {name: value for name, value in self.report(sums).items() if name.startswith("loss/")}
        measured = {"loss": loss / max(counted, 1), "acc": hits / max(counted, 1)}
        return measured | by_source if len(by_source) > 1 else measured
