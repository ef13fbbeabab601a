"""Finds the files of a subset and a split in a data set repository. Reads no row and is offline.

The declarations of the repository come first: `configs` in its README.md, or ModelScope's index. Without them the
file names decide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
PACKED = (".gz", ".zst")
SPLITS = ("train", "test", "validation", "valid", "val", "dev")
README = "README.md"
SMALL = 1_000_000  # bytes; files that declare subsets and splits are smaller

Declared = dict[str, dict[str, list[str]]]
"""Subset -> split -> patterns of file names."""


def suffix(name: str) -> str:
    """The suffix of a file name, without the suffix of a compression."""
    name = name.lower()
    for packing in PACKED:
        name = name.removesuffix(packing)
    return PurePosixPath(name).suffix


def names(folder: Path) -> list[str]:
    """Every file of a folder except hidden ones, which hubs use for incomplete downloads."""
    found = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if not re.search(r"(^|/)\.", name))


def may_declare_splits(name: str) -> bool:
    """Whether a file may declare subsets and splits. Such files are small and downloaded first."""
    return name == README or ("/" not in name and suffix(name) == ".json")


def choose(
    files: Iterable[str], folder: Path, subsets: tuple[str, ...], split: tuple[str, ...], others: tuple[str, ...] = ()
) -> list[str]:
    """The names among `files` that hold a split of the subsets (none: of all).

    `folder` holds the files that declare subsets and splits. `others`: all known subsets, to tell "default" apart.
    Raises ValueError if there is no file, or none of one of the subsets.
    """
    data = sorted(name for name in files if suffix(name) in SUFFIXES and not is_index(folder / name))
    for declared in (_card(folder / README), _index(folder)):
        if picked := _declared(data, declared, subsets, split):
            return picked
    return _named(data, subsets, split, others)


def is_index(file: Path) -> bool:
    """Whether a file is a hub's JSON index, such as {"default": {"train": {"meta": "train.csv"}}}, not data."""
    if file.name in ("config.json", "configuration.json", "dataset_info.json", "dataset_infos.json", "state.json"):
        return True
    if file.suffix != ".json" or not file.is_file() or file.stat().st_size > SMALL:
        return False
    value = _json(file)
    return isinstance(value, dict) and bool(value) and all(isinstance(part, dict) for part in value.values())


def shards_missing(files: Iterable[str]) -> str:
    """What is missing of shards such as x-00000-of-00003.parquet; "" if nothing is."""
    parts: dict[tuple[str, str], set[str]] = {}
    for name in files:
        if match := re.fullmatch(r"(.*?)-(\d{5})-of-(\d{5})(.*)", name):
            parts.setdefault((match[1], match[3]), set()).add(match[2])
    for (start, total), found in parts.items():
        if len(found) < int(total):
            return f"{len(found)} of {int(total)} shards of {start}"
    return ""


# Declarations --------------------------------------------------------------------------------------------------------


def _card(file: Path) -> Declared:
    """The `configs` in the YAML header of a README.md."""
    if not file.is_file():
        return {}
    match = re.match(r"---\n(.*?)\n---", file.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    if match is None:
        return {}
    import yaml  # slow to import, and rarely needed

    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return {}  # fall back to file names
    configs = head.get("configs") if isinstance(head, dict) else None
    found: Declared = {}
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, dict) and config.get("data_files"):
            splits = _by_split(config["data_files"], str(config.get("data_dir") or "."))
            found[str(config.get("config_name", "default"))] = splits
            if config.get("default"):
                found["default"] = splits
    return found


def _by_split(data_files: Any, below: str) -> dict[str, list[str]]:
    """Normalizes `data_files`: a pattern, a list of patterns, or patterns by split."""
    if isinstance(data_files, dict):
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]
    found: dict[str, list[str]] = {}
    for part in data_files if isinstance(data_files, list) else [data_files]:
        split, paths = (
            (str(part.get("split", "train")), part.get("path")) if isinstance(part, dict) else ("train", part)
        )
        for path in paths if isinstance(paths, list) else [paths]:
            found.setdefault(split, []).append((PurePosixPath(below) / str(path)).as_posix())
    return found


def _index(folder: Path) -> Declared:
    """ModelScope's {subset: {split: {"meta": file}}}."""
    for file in sorted(folder.glob("*.json")):
        if not is_index(file):
            continue
        value = _json(file)
        try:
            return {
                subset: {split: [about["meta"]] for split, about in splits.items() if about["meta"]}
                for subset, splits in value.items()
            }
        except (TypeError, KeyError, AttributeError):
            continue  # JSON about something else
    return {}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None


def _declared(
    data: list[str], declared: Mapping[str, Mapping[str, list[str]]], subsets: tuple[str, ...], split: tuple[str, ...]
) -> list[str]:
    """The declared files; empty unless every subset is declared with one of the splits."""
    known = {_spelled(name): splits for name, splits in declared.items()}
    wanted = [_spelled(name) for name in subsets] or (["default"] if "default" in known else list(known))
    found: set[str] = set()
    for subset in wanted:
        patterns = [pattern for name in split for pattern in known.get(subset, {}).get(name, [])]
        files = {name for name in data if any(_fits(name, pattern) for pattern in patterns)}
        if not files:
            return []
        found |= files
    return sorted(found)


def _fits(name: str, pattern: str) -> bool:
    # "**/" also stands for no folder at all
    return fnmatchcase(name, pattern) or fnmatchcase(name, pattern.replace("**/", ""))


# File names -----------------------------------------------------------------------------------------------------------


def _named(data: list[str], subsets: tuple[str, ...], split: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    if not data:
        raise ValueError("has no data file")
    found: set[str] = set()
    for subset in subsets:
        of_subset = [name for name in data if _has_word(_without_longer(name, subset, others), (subset,))]
        if not of_subset and subset == "default":
            of_subset = [name for name in data if not _has_word(name, tuple({*others, *subsets} - {subset}))]
        if not of_subset:
            raise ValueError(f"has no data file of the subset {subset!r}")
        found |= set(_of_split(of_subset, split))
    return sorted(found) if subsets else _of_split(data, split)


def _of_split(data: list[str], split: tuple[str, ...]) -> list[str]:
    """Files whose names contain the split; for "train" also files that name no split."""
    found = [name for name in data if _has_word(name, split)]
    if not found and "train" in split:
        found = [name for name in data if not _has_word(name, SPLITS)]
    if not found:
        raise ValueError(f"has no data file of the split {' or '.join(split)}")
    return found


def _has_word(name: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"(?<![0-9a-z]){re.escape(_spelled(word))}(?![0-9a-z])", _spelled(name)) for word in words)


def _without_longer(name: str, subset: str, others: tuple[str, ...]) -> str:
    """The name without longer subset names that contain the word, such as helpful-base for base."""
    name = _spelled(name)
    for other in map(_spelled, others):
        if _spelled(subset) in other and _spelled(subset) != other:
            name = name.replace(other, "")
    return name


def _spelled(name: str) -> str:
    """Hubs spell the same subset with - or _."""
    return name.lower().replace("-", "_")
