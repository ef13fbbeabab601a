"""Merges an adapter's checkpoint into a model folder, and checks that the logits are the same."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift import flags
from swift.assembly import checkpoints, model_card
from swift.flag_groups import ModelFlags
from swift.model.catalog import RECORD
from swift.model.config_files import json_object
from swift.system.atomic_write import atomic_folder
from swift.system.progress import working

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from swift.model.catalog import ModelSpec
    from swift.template.image_processor import ImageProcessor
    from swift.template.template import Template

TOLERANCE = 1e-4
"""Largest difference of logits that the order of fp32 sums explains, relative to the largest logit."""
STEPS = 4
"""The same for lower precision, in units of the dtype's epsilon."""
PROBE = "What will the weather in Paris be like tomorrow? 明天巴黎的天气怎么样？"


def merge_checkpoint(
    ckpt_dir: str | None,
    model: ModelFlags,
    template_type: str = "AUTO",
    output_dir: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the merged model and returns its folder: `output_dir`, or the checkpoint's name with -merged.

    `model` names the base model; what it leaves open comes from the checkpoint's record. Raises ValueError for an
    adapter that cannot be merged, a folder that may not be replaced, and logits that differ from the adapter's; an
    error leaves `output_dir` as it was.
    """
    if ckpt_dir is None:
        raise ValueError("--merge_lora true needs --ckpt_dir: the LoRA checkpoint to merge")
    checkpoint = checkpoints.checkpoint(ckpt_dir)
    target = Path(output_dir).expanduser().resolve() if output_dir else checkpoints.merged_folder(checkpoint)
    recorded = _recorded(checkpoint)
    _check_target(target, overwrite)

    from swift.infer import calibration_file
    from swift.model import catalog, load, location, vision  # torch, from here on
    from swift.template.image_processor import ImageProcessor

    name, revision = _base_model(model, recorded, checkpoint)
    registry = model.registry or tuple(file for file in recorded.get("registry") or () if Path(file).is_file())
    try:
        source = location.locate(name, revision, model.use_hf, registry)
    except ValueError as error:
        raise ValueError(
            f"{checkpoint} was trained on {name}: {error} (give its place as --model_id_or_path)"
        ) from None
    base = flags.update(model, {"model_id_or_path": name, "registry": list(registry)})
    checkpoints.warn_of_another_base(base, checkpoint, source)
    wanted = model.model_type
    spec = catalog.choose(wanted, str(recorded.get("model_type") or name), str(source), registry=registry)
    tokenizer = load.load_tokenizer(source, model.trust_remote_code, spec)
    processor = load.load_processor(source, tokenizer)
    template = _template(template_type, recorded, spec)
    stops = set_chat_template(tokenizer, template, source, ImageProcessor(processor) if processor else None)
    dtype = model.dtype if model.dtype != "AUTO" else recorded.get("dtype") or "AUTO"

    with atomic_folder(target) as folder:
        with working(f"merge {checkpoint.name}"):
            away = _merge_into(folder, source, checkpoint, model, dtype, tokenizer, stops, spec)
        if processor:
            vision.copy_processor(source, folder)
        write_records(folder, recorded, spec, template, name, dtype)
        if (calibration := checkpoint / calibration_file.NAME).is_file():
            shutil.copy(calibration, folder)  # merging changes no probability beyond rounding
        how = f"with an adapter ({recorded.get('sft_type') or 'lora'}) merged into its weights"
        model_card.merged(
            folder, model_card.base_name(spec, name), template.name if template else None, checkpoint, how
        )
    print(
        f"{target}: merged and read back; logits differ from the adapter's by at most {away:.1e} of the largest",
        file=sys.stderr,
    )
    return target


def _merge_into(
    folder: Path,
    source: Path,
    checkpoint: Path,
    flags: ModelFlags,
    dtype: str,
    tokenizer: PreTrainedTokenizerBase,
    stops: list[int],
    spec: ModelSpec | None,
) -> float:
    """Writes weights and tokenizer. Returns the largest difference of logits, relative to the largest logit.

    Everything is computed in fp32, also the adapter, so that each weight is rounded once, to the folder's dtype. The
    folder, read back, has to agree with the rounded weights in memory.
    """
    from swift.model import devices, load
    from swift.tuner import adapter_files, merge

    rounded_to = devices.DTYPES[devices.pick_dtype(dtype, devices.pick_device(flags.device))]
    model = load.load_model(source, "fp32", flags.device, flags.trust_remote_code, spec=spec)
    if "quantization_config" in model.config.to_dict():
        raise ValueError(f"{source}: an adapter cannot be merged into quantised weights")
    tokens = tokenizer(PROBE, return_tensors="pt").input_ids.to(model.device)
    tuned = adapter_files.load(model, checkpoint).float()  # an adapter saved in bf16 would compute in bf16
    expected = logits(tuned, tokens)
    merged = merge.merge(tuned)
    check_agreement("the merged weights differ from the adapter", logits(merged, tokens), expected)
    round_weights(merged, rounded_to)
    in_memory = logits(merged, tokens)
    merged.to(rounded_to)
    merged.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model, tuned, merged  # frees memory for the second model
    again = load.load_model(folder, "fp32", flags.device, flags.trust_remote_code)
    read_back = logits(again, tokens)
    check_agreement("the folder, read back, differs from the merged model", read_back, in_memory)
    return difference(read_back, expected)


def round_weights(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Rounds the weights to `dtype`, and keeps them in fp32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.float(), expected.float()
    return float((found - expected).abs().max() / expected.abs().max())


def check_agreement(problem: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises ValueError where logits differ by more than rounding in the dtype of `found` explains."""
    import torch

    allowed = max(TOLERANCE, STEPS * torch.finfo(found.dtype).eps)
    away = difference(found, expected)
    if not away <= allowed:  # NaN does not agree
        raise ValueError(f"{problem}: logits differ by {away:.1e} of the largest ({allowed:.0e} is rounding)")


def _recorded(checkpoint: Path) -> dict[str, Any]:
    """The flags of the adapter's training. ValueError for a full model, or an adapter that cannot be merged."""
    recorded = checkpoints.recorded(checkpoint)
    if recorded.get("sft_type", "lora") == "full" or (checkpoint / "config.json").exists():
        raise ValueError(f"{checkpoint}: a full model, with no adapter to merge")

    from swift.tuner import adapter_files, merge

    if reason := merge.UNMERGEABLE.get(adapter_files.check(checkpoint)):
        raise ValueError(f"{checkpoint}: this adapter cannot be merged: {reason}; infer and deploy take it as it is")
    return recorded


def _check_target(target: Path, overwrite: bool) -> None:
    """Raises ValueError for an existing folder, unless `overwrite` and an earlier merge wrote it."""
    if not target.exists():
        return
    if not overwrite:
        raise ValueError(f"{target} exists: remove it, give another --output_dir, or replace it with swift merge-lora")
    if not (target / RECORD).is_file() or json_object(target / RECORD).get("sft_type") != "full":
        raise ValueError(f"{target} exists and is not a merged model: give another --output_dir")


def _base_model(flags: ModelFlags, recorded: dict[str, Any], checkpoint: Path) -> tuple[str, str]:
    """Name or path and revision of the base model: from the flags, the training's record, or PEFT's."""
    name = flags.model_id_or_path or flags.model_type
    name = name or recorded.get("model_id_or_path") or recorded.get("model_type")
    name = name or checkpoints.peft_base(checkpoint)
    revision = flags.model_revision if flags.model_revision != "master" else recorded.get("model_revision")
    return str(name), str(revision or "master")


def _template(requested: str, recorded: dict[str, Any], spec: ModelSpec | None) -> Template | None:
    """The template of the training with its system prompt; None for the tokenizer's own."""
    from swift.template.template import template

    name = requested if requested != "AUTO" else recorded.get("template_type") or "AUTO"
    if name == "AUTO":
        name = spec.template if spec else None
    found = template(name) if name else None
    system = recorded.get("system")
    return replace(found, default_system=system) if found and system is not None else found


def set_chat_template(
    tokenizer: PreTrainedTokenizerBase,
    template: Template | None,
    source: Path,
    image_processor: ImageProcessor | None = None,
) -> list[int]:
    """Sets the chat template of the tokenizer from the folder `source`. Returns the stop tokens."""
    from swift.model.config_files import end_tokens
    from swift.template import Renderer
    from swift.template.template import jinja

    if template:
        tokenizer.chat_template = jinja(template, image_processor.mark if image_processor else "")
    elif not tokenizer.chat_template:
        raise ValueError("the model's chat template is unknown: give --template_type")
    eos = () if template else end_tokens(source)
    stops = list(Renderer(tokenizer, template, image_processor=image_processor, eos=eos).stop.tokens)
    if not stops:
        raise ValueError("neither the template nor the tokenizer has a stop token")
    return stops


def write_records(
    folder: Path, recorded: dict[str, Any], spec: ModelSpec | None, template: Template | None, name: str, dtype: str
) -> None:
    model_type = spec.model_type if spec else recorded.get("model_type")
    configuration = {"framework": "pytorch", "task": "chat", "allow_remote": True, "model_type": model_type}
    merged = {
        **recorded,
        "model_type": model_type,
        "model_id_or_path": name,
        "template_type": template.name if template else "AUTO",
        "sft_type": "full",
        "dtype": dtype,
    }
    for file, record in (("configuration.json", configuration), (RECORD, merged)):
        known = {key: value for key, value in record.items() if key != "model_type" or value}
        (folder / file).write_text(json.dumps(known, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
