"""Ready settings of the Train page, from presets.toml, as words of command lines."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VERBS = ("sft", "rlhf")
ESSENTIALS = (
    *("model_id_or_path", "dataset", "sft_type", "lora_target_modules", "lora_rank", "rlhf_type", "beta"),
    *("num_train_epochs", "max_steps", "learning_rate", "batch_size", "gradient_accumulation_steps", "max_length"),
    *("train_dataset_mix_ratio", "self_cognition_sample", "model_name", "model_author", "eval_steps", "logging_steps"),
    *("max_minutes", "output_dir"),
)
"""The flags of the first section, in this order, of those that a command has."""


class Preset(NamedTuple):
    """`before`: a command that makes what the preset trains on; empty where nothing has to be made."""

    title: str
    about: str
    words: list[str]
    before: list[str]


def _read(given: dict[str, str]) -> Preset:
    words, before = (shlex.split(given.get(key, "")) for key in ("words", "before"))
    return Preset(given["title"], given["about"], words, before)


_FILE = Path(__file__).with_name("presets.toml")
PRESETS = [_read(each) for each in tomllib.loads(_FILE.read_text(encoding="utf-8"))["preset"]]
