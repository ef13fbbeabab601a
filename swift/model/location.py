"""A name, hub id or path -> the folder or GGUF file of a model, checked. Reads no weights and builds no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants
from safetensors import SafetensorError, safe_open

from swift.model import bundled, catalog, download
from swift.model.config_files import json_object
from swift.system.hubs import modelscope_root, offline


def locate(name_or_path: str, revision: str = "master", use_hf: bool = False, registry: Sequence[str] = ()) -> Path:
    """The folder or GGUF file of a model: a path, else from the hubs' caches, the bundled package or the hubs.

    `use_hf`: Hugging Face goes before ModelScope. `registry`: TOML files of the user. Raises ValueError that lists
    what was tried.
    """
    spec = catalog.by_name(name_or_path, registry)
    if spec and spec.path:
        path = Path(spec.path)
        if spec.model and path.exists():  # the user's own function may read any layout
            return path
        return check(path)
    tried: list[str] = []
    path = Path(name_or_path).expanduser()
    if path.exists():
        try:
            return check(path)
        except ValueError as error:
            if spec is None:
                raise
            tried.append(str(error))  # a folder that happens to have the name of a known model
    elif name_or_path.startswith(("/", "~", ".")):
        raise ValueError(f"{name_or_path}: no such folder")
    if spec is None and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name_or_path):
        raise ValueError(f"{name_or_path!r} is neither a folder nor a known model{_hint(name_or_path, registry)}")
    ms, hf = (spec.ms, spec.hf) if spec else (name_or_path, name_or_path)
    if spec and revision == "master":
        revision = spec.revision
    found = _in_caches([name for name in dict.fromkeys((hf, ms) if use_hf else (ms, hf)) if name], revision, tried)
    if found is None and spec and spec.model_type == bundled.MODEL_TYPE:
        try:
            return bundled.unpack()
        except ValueError as error:
            tried.append(str(error))
    found = found or _download(ms, hf, revision, use_hf, tried)
    if found is None:
        hint = "" if spec else _hint(name_or_path, registry)
        away = any("cannot be reached" in way or way.startswith("no download") for way in tried)
        raise ValueError(f"model {name_or_path!r} was not found{hint}. Tried: {'; '.join(tried)}{_INSTEAD * away}")
    return found


def check(path: Path) -> Path:
    """Returns `path` if it is a GGUF file or a folder with a configuration and all weights, else raises ValueError."""
    if not path.exists():
        raise ValueError(f"{path}: no such folder")
    if path.is_file():
        if path.suffix != ".gguf" or not path.stat().st_size:
            raise ValueError(f"{path}: not a model: name its folder or a .gguf file")
        return path
    if not (path / "config.json").is_file():
        if gguf_file(path):
            return path
        if (path / "adapter_config.json").is_file():
            raise ValueError(f"{path}: a LoRA checkpoint, not a full model: pass it as --ckpt_dir")
        raise ValueError(f"{path}: no model here: there is no config.json")
    json_object(path / "config.json")
    for file in weight_files(path):
        if not file.is_file():
            raise ValueError(f"{path}: half-written: {file.name} is missing")
        check_weights(file)
    return path


def check_weights(file: Path) -> None:
    """Raises ValueError if a file of weights is truncated. Reads only its header."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):
                return
        if not file.stat().st_size:
            raise ValueError(f"{file}: half-written: the file is empty")
    except SafetensorError as error:
        raise ValueError(f"{file}: half-written or damaged ({error})") from None


def gguf_file(path: Path) -> Path | None:
    if path.is_file():
        return path
    files = [] if (path / "config.json").is_file() else sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(f"{path}: several GGUF files; name one of them: {', '.join(file.name for file in files)}")
    return files[0] if files else None


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that transformers would read. Files that an index lists may be missing."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            shards = json_object(folder / index).get("weight_map")
            if not isinstance(shards, dict):
                raise ValueError(f"{folder / index}: there is no weight_map")
            return [folder / str(name) for name in sorted(set(shards.values()))]
    raise ValueError(f"{folder}: half-written: there are no weights (model.safetensors)")


def _in_caches(ids: list[str], revision: str, tried: list[str]) -> Path | None:
    for folder in (folder for name in ids for folder in download.cached(name, revision)):
        try:
            return check(folder)
        except ValueError as error:  # incomplete; a download would complete it
            tried.append(str(error))
    tried += [f"ModelScope's cache {modelscope_root()}", f"Hugging Face's cache {constants.HF_HUB_CACHE}"]
    return None


def _download(ms: str, hf: str, revision: str, use_hf: bool, tried: list[str]) -> Path | None:
    if variable := offline():
        tried.append(f"no download ({variable} is set)")
        return None
    ways = [(download.from_modelscope, ms), (download.from_hf, hf)]
    for fetch, name in reversed(ways) if use_hf else ways:
        try:
            if name:
                return check(fetch(name, revision))
        except (OSError, ValueError) as error:
            tried.append(" ".join(str(error).split()))
    return None


_INSTEAD = f"; copy its folder to this machine and pass --model FOLDER, or use the bundled {bundled.MODEL_TYPE}"


def _hint(name: str, registry: Sequence[str]) -> str:
    near = catalog.nearest(name, registry)
    return f": did you mean {near}?" if near else ""
