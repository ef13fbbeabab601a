"""Samples, splits and mixes data sets. Knows no row format and no tokenizer.

Every choice is uniform and depends only on the seed: the same plan gives the same rows in the same order.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

from swift.chat import Conversation
from swift.data import self_cognition
from swift.data.disk_list import DiskList, IndexedView
from swift.data.linting import Report, Say, Strategy, checked
from swift.data.registry import Catalogue, catalogue
from swift.data.row_format import DIALOGUES, RowFormat
from swift.data.sources import Source, resolve
from swift.data.sources import check as check_source
from swift.system.progress import tracked

T = TypeVar("T")
Rows = IndexedView[Conversation]


@dataclass(frozen=True)
class DataPlan:
    """Everything that decides which rows are trained on. Fields have the names of their flags."""

    dataset: tuple[str, ...] = ()
    val_dataset: tuple[str, ...] = ()
    dataset_test_ratio: float = 0.01
    train_dataset_sample: int = -1
    val_dataset_sample: int | None = None
    train_dataset_mix_ratio: float = 0.0
    train_dataset_mix_ds: tuple[str, ...] = ("ms-bench",)
    self_cognition_sample: int = 0
    model_name: tuple[str, ...] = ()
    model_author: tuple[str, ...] = ()
    check_dataset_strategy: Strategy = "none"
    columns: Mapping[str, str] = field(default_factory=dict)
    dataset_seed: int = 42
    registry: tuple[str, ...] = ()
    row_format: RowFormat = DIALOGUES
    """What the rows are; not a flag."""


# Choosing -------------------------------------------------------------------------------------------------------------


def sample(rows: Sequence[T], count: int, random: Random) -> list[T]:
    """`count` rows chosen uniformly, in order. Beyond the size: whole copies, then a sample."""
    if not rows:
        return []
    copies, rest = divmod(count, len(rows))
    return list(rows) * copies + [rows[at] for at in sorted(random.sample(range(len(rows)), rest))]


def split(rows: Sequence[T], ratio: float, random: Random) -> tuple[list[T], list[T]]:
    """(train, held out). A ratio above 0 holds out at least one row of two or more. Raises ValueError."""
    if not 0 <= ratio < 1:
        raise ValueError(f"--dataset_test_ratio {ratio}: must be at least 0 and less than 1")
    count = min(max(1, int(len(rows) * ratio)), len(rows) - 1) if ratio and rows else 0
    held_out = set(random.sample(range(len(rows)), count))
    train = [row for at, row in enumerate(rows) if at not in held_out]
    return train, [rows[at] for at in sorted(held_out)]


def choose(rows: Sequence[T], count: int | None, ratio: float, random: Random) -> tuple[list[T], list[T]]:
    """(train, held out) of a source with `name#count`: a repeated row is never both trained on and held out."""
    if count is not None and count < len(rows):
        rows = sample(rows, count, random)
    train, val = split(rows, ratio, random)
    if count is not None and count > len(rows):
        train = sample(train, count - len(val), random)
    return train, val


# Entry points ---------------------------------------------------------------------------------------------------------


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def load_datasets(plan: DataPlan, say: Say = _to_stderr) -> tuple[Rows, Rows, Report]:
    """(train, val, report) of a plan: the data sets in order, then mixed-in rows, then self-cognition rows.

    Mixed-in and self-cognition rows are never held out. `say` receives messages for the user. Large sources are kept
    on disk. Raises ValueError for a plan that contradicts itself, and for sources that are missing or empty.
    """
    _refuse_contradictions(plan)
    loader = _Loader(plan, Report(), say)
    cognition, sources = _without_cognition(plan)
    known = catalogue(plan.registry)
    held_out = resolved(plan.val_dataset, known, held_out=True)
    mixed_in = resolved(plan.train_dataset_mix_ds, known) if plan.train_dataset_mix_ratio else []
    _refuse_twice(sources, held_out, mixed_in)

    ratio = 0.0 if held_out else plan.dataset_test_ratio
    train, val = Rows(), Rows()
    for source in sources:
        rows = loader.rows_of(source)
        kept, held = choose(range(len(rows)), source.count, ratio, loader.random(source.name))
        train.add(rows, kept)
        val.add(rows, held)
    if sources and not train:
        loader.refuse_empty(plan.dataset)
    for source in held_out:
        loader.add(val, source)
    if held_out and not val:
        loader.refuse_empty(plan.val_dataset)

    if plan.train_dataset_sample > 0 and train:
        loader.note_repeats("--train_dataset_sample ", plan.train_dataset_sample, len(train))
        train = train.only(sample(range(len(train)), plan.train_dataset_sample, loader.random("train")))
    if plan.val_dataset_sample is not None and 0 <= plan.val_dataset_sample < len(val):
        val = val.only(sample(range(len(val)), plan.val_dataset_sample, loader.random("val")))
    if mixed_in:
        train.add(loader.mixed(mixed_in, len(train)))
    loader.refuse_unmet_columns()
    for row in cognition:
        loader.report.count(row.source, "read")
        loader.report.count(row.source, "kept")
    train.add(cognition)
    return train, val, loader.report


def _without_cognition(plan: DataPlan) -> tuple[list[Conversation], list[Source]]:
    """(the self-cognition rows of a plan, by flag or as a data set; the other data sets)."""
    sources = resolved(plan.dataset, catalogue(plan.registry))
    asked = [source for source in sources if source.name == self_cognition.NAME]
    if not asked and not plan.self_cognition_sample:
        return [], sources
    if len(asked) + bool(plan.self_cognition_sample) > 1:
        raise ValueError("self-cognition rows are given twice: by --self_cognition_sample and in --dataset")
    rows = self_cognition.conversations(plan.model_name, plan.model_author)
    count = asked[0].count or len(rows) if asked else plan.self_cognition_sample
    random = Random(f"{plan.dataset_seed} {self_cognition.NAME}")
    return sample(rows, count, random), [source for source in sources if source not in asked]


@dataclass(frozen=True)
class _Loader:
    """Reads sources according to a plan, and keeps the report."""

    plan: DataPlan
    report: Report
    say: Say

    def random(self, purpose: str) -> Random:
        """A generator per purpose, so that another source does not change the choice for the others.

        Of a path only the last part counts: the same files in another folder give the same rows.
        """
        return Random(f"{self.plan.dataset_seed} {Path(purpose).name}")

    def rows_of(self, source: Source) -> DiskList[Conversation]:
        plan = self.plan
        strategy = plan.check_dataset_strategy
        rows = checked(source, strategy, self.report, self.say, plan.columns, plan.row_format)
        found = DiskList(tracked(rows, f"read {source.name}"))
        if not found:
            self.note(f"{source.name}: no rows are left")
        elif source.count:
            self.note_repeats(f"{source.name}#", source.count, len(found))
        return found

    def add(self, rows: Rows, source: Source) -> None:
        """Adds a source of which no row is held out."""
        found = self.rows_of(source)
        rows.add(found, choose(range(len(found)), source.count, 0.0, self.random(source.name))[0])

    def mixed(self, sources: Sequence[Source], trained: int) -> Rows:
        plan = self.plan
        wanted = round(trained * plan.train_dataset_mix_ratio)
        rows = Rows()
        for source in sources:
            self.add(rows, source)
        if not rows:
            self.refuse_empty(plan.train_dataset_mix_ds)
        if len(rows) < wanted:
            ratio = f"ratio {len(rows) / trained:.2f} instead of {plan.train_dataset_mix_ratio:g}"
            self.note(f"--train_dataset_mix_ds has {len(rows)} rows, {wanted} are needed: {ratio}")
            return rows
        return rows.only(sample(range(len(rows)), wanted, self.random("mix")))

    def note(self, line: str) -> None:
        self.report.notes.append(line)
        self.say(line)

    def note_repeats(self, what: str, wanted: int, size: int) -> None:
        if wanted > size > 0:
            self.note(f"{what}{wanted} is more than the {size} rows: rows are repeated")

    def refuse_empty(self, names: Sequence[str]) -> None:
        first = f"; the first bad one: {self.report.findings[0]}" if self.report.findings else ""
        raise ValueError(f"no rows of {' '.join(names)} are left{first}")

    def refuse_unmet_columns(self) -> None:
        unmet = self.plan.columns.keys() - self.report.columns_met
        if unmet:
            raise ValueError(f"--columns: no row has the column {sorted(unmet)[0]!r}")


def check(plan: DataPlan) -> None:
    """Raises ValueError for a plan that contradicts itself or names an unknown data set. Offline; reads no row."""
    _refuse_contradictions(plan)
    known = catalogue(plan.registry)
    mixed_in = plan.train_dataset_mix_ds if plan.train_dataset_mix_ratio else ()
    for name in _split_names((*plan.dataset, *plan.val_dataset, *mixed_in)):
        check_source(name, known)
    if plan.self_cognition_sample:
        self_cognition.conversations(plan.model_name, plan.model_author)


def resolved(names: Sequence[str], known: Catalogue, held_out: bool = False) -> list[Source]:
    """The sources of a list of names, which may be joined by commas."""
    return [resolve(name, known, held_out) for name in _split_names(names)]


def _split_names(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        found += [name] if Path(name.partition("#")[0]).expanduser().exists() else map(str.strip, name.split(","))
    return found


def files(plan: DataPlan) -> list[Path]:
    """Every file that a plan's rows are read from."""
    known = catalogue(plan.registry)
    groups = (plan.dataset, plan.val_dataset, plan.train_dataset_mix_ds if plan.train_dataset_mix_ratio else ())
    found = [source for names in groups for source in resolved(names, known, held_out=names is plan.val_dataset)]
    return [*(file for source in found for file in source.files), *map(Path, plan.registry)]


