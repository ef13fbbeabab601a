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


class Sources:
    """The data sets of a mixture, for what each one adds to a loss. `names` are values of `Sample.source`; fewer than
    two are not told apart, and samples of others belong to none."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names) if len(names) > 1 else ()
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def numbers(self, samples: Sequence[Sample]) -> list[int]:
        """The number of each sample's source; that of none is the highest."""
        return [self._numbers.get(sample.source, len(self.names)) for sample in samples]

    def sums(self, numbers: Tensor, *values: Tensor) -> Tensor:
        """The sums over all elements of each of the `values`, by source: (values x sources). Waits for no GPU."""
        if not self.names:
            return torch.empty(0)
        of_SN = numbers.flatten() == torch.arange(len(self.names), device=numbers.device)[:, None]
        each_VN = torch.stack([value.flatten() for value in values])
        return torch.where(of_SN, each_VN[:, None], 0.0).sum(2).flatten()

    def split(self, sums: Sequence[float]) -> dict[str, Sequence[float]]:
        """What `sums` returned: each source with the sums of its values."""
        return {name: sums[number :: len(self.names)] for number, name in enumerate(self.names)}


class Likelihood:
    """sum(weight x NLL) / trained tokens, in nats.

    Of two or more `sources`, which are values of `Sample.source`, each one's loss is reported too: `loss/SOURCE`, and
    in log lines `trained_tokens/SOURCE`. Samples of other sources count in the whole loss only.
    """

    def __init__(self, sources: Sequence[str] = ()) -> None:
        self._sources = Sources(sources)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self._with_sources(collate(samples), samples)

    def pack(self, samples: Sequence[Sample]) -> Batch:
        return self._with_sources(pack(samples), samples)

    def _with_sources(self, batch: Batch, samples: Sequence[Sample]) -> Batch:
        """The batch with `sources`, the number of each token's source: of tokens, since rows are split and grouped."""
        if not self._sources.names:
            return batch
        numbers_R = torch.tensor(self._sources.numbers(samples) or [len(self._sources.names)])
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
        """The loss of each source, then its trained tokens."""
        if not self._sources.names:
            return torch.empty(0)
        weights, wanted = batch["weights"][:, 1:], trained(batch["weights"])
        each = (scores.nll.detach() * scores.weights).float()
        loss = torch.zeros_like(weights, dtype=torch.float32).masked_scatter(wanted, each)
        return self._sources.sums(batch["sources"][:, 1:], loss, wanted.to(loss.dtype))

    def report(self, figures: Sequence[float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, (loss, tokens) in self._sources.split(figures).items():
            if tokens:
                found |= {f"loss/{name}": loss / tokens, f"trained_tokens/{name}": round(tokens)}
        return found

    def evaluate(
        self, model: nn.Module, head: nn.Module, batches: Callable[[], Iterator[Batch]], reduce: Reduce
    ) -> dict[str, float]:
        """Loss (nats per trained token) and accuracy over the trained tokens."""
        totals = [0.0] * (3 + 2 * len(self._sources.names))
        for batch in batches():
            scores = no_grad_scores(model, head, {name: each for name, each in batch.items() if name != "sources"})
            found = (scores.loss.item(), scores.hit.sum().item(), len(scores.nll), *self._sums(batch, scores).tolist())
            totals = [total + more for total, more in zip(totals, found, strict=True)]
        loss, hits, counted, *sums = reduce(totals)
        by_source = {name: value for name, value in self.report(sums).items() if name.startswith("loss/")}
        measured = {"loss": loss / max(counted, 1), "acc": hits / max(counted, 1)}
        return measured | by_source if len(by_source) > 1 else measured
