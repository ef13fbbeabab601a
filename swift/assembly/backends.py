"""Chooses the inference engine, and starts vLLM or OpenVINO. `loading` starts PyTorch's."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift import flags
from swift.flag_groups import BackendFlags, VllmFlags
from swift.model.config_files import end_tokens
from swift.system.cache import cache_root

if TYPE_CHECKING:
    from swift.assembly.checkpoints import Choice
    from swift.engine.interface import Engine
    from swift.model.gguf import Shape

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Architectures that OpenVINO computes as transformers does."""
SHAPE = "shape.json"
"""Metadata of a cached GGUF file, which takes seconds to read from the file itself."""
KINDS = {0: "F16", 8: "Q8_0"}
"""--quantization_bit -> format of the GGUF file for OpenVINO."""


def pick(backend: BackendFlags, choice: Choice, path: Path, log: Path | None = None) -> str:
    """The name of the engine: pt, vllm or openvino.

    AUTO is vLLM on a GPU if it is installed and supports the model, which has neither an adapter, --quantization_bit
    nor images; else pt. On a CPU, where vLLM takes a minute to start, it is never automatic. `log`: the file that
    receives vLLM's output. Raises ValueError for flags that the engine would ignore.
    """
    picked = backend.infer_backend
    if picked == "AUTO":
        picked = "vllm" if find_spec("vllm") and _suits_vllm(choice, path, log) else "pt"
    changed = [name for name, value in vars(backend.vllm).items() if value != vars(VllmFlags())[name]]
    if changed and picked != "vllm":
        raise ValueError(
            f"--{changed[0]} is for vLLM, and the engine is {picked}: leave it out, or give --infer_backend vllm"
        )
    if picked != "pt" and backend.max_batch != BackendFlags().max_batch:
        raise ValueError(f"--max_batch is for --infer_backend pt, and the engine is {picked}: leave it out")
    return picked


def log_file() -> Path:
    """A file for vLLM's output that no other process has."""
    return cache_root() / "logs" / f"vllm-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"


def start(
    name: str, backend: BackendFlags, choice: Choice, path: Path, stops: Sequence[int], log: Path | None = None
) -> Engine:
    """Starts the engine `name`. It stops at `stops` and at the model's own end tokens, as PyTorch's does.

    `log`: the file that receives vLLM's output.
    """
    stops = sorted({*stops, *end_tokens(path)})
    if name != "vllm":
        return openvino(choice, path, stops)
    if log is None:
        return vllm(backend.vllm, choice, path, stops)
    from swift.engine.redirect import RedirectedEngine

    print(f"vLLM's log: {log}", file=sys.stderr)
    return RedirectedEngine(lambda: vllm(backend.vllm, choice, path, stops), log)