def _refuse_contradictions(plan: DataPlan) -> None:
    if not plan.dataset and not plan.val_dataset and not plan.self_cognition_sample:
        raise ValueError("no data: give --dataset or --self_cognition_sample")
    if plan.train_dataset_sample < -1 or plan.train_dataset_sample == 0:
        raise ValueError(f"--train_dataset_sample {plan.train_dataset_sample}: must be 1 or more, or -1 for all rows")
    if plan.self_cognition_sample < 0:
        raise ValueError(f"--self_cognition_sample {plan.self_cognition_sample}: must be 0 or more")
    if plan.train_dataset_mix_ratio < 0:
        raise ValueError(f"--train_dataset_mix_ratio {plan.train_dataset_mix_ratio}: must be 0 or more")
    if plan.train_dataset_mix_ratio and not plan.dataset:
        raise ValueError("--train_dataset_mix_ratio needs --dataset: the ratio is relative to its rows")
    for name in (*plan.val_dataset, *plan.train_dataset_mix_ds):
        if name.partition("#")[0] == self_cognition.NAME:
            raise ValueError("self-cognition rows are for training only: use --self_cognition_sample")


def _refuse_twice(*groups: Sequence[Source]) -> None:
    """Raises ValueError for a source given twice: its rows could be both trained on and held out."""
    seen: set[Path] = set()
    for source in (source for group in groups for source in group):
        files = {file.resolve() for file in source.files}
        if files & seen:
            raise ValueError(f"{source.name} is given twice; write {source.name}#N to repeat or to sample its rows")
        seen |= files
