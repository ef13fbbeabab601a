"""Published repositories in the caches of ModelScope and Hugging Face, and fetched from these hubs. Reads no row."""

from __future__ import annotations

import contextlib
import glob
import importlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from swift.data import layout

SECONDS = 5.0  # how long a hub may take to answer at all

LISTING = ".swift-listing.json"
"""The hub's list of a repository's files with their sizes, kept beside those that were fetched."""

Pick = Callable[[Iterable[str], Path], list[str]]
"""The names of a repository's files, and the folder of those that declare what is where -> the files to read.

Raises ValueError where there are none.
"""


def cached(ms: str, hf: str, tried: list[str]) -> Iterator[Path]:
    """Folders on this machine that hold the repository, or a part of it. The places go into `tried`."""
    if ms:
        root = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
        tried.append(f"the ModelScope cache {root}")
        yield from _modelscope_folders(root, ms)
    if hf:
        tried.append(f"the Hugging Face cache {_hugging_face_cache()}")
        snapshots = _hugging_face_cache() / f"datasets--{hf.replace('/', '--')}" / "snapshots"
        if snapshots.is_dir():
            yield from sorted(snapshots.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)


def fetched(ms: str, hf: str, pick: Pick, tried: list[str]) -> Iterator[Path]:
    """Folders fetched from the hubs, ModelScope first unless USE_HF says otherwise. What fails goes into `tried`."""
    for name in ("SWIFT_OFFLINE", "HF_HUB_OFFLINE"):
        if _is_on(name):
            tried.append(f"no network ({name} is set)")
            return
    fetches = [(ms, "ModelScope", from_modelscope), (hf, "Hugging Face", from_hugging_face)]
    for repository, hub, fetch in reversed(fetches) if _is_on("USE_HF") else fetches:
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
    names = pick(layout.names(folder) if sizes is None else sizes, folder)
    if sizes is None and (fault := layout.parts_missing(names) or _unfinished(folder)):
        raise ValueError(f"an unfinished download: {fault}")
    for name in names:
        size = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if sizes is not None and size != sizes[name]:
            raise ValueError(f"an unfinished download: {size} of {sizes[name]} bytes of {name}")
    return tuple(folder / name for name in names)


# Caches ---------------------------------------------------------------------------------------------------------------


def _modelscope_folders(root: Path, repository: str) -> Iterator[Path]:
    owner, _, name = repository.rpartition("/")
    for below in ("hub/datasets", "datasets", "hub"):
        # ModelScope writes a dot in a name as ___, since Python could not import a folder with a dot.
        for spelled in dict.fromkeys((name, name.replace(".", "___"))):
            folder = root / below / owner / spelled
            if folder.is_dir():
                yield folder


def _hugging_face_cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _listing(folder: Path) -> dict[str, int] | None:
    file = folder / LISTING
    return dict(json.loads(file.read_bytes())) if file.is_file() else None


def _unfinished(folder: Path) -> str:
    """What the hubs' own programs leave where they were interrupted; empty where there is nothing of it."""
    hugging_face = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else folder
    modelscope = folder.parent.parent / "._____temp" / folder.parent.name / folder.name
    left = [*hugging_face.glob("*.incomplete"), *(file for file in modelscope.rglob("*") if file.is_file())]
    return f"{left[0]} is left" if left else ""


# Hubs -----------------------------------------------------------------------------------------------------------------


def from_hugging_face(repository: str, pick: Pick) -> Path:
    """Fetches the files of a data set that `pick` wants, with progress; what was begun before is gone on with."""
    http = importlib.import_module("huggingface_hub.utils").httpx  # of whichever name it uses
    try:
        return _from_hugging_face(repository, pick)
    except http.HTTPError as error:  # the program of the hub lets some of these through, and not all are OSErrors
        raise OSError(f"{type(error).__name__}: {error}") from None


def _from_hugging_face(repository: str, pick: Pick) -> Path:
    hub = importlib.import_module("huggingface_hub")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    _reach(endpoint)
    info = hub.HfApi(endpoint).repo_info(repository, repo_type="dataset", timeout=SECONDS, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    declaring = [name for name, size in sizes.items() if layout.says_what_is_where(name) and size <= layout.SMALL]

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
                etag_timeout=SECONDS,
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
    _reach("https://www.modelscope.cn")  # the package waits a minute and retries
    kinds = [f"*{kind}{packing}" for kind in layout.SUFFIXES for packing in ("", *layout.PACKED)]
    return Path(hub.dataset_snapshot_download(repository, allow_file_pattern=[layout.README, *kinds]))


def _keep_listing(folder: Path, sizes: Mapping[str, int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LISTING).write_text(json.dumps(sizes), encoding="utf-8")


def _reach(url: str) -> None:
    """Raises OSError if nothing answers at `url`; the hubs' own programs can wait for minutes."""
    with contextlib.suppress(urllib.error.HTTPError):  # an answer, if not a kind one
        urllib.request.urlopen(url, timeout=SECONDS).close()


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
