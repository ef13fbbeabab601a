"""Which rows make a step, and what a batch looks like."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swift.chat import Sample
from swift.train.batch import StepBatches, batches_of_rank, collate

sizes = st.integers(1, 5)


def lengths(count: int) -> list[int]:
    chance = random.Random(0)
    return [int(chance.lognormvariate(5, 0.7)) + 4 for _ in range(count)]


@given(count=st.integers(1, 150), batch=sizes, accumulation=sizes, world=sizes, epoch=st.integers(0, 3))
def test_an_epoch_holds_every_row_once_and_ranks_take_as_many_batches(
    count: int, batch: int, accumulation: int, world: int, epoch: int
) -> None:
    ranks = [StepBatches(lengths(count), batch, accumulation, rank=rank, world=world) for rank in range(world)]
    for each in ranks:
        each.set_epoch(epoch)
    taken = [list(each) for each in ranks]
    assert sorted(row for each in taken for rows in each for row in rows) == list(range(count))
    assert {len(each) for each in taken} == {len(ranks[0])}
    assert all(len(rows) <= batch for each in taken for rows in each)


@given(count=st.integers(1, 150), batch=sizes, accumulation=sizes, world=sizes)
def test_the_rows_of_a_step_do_not_depend_on_how_it_is_divided(
    count: int, batch: int, accumulation: int, world: int
) -> None:
    whole = StepBatches(lengths(count), batch * accumulation * world)
    for number, step in enumerate(whole.steps()):
        parts: list[int] = []
        for rank in range(world):
            batches = list(StepBatches(lengths(count), batch, accumulation, rank=rank, world=world))
            parts += [row for rows in batches[number * accumulation : (number + 1) * accumulation] for row in rows]
        assert sorted(parts) == sorted(step)


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = StepBatches(lengths(60), 2, 2, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    random.seed(1)
    torch.manual_seed(1)
    first = order(42, 1)
    random.seed(2)
    torch.manual_seed(2)
    assert order(42, 1) == first
    assert order(42, 0) != first
    assert order(43, 1) != first


def test_batches_hold_rows_of_like_length() -> None:
    of = lengths(512)

    def padding(batches: list[list[int]]) -> float:
        return 1 - sum(of) / sum(max(of[row] for row in rows) * len(rows) for rows in batches)

    shuffled = list(range(512))
    random.Random(0).shuffle(shuffled)
    assert padding(batches_of_rank(shuffled, 4)) > 0.3
    assert padding(list(StepBatches(of, 4, 4))) < 0.1


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40), size=st.integers(1, 12), seed=st.integers(0, 3))
def test_rows_of_a_cluster_come_into_the_same_steps_half_a_step_of_them_at_most(
    sizes: list[int], size: int, seed: int
) -> None:
    clusters = [number for number, count in enumerate(sizes) for _ in range(count)]
    steps = StepBatches([5] * len(clusters), size, seed=seed, clusters=clusters).steps()
    assert sorted(row for step in steps for row in step) == list(range(len(clusters)))
    assert all(len(step) == size for step in steps[:-1])
    half = max(1, size // 2)
    if all(count == half for count in sizes) and size == 2 * half:
        assert all(len({clusters[row] for row in step}) <= 2 for step in steps)
        assert all(Counter(clusters[row] for row in step).most_common()[-1][1] == half for step in steps)


def test_steps_of_clusters_depend_only_on_seed_and_epoch_and_the_rows_per_step() -> None:
    clusters = [row // 3 for row in range(60)]

    def steps(seed: int, epoch: int = 0, accumulation: int = 1) -> list[list[int]]:
        batches = StepBatches([5] * 60, 8 // accumulation, accumulation, seed=seed, clusters=clusters)
        batches.set_epoch(epoch)
        return batches.steps()

    assert steps(1) == steps(1, accumulation=4) != steps(2)
    assert steps(1) != steps(1, epoch=1)


def test_drop_last_leaves_out_the_short_step_but_never_the_only_one() -> None:
    assert sum(len(rows) for rows in StepBatches(lengths(21), 2, 4, drop_last=True)) == 16
    assert sum(len(rows) for rows in StepBatches(lengths(3), 2, 4, drop_last=True)) == 3


def test_a_batch_is_padded_on_the_right_and_padding_has_no_weight() -> None:
    batch = collate([Sample([5, 6, 7], [0.0, 1.0, 2.0]), Sample([8], [1])])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["weights"].tolist() == [[0, 1, 2], [1, 0, 0]]
    assert batch["weights"].dtype == torch.float32


def test_no_rows_make_a_batch_that_teaches_nothing() -> None:
    assert collate([])["weights"].tolist() == [[0]]


@pytest.mark.parametrize(("rank", "expected"), [(0, [[0, 1], [4]]), (1, [[2, 3], []])])
def test_rows_are_dealt_to_ranks_in_turn(rank: int, expected: list[list[int]]) -> None:
    assert batches_of_rank(range(5), 2, rank, world=2) == expected
