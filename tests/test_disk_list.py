"""Rows beyond what memory should hold: the same rows, wherever they lie."""

from __future__ import annotations

import errno
import json
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from swift.chat import Sample
from swift.data import disk_list
from swift.data.disk_list import DiskList, IndexedView
from swift.data.mix import DataPlan, load_datasets
from swift.train.sample_cache import CompactSamples


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_list, "IN_MEMORY", 5)


def test_a_shelf_gives_back_what_lies_in_memory_and_what_lies_on_the_disk() -> None:
    things = [{"number": number, "text": "x" * (number * 37 % 101)} for number in range(40)]
    made = DiskList(iter(things))
    assert list(made) == things
    assert [made[place] for place in (-1, 0, 5, 4, 39)] == [things[place] for place in (-1, 0, 5, 4, 39)]
    assert made[3:9] == things[3:9]
    assert len(DiskList()) == 0
    with pytest.raises(IndexError):
        made[40]


LISTS: list[DiskList[int]] = []


def _thing(place: int) -> int:
    return LISTS[-1][place]


def test_a_forked_process_reads_at_other_places_meanwhile() -> None:
    made = DiskList(range(1000))
    places = [Random(2).randrange(1000) for _ in range(200)]
    pool = multiprocessing.get_context("fork").Pool(2, LISTS.append, (made,))
    assert pool.map(_thing, places) == places
    pool.close()  # `terminate` would wait for ever for a process that inherits a handler of SIGTERM
    pool.join()
    assert list(made) == list(range(1000))


def test_picks_are_things_of_several_sequences_in_any_order() -> None:
    view: IndexedView[str] = IndexedView()
    view.add("abcdef", [4, 0, 4])
    view.add("xyz")
    assert list(view) == ["e", "a", "e", "x", "y", "z"]
    assert list(view.only([5, 0])) == ["z", "e"]


def test_a_plan_gives_the_same_rows_in_the_same_order_from_memory_and_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("one", 40), ("two", 30), ("general", 200)):
        rows = [{"query": f"{name} {number}?", "response": str(number)} for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one, two, general = (str(tmp_path / f"{name}.jsonl") for name in ("one", "two", "general"))
    plan = DataPlan(
        dataset=(one, f"{two}#70"),
        dataset_test_ratio=0.2,
        train_dataset_sample=60,
        train_dataset_mix_ratio=2.0,
        train_dataset_mix_ds=(general,),
        self_cognition_sample=12,
        model_name=("Tiny",),
        model_author=("Us",),
    )
    on_disk = load_datasets(plan, lambda line: None)
    monkeypatch.setattr(disk_list, "IN_MEMORY", 10**6)
    in_memory = load_datasets(plan, lambda line: None)
    assert [list(each) for each in on_disk[:2]] == [list(each) for each in in_memory[:2]]
    assert len(on_disk[0]) == 60 + 120 + 12


@pytest.mark.parametrize("keep", [DiskList, CompactSamples.on_disk])
def test_a_full_disk_is_said_with_what_to_do(keep: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[Sample]:
        yield from (Sample([1], [1.0]) for _ in range(10))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("TMPDIR", "/tmp")
    with pytest.raises(OSError, match="/tmp is full: set TMPDIR to a folder with more space for rows and their tokens"):
        keep(rows())


def test_samples_in_files_are_those_in_memory_and_the_files_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    samples = [Sample(list(range(n)), [float(i % 3) for i in range(n)], f"source {n % 2}") for n in (4, 1, 0, 7)]
    kept = CompactSamples.on_disk(samples)
    assert list(kept) == list(CompactSamples.in_memory(samples)) == samples
    assert list(tmp_path.iterdir()) == []
