"""Models in the caches of ModelScope and Hugging Face, downloads from these hubs, uploads to them. Knows no catalog."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from swift.system import hubs


def cached(name: str, revision: str) -> Iterator[Path]:
    """Folders on this machine for a hub id; they may be incomplete."""
    yield from _modelscope_cache(name, revision)
    yield from _hf_cache(name, revision)


def _modelscope_cache(name: str, revision: str) -> Iterator[Path]:
    """Folders of a model in the layouts that versions of ModelScope's client use; the case of names varies too."""
    for layout in (("hub", "models"), ("hub",), ("models",), ()):
        folders = [hubs.modelscope_root().joinpath(*layout)]
        for part in name.lower().split("/"):
            wanted = (part, part.replace(".", "___"))
            below = [inner for folder in folders if folder.is_dir() for inner in sorted(folder.iterdir())]
            folders = [inner for inner in below if inner.name.lower() in wanted and inner.is_dir()]
        yield from (folder for folder in folders if _has_revision(folder, revision))
    yield from filter(Path.is_dir, (every / revision for every in hubs.modelscope_snapshots("models", name)))


def _has_revision(folder: Path, revision: str) -> bool:
    """False only if the client's own record (`Revision:v1.0.0,CreatedAt:...`) names another revision."""
    note = folder / ".mv"
    if revision == "master" or not note.is_file():
        return True
    return note.read_text(encoding="utf-8").removeprefix("Revision:").split(",")[0] == revision


def _hf_cache(name: str, revision: str) -> Iterator[Path]:
    wanted = ["config.json"]  # without it an incomplete folder would not be found
    try:
        yield Path(
            snapshot_download(name, revision=_hf_revision(revision), allow_patterns=wanted, local_files_only=True)
        )
    except OSError:
        return


def _hf_revision(revision: str) -> str:
    return "main" if revision == "master" else revision


def from_modelscope(name: str, revision: str) -> Path:
    if importlib.util.find_spec("modelscope") is None:
        raise ValueError("ModelScope (its package `modelscope` is not installed)")
    modelscope = importlib.import_module("modelscope")
    with hubs.modelscope_errors():
        return Path(modelscope.snapshot_download(name, revision=revision))


def from_hf(name: str, revision: str) -> Path:
    """Downloads a model with progress, resumes earlier downloads, and verifies every checksum."""
    hubs.reach(constants.ENDPOINT)
    print(f"fetching {name} from {constants.ENDPOINT}", file=sys.stderr)
    try:
        return _from_hf(name, _hf_revision(revision))
    except hubs.http_error() as error:
        raise OSError(f"{constants.ENDPOINT}: {type(error).__name__}: {error}") from None


def _from_hf(name: str, revision: str) -> Path:
    # weights in other formats than safetensors would double the download
    others = ["*.bin", "*.pth", "*.pt", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "original/*", "onnx/*"]
    folder = Path(snapshot_download(name, revision=revision, ignore_patterns=others))
    if not any(folder.glob("*.safetensors")):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=["*.bin", "*.gguf"]))
    found = HfApi(constants.ENDPOINT).verify_repo_checksums(name, revision=revision)
    damaged = [file["path"] for file in found.mismatches]
    for path in damaged:
        (folder / path).resolve().unlink()  # or the cache would return it next time
        (folder / path).unlink()
    if damaged:
        raise OSError(f"{constants.ENDPOINT}: {name}: {', '.join(damaged)} arrived damaged: run the command again")
    return folder


def check_push(name: str, use_hf: bool) -> None:
    """Raises ValueError for what would make a push fail, before there is anything to push."""
    if name.count("/") != 1 or not all(name.split("/")):
        raise ValueError(f"--hub_model_id {name}: a hub id is OWNER/NAME")
    if variable := hubs.offline():
        raise ValueError(f"--push_to_hub needs the network, but {variable} is set")
    if not use_hf and importlib.util.find_spec("modelscope") is None:
        raise ValueError(
            "--push_to_hub goes to ModelScope, whose package is not installed: pip install modelscope, "
            "or use --use_hf true for Hugging Face"
        )


def push(folder: Path, name: str, token: str | None, private: bool, message: str, use_hf: bool) -> str:
    """Uploads a folder and creates the repository if needed. Returns its URL. Raises OSError if the hub refuses."""
    if not use_hf:
        hub = importlib.import_module("modelscope.hub.api").HubApi(
            token=token or os.environ.get("MODELSCOPE_API_TOKEN")
        )
        with hubs.modelscope_errors():
            hub.create_repo(name, repo_type="model", visibility="private" if private else "public", exist_ok=True)
            hub.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message, repo_type="model")
        return f"{hubs.modelscope_url()}/models/{name}"
    hubs.reach(constants.ENDPOINT)
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except HfHubHTTPError as error:
        raise OSError(f"{constants.ENDPOINT} refuses {name}: {str(error).splitlines()[0]}") from None
    return f"{constants.ENDPOINT}/{name}"
