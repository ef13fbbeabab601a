"""Samples as compact arrays, in memory or memory-mapped. Knows token ids and weights, not their origin."""

from __future__ import annotations

import json
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np

from swift.chat import Judged, Sample
from swift.system import cache
from swift.system.atomic_write import atomic_folder

Inputs = Callable[[], Mapping[str, Any]]
FACTS = "facts.json"
KINDS = {"tokens": np.int32, "weights": np.uint16, "ends": np.int64, "sources": np.int32}
"""Files of a set: concatenated tokens and indices of their weights, ends of samples, indices of their sources."""


class _Numbers(dict[Any, int]):
    """Numbers things in the order of first use."""

    def __missing__(self, thing: Any) -> int:
        self[thing] = number = len(self)
        return number


def _numbered(weights: Sequence[float], numbers: _Numbers) -> array[int]:
    """The number of each weight, looked up once per run of equal weights."""
    found = array("i")
    for weight, run in groupby(weights):
        found.extend(array("i", [numbers[weight]]) * len(list(run)))
    return found


class CompactSamples(Sequence[Sample]):
    """Samples as arrays, named as in KINDS; a `Sample` is built at each access.

    `inputs`, `judged`: index of a sample -> its `Sample.inputs`, `Sample.judged`.
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        weights: Sequence[float],
        sources: Sequence[str],
        inputs: Mapping[int, Inputs] = MappingProxyType({}),
        judged: Mapping[int, Judged] = MappingProxyType({}),
    ) -> None:
        self._judged = judged
        self._weights, self._sources, self._inputs = list(weights), list(sources), inputs
        self._tokens, self._numbers, self._ends, self._source_of = (arrays[name] for name in KINDS)

    @classmethod
    def in_memory(cls, samples: Iterable[Sample]) -> CompactSamples:
        """In memory: 8 bytes a token, against over 40 for lists of Python numbers."""
        weights, sources = _Numbers(), _Numbers()
        inputs: dict[int, Inputs] = {}
        judged: dict[int, Judged] = {}
        arrays = {"tokens": array("i"), "weights": array("i"), "ends": array("q"), "sources": array("i")}
        for at, sample in enumerate(_without_judgements(samples, judged)):
            arrays["tokens"].extend(array("i", sample.tokens))
            arrays["weights"].extend(_numbered(sample.weights, weights))
            arrays["ends"].append(len(arrays["tokens"]))
            arrays["sources"].append(sources[sample.source])
            if sample.inputs is not None:
                inputs[at] = sample.inputs
        found = {name: np.asarray(each) for name, each in arrays.items()}
        return cls(found, list(weights), list(sources), inputs, judged)

    @classmethod
    def on_disk(cls, samples: Iterable[Sample]) -> CompactSamples:
        """In unnamed temporary files: 6 bytes a token on disk. Raises ValueError for samples with images."""
        judged: dict[int, Judged] = {}
        with cache.scratch_folder() as place, tempfile.TemporaryDirectory(dir=place) as folder:
            described = _write_set(Path(folder) / "samples", _without_judgements(samples, judged))
            return _mapped(Path(folder) / "samples", described, judged)

    def with_references(self, references: Iterable[Sequence[float]]) -> CompactSamples:
        """The same judged samples with the log-likelihoods of their rows under the reference model."""
        found = enumerate(references)
        judged = {at: self._judged[at]._replace(reference=tuple(each)) for at, each in found}
        arrays = dict(zip(KINDS, (self._tokens, self._numbers, self._ends, self._source_of), strict=True))
        return CompactSamples(arrays, self._weights, self._sources, self._inputs, judged)

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
        source = self._sources[self._source_of[at]]
        return Sample(self._tokens[part].tolist(), weights, source, self._inputs.get(at), self._judged.get(at))

    @property
    def lengths(self) -> list[int]:
        return np.diff(self._ends, prepend=0).tolist()  # type: ignore[no-any-return]  # numpy's lists have no type

    @property
    def trained_ends(self) -> int:
        """The number of samples whose last token is trained."""
        last = np.asarray(self._numbers)[np.asarray(self._ends) - 1]
        return int((np.asarray(self._weights)[last] != 0).sum())


def _without_judgements(samples: Iterable[Sample], judged: dict[int, Judged]) -> Iterator[Sample]:
    """The samples as tokens; what else preference training knows of each goes into `judged`, by its index."""
    for at, sample in enumerate(samples):
        if sample.judged is not None:
            judged[at] = sample.judged
        yield sample._replace(judged=None)


def _mapped(
    folder: Path, described: Mapping[str, Any], judged: Mapping[int, Judged] = MappingProxyType({})
) -> CompactSamples:
    """Memory-mapped: the system reads pages on access and drops them when memory is short."""
    arrays = {name: _map(folder / name, kind) for name, kind in KINDS.items()}
    return CompactSamples(arrays, described["weights"], described["sources"], judged=judged)


def _map(file: Path, kind: Any) -> Any:
    return np.memmap(file, kind, "r") if file.stat().st_size else np.empty(0, kind)


def write(folder: Path, sets: Mapping[str, Iterable[Sample]], facts: Mapping[str, Any]) -> None:
    """Keeps sets of samples, and facts about them, in `folder`; it appears complete or not at all."""
    with atomic_folder(folder) as new:
        described = {name: _write_set(new / name, samples) for name, samples in sets.items()}
        files = sorted(path for path in new.rglob("*") if path.is_file())
        sums = {str(file.relative_to(new)): _sum(file) for file in files}
        text = json.dumps({"facts": facts, "sets": described, "sums": sums}, ensure_ascii=False)
        (new / FACTS).write_text(text, encoding="utf-8")


def _write_set(folder: Path, samples: Iterable[Sample]) -> dict[str, Any]:
    folder.mkdir(parents=True)
    weights, sources = _Numbers(), _Numbers()
    end = 0
    opened = {name: (folder / name).open("wb") for name in KINDS}
    try:
        for sample in samples:
            if sample.inputs is not None or sample.judged is not None:
                raise ValueError(f"{sample.source}: a token cache cannot hold images or preferences")
            end += len(sample.tokens)
            numbers = _numbered(sample.weights, weights)
            if len(weights) > 2**16:
                raise ValueError("the loss scale has more than 65,536 different weights")
            tokens = array("i", sample.tokens)
            row = {"tokens": tokens, "weights": numbers, "ends": [end], "sources": [sources[sample.source]]}
            for name, kind in KINDS.items():
                opened[name].write(np.asarray(row[name], kind).tobytes())
    finally:
        for file in opened.values():
            file.close()
    return {"weights": list(weights), "sources": list(sources)}


def read(folder: Path) -> tuple[dict[str, CompactSamples], dict[str, Any]] | None:
    """The sets and the facts of a folder; None if it is missing or damaged."""
    try:
        content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if any(_sum(folder / name) != wanted for name, wanted in content["sums"].items()):
            return None
        return {name: _mapped(folder / name, each) for name, each in content["sets"].items()}, content["facts"]
    except (OSError, ValueError, KeyError):
        return None


def _sum(file: Path) -> str:
    found = 0
    with file.open("rb") as opened:
        while block := opened.read(1 << 22):
            found = zlib.crc32(block, found)
    return f"{found:08x}"
