"""Which rows make a step, and rows -> tensors. Knows token ids and weights; no model, no text."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from swift.chat import Sample

Batch = dict[str, Tensor]

# Rows of this many steps are sorted by length together. Larger saves padding but makes the rows of a step more alike,
# and its gradient noisier. Padding with log-normal lengths and 8 rows a step: 1 -> 57 %, 8 -> 21 %, 50 -> 5 %.
POOL = 8

# Tokens in a batch beyond which products get no faster on a CPU.
FULL = 1024
# What each further thread of a lane costs it: threads that share an operation wait for each other at its end.
WAITING = 0.03


class StepBatches(Sampler[list[int]]):
    """Row numbers of every micro-batch of one rank, in the order of training.

    An epoch is a seeded shuffle; each pool of a few steps is sorted by length, cut into steps, and the steps are
    shuffled. Which rows make a step depends on the rows per step alone, never on how a step is divided into
    micro-batches and ranks: 1 x 8, 8 x 1 and two ranks train on the same steps. No row is repeated to fill up the last
    step; a rank without a row left gets an empty batch, so that all ranks take as many steps. `packed` batches have no
    padding: they are cut anew by their tokens, and of one process the last holds all rows of a step.
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
    ) -> None:
        self.lengths, self.batch_size, self.accumulation = lengths, batch_size, accumulation
        self.rank, self.world, self.seed, self.epoch = rank, world, seed, 0
        self.packed = packed
        self.rows_per_step = batch_size * accumulation * world
        # A set smaller than one step is one step: dropping it would leave nothing to train on.
        self.rows = len(lengths) - (len(lengths) % self.rows_per_step if drop_last else 0) or len(lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def steps(self) -> list[list[int]]:
        """The rows of each step of this epoch; only the last step can be short."""
        chance = random.Random(f"{self.seed}-{self.epoch}")
        rows = list(range(len(self.lengths)))
        chance.shuffle(rows)
        size = self.rows_per_step
        whole = self.rows - self.rows % size
        steps = []
        for start in range(0, whole, size * POOL):
            pool = self._by_length(rows[start : min(start + size * POOL, whole)])
            cut = [pool[at : at + size] for at in range(0, len(pool), size)]
            chance.shuffle(cut)
            steps += cut
        if whole < self.rows:
            steps.append(self._by_length(rows[whole : self.rows]))
        return steps

    def _by_length(self, rows: list[int]) -> list[int]:
        return sorted(rows, key=lambda row: self.lengths[row], reverse=True)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps():
            batches = deal(step, self.batch_size, self.rank, self.world)
            if self.packed and self.world == 1:
                yield from [[] for _ in batches[1:]]
                yield step  # a step of one process is divided where it is computed
            else:
                yield from recut(batches, self.lengths) if self.packed else batches

    def __len__(self) -> int:
        whole, rest = divmod(self.rows, self.rows_per_step)
        return whole * self.accumulation + math.ceil(rest / (self.batch_size * self.world))


def deal(rows: Sequence[int], batch_size: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """This rank's batches of `rows`, in order; as many for every rank, the last ones empty where rows run out."""
    batches = [list(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)]
    batches += [[] for _ in range(-len(batches) % world)]
    return batches[rank::world]


def recut(batches: list[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """The rows of a step's batches in as many batches again, the first ones empty, the others filled by tokens.

    None holds more tokens than the largest before, or than `FULL`. What a step is does not change: its loss has one
    denominator.
    """
    rows = [row for batch in batches for row in batch]
    filled = fill(rows, lengths, max(FULL, *(sum(lengths[row] for row in batch) for batch in batches)))
    if len(filled) > len(batches):
        return batches
    return [[] for _ in range(len(batches) - len(filled))] + filled


def fill(rows: Sequence[int], lengths: Sequence[int], room: int) -> list[list[int]]:
    """The rows in batches of at most `room` tokens, the longest first; a row that is longer has one of its own."""
    filled: list[list[int]] = []
    for row in sorted(rows, key=lambda row: lengths[row], reverse=True):
        fits = (each for each in filled if sum(lengths[other] for other in each) + lengths[row] <= room)
        batch = next(fits, None)
        if batch is None:
            filled.append(batch := [])
        batch.append(row)
    return filled


def rounded(length: int) -> int:
    """The next length of 16 for each doubling, 3 % more on average: libraries prepare products for each shape anew,
    and keep some hundreds."""
    step = 1 << max(0, length.bit_length() - 5)
    return -(-length // step) * step


def at_once(number: int) -> int:
    """Tokens that so many lanes compute at a time: those of two full batches, half a batch in each of more lanes."""
    return FULL * max(4, number) // 2


def lanes(
    batch: Batch, largest: int, round_up: Callable[[int], int] = rounded, threads: int = 2
) -> tuple[list[Batch], list[list[Batch]]]:
    """The rows of a packed batch as batches that need all memory, and as those of lanes with about as many tokens.

    At a time, by a batch alone or by one of each lane, there are no more tokens than in the `largest` longest rows, or
    than `at_once` says. `round_up`: the length of a row, and of a batch -> the one that it is filled up to.
    """
    lengths = batch["rows"].tolist()
    number = lanes_of(lengths, threads)
    room = max(at_once(number), sum(sorted(lengths)[-largest:]))
    parts = fill(range(len(lengths)), lengths, min(at_once(number), sum(lengths)) // number)
    parts.sort(key=lambda rows: sum(lengths[row] for row in rows), reverse=True)
    sizes = [sum(lengths[row] for row in part) for part in parts]
    first = next((at for at in range(len(parts) - 1) if sum(sizes[at : at + number]) <= room), len(parts))
    alone, beside = parts[:first], [row for part in parts[first:] for row in part]
    longest = max((lengths[row] for row in beside), default=0)
    most = min(at_once(number) // number, (room - longest) // (number - 1) if number > 1 else room)
    cut = partial(_only, batch, round_up=round_up)
    return list(map(cut, alone)), [list(map(cut, fill(lane, lengths, most))) for lane in dealt(beside, lengths, number)]


def lanes_of(lengths: Sequence[int], threads: int) -> int:
    """How many lanes compute rows of these lengths soonest, each on as many of the threads; two on one or two."""
    if threads <= 2:
        return 2

    def time(number: int) -> float:
        each = threads // number
        longest = max(sum(lengths[row] for row in lane) for lane in dealt(range(len(lengths)), lengths, number))
        return longest / each * (1 + WAITING * (each - 1))

    return min((each for each in range(1, threads + 1) if threads % each == 0), key=time)


def dealt(rows: Sequence[int], lengths: Sequence[int], number: int) -> list[list[int]]:
    """The rows in parts with about as many tokens: each, the longest first, goes where there are fewest."""
    made: list[list[int]] = [[] for _ in range(number)]
    for row in sorted(rows, key=lambda row: lengths[row], reverse=True):
        min(made, key=lambda part: sum(lengths[other] for other in part)).append(row)
    return made


def _only(batch: Batch, rows: Sequence[int], round_up: Callable[[int], int]) -> Batch:
    """Some rows of a packed batch, and all of them together, of rounded lengths: what is added has no weight."""
    starts = [0, *accumulate(batch["rows"].tolist())]
    lengths = [round_up(starts[row + 1] - starts[row]) for row in rows]
    lengths[-1] += round_up(sum(lengths)) - sum(lengths)

    def taken(tensor: Tensor) -> Tensor:
        spans = (tensor[:, starts[row] : starts[row + 1]] for row in rows)
        grown = (nn.functional.pad(each, (0, to - each.shape[1])) for each, to in zip(spans, lengths, strict=True))
        return torch.cat(list(grown), dim=1)

    parts = {name: taken(each) for name, each in batch.items() if name != "rows"}
    return {**parts, "rows": torch.tensor(lengths)}


def collate(samples: Sequence[Sample]) -> Batch:
    """Right-padded tensors of shape (rows, tokens). No samples make one token without weight: nothing is learned.

    Positions are not given: counted from the left they are what every model assumes of right-padded rows. What samples
    have beside their tokens (`Sample.inputs`) is made here and joined by `joined`.
    """
    rows = [(torch.tensor(sample.tokens), torch.tensor(sample.weights)) for sample in samples]
    rows = rows or [(torch.zeros(1, dtype=torch.long), torch.zeros(1))]

    def padded(tensors: list[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)

    return {
        "input_ids": padded([tokens for tokens, _ in rows]),
        "attention_mask": padded([torch.ones_like(tokens) for tokens, _ in rows]),
        "weights": padded([weights.float() for _, weights in rows]),
        **joined([sample.inputs() if sample.inputs else {} for sample in samples], [len(each[0]) for each in rows]),
    }


def joined(inputs: Sequence[Mapping[str, Tensor]], lengths: Sequence[int]) -> Batch:
    """Further inputs of several rows as one: along the first dimension, zeros at the end of the others.

    `..token_type_ids`, (1, tokens), has a row for every row, zeros where there is none.
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
    """Tensors of shape (1, tokens): the rows one behind the other, and in `rows` their lengths."""
    tokens = [token for sample in samples for token in sample.tokens] or [0]
    # what begins a row is not predicted from the end of the row before
    weights = [weight for sample in samples for weight in (0.0, *sample.weights[1:])] or [0.0]
    lengths = [len(sample.tokens) for sample in samples] or [1]
    return {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "weights": torch.tensor([weights], dtype=torch.float32),
        "rows": torch.tensor(lengths),
    }


class StepLoader(DataLoader[Sample]):
    """A DataLoader over `StepBatches` that passes the epoch on; `together` makes tensors of samples."""

    def __init__(
        self,
        samples: Sequence[Sample],
        batches: StepBatches,
        workers: int = 0,
        pin: bool = False,
        together: Callable[[Sequence[Sample]], Batch] = collate,
    ) -> None:
        # Its own generator: a loader without one draws from the global one, which dropout uses too.
        super().__init__(
            samples,  # type: ignore[arg-type]  # a sequence is what a map-style data set needs to be
            batch_sampler=batches,
            collate_fn=together,
            num_workers=workers,
            pin_memory=pin,
            generator=torch.Generator(),
        )
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)
