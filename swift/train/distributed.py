"""FSDP, DeepSpeed and device_map flags as settings of transformers' TrainingArguments. Knows no model and no data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from swift.system.nearest import closest, nearest_path

Settings = dict[str, Any]

FSDP_WORDS: dict[str, Settings] = {
    "full_shard": {"reshard_after_forward": True},
    "shard_grad_op": {"reshard_after_forward": False},
    "auto_wrap": {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP"},
    "offload": {"cpu_offload": True},
    "fsdp2": {"reshard_after_forward": True, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"},
}
"""Words of --fsdp -> settings of accelerate's FSDP2."""
FSDP_KEYS = (
    "auto_wrap_policy",
    "cpu_offload",
    "min_num_params",
    "reshard_after_forward",
    "transformer_layer_cls_to_wrap",
    "version",
)

_ZERO: dict[str, Settings] = {
    "zero2": {
        "stage": 2,
        "allgather_bucket_size": 2e8,
        "reduce_bucket_size": 2e8,
        "overlap_comm": True,
        "reduce_scatter": True,
        "contiguous_gradients": True,
    },
    "zero3": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}
_ON_CPU: Settings = {"device": "cpu", "pin_memory": True}
DEEPSPEED: dict[str, Settings] = {
    "zero2": _ZERO["zero2"],
    "zero3": _ZERO["zero3"],
    "zero2_offload": {**_ZERO["zero2"], "offload_optimizer": _ON_CPU},
    "zero3_offload": {**_ZERO["zero3"], "offload_optimizer": _ON_CPU, "offload_param": _ON_CPU},
}
"""Names of --deepspeed and their ZeRO settings (arXiv 1910.02054, 2101.06840)."""


def fsdp(words: str, config: str | None) -> Settings:
    """FSDP2 settings from --fsdp and --fsdp_config. Raises ValueError for what FSDP2 does not support."""
    if not words:
        if config:
            raise ValueError("--fsdp_config does nothing without --fsdp: give --fsdp 'full_shard auto_wrap'")
        return {}
    settings: Settings = {"auto_wrap_policy": "NO_WRAP", "state_dict_type": "FULL_STATE_DICT"}
    for word in words.replace(",", " ").split():
        if word not in FSDP_WORDS:
            raise ValueError(f"--fsdp: FSDP2 has no {word!r}: {', '.join(FSDP_WORDS)}{_near(word, FSDP_WORDS)}")
        settings |= FSDP_WORDS[word]
    given = {name.removeprefix("fsdp_"): value for name, value in _json("--fsdp_config", config).items()}
    for name in given:
        if name == "activation_checkpointing":
            raise ValueError(f"--fsdp_config: {name} is not supported: use --gradient_checkpointing true")
        if name not in FSDP_KEYS:
            raise ValueError(f"--fsdp_config: unknown {name!r}: {', '.join(FSDP_KEYS)}{_near(name, FSDP_KEYS)}")
    if int(given.get("version", 2)) != 2:
        raise ValueError(f"--fsdp_config: version {given['version']} is FSDP1, which transformers is dropping: use 2")
    return {"fsdp": True, "fsdp_config": settings | given}


def deepspeed(name: str | None) -> Settings:
    """DeepSpeed settings from a name, a JSON file or JSON text. Raises ValueError for anything else."""
    if not name:
        return {}
    known = name.removeprefix("default-").replace("-", "_")
    config = _complete(DEEPSPEED[known]) if known in DEEPSPEED else _json("--deepspeed", name, DEEPSPEED)
    zero = config.get("zero_optimization", {})
    if not isinstance(zero, dict) or zero.get("stage", 0) not in (0, 1, 2, 3):
        raise ValueError(f"--deepspeed {name}: zero_optimization.stage must be 0, 1, 2 or 3")
    if zero.get("stage") == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is False:
        raise ValueError(
            f"--deepspeed {name}: stage3_gather_16bit_weights_on_model_save false leaves checkpoints without weights"
        )
    if find_spec("deepspeed") is None:
        raise ValueError(f"--deepspeed {name} needs the package deepspeed: pip install 'swift-agents[deepspeed]'")
    return {"deepspeed": config}


def _complete(zero: Settings) -> Settings:
    """A complete DeepSpeed configuration; transformers replaces `auto` by the flags."""
    same = ("gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu")
    return {
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": dict(zero),
        **dict.fromkeys(same, "auto"),
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": float("inf"),
    }


def device_map(text: str) -> str | dict[str, Any]:
    """Where the layers of a model go in one process: a strategy of accelerate, a JSON file or JSON text."""
    words = {"auto": "auto", "balanced": "balanced", "balanced_low_0": "balanced_low_0", "sequential": "sequential"}
    if text in words:
        return text
    found = _json("--device_map", text, words)
    for layer, device in found.items():
        if device == "disk":
            raise ValueError(f"--device_map: {layer} on disk: training needs its weights in memory: use cpu")
        if not isinstance(device, (int, str)):
            raise ValueError(f"--device_map: {layer}: {device!r} is not a device: use cpu, 0, 1, cuda:0 ...")
    return found


def _json(flag: str, text: str | None, words: Mapping[str, Any] | None = None) -> Settings:
    """An object from JSON text or a JSON file. `words`: the names that the flag accepts."""
    if not text:
        return {}
    path = Path(text).expanduser()
    inline = text.lstrip().startswith("{")
    if not inline and not path.is_file():
        known = f", nor one of {', '.join(words)}{_near(text, words)}" if words else ""
        near = "" if "did you mean" in known else nearest_path(path)
        raise ValueError(f"{flag} {text}: neither a file nor a JSON object{known}{near}")
    try:
        value = json.loads(text if inline else path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{flag}: {'the text' if inline else path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{flag} {text}: not a JSON object")
    return value


def _near(word: str, words: Any) -> str:
    close = closest(word.removeprefix("default-").replace("-", "_"), list(words), 1)
    return f" (did you mean {close[0]}?)" if close else ""
