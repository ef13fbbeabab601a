"""Which rows make a step, and how rows become tensors. Knows token ids and weights; no model and no text."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from swift.chat import Sample

Batch = dict[str, Tensor]

POOL = 8
"""Steps whose rows are sorted by length together. A larger pool saves padding but makes the rows of a step more alike
and its gradient noisier. Padding for log-normal lengths and 8 rows a step: 1 -> 57 %, 8 -> 21 %, 50 -> 5 %."""
FULL_BATCH = 1024
"""Tokens in a batch beyond which matrix products get no faster on a CPU."""


class StepBatches(Sampler[list[int]]):
    """Row numbers of every micro-batch of one rank, in the order of training.

    An epoch is a seeded shuffle; each pool of `POOL` steps is sorted by length, cut into steps, and the steps are
    shuffled. Which rows make a step depends only on the rows per step, not on micro-batches and ranks: 1 x 8, 8 x 1 and
    two ranks train on the same steps. No row is repeated to fill the last step; a rank without rows gets an empty
    batch, so that all ranks take the same number of steps. `packed` batches have no padding and are refilled by tokens;
    in a single process the last batch of a step holds all its rows. `clusters`: a number for each row; rows with the
    same one come into the same steps, half a step of them at most, and lengths play no part.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        accumulation: int = 1,
        *,
        rank: int = 0,
        world: int = 1,
        seed: int = 42,
        drop_last: bool = False,
        packed: bool = False,
        clusters: Sequence[int] | None = None,
    ) -> None:
        self.lengths, self.batch_size, self.accumulation = lengths, batch_size, accumulation
        self.rank, self.world, self.seed, self.epoch = rank, world, seed, 0
        self.packed, self.clusters = packed, clusters
        self.rows_per_step = batch_size * accumulation * world
        # A set smaller than one step is one step: dropping it would leave nothing to train on.
        self.rows = len(lengths) - (len(lengths) % self.rows_per_step if drop_last else 0) or len(lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def steps(self) -> list[list[int]]:
        """The rows of each step of this epoch; only the last step can be short."""
        chance = random.Random(f"{self.seed}-{self.epoch}")
        size = self.rows_per_step
        if self.clusters is None:
            rows = list(range(len(self.lengths)))
            chance.shuffle(rows)
        else:
            rows = by_cluster(self.clusters, size, chance)
        in_full_steps = self.rows - self.rows % size
        steps = []
        for start in range(0, in_full_steps, size * POOL):
            pool = self._in_order(rows[start : min(start + size * POOL, in_full_steps)])
            cut = [pool[at : at + size] for at in range(0, len(pool), size)]
            chance.shuffle(cut)
            steps += cut
        if in_full_steps < self.rows:
            steps.append(self._in_order(rows[in_full_steps : self.rows]))
        return steps

    def _in_order(self, rows: list[int]) -> list[int]:
        if self.clusters is not None:
            return rows
        return sorted(rows, key=lambda row: self.lengths[row], reverse=True)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps():
            batches = batches_of_rank(step, self.batch_size, self.rank, self.world)
            if self.packed and self.world == 1:
                yield from [[] for _ in batches[1:]]
                yield step  # a single process splits its step in the trainer
            else:
                yield from refill(batches, self.lengths) if self.packed else batches

    def __len__(self) -> int:
        full_steps, rest = divmod(self.rows, self.rows_per_step)
        return full_steps * self.accumulation + math.ceil(rest / (self.batch_size * self.world))


def by_cluster(clusters: Sequence[int], size: int, chance: random.Random) -> list[int]:
    """All rows, shuffled, but in parts of up to half of `size` rows of one cluster; each part is within one step of
    `size` rows, save some at the end."""
    members: dict[int, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(row)
    parts: list[list[int]] = []
    most = max(1, size // 2)
    for rows in members.values():
        chance.shuffle(rows)
        parts += [rows[at : at + most] for at in range(0, len(rows), most)]
    chance.shuffle(parts)
    begun: list[list[list[int]]] = [[] for _ in range(size + 1)]  # steps by the number of rows that they have room for
    for part in parts:
        room = next((room for room in range(len(part), size) if begun[room]), size)
        step = begun[room].pop() if begun[room] else []
        begun[room - len(part)].append(step + part)
    return [row for steps in begun for step in steps for row in step]


def batches_of_rank(rows: Sequence[int], batch_size: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """This rank's batches of `rows`, in order; all ranks get the same number, the last ones empty if need be."""
    batches = [list(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)]
    batches += [[] for _ in range(-len(batches) % world)]
    return batches[rank::world]


def refill(batches: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The rows of a step's batches in as many batches again, the first ones empty, the others filled by tokens.

    None holds more tokens than the largest before, or than `FULL_BATCH`. The step itself does not change: its loss has
    one denominator.
    """
    rows = [row for batch in batches for row in batch]
    filled = fill_batches(rows, lengths, max(FULL_BATCH, *(sum(lengths[row] for row in batch) for batch in batches)))
    if len(filled) > len(batches):
        return batches
    return [[] for _ in range(len(batches) - len(filled))] + filled


def fill_batches(rows: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The rows in batches of at most `capacity` tokens, longest first; a longer row gets a batch of its own."""
    filled: list[list[int]] = []
    for row in sorted(rows, key=lambda row: lengths[row], reverse=True):
        fits = (each for each in filled if sum(lengths[other] for other in each) + lengths[row] <= capacity)
        batch = next(fits, None)
        if batch is None:
            filled.append(batch := [])
        batch.append(row)
    return filled


def round_length(length: int) -> int:
    """`length` rounded up to one of 16 values per doubling, 3 % more on average.

    Libraries prepare matrix products anew for each shape, and cache some hundreds of them.
    """
    step = 1 << max(0, length.bit_length() - 5)
    return -(-length // step) * step


def sample_lengths(batch: Batch) -> list[int]:
    """The tokens of each sample of a packed batch; a judged one may have several rows."""
    lengths: list[int] = batch["rows"].tolist()
    each = rows_of_sample(batch)
    return [sum(lengths[at : at + each]) for at in range(0, len(lengths), each)]


def rows_of_sample(batch: Batch) -> int:
    """The rows of each sample of a packed batch."""
    return len(batch["rows"]) // len(batch["judged"]) if "judged" in batch and len(batch["judged"]) else 1


def select_samples(batch: Batch, samples: Sequence[int], round_up: Callable[[int], int] = int) -> Batch:
    """Some samples of a packed batch, with the length of each row and of all rounded up; padding has weight 0."""
    each = rows_of_sample(batch)
    rows = [row for sample in samples for row in range(each * sample, each * (sample + 1))]
    starts = [0, *accumulate(batch["rows"].tolist())]
    lengths = [round_up(starts[row + 1] - starts[row]) for row in rows]
    lengths[-1] += round_up(sum(lengths)) - sum(lengths)

    def taken(tensor: Tensor) -> Tensor:
        spans = (tensor[:, starts[row] : starts[row + 1]] for row in rows)
        grown = (nn.functional.pad(each, (0, to - each.shape[1])) for each, to in zip(spans, lengths, strict=True))
        return torch.cat(list(grown), dim=1)

    parts = {name: taken(tensor) for name, tensor in batch.items() if name not in ("rows", "judged")}
    judged = {"judged": batch["judged"][list(samples)]} if "judged" in batch else {}
    return {**parts, **judged, "rows": torch.tensor(lengths)}


def collate(samples: Sequence[Sample]) -> Batch:
    """Right-padded tensors of shape (rows, tokens). No samples make one token of weight 0, which trains nothing.

    There are no position ids: models count from the left, which is right for right-padded rows. `Sample.inputs` are
    made here and joined by `join_inputs`.
    """
    rows = [(torch.tensor(sample.tokens), torch.tensor(sample.weights)) for sample in samples]
    rows = rows or [(torch.zeros(1, dtype=torch.long), torch.zeros(1))]

    def padded(tensors: list[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)

    return {
        "input_ids": padded([tokens for tokens, _ in rows]),
        "attention_mask": padded([torch.ones_like(tokens) for tokens, _ in rows]),
        "weights": padded([weights.float() for _, weights in rows]),
        **join_inputs(
            [sample.inputs() if sample.inputs else {} for sample in samples], [len(each[0]) for each in rows]
        ),
    }


def join_inputs(inputs: Sequence[Mapping[str, Tensor]], lengths: Sequence[int]) -> Batch:
    """Further inputs of several rows, concatenated along the first dimension and zero-padded along the others.

    `..token_type_ids`, (1, tokens), gets a row of zeros for every row without one.
    """
    batch = {}
    for name in dict.fromkeys(name for each in inputs for name in each):
        found = [each[name] for each in inputs if name in each]
        if name.endswith("token_type_ids"):
            zeros = [found[0].new_zeros(1, length) for length in lengths]
            found = [each.get(name, zero) for each, zero in zip(inputs, zeros, strict=True)]
        sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in found), strict=True)]
        batch[name] = torch.cat([_grown(tensor, sizes) for tensor in found])
    return batch


def _grown(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """Zeros at the end of every dimension but the first, up to `sizes`."""
    more = [(0, size - had) for size, had in zip(sizes, tensor.shape[1:], strict=True)]
    return torch.nn.functional.pad(tensor, [end for pair in reversed(more) for end in pair])


def pack(samples: Sequence[Sample]) -> Batch:
    """Tensors of shape (1, tokens): the rows concatenated without padding, and their lengths in `rows`."""
    tokens = [token for sample in samples for token in sample.tokens] or [0]
    # the first token of a row is not predicted from the end of the row before it
    weights = [weight for sample in samples for weight in (0.0, *sample.weights[1:])] or [0.0]
    lengths = [len(sample.tokens) for sample in samples] or [1]
    return {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "weights": torch.tensor([weights], dtype=torch.float32),
        "rows": torch.tensor(lengths),
    }


class StepLoader(DataLoader[Sample]):
    """A DataLoader over `StepBatches` that forwards the epoch; `collate_fn` turns samples into tensors."""

    def __init__(
        self,
        samples: Sequence[Sample],
        batches: StepBatches,
        workers: int = 0,
        pin: bool = False,
        collate_fn: Callable[[Sequence[Sample]], Batch] = collate,
    ) -> None:
        # Its own generator: a loader without one draws from the global one, which dropout uses too.
        super().__init__(
            samples,  # type: ignore[arg-type]  # a sequence is what a map-style data set needs to be
            batch_sampler=batches,
            collate_fn=collate_fn,
            num_workers=workers,
            pin_memory=pin,
            generator=torch.Generator(),
        )
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)
