"""A name, hub id or path -> the folder or GGUF file of a model, checked. Reads no weights and builds no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from swift.model import adapter_models, bundled, catalog, download
from swift.model.model_files import check
from swift.system.hubs import modelscope_root, offline
from swift.system.nearest import nearest_path


def locate(name_or_path: str, revision: str = "master", use_hf: bool = False, registry: Sequence[str] = ()) -> Path:
    """The folder or GGUF file of a model: a path, else from the hubs' caches, the bundled package or the hubs.

    An adapter that has a name is merged into its base model by the first call. `use_hf`: Hugging Face goes before
    ModelScope. `registry`: TOML files of the user. Raises ValueError that lists what was tried.
    """
    spec = catalog.by_name(name_or_path, registry)
    if spec and spec.adapter:
        adapter_models.check(spec)
        # the packaged adapter was trained on the weights of the package, which differ from the hub's by quantisation
        bundled_base = spec.base == bundled.MODEL_TYPE and adapter_models.is_packaged(spec)
        if bundled_base and revision != "master":
            raise ValueError(f"{name_or_path} has no revisions: leave --model_revision {revision} out")
        base = bundled.unpack() if bundled_base else locate(spec.base, revision, use_hf, registry)
        return adapter_models.merged(spec, base, catalog.by_name(spec.base, registry))
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
        raise ValueError(f"{name_or_path}: no such folder{nearest_path(name_or_path)}")
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
    folder, near = nearest_path(name), catalog.nearest(name, registry)
    return folder or (f": did you mean {near}?" if near else "")
