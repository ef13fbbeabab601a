"""The folder or GGUF file of a model -> model, tokenizer, processor. Knows no tuner, no chat template and no flag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
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

from swift.model import catalog, convert, gguf, grouped_attention, quantise, vision
from swift.model.catalog import ModelSpec
from swift.model.config_files import json_object
from swift.model.devices import DTYPES, pick_device, pick_dtype
from swift.model.model_files import gguf_file, weight_files
from swift.model.quantise import Quantisation
from swift.system import user_code
from swift.system.progress import working

T = TypeVar("T")


def load_tokenizer(
    path: Path, trust_remote_code: bool = False, spec: ModelSpec | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or GGUF file, made by the user's own function if `spec` names one."""
    if spec and (read := _own_function(spec.tokenizer, path)):
        made = read(path)
        if not isinstance(made, PreTrainedTokenizerBase):
            raise ValueError(f"{spec.tokenizer} must return a tokenizer of transformers, not {type(made).__name__}")
        return made
    file = gguf_file(path)
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
    """The processor that turns images into tensors for the model of a folder; None if it takes no images."""
    if not takes_images(path):
        return None
    config = json_object(path / "config.json")
    if "vision_config" not in config:
        known = ", ".join(config.get("architectures") or ["its class"])
        raise ValueError(f"{path}: {known} is not in transformers' layout: use a checkpoint whose name ends in -hf")
    return _loading(path, "processor", partial(vision.processor, path, tokenizer))


def takes_images(path: Path) -> bool:
    """Whether the model of a folder can be trained and served with images."""
    return _model_type(path) in vision.IMAGE_MODELS


def image_token_kinds(path: Path) -> str:
    """The argument that marks image tokens for the model of a folder; empty if it has none."""
    return vision.IMAGE_MODELS.get(_model_type(path), "")


def _model_type(path: Path) -> str:
    config = path / "config.json"  # a GGUF file has none, and a user's own layout may have none
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
    """The model of a folder or GGUF file, on its device, in eval mode; `quantisation` quantises its layers.

    `device_map`: as accelerate defines it, for several devices. `shards`: the weights stay in main memory, from which
    FSDP or DeepSpeed takes the share of each process. A user's own function, which `spec` may name, is called like
    `from_pretrained`: (folder, dtype=..., ...).

    Raises ValueError for options that do not fit, and for missing weights, which transformers would fill at random.
    """
    logging.disable_progress_bar()  # loading and saving are shown as all other work is
    on = pick_device(device)
    as_dtype = DTYPES[pick_dtype(dtype, on, path)]
    options: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    read = _own_function(spec.model, path) if spec else None
    file = None if read else gguf_file(path)
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
            raise ValueError(f"--quant_method {quantisation.method} works on one device: use bnb for several")
        if by_loader:
            options["quantization_config"] = by_loader
        if device_map:
            options["device_map"] = device_map
        elif by_loader or (on.type == "cuda" and not shards):
            options["device_map"] = {"": on}  # straight to the GPU: quantised layers cannot be moved afterwards
        loaded = _loading(path, "model", lambda: reading(dtype=as_dtype, **options))
        model = loaded if by_loader or device_map or shards else loaded.to(on)
        if quantisation and not by_loader:
            quantise.with_hqq(model, quantisation, on)
    if attn_implementation is None and on.type == "cpu":
        grouped_attention.suit(model)
    return model.eval()


def _reading(path: Path, trust_remote_code: bool) -> Callable[..., PreTrainedModel]:
    """The function that reads the folder: its family's converter, else transformers."""
    _check_custom_code(path, trust_remote_code)
    family = _family(path, trust_remote_code)
    if family is None:
        return partial(_read, path, trust_remote_code)
    return partial(convert.model, family, json_object(path / "config.json"), path, weight_files(path))


def _own_function(name: str, path: Path) -> Callable[..., Any] | None:
    """The user's function FILE.py:NAME for a folder; None for what training saved, which is in transformers' layout."""
    function = user_code.load_function(name) if name else None  # imported in any case: its file may register classes
    if function is None or (path / catalog.RECORD).is_file():
        return None

    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except Exception as error:  # the user's function may raise anything
            raise ValueError(f"{Path(name).name}: {type(error).__name__}: {error}") from error

    return call


def _read_own(read: Callable[..., Any], path: Path, **options: Any) -> PreTrainedModel:
    made = read(path, **options)
    if not isinstance(made, PreTrainedModel):
        raise ValueError(f"it must return a model of transformers, not {type(made).__name__}")
    made.name_or_path = made.config.name_or_path = str(path)  # PEFT records it with an adapter
    return made


def _read(path: Path, trust_remote_code: bool, **options: Any) -> PreTrainedModel:
    if quantised := quantise.recorded(json_object(path / "config.json")):
        options["config"] = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        options["config"].quantization_config = quantised
    model, info = _auto(path).from_pretrained(
        path, trust_remote_code=trust_remote_code, output_loading_info=True, **options
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{path}: {len(missing)} weights are missing, such as {missing[0]}")
    found: PreTrainedModel = model
    return found


def _auto(path: Path) -> Any:
    return AutoModelForImageTextToText if vision.is_image_text_model(_model_type(path)) else AutoModelForCausalLM


def shape_of(path: Path) -> PreTrainedModel:
    """The model of a folder on the device `meta`, without weights: for the names of its modules."""
    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model: PreTrainedModel = _auto(path).from_config(config)
    return model


def blank_model(path: Path) -> PreTrainedModel:
    """The model of a folder with uninitialised weights: for counting parameters."""
    model = shape_of(path)
    model.to_empty(device="cpu")
    model.tie_weights()
    return model


def _loading(path: Path, what: str, load: Callable[[], T]) -> T:
    try:
        with working(f"load the {what} of {path.name}"):
            return load()
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        if str(error).startswith(str(path)):
            raise ValueError(str(error)) from error  # already one of our own messages
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{path}: the {what} cannot be loaded: {reason}") from error


def targets(
    path: Path, names: Sequence[str], trust_remote_code: bool = False, spec: ModelSpec | None = None
) -> tuple[str, ...]:
    """The module names in the model that `load_model` returns, for names from the original checkpoint's code."""
    family = None if (spec and spec.model) or gguf_file(path) else _family(path, trust_remote_code)
    return convert.targets(family, names) if family else tuple(names)


def _family(folder: Path, trusted: bool) -> convert.Family | None:
    """The checkpoint's converter; None if transformers reads it, or (`trusted`) the folder's own code does."""
    return None if trusted else convert.find(json_object(folder / "config.json"))


def _check_custom_code(folder: Path, trusted: bool) -> None:
    config = json_object(folder / "config.json")
    known = config.get("model_type") in CONFIG_MAPPING_NAMES or convert.find(config)
    if not trusted and "auto_map" in config and not known:
        raise ValueError(f"{folder}: the model comes with its own Python code; to run it: --trust_remote_code true")
