"""The files of a model's folder: which hold its weights, and whether they are whole. Reads headers alone."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from swift.model.config_files import json_object
from swift.system.nearest import nearest_path


def check(path: Path) -> Path:
    """Returns `path` if it is a GGUF file or a folder with a configuration and all weights, else raises ValueError."""
    if not path.exists():
        raise ValueError(f"{path}: no such folder{nearest_path(path)}")
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
