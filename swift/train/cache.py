"""Samples on disk in few bytes, read through memory maps. Knows token ids and weights; not where they come from."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from swift.chat import Sample

FACTS = "facts.json"
KINDS = {"tokens": np.int32, "weights": np.uint8, "ends": np.int64, "sources": np.int32}
"""Files of a set: its tokens and the numbers of their weights one behind the other, where rows end, rows' sources."""


class Mapped(Sequence[Sample]):
    """The samples of one folder; what is asked for is read from the disk, and dropped again by the system at need."""

    def __init__(self, folder: Path, weights: Sequence[float], sources: Sequence[str]) -> None:
        self._weights, self._sources = list(weights), list(sources)
        arrays = {name: _map(folder / name, kind) for name, kind in KINDS.items()}
        self._tokens, self._numbers, self._ends = arrays["tokens"], arrays["weights"], arrays["ends"]
        self._source_of = arrays["sources"]

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        part = slice(int(self._ends[at - 1]) if at else 0, int(self._ends[at]))
        weights = [self._weights[number] for number in self._numbers[part].tolist()]
        return Sample(self._tokens[part].tolist(), weights, self._sources[self._source_of[at]])

    @property
    def lengths(self) -> list[int]:
        return np.diff(self._ends, prepend=0).tolist()  # type: ignore[no-any-return]  # numpy's lists have no type


def _map(file: Path, kind: Any) -> Any:
    return np.memmap(file, kind, "r") if file.stat().st_size else np.empty(0, kind)


def write(folder: Path, sets: Mapping[str, Iterable[Sample]], facts: Mapping[str, Any]) -> None:
    """Keeps sets of samples and facts about them under `folder`, which is there as a whole or not at all."""
    aside = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        described = {name: _write_set(aside / name, samples) for name, samples in sets.items()}
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        sums = {str(file.relative_to(aside)): _sum(file) for file in files}
        text = json.dumps({"facts": facts, "sets": described, "sums": sums}, ensure_ascii=False)
        (aside / FACTS).write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_set(folder: Path, samples: Iterable[Sample]) -> dict[str, Any]:
    folder.mkdir(parents=True)
    weights: dict[float, int] = {}
    sources: dict[str, int] = {}
    end = 0
    opened = {name: (folder / name).open("wb") for name in KINDS}
    try:
        for sample in samples:
            if sample.inputs is not None:
                raise ValueError(f"{sample.source}: rows with images are not kept in a token cache")
            end += len(sample.tokens)
            numbers = [weights.setdefault(weight, len(weights)) for weight in sample.weights]
            if len(weights) > 256:
                raise ValueError("the loss scale gives more than 256 different weights: leave --token_cache out")
            source = sources.setdefault(sample.source, len(sources))
            row = {"tokens": sample.tokens, "weights": numbers, "ends": [end], "sources": [source]}
            for name, kind in KINDS.items():
                opened[name].write(np.asarray(row[name], kind).tobytes())
    finally:
        for file in opened.values():
            file.close()
    return {"weights": list(weights), "sources": list(sources)}


def read(folder: Path) -> tuple[dict[str, Mapped], dict[str, Any]] | None:
    """The sets and the facts of a folder; None where it is not there, or not as it was written."""
    try:
        content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if any(_sum(folder / name) != wanted for name, wanted in content["sums"].items()):
            return None
        sets = content["sets"].items()
        return {name: Mapped(folder / name, each["weights"], each["sources"]) for name, each in sets}, content["facts"]
    except (OSError, ValueError, KeyError):
        return None


def _sum(file: Path) -> str:
    found = 0
    with file.open("rb") as opened:
        while block := opened.read(1 << 22):
            found = zlib.crc32(block, found)
    return f"{found:08x}"
