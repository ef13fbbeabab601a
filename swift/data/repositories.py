"""Finds data set repositories in the caches of ModelScope and Hugging Face, or downloads them. Reads no row."""

from __future__ import annotations

import glob
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from swift.data import repository_layout
from swift.system import hubs

LISTING = ".swift-listing.json"
"""The hub's list of files and sizes, stored with the downloaded files."""

Pick = Callable[[Iterable[str], Path], list[str]]
"""(all file names, the folder of the files that declare subsets and splits) -> the files to read.

Raises ValueError if there are none.
"""


def cached(ms: str, hf: str, tried: list[str]) -> Iterator[Path]:
    """Local folders with the repository or a part of it. Appends the places searched to `tried`."""
    if ms:
        tried.append(f"the ModelScope cache {hubs.modelscope_root()}")
        yield from _modelscope_folders(ms)
    if hf:
        tried.append(f"the Hugging Face cache {_hugging_face_cache()}")
        snapshots = _hugging_face_cache() / f"datasets--{hf.replace('/', '--')}" / "snapshots"
        if snapshots.is_dir():
            yield from _newest_first(snapshots)


def fetched(ms: str, hf: str, pick: Pick, tried: list[str]) -> Iterator[Path]:
    """Downloaded folders, from ModelScope first unless USE_HF is set. Appends failures to `tried`."""
    if variable := hubs.offline():
        tried.append(f"no network ({variable} is set)")
        return
    fetches = [(ms, "ModelScope", from_modelscope), (hf, "Hugging Face", from_hugging_face)]
    for repository, hub, fetch in reversed(fetches) if hubs.is_set("USE_HF") else fetches:
        if not repository:
            continue
        try:
            yield fetch(repository, pick)
        except ImportError as error:
            tried.append(f"{hub} (needs the package {error.name})")
        except (OSError, ValueError) as error:
            tried.append(f"{hub} ({_first_line(error)})")


def picked(folder: Path, pick: Pick) -> tuple[Path, ...]:
    """The files to read in a folder of `cached` or `fetched`. Raises ValueError for missing or incomplete files."""
    sizes = _listing(folder)
    names = pick(repository_layout.names(folder) if sizes is None else sizes, folder)
    if sizes is None and (fault := repository_layout.shards_missing(names) or _unfinished(folder)):
        raise ValueError(f"an incomplete download: {fault}")
    for name in names:
        size = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if sizes is not None and size != sizes[name]:
            raise ValueError(f"an incomplete download: {size} of {sizes[name]} bytes of {name}")
    return tuple(folder / name for name in names)


# Caches ---------------------------------------------------------------------------------------------------------------


def _modelscope_folders(repository: str) -> Iterator[Path]:
    owner, _, name = repository.rpartition("/")
    for below in ("hub/datasets", "datasets", "hub"):
        # ModelScope writes a dot in a name as ___: Python cannot import a folder with a dot.
        for spelled in dict.fromkeys((name, name.replace(".", "___"))):
            folder = hubs.modelscope_root() / below / owner / spelled
            if folder.is_dir():
                yield folder
    for snapshots in hubs.modelscope_snapshots("datasets", repository):
        yield from _newest_first(snapshots)


def _newest_first(snapshots: Path) -> list[Path]:
    return sorted(snapshots.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)


def _hugging_face_cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _listing(folder: Path) -> dict[str, int] | None:
    file = folder / LISTING
    return dict(json.loads(file.read_bytes())) if file.is_file() else None


def _unfinished(folder: Path) -> str:
    """A file that an interrupted download of the hub's client left; "" if there is none."""
    blobs = folder.parent.parent / "blobs"
    modelscope = folder.parent.parent / "._____temp" / folder.parent.name / folder.name
    left = [
        *blobs.glob("*.incomplete"),
        *folder.rglob("*.incomplete"),
        *(file for file in modelscope.rglob("*") if file.is_file()),
    ]
    return f"{left[0]} remains" if left else ""


# Hubs -----------------------------------------------------------------------------------------------------------------


def from_hugging_face(repository: str, pick: Pick) -> Path:
    """Downloads the files that `pick` selects, with progress. Resumes incomplete downloads. Raises OSError."""
    try:
        return _from_hugging_face(repository, pick)
    except hubs.http_error() as error:
        raise OSError(f"{type(error).__name__}: {error}") from None


def _from_hugging_face(repository: str, pick: Pick) -> Path:
    hub = importlib.import_module("huggingface_hub")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    hubs.reach(endpoint)
    info = hub.HfApi(endpoint).repo_info(repository, repo_type="dataset", timeout=hubs.SECONDS, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    declaring = [
        name
        for name, size in sizes.items()
        if repository_layout.may_declare_splits(name) and size <= repository_layout.SMALL
    ]

    def fetch(names: list[str]) -> Path:
        patterns = [glob.escape(name) for name in names]
        return Path(
            hub.snapshot_download(
                repository,
                repo_type="dataset",
                revision=info.sha,
                endpoint=endpoint,
                cache_dir=_hugging_face_cache(),
                allow_patterns=patterns,
                etag_timeout=hubs.SECONDS,
            )
        )

    folder = fetch(declaring)
    _keep_listing(folder, sizes)  # first: after an interruption it shows what is missing
    return fetch([*declaring, *pick(sizes, folder)])


def from_modelscope(repository: str, pick: Pick) -> Path:
    """Downloads every data file: ModelScope's client cannot list a data set first.

    Shows progress, resumes incomplete downloads and verifies hashes.
    """
    hub = importlib.import_module("modelscope.hub.snapshot_download")
    kinds = [f"*{kind}{packing}" for kind in repository_layout.SUFFIXES for packing in ("", *repository_layout.PACKED)]
    with hubs.modelscope_errors():
        return Path(hub.dataset_snapshot_download(repository, allow_file_pattern=[repository_layout.README, *kinds]))


def _keep_listing(folder: Path, sizes: Mapping[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LISTING).write_text(json.dumps(sizes), encoding="utf-8")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
