"""Published repositories in the caches of ModelScope and Hugging Face, and fetched from these hubs. Reads no row."""

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
"""The hub's list of a repository's files with their sizes, kept beside those that were fetched."""

Pick = Callable[[Iterable[str], Path], list[str]]
"""The names of a repository's files, and the folder of those that declare what is where -> the files to read.

Raises ValueError where there are none.
"""


def cached(ms: str, hf: str, tried: list[str]) -> Iterator[Path]:
    """Folders on this machine that hold the repository, or a part of it. The places go into `tried`."""
    if ms:
        tried.append(f"the ModelScope cache {hubs.modelscope_root()}")
        yield from _modelscope_folders(ms)
    if hf:
        tried.append(f"the Hugging Face cache {_hugging_face_cache()}")
        snapshots = _hugging_face_cache() / f"datasets--{hf.replace('/', '--')}" / "snapshots"
        if snapshots.is_dir():
            yield from _newest_first(snapshots)


def fetched(ms: str, hf: str, pick: Pick, tried: list[str]) -> Iterator[Path]:
    """Folders fetched from the hubs, ModelScope first unless USE_HF says otherwise. What fails goes into `tried`."""
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
    """The files to read in a folder of `cached` or `fetched`. ValueError where one is missing or cut short."""
    sizes = _listing(folder)
    names = pick(repository_layout.names(folder) if sizes is None else sizes, folder)
    if sizes is None and (fault := repository_layout.parts_missing(names) or _unfinished(folder)):
        raise ValueError(f"an unfinished download: {fault}")
    for name in names:
        size = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if sizes is not None and size != sizes[name]:
            raise ValueError(f"an unfinished download: {size} of {sizes[name]} bytes of {name}")
    return tuple(folder / name for name in names)


# Caches ---------------------------------------------------------------------------------------------------------------


def _modelscope_folders(repository: str) -> Iterator[Path]:
    owner, _, name = repository.rpartition("/")
    for below in ("hub/datasets", "datasets", "hub"):
        # ModelScope writes a dot in a name as ___, since Python could not import a folder with a dot.
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
    """What the hubs' own programs leave where they were interrupted; empty where there is nothing of it."""
    blobs = folder.parent.parent / "blobs"
    modelscope = folder.parent.parent / "._____temp" / folder.parent.name / folder.name
    left = [
        *blobs.glob("*.incomplete"),
        *folder.rglob("*.incomplete"),
        *(file for file in modelscope.rglob("*") if file.is_file()),
    ]
    return f"{left[0]} is left" if left else ""


# Hubs -----------------------------------------------------------------------------------------------------------------


def from_hugging_face(repository: str, pick: Pick) -> Path:
    """Fetches the files of a data set that `pick` wants, with progress; what was begun before is gone on with."""
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
        if repository_layout.says_what_is_where(name) and size <= repository_layout.SMALL
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
    _keep_listing(folder, sizes)  # first: should we be interrupted now, it tells what is missing
    return fetch([*declaring, *pick(sizes, folder)])


def from_modelscope(repository: str, pick: Pick) -> Path:
    """Fetches every file of a data set that can be read: the program of the hub does not say beforehand what there is.

    It shows its progress, goes on with what was begun before, and checks each file's hash.
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
