"""Known models that are a LoRA adapter on another model: merged once, into a folder of the cache that any loader reads.

Knows no flag and no chat template. Adapters without a name of their own are the business of `swift.tuner`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift.model.catalog import RECORD, ModelSpec
from swift.model.config_files import json_object
from swift.model.folder_record import RECORD as FILES
from swift.model.folder_record import is_complete, sha256, write_record
from swift.system.atomic_write import atomic_file, atomic_folder
from swift.system.cache import cache_root

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The files of an adapter, as PEFT names them."""
CARD, CALIBRATION = "README.md", "calibration.json"
DIGITS = 12
"""Length of the digest in the name of a merged folder."""
PACKAGED = Path(__file__).parent / "agents"
"""The adapters that are part of SWIFT."""


def is_packaged(spec: ModelSpec) -> bool:
    return Path(spec.adapter).is_relative_to(PACKAGED)


def check(spec: ModelSpec) -> None:
    """Raises ValueError for an adapter of which a file is missing, or that cannot be merged here. Reads no weights."""
    folder = Path(spec.adapter)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ValueError(f"{spec.model_type} is an adapter on {spec.base}, and {folder / name} is missing")
    config = json_object(folder / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA" or config.get("modules_to_save"):
        why = f"of type {kind}" if kind != "LORA" else "with modules_to_save"
        raise ValueError(f"{folder}: an adapter {why}: a model can be named for plain LoRA alone; use --ckpt_dir")
    trained_on = record(spec).get("model_type")
    if trained_on not in (None, spec.base):
        raise ValueError(f"{folder}: the adapter was trained on {trained_on}, not on {spec.base}")


def record(spec: ModelSpec) -> dict[str, Any]:
    """The flags that training recorded in the adapter's folder; {} if another program trained it."""
    file = Path(spec.adapter) / RECORD
    return json_object(file) if file.is_file() else {}


def size(spec: ModelSpec) -> int | None:
    """Bytes of the adapter's weights; None if they are missing."""
    file = Path(spec.adapter) / WEIGHTS
    return file.stat().st_size if file.is_file() else None


def card(spec: ModelSpec) -> Path | None:
    """The model card in the adapter's folder."""
    file = Path(spec.adapter) / CARD
    return file if file.is_file() else None


def merged(spec: ModelSpec, base: Path, base_spec: ModelSpec | None = None) -> Path:
    """The folder of the base model, a folder or GGUF file, with the adapter merged into its weights.

    Its name has a digest of the weights of both, so that another adapter gets another folder. The first call writes it:
    sums are computed in fp32, and each weight is rounded once, to the dtype of the base model. Raises ValueError for an
    adapter that does not fit.
    """
    target = cache_root() / "models" / f"{spec.model_type}-{_digest(Path(spec.adapter), base)}"
    if not is_complete(target):
        print(f"merging {spec.model_type} into {base.name}: {target} (once, a few seconds)", file=sys.stderr)
        with atomic_folder(target, keep=is_complete) as folder:  # another process may have been faster
            _write_model(spec, base, base_spec, folder)
            write_record(folder)
    _write_settings(spec, target)
    return target


def is_other(spec: ModelSpec, noted: str, found: Path) -> bool:
    """Whether `noted`, the base model that a checkpoint names, is an earlier merged folder of this model."""
    name = Path(noted).name
    return bool(re.fullmatch(rf"{re.escape(spec.model_type)}-[0-9a-f]{{{DIGITS}}}", name)) and name != found.name


def _digest(adapter: Path, base: Path) -> str:
    """Changes with the weights of the adapter and of the base model."""
    if (base / FILES).is_file():  # checksums: a model unpacked again, or elsewhere, is the same
        weights = {name: entry for name, entry in json_object(base / FILES).items() if name.endswith(".safetensors")}
        facts: object = weights
    else:
        files = [base] if base.is_file() else sorted(file for file in base.iterdir() if file.is_file())
        facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    made_from = ([sha256(adapter / name) for name in (WEIGHTS, CONFIG)], facts)
    return hashlib.sha256(repr(made_from).encode()).hexdigest()[:DIGITS]


def _write_model(spec: ModelSpec, base: Path, base_spec: ModelSpec | None, folder: Path) -> None:
    from swift.model import devices, load, vision

    model = load.load_model(base, "fp32", "cpu", spec=base_spec)
    if "quantization_config" in model.config.to_dict():
        raise ValueError(f"{base}: an adapter cannot be merged into quantised weights")
    whole = _merge(model, Path(spec.adapter))
    whole.to(devices.published_dtype(base)).save_pretrained(folder)
    load.load_tokenizer(base, spec=base_spec).save_pretrained(folder)
    if load.takes_images(base):
        vision.copy_processor(base, folder)


def _write_settings(spec: ModelSpec, folder: Path) -> None:
    """Brings the recorded flags and the calibration up to date, which may change without the weights."""
    own = {"model_type": spec.model_type, "model_id_or_path": spec.model_type, "sft_type": "full"}
    text = json.dumps({**record(spec), **own}, ensure_ascii=False, indent=2) + "\n"
    if not (folder / RECORD).is_file() or (folder / RECORD).read_text(encoding="utf-8") != text:
        with atomic_file(folder / RECORD) as new:
            new.write_text(text, encoding="utf-8")
    given, kept = Path(spec.adapter) / CALIBRATION, folder / CALIBRATION
    # a newer one is of `swift eval --calibrate`
    if given.is_file() and not (kept.is_file() and kept.stat().st_mtime_ns >= given.stat().st_mtime_ns):
        with atomic_file(kept) as new:
            shutil.copy2(given, new)


def _merge(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model, in fp32, with the adapter added to its weights."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapter / WEIGHTS, framework="pt") as tensors:
            saved = set(tensors.keys())
        tuned = PeftModel.from_pretrained(model, adapter, torch_device="cpu").float()
    except SafetensorError as error:
        raise ValueError(f"{adapter / WEIGHTS}: half-written or damaged ({error})") from None
    except (RuntimeError, ValueError) as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{adapter}: the adapter does not fit this model: {' '.join(reason[:2])}") from error
    if any(isinstance(each, BaseTunerLayer) for each in (model.get_input_embeddings(), model.get_output_embeddings())):
        raise ValueError(
            f"{adapter}: it adapts the embeddings or the head, which a named adapter may not: use --ckpt_dir"
        )
    wrong = saved ^ set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
    if wrong:
        raise ValueError(f"{adapter}: the adapter does not fit this model: {len(wrong)} weights, such as {min(wrong)}")
    whole: PreTrainedModel = tuned.merge_and_unload(safe_merge=True)
    return whole