def vllm(wanted: VllmFlags, choice: Choice, path: Path, stops: Sequence[int]) -> Engine:
    """vLLM on the model's folder, with --vllm_enable_lora with an unmerged adapter."""
    from swift.engine.vllm_engine import VllmEngine

    if choice.model.quant.bits:
        raise ValueError("--infer_backend vllm does not quantise: leave --quantization_bit out")
    options: dict[str, Any] = {
        "dtype": {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(choice.model.dtype, "auto"),
        "trust_remote_code": choice.model.trust_remote_code,
        "tensor_parallel_size": wanted.tensor_parallel_size,
        "data_parallel_size": wanted.data_parallel_size,
        "gpu_memory_utilization": wanted.gpu_memory_utilization,
        "max_model_len": wanted.max_model_len,
        "enforce_eager": wanted.enforce_eager,
    }
    if choice.adapter and not wanted.vllm_enable_lora:
        raise ValueError(
            "--infer_backend vllm needs --vllm_enable_lora true to serve an adapter unmerged, "
            "or --merge_lora true to merge it"
        )
    if choice.adapter:
        _check_lora(choice.adapter, wanted.vllm_max_lora_rank)
    if wanted.vllm_enable_lora:
        options |= {"enable_lora": True, "max_lora_rank": wanted.vllm_max_lora_rank}
    return VllmEngine(path, stops, options, {"": choice.adapter} if choice.adapter else {})


def _suits_vllm(choice: Choice, path: Path, log: Path | None) -> bool:
    import torch

    from swift.engine import vllm_engine as engine
    from swift.engine.redirect import OutputRedirect
    from swift.model import load

    if choice.adapter or choice.model.quant.bits or not torch.cuda.is_available() or not path.is_dir():
        return False
    if load.takes_images(path):  # vLLM gets no images here
        return False
    architectures = json.loads((path / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    with OutputRedirect(log).during() if log else nullcontext():
        return engine.serves(architectures)


def _check_lora(adapter: Path, most: int) -> None:
    """Raises ValueError for an adapter that vLLM cannot serve unmerged."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    unsupported = [name for name in ("use_dora", "modules_to_save") if config.get(name)]
    if config.get("peft_type") != "LORA" or unsupported:
        raise ValueError(
            f"{adapter}: vLLM serves only plain LoRA unmerged, not {(unsupported or [config.get('peft_type')])[0]}: "
            "give --merge_lora true"
        )
    rank = max([config["r"], *config.get("rank_pattern", {}).values()])
    if rank > most:
        raise ValueError(f"--vllm_max_lora_rank {most}: {adapter} has rank {rank}")


def openvino(choice: Choice, path: Path, stops: Sequence[int]) -> Engine:
    """OpenVINO on the model's GGUF file, which the first start writes into the cache."""
    from swift.engine.openvino_engine import OpenVinoEngine, check_installed

    check_installed()  # before a file is written for it
    if choice.model.device not in ("auto", "cpu"):
        raise ValueError(f"--infer_backend openvino runs on the CPU: leave --device {choice.model.device} out")
    bits = choice.model.quant.bits
    if bits not in KINDS:
        raise ValueError(
            f"--infer_backend openvino has no {bits}-bit weights: give --quantization_bit 8, or leave it out"
        )
    file = path if path.is_file() else _gguf(choice, path, KINDS[bits])
    shape = _shape(file)
    if shape.architecture not in ARCHITECTURES or not shape.plain:
        raise ValueError(
            f"{path}: OpenVINO's results for this model differ from PyTorch's: it supports {', '.join(ARCHITECTURES)} "
            "without attention biases in Llama and without rope scaling; use --infer_backend pt"
        )
    return OpenVinoEngine(file, stops, shape.context, shape.vocabulary, choice.model.dtype)


def _gguf(choice: Choice, path: Path, kind: str) -> Path:
    """The model as a GGUF file in the cache, named by a hash of its sources; the first call writes and checks it."""
    from swift.assembly import merged_model
    from swift.model import gguf, gguf_check, gguf_write
    from swift.system.atomic_write import atomic_folder

    made_from = [path, *([choice.adapter] if choice.adapter else [])]
    files = [file for folder in made_from for file in sorted(folder.iterdir()) if file.is_file()]
    sources = repr(
        [kind, choice.template, [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]]
    )
    folder = cache_root() / "gguf" / f"{path.name}-{hashlib.sha256(sources.encode()).hexdigest()[:16]}"
    file = folder / f"model-{kind}.gguf"
    if not file.is_file():
        print(f"writing {file} for OpenVINO (once)", file=sys.stderr)
        ready = merged_model.load_merged(choice._replace(model=flags.update(choice.model, {"quantization_bit": 0})))
        with atomic_folder(folder) as new:
            gguf_write.write(ready.model, ready.tokenizer, ready.stops, new / file.name, kind, ready.name)
            gguf_check.verify(new / file.name, ready.model, ready.tokenizer)
            shape = gguf.shape(new / file.name)
            (new / SHAPE).write_text(json.dumps(shape._asdict()), encoding="utf-8")
    return file


def _shape(file: Path) -> Shape:
    from swift.model import gguf

    noted = file.with_name(SHAPE)
    return gguf.Shape(**json.loads(noted.read_text(encoding="utf-8"))) if noted.is_file() else gguf.shape(file)
