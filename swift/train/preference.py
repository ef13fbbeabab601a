"""Objectives of preference training: pairs (DPO, IPO, hinge, ORPO) and judged completions (KTO). Knows no text.

A batch has `judged`, (samples, 4): whether a sample is desirable, the log-likelihoods of its two rows under the
reference model, and the number of its source. The second row of a pair is the rejected completion. That of a judged
completion has a completion that does not belong to its prompt, from which KTO estimates the divergence of the model
from the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from swift.chat import Sample
from swift.train import preference_losses as losses
from swift.train.batch import Batch, collate, pack
from swift.train.loss import row_tokens, score_rows
from swift.train.objective import LogLikelihoods, Reduce, Sources
from swift.train.preference_losses import DpoLoss, Pairs

Make = Callable[[Sequence[Sample]], Batch]
PAIR_FIGURES = (
    *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"),
    *("logps/chosen", "logps/rejected"),
)
MISMATCHED = "mismatched/"
"""Prefix of the parts of a batch that are rows with the completion of another sample."""


class PairObjective(NamedTuple):
    """Mean loss of pairs + `likelihood` x the mean negative log-likelihood of the tokens of chosen completions.

    `rewards`: the rewards of the chosen and of the rejected completions. Of two or more `sources`, each one's loss is
    reported too: `loss/SOURCE`, and in log lines `rows/SOURCE`.
    """

    pair_loss: Callable[[Pairs], Tensor]
    rewards: Callable[[Pairs], tuple[Tensor, Tensor]]
    likelihood: float = 0.0
    more: Callable[[Pairs], dict[str, Tensor]] = lambda pairs: {}
    """Further figures, one entry for each pair."""
    sources: Sources = Sources()

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return _batch(samples, collate, self.sources)

    def pack(self, samples: Sequence[Sample]) -> Batch:
        return _batch(samples, pack, self.sources)

    def totals(self, batches: Iterable[Batch], log_likelihoods: LogLikelihoods) -> Sequence[float]:
        """Pairs, and tokens of chosen completions."""
        pairs, tokens = 0, 0.0
        for batch in batches:
            pairs += len(batch["judged"])
            tokens += float(_columns(row_tokens(batch), batch)[:, 0].sum())
        return pairs, tokens

    def loss(self, model: nn.Module, head: nn.Module, batch: Batch, totals: Sequence[float]) -> tuple[Tensor, Tensor]:
        found = self._pairs(model, head, batch)
        loss_P = self.pair_loss(found)
        loss = loss_P.sum() / max(totals[0], 1)
        if self.likelihood:
            loss = loss - self.likelihood * found.chosen.sum() / max(totals[1], 1)
        return loss, self._figures(found, loss_P, batch)

    def report(self, figures: Sequence[float]) -> dict[str, float]:
        names = self._names()
        pairs, tokens, nll, _, *sums = figures[: 4 + len(names)]
        found = {name: each / max(pairs, 1) for name, each in zip(names, sums, strict=True)}
        if self.likelihood:
            found["nll_loss"] = nll / max(tokens, 1)
        for name, each in self.sources.split(figures[4 + len(names) :]).items():
            if each[0]:
                found |= {f"loss/{name}": self._mean(each), f"rows/{name}": round(each[0])}
        return found

    def _mean(self, sums: Sequence[float]) -> float:
        """The loss of these pairs, chosen tokens, their NLL and losses of pairs."""
        pairs, tokens, nll, loss = sums
        return loss / max(pairs, 1) + self.likelihood * nll / max(tokens, 1)

    def evaluate(
        self, model: nn.Module, head: nn.Module, batches: Callable[[], Iterator[Batch]], reduce: Reduce
    ) -> dict[str, float]:
        sums = torch.zeros(4 + len(self._names()) + 4 * len(self.sources.names), dtype=torch.float64)
        with torch.no_grad():
            for batch in batches():
                found = self._pairs(model, head, batch)
                sums += self._figures(found, self.pair_loss(found), batch).cpu()
        figures = reduce(sums.tolist())
        return {"loss": self._mean(figures[:4]), **_without_counts(self.report(figures))}

    def _pairs(self, model: nn.Module, head: nn.Module, batch: Batch) -> Pairs:
        scores, judged = score_rows(model, head, batch), batch["judged"]
        likelihoods, tokens = (_columns(each, batch) for each in scores)
        return Pairs(*likelihoods.unbind(1), *judged[:, 1:3].unbind(1), *tokens.unbind(1))

    def _figures(self, pairs: Pairs, loss_P: Tensor, batch: Batch) -> Tensor:
        """Pairs, chosen tokens, their NLL, the loss of pairs, and what `_names` names; then the first four by source:
        sums, in fp64."""
        with torch.no_grad():
            chosen, rejected = self.rewards(pairs)
            by_name = (chosen, rejected, (chosen > rejected).float(), chosen - rejected, pairs.chosen, pairs.rejected)
            each = [torch.ones_like(loss_P), pairs.chosen_tokens, -pairs.chosen, loss_P, *by_name]
            figures = torch.stack([*each, *self.more(pairs).values()]).cpu().double()
            return torch.cat([figures.sum(1), self.sources.sums(batch["judged"][:, 3].cpu(), *figures[:4])])

    def _names(self) -> tuple[str, ...]:
        return (*PAIR_FIGURES, *self.more(Pairs(*torch.empty(6, 0))))


def dpo(
    beta: float,
    label_smoothing: float = 0.0,
    kind: DpoLoss = "sigmoid",
    likelihood: float | None = None,
    sources: Sequence[str] = (),
) -> PairObjective:
    """Direct preference optimisation. `likelihood`: the factor of the likelihood of chosen completions (RPO)."""
    return PairObjective(
        lambda pairs: losses.dpo(pairs, beta, label_smoothing, kind),
        lambda pairs: (beta * pairs.chosen_ratio, beta * pairs.rejected_ratio),
        likelihood or 0.0,
        sources=Sources(sources),
    )


def orpo(beta: float, sources: Sequence[str] = ()) -> PairObjective:
    """Odds ratio preference optimisation, which needs no reference model. `beta`: the factor of the odds ratio."""

    def more(pairs: Pairs) -> dict[str, Tensor]:
        ratio = losses.log_odds_ratio(pairs)
        return {"log_odds_chosen": ratio, "log_odds_ratio": nn.functional.logsigmoid(ratio)}

    return PairObjective(
        lambda pairs: losses.orpo(pairs, beta),
        lambda pairs: (beta * pairs.chosen_mean, beta * pairs.rejected_mean),
        likelihood=1.0,
        more=more,
        sources=Sources(sources),
    )


class Kto(NamedTuple):
    """Mean loss of judged completions. The divergence is estimated over all samples of a step."""

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    sources: Sources = Sources()

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self._batch(samples, collate)

    def pack(self, samples: Sequence[Sample]) -> Batch:
        return self._batch(samples, pack)

    def _batch(self, samples: Sequence[Sample], make: Make) -> Batch:
        rows = [sample.rows for sample in samples]
        batch, others = (make([each[number] for each in rows]) for number in (0, 1))
        return {
            **batch,
            **{MISMATCHED + name: each for name, each in others.items()},
            "judged": _judged(samples, self.sources),
        }

    def totals(self, batches: Iterable[Batch], log_likelihoods: LogLikelihoods) -> Sequence[float]:
        """Samples, and the sum of the log-likelihood ratios of the mismatched rows, which it removes."""
        count, ratios = 0, 0.0
        for batch in batches:
            names = [name for name in batch if name.startswith(MISMATCHED)]
            other = {name.removeprefix(MISMATCHED): batch.pop(name) for name in names}
            if judged := len(batch["judged"]):
                count += judged
                ratios += float((log_likelihoods(other).cpu() - batch["judged"][:, 2].cpu()).sum())
        return count, ratios

    def loss(self, model: nn.Module, head: nn.Module, batch: Batch, totals: Sequence[float]) -> tuple[Tensor, Tensor]:
        count, ratios = totals
        divergence, judged = max(ratios / max(count, 1), 0.0), batch["judged"]
        likelihood_N = score_rows(model, head, batch).log_likelihood[: len(judged)]
        ratio_N, desirable_N = likelihood_N - judged[:, 1], judged[:, 0] > 0
        loss_N = losses.kto(ratio_N, desirable_N, divergence, self.beta, self.desirable_weight, self.undesirable_weight)
        with torch.no_grad():
            rows = torch.stack([torch.ones_like(ratio_N), self.beta * ratio_N, likelihood_N]).cpu().double()
            good = desirable_N.cpu()
            sums = [rows[:, good].sum(1), rows[:, ~good].sum(1)]
            rest = torch.tensor([float(loss_N.sum()), divergence * len(judged)], dtype=torch.float64)
            of_source = self.sources.sums(judged[:, 3].cpu(), rows[0], loss_N.detach().cpu().double())
        return loss_N.sum() / max(count, 1), torch.cat([*sums, rest, of_source])

    def report(self, figures: Sequence[float]) -> dict[str, float]:
        good, *of_good = figures[:3]
        bad, *of_bad = figures[3:6]
        found = {"kl": figures[7] / max(good + bad, 1)}
        for count, name, (reward, likelihood) in ((good, "chosen", of_good), (bad, "rejected", of_bad)):
            if count:
                found |= {f"rewards/{name}": reward / count, f"logps/{name}": likelihood / count}
        if good and bad:
            found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        for name, (rows, loss) in self.sources.split(figures[8:]).items():
            if rows:
                found |= {f"loss/{name}": loss / rows, f"rows/{name}": round(rows)}
        return found

    def evaluate(
        self, model: nn.Module, head: nn.Module, batches: Callable[[], Iterator[Batch]], reduce: Reduce
    ) -> dict[str, float]:
        def log_likelihoods(batch: Batch) -> Tensor:
            return score_rows(model, head, batch).log_likelihood

        with torch.no_grad():
            totals = reduce(self.totals(batches(), log_likelihoods))
            sums = torch.zeros(8 + 2 * len(self.sources.names), dtype=torch.float64)
            for batch in batches():
                own = {name: each for name, each in batch.items() if not name.startswith(MISMATCHED)}
                sums += self.loss(model, head, own, totals)[1]
        figures = reduce(sums.tolist())
        return {"loss": figures[6] / max(figures[0] + figures[3], 1), **_without_counts(self.report(figures))}


def with_mismatched(samples: Iterable[Sample], max_length: int) -> Iterator[Sample]:
    """Each sample of one row, with a second: its prompt and the completion of the sample before it (arXiv 2402.01306).

    The first sample is paired with the last. A row that would have more than `max_length` tokens (-1: no limit) loses
    its end.
    """
    known = list(samples)
    for sample, before in zip(known, [*known[-1:], *known[:-1]], strict=True):
        start, other = _completion_start(sample), _completion_start(before)
        tokens, weights = sample.tokens[:start] + before.tokens[other:], sample.weights[:start] + before.weights[other:]
        cut = len(tokens) if max_length < 0 else max(max_length, start + 1)
        assert sample.judged, sample
        yield Sample.joined([sample, Sample(tokens[:cut], weights[:cut], sample.source)], sample.judged.label)


def _completion_start(sample: Sample) -> int:
    """The index of the first token with a weight."""
    return next(at for at, weight in enumerate(sample.weights) if weight)


def _without_counts(reported: dict[str, float]) -> dict[str, float]:
    """What an evaluation reports of `report`: how many rows it had of a source is known."""
    return {name: value for name, value in reported.items() if not name.startswith("rows/")}


def _batch(samples: Sequence[Sample], make: Make, sources: Sources) -> Batch:
    """The rows of all samples, one after another, and what is known of each sample."""
    return {**make([row for sample in samples for row in sample.rows]), "judged": _judged(samples, sources)}


def _judged(samples: Sequence[Sample], sources: Sources) -> Tensor:
    known = zip(samples, sources.numbers(samples), strict=True)
    found = [
        (float(sample.judged.label), *(sample.judged.reference or (0.0, 0.0)), float(number))
        for sample, number in known
        if sample.judged
    ]
    return torch.tensor(found, dtype=torch.float32).view(-1, 4)


def _columns(rows_R: Tensor, batch: Batch) -> Tensor:
    """Values of rows as (pairs, 2). A batch of no samples has one row that belongs to none."""
    count = len(batch["judged"])
    return rows_R[: 2 * count].view(count, 2)
