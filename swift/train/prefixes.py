"""Rows of a step that begin alike: what they share is computed once. Knows token ids and weights; no model.

Rows of agent data often have the system prompt and its tools in common. A group of such rows is one row for the model:
the shared tokens, then the rest of each row, its branch. A token sees the shared tokens and those of its own branch,
at the positions of its row, so losses and gradients are those of the rows apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from swift.chat import Sample
from swift.train.batch import Batch, pack

LEAST = 64
"""Shared tokens below which rows stay apart: two blocks of the attention kernels."""


class Group(NamedTuple):
    """Rows of a batch whose first `shared` tokens are the same; 0 for a row alone."""

    rows: tuple[int, ...]
    shared: int = 0

    def tokens(self, lengths: Sequence[int]) -> int:
        """The tokens that are computed."""
        return self.shared + sum(lengths[row] - self.shared for row in self.rows)


def find(batch: Batch) -> list[Group]:
    """The rows of a packed batch in the groups that compute the fewest tokens.

    Only tokens without weight are shared, at least `LEAST`, and no row as a whole.
    """
    lengths: list[int] = batch["rows"].tolist()
    rows = batch["input_ids"][0].split(lengths)
    most = [_most(weights) for weights in batch["weights"][0].split(lengths)]
    order = sorted(range(len(rows)), key=lambda row: rows[row].tolist())  # those that begin alike are neighbours
    common = [_common(rows[row], rows[following]) for row, following in pairwise(order)]
    best: list[tuple[int, list[Group]]] = [(0, [])]  # of the first rows: the tokens that are saved, and the groups
    for last, row in enumerate(order):
        saved, groups = best[last]
        found = saved, [*groups, Group((row,))]
        shared = most[row]
        for first in range(last - 1, -1, -1):
            shared = min(shared, common[first], most[order[first]])
            if shared < LEAST:
                break
            saved, groups = best[first]
            saved += (last - first) * shared
            if saved > found[0]:
                found = saved, [*groups, Group(tuple(order[first : last + 1]), shared)]
        best.append(found)
    return best[-1][1]


def by_sample(batch: Batch, rows_of_sample: int) -> list[list[Group]]:
    """The groups of each sample of a packed batch; each sample has `rows_of_sample` rows.

    The rows of a sample are one group if they begin alike, as those of a pair begin with their prompt. Otherwise each
    row is a group of its own.
    """
    lengths: list[int] = batch["rows"].tolist()
    rows = batch["input_ids"][0].split(lengths)
    most = [_most(weights) for weights in batch["weights"][0].split(lengths)]
    found = []
    for first in range(0, len(rows), rows_of_sample):
        own = tuple(range(first, first + rows_of_sample))
        shared = min([*(_common(rows[first], rows[row]) for row in own[1:]), *(most[row] for row in own)])
        found.append([Group(own, shared)] if shared >= LEAST and len(own) > 1 else [Group((row,)) for row in own])
    return found


def _most(weights: Tensor) -> int:
    """How many of a row's first tokens may be shared: the next one has to be one that is not trained."""
    trained = weights.nonzero()
    return max(0, int(trained[0]) - 1 if len(trained) else len(weights) - 1)


def _common(left: Tensor, right: Tensor) -> int:
    """How many tokens two rows have in common at their beginning."""
    count = min(len(left), len(right))
    different = (left[:count] != right[:count]).nonzero()
    return int(different[0]) if len(different) else count


def computed_share(samples: Sequence[Sample], rows_per_step: int) -> float:
    """The tokens that are computed in steps of so many rows, of those that the rows have."""
    all_tokens = computed = 0
    for start in range(0, len(samples), rows_per_step):
        batch = pack(samples[start : start + rows_per_step])
        lengths = batch["rows"].tolist()
        all_tokens += sum(lengths)
        computed += sum(group.tokens(lengths) for group in find(batch))
    return computed / all_tokens if all_tokens else 1.0


IN_COMMON = 0.6
"""Part of the tokens before the first trained one that rows of a cluster have in common with their neighbours."""


def clusters(samples: Iterable[Sample]) -> list[int]:
    """A number for each row: rows that begin alike, such as those with the same tools, have the same one."""
    rows = [(sample.tokens, _most(torch.tensor(sample.weights))) for sample in samples]
    order = sorted(range(len(rows)), key=lambda row: rows[row][0])  # those that begin alike are neighbours
    found = [0] * len(rows)
    for before, row in pairwise(order):
        (left, most), (right, other) = rows[before], rows[row]
        shared = next((at for at, (one, two) in enumerate(zip(left, right, strict=False)) if one != two), len(left))
        apart = shared < max(LEAST, IN_COMMON * max(most, other))
        found[row] = found[before] + apart
    return found


def divide(groups: Sequence[Group], lengths: Sequence[int], most: int) -> list[Group]:
    """The same rows in groups that compute at most `most` tokens each: a larger one is halved, down to single rows."""
    divided: list[Group] = []
    left = list(reversed(groups))
    while left:
        group = left.pop()
        if len(group.rows) == 1 or group.tokens(lengths) <= most:
            divided.append(group)
            continue
        half = len(group.rows) // 2
        parts = group.rows[half:], group.rows[:half]
        left += [Group(rows, group.shared if len(rows) > 1 else 0) for rows in parts]
    return divided


def select(batch: Batch, groups: Sequence[Group], round_up: Callable[[int], int] = int) -> Batch:
    """These groups of a packed batch, each as one of its `rows`, whose lengths and sum are rounded up.

    `branches` (1, tokens): 0 for shared tokens and rows alone, else where the token's branch starts in its group.
    `row_of` (1, tokens): the number of the token's row among those of the groups; of shared tokens that of the first.
    """
    starts = [0, *accumulate(batch["rows"].tolist())]
    spans, branches, numbers, lengths = [], [], [], []
    number = 0
    for group in groups:
        first = starts[group.rows[0]]
        if len(group.rows) == 1:
            parts = [slice(first, starts[group.rows[0] + 1])]
            marks, of_parts = [0], [number]
        else:
            parts = [slice(first, first + group.shared)]
            parts += [slice(starts[row] + group.shared, starts[row + 1]) for row in group.rows]
            sizes = [part.stop - part.start for part in parts]
            marks = [0, *accumulate(sizes[:-1])]
            of_parts = [number, *range(number, number + len(group.rows))]
        number += len(group.rows)
        length = sum(part.stop - part.start for part in parts)
        spans.append(parts)
        branches.append(_each(parts, marks))
        numbers.append(_each(parts, of_parts))
        lengths.append(round_up(length))
    lengths[-1] += round_up(sum(lengths)) - sum(lengths)

    def taken(tensor: Tensor) -> Tensor:
        each = [torch.cat([tensor[:, part] for part in parts], dim=1) for parts in spans]
        return _padded(each, lengths)

    names = [name for name in batch if name not in ("rows", "judged")]
    return {
        **{name: taken(batch[name]) for name in names},
        "branches": _padded([each[None] for each in branches], lengths),
        "row_of": _padded([each[None] for each in numbers], lengths),
        "rows": torch.tensor(lengths),
    }


def _each(parts: Sequence[slice], values: Sequence[int]) -> Tensor:
    """The value of each part, for all of its tokens."""
    return torch.cat([torch.full((part.stop - part.start,), value) for part, value in zip(parts, values, strict=True)])


def _padded(tensors: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    grown = [torch.nn.functional.pad(each, (0, to - each.shape[1])) for each, to in zip(tensors, lengths, strict=True)]
    return torch.cat(grown, dim=1)
