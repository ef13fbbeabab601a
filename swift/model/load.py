"""A name, hub id or folder -> a model and its tokenizer. Knows no tuner, no chat template and no flag."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.utils import logging

from swift.model import bundled, convert, download, gguf, grouped_attention, quantise, specs, vision
from swift.model.files import json_object
from swift.model.quantise import Quantisation
from swift.model.specs import ModelSpec
from swift.system import user_code
from swift.system.hubs import modelscope_root, offline

T = TypeVar("T")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def locate(name_or_path: str, revision: str = "master", use_hf: bool = False, registry: Sequence[str] = ()) -> Path:
    """The folder (or GGUF file) of a model: a path, the hubs' caches, the bundled package, and last the network.

    `use_hf` asks Hugging Face before ModelScope; `registry` is TOML files of the user's own.
    Raises ValueError that says what was tried.
    """
    spec = specs.by_name(name_or_path, registry)
    if spec and spec.path:
        path = Path(spec.path)
        if spec.model and path.exists():  # what its own function reads may look as it likes
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
            tried.append(str(error))  # a folder here that only shares its name with a known model
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
    """`path`, if it is a GGUF file or a folder with a configuration and whole weights; else ValueError says why not."""
    if not path.exists():
        raise ValueError(f"{path}: no such folder")
    if path.is_file():
        if path.suffix != ".gguf" or not path.stat().st_size:
            raise ValueError(f"{path}: not a model: give its folder, or a .gguf file")
        return path
    if not (path / "config.json").is_file():
        if _gguf_file(path):
            return path
        if (path / "adapter_config.json").is_file():
            raise ValueError(f"{path}: a LoRA checkpoint, not a whole model: give it as --ckpt_dir")
        raise ValueError(f"{path}: no model here: there is no config.json")
    json_object(path / "config.json")
    for file in _weights(path):
        if not file.is_file():
            raise ValueError(f"{path}: half-written: {file.name} is missing")
        check_weights(file)
    return path


def check_weights(file: Path) -> None:
    """Raises ValueError if a file of weights is cut short. Reads its header only."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt"):
                return
        if not file.stat().st_size:
            raise ValueError(f"{file}: half-written: the file is empty")
    except SafetensorError as error:
        raise ValueError(f"{file}: half-written or damaged ({error})") from None


def pick_device(device: str = "auto") -> torch.device:
    """The device meant by auto, cpu, cuda, cuda:1 or mps. Under torchrun each process gets a GPU of its own."""
    cuda = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if cuda else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}: auto, cpu, cuda, cuda:1 or mps") from None
    if picked.type == "cuda" and not cuda:
        raise ValueError(f"device {device}: this machine has no GPU that PyTorch can use")
    if picked.type == "cuda" and picked.index is None:
        picked = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {picked}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0")
    return picked


def pick_dtype(dtype: str, device: torch.device, path: Path | None = None) -> str:
    """Which of `DTYPES` is meant by bf16, fp16, fp32 or AUTO.

    AUTO is bf16 on a GPU that has it, else fp16; on a CPU fp32, but bf16 for the model of a folder, `path`, whose
    weights are published in it, where the CPU multiplies it (AVX-512 BF16, AMX).
    """
    if dtype == "AUTO":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if path and _published_in(path) == "bfloat16" and _has_bf16() else "fp32"
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: AUTO, {', '.join(DTYPES)}")
    if dtype == "fp16" and device.type == "cpu":
        raise ValueError("dtype fp16 does not work on a CPU: take fp32 or bf16")
    return dtype


def has_foreign_bf16(path: Path, device: str) -> bool:
    """Whether whole weights are published in bf16 and meant for a CPU that does not multiply it: AUTO is fp32 then."""
    on_cpu = pick_device(device).type == "cpu"
    whole = "quantization_config" not in _configuration(path)
    return on_cpu and whole and _published_in(path) == "bfloat16" and not _has_bf16()


def _published_in(path: Path) -> str:
    config = _configuration(path)
    return str(config.get("dtype") or config.get("torch_dtype"))


def _configuration(path: Path) -> dict[str, Any]:
    return json_object(path / "config.json") if (path / "config.json").is_file() else {}


def _has_bf16() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def load_tokenizer(
    path: Path, trust_remote_code: bool = False, spec: ModelSpec | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or GGUF file; a function of the user's own makes it where `spec` names one."""
    if spec and (read := _own_function(spec.tokenizer, path)):
        made = read(path)
        if not isinstance(made, PreTrainedTokenizerBase):
            raise ValueError(f"{spec.tokenizer} must return a tokenizer of transformers, not {type(made).__name__}")
        return made
    file = _gguf_file(path)
    if file:
        return gguf.read_tokenizer(file)
    _check_custom_code(path, trust_remote_code)
    if family := _family(path, trust_remote_code):
        return _loading(path, "tokenizer", partial(family.tokenizer, path))
    tokenizer: PreTrainedTokenizerBase = _loading(
        path, "tokenizer", lambda: AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    )
    return tokenizer


def load_processor(path: Path, tokenizer: PreTrainedTokenizerBase) -> Any | None:
    """What makes tensors of images for the model of a folder; None for a model that sees none, or none here."""
    if not takes_images(path):
        return None
    config = json_object(path / "config.json")
    if "vision_config" not in config:
        known = ", ".join(config.get("architectures") or ["its class"])
        raise ValueError(f"{path}: {known} is not in transformers' layout: take a checkpoint whose name ends in -hf")
    return _loading(path, "processor", partial(vision.processor, path, tokenizer))


def takes_images(path: Path) -> bool:
    """Whether the model of a folder is trained and served with images here."""
    return _model_type(path) in vision.FAMILIES


def image_token_kinds(path: Path) -> str:
    """The argument that tells the model of a folder image tokens from text; empty: it has none."""
    return vision.FAMILIES.get(_model_type(path), "")


def _model_type(path: Path) -> str:
    config = path / "config.json"  # a GGUF file has none, nor need what a function of the user's own reads
    return str(json_object(config).get("model_type")) if config.is_file() else ""


def load_model(
    path: Path,
    dtype: str = "AUTO",
    device: str = "auto",
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    quantisation: Quantisation | None = None,
    device_map: str | dict[str, Any] | None = None,
    shards: bool = False,
    spec: ModelSpec | None = None,
) -> PreTrainedModel:
    """The model of a folder or GGUF file, on its device, in eval mode; `quantisation` gives its layers fewer bits.

    `device_map` puts its layers on several devices, as accelerate understands it. With `shards` the weights stay in
    main memory, where an engine takes each process's share from. A function of the user's own, which `spec` may name,
    is called as `from_pretrained` is: (folder, dtype=..., ...).

    Raises ValueError when weights are missing: transformers would go on with random ones.
    """
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    on = pick_device(device)
    as_dtype = DTYPES[pick_dtype(dtype, on, path)]
    options: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    read = _own_function(spec.model, path) if spec else None
    file = None if read else _gguf_file(path)
    if file and quantisation:
        raise ValueError(f"{path}: --quantization_bit does not work on a GGUF file")
    if file and device_map:
        raise ValueError(f"{path}: --device_map does not work on a GGUF file")
    if file:
        model = gguf.read_model(file, as_dtype, **options)
        model = model if shards else model.to(on)
    else:
        reading = partial(_read_own, read, path) if read else _reading(path, trust_remote_code)
        if quantisation:
            quantise.check(quantisation)
        by_loader = quantise.config(quantisation, as_dtype) if quantisation else None
        if quantisation and not by_loader and (device_map or shards):
            raise ValueError(f"--quant_method {quantisation.method} takes one device: take bnb over several")
        if by_loader:
            options["quantization_config"] = by_loader
        if device_map:
            options["device_map"] = device_map
        elif by_loader or (on.type == "cuda" and not shards):
            options["device_map"] = {"": on}  # straight to the GPU; and quantised layers cannot be moved afterwards
        loaded = _loading(path, "model", lambda: reading(dtype=as_dtype, **options))
        model = loaded if by_loader or device_map or shards else loaded.to(on)
        if quantisation and not by_loader:
            quantise.with_hqq(model, quantisation, on)
    if attn_implementation is None and on.type == "cpu":
        grouped_attention.suit(model)
    return model.eval()


def _reading(path: Path, trust_remote_code: bool) -> Callable[..., PreTrainedModel]:
    """What reads the folder: its family's converter, else transformers."""
    _check_custom_code(path, trust_remote_code)
    family = _family(path, trust_remote_code)
    if family is None:
        return partial(_read, path, trust_remote_code)
    return partial(convert.model, family, json_object(path / "config.json"), path, _weights(path))


def _own_function(name: str, path: Path) -> Callable[..., Any] | None:
    """The user's function FILE.py:NAME for a folder; what training saved is in transformers' layout and needs none."""
    function = user_code.function(name) if name else None  # its file may also register classes
    if function is None or (path / specs.RECORD).is_file():
        return None

    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except Exception as error:  # the function is the user's, and may be wrong in any way
            raise ValueError(f"{Path(name).name}: {type(error).__name__}: {error}") from error

    return call


def _read_own(read: Callable[..., Any], path: Path, **options: Any) -> PreTrainedModel:
    made = read(path, **options)
    if not isinstance(made, PreTrainedModel):
        raise ValueError(f"it must return a model of transformers, not {type(made).__name__}")
    made.name_or_path = made.config.name_or_path = str(path)  # PEFT notes it beside an adapter
    return made


def _read(path: Path, trust_remote_code: bool, **options: Any) -> PreTrainedModel:
    if quantised := quantise.found(json_object(path / "config.json")):
        options["config"] = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        options["config"].quantization_config = quantised
    model, info = _auto(path).from_pretrained(
        path, trust_remote_code=trust_remote_code, output_loading_info=True, **options
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{path}: {len(missing)} weights are missing, {missing[0]} for one")
    found: PreTrainedModel = model
    return found


def _auto(path: Path) -> Any:
    return AutoModelForImageTextToText if vision.sees(_model_type(path)) else AutoModelForCausalLM


def shape_of(path: Path) -> PreTrainedModel:
    """A model of the shape of a folder's, without weights: for the names of its modules."""
    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model: PreTrainedModel = _auto(path).from_config(config)
    return model


def blank_model(path: Path) -> PreTrainedModel:
    """A model of the shape of a folder's, its weights whatever the memory held: for counting."""
    model = shape_of(path)
    model.to_empty(device="cpu")
    model.tie_weights()
    return model


def _loading(path: Path, what: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        if str(error).startswith(str(path)):
            raise ValueError(str(error)) from error  # said by us already
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{path}: the {what} cannot be loaded: {reason}") from error


def targets(
    path: Path, names: Sequence[str], trust_remote_code: bool = False, spec: ModelSpec | None = None
) -> tuple[str, ...]:
    """The modules that `names`, as the model's first authors called them, are in the model that `load_model` gives."""
    family = None if (spec and spec.model) or _gguf_file(path) else _family(path, trust_remote_code)
    return convert.targets(family, names) if family else tuple(names)


def _family(folder: Path, trusted: bool) -> convert.Family | None:
    """How to convert the checkpoint; None where transformers, or (`trusted`) the folder's own code, reads it."""
    return None if trusted else convert.find(json_object(folder / "config.json"))


def _check_custom_code(folder: Path, trusted: bool) -> None:
    config = json_object(folder / "config.json")
    known = config.get("model_type") in CONFIG_MAPPING_NAMES or convert.find(config)
    if not trusted and "auto_map" in config and not known:
        raise ValueError(f"{folder}: the model brings Python code of its own; to run it: --trust_remote_code true")


def _gguf_file(path: Path) -> Path | None:
    if path.is_file():
        return path
    files = [] if (path / "config.json").is_file() else sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(f"{path}: several GGUF files; give one of them: {', '.join(file.name for file in files)}")
    return files[0] if files else None


def _weights(folder: Path) -> list[Path]:
    """The files that hold the weights, as transformers picks them; those an index names may be missing."""
    for whole, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / whole).is_file():
            return [folder / whole]
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
        except ValueError as error:  # cut short; a download would complete it
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


_INSTEAD = f"; copy its folder here and give that as --model FOLDER, or take what comes along: {bundled.MODEL_TYPE}"


def _hint(name: str, registry: Sequence[str]) -> str:
    near = specs.nearest(name, registry)
    return f": did you mean {near}?" if near else ""
