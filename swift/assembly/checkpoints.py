"""Which model, which adapter and which recorded flags a command means. Only reads; loads no weights, writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from swift import flags
from swift.flag_groups import BackendFlags, ModelFlags, QuantFlags, TemplateFlags
from swift.model.catalog import RECORD
from swift.model.config_files import json_object
from swift.system.nearest import nearest_path

if TYPE_CHECKING:
    from swift.model.catalog import ModelSpec

MODEL = ("model_type", "model_id_or_path", "model_revision", "registry", *flags.names(QuantFlags))
TEMPLATE = (
    *("template_type", "system", "agent_template", "max_pixels"),
    *("enable_thinking", "chat_template_kwargs", "history_reasoning", "template_date"),
)
Group = TypeVar("Group", ModelFlags, TemplateFlags)


class ModelConfig(Protocol):
    """The flags that choosing a model reads."""

    @property
    def model(self) -> ModelFlags: ...
    @property
    def template(self) -> TemplateFlags: ...
    @property
    def backend(self) -> BackendFlags: ...


class Merge(NamedTuple):
    """An adapter's checkpoint and its base model, which `Choice.model` names once they are merged."""

    checkpoint: Path
    base: ModelFlags


class Choice(NamedTuple):
    """The model and the template, with what the checkpoint recorded filled in."""

    model: ModelFlags
    template: TemplateFlags
    adapter: Path | None
    """An adapter's checkpoint, applied when the model is loaded."""
    trained: bool = False
    """Whether SWIFT trained it."""
    merge: Merge | None = None
    """What has to be merged into a folder before the model can be loaded."""

    @property
    def source(self) -> str:
        return self.model.model_id_or_path or self.model.model_type or ""


def choose(cfg: ModelConfig, given: Collection[str] = ()) -> Choice:
    """The model, template and adapter of the flags; recorded values replace defaults, except for flags in `given`.

    Raises ValueError where neither the flags nor the checkpoint name a model.
    """
    if cfg.backend.ckpt_dir is None:
        if not (cfg.model.model_id_or_path or cfg.model.model_type):
            raise ValueError("no model is named: give --model_type, --model_id_or_path or --ckpt_dir")
        if cfg.backend.merge_lora:
            raise ValueError("--merge_lora true needs --ckpt_dir: the LoRA checkpoint to merge")
        template = (
            named_template(cfg.model, cfg.template, given) if cfg.backend.load_args_from_ckpt_dir else cfg.template
        )
        return Choice(cfg.model, template, None, is_named_adapter(cfg.model))
    folder = checkpoint(cfg.backend.ckpt_dir)
    record = _usable(recorded(folder)) if cfg.backend.load_args_from_ckpt_dir else {}
    template = _adopted(cfg.template, TEMPLATE, record, given)
    if not is_adapter(folder):
        if cfg.backend.merge_lora:
            raise ValueError(f"{folder}: a full model, with no adapter to merge: leave --merge_lora out")
        # The checkpoint is the model; its record names the base model, and with it the template.
        model = _adopted(cfg.model, ("model_type", "registry"), record, given)
        return Choice(flags.update(model, {"model_id_or_path": str(folder)}), template, None, bool(record))
    model = cfg.model
    if not (model.model_id_or_path or model.model_type):
        model = _adopted(model, MODEL, record, given)
        if not (model.model_id_or_path or model.model_type):
            model = flags.update(model, {"model_id_or_path": peft_base(folder)})
    if not cfg.backend.merge_lora:
        return Choice(model, template, folder, True)
    merged = flags.update(model, {"model_id_or_path": str(merged_folder(folder))})
    # what was learned beside quantised weights is merged into the full-precision ones
    return Choice(merged, template, None, True, Merge(folder, flags.update(model, {"quantization_bit": 0})))


def named_template(model: ModelFlags, template: TemplateFlags, given: Collection[str] = ()) -> TemplateFlags:
    """`template` with the recorded flags of an adapter that `model` names, such as smollm2-135m-agent.

    Flags that the user set, or that `given` names, stay.
    """
    from swift.model import adapter_models

    spec = _named_adapter(model)
    return _adopted(template, TEMPLATE, adapter_models.record(spec), given) if spec else template


def is_named_adapter(model: ModelFlags) -> bool:
    """Whether the model has the name of an adapter, which SWIFT merges into its base model."""
    return _named_adapter(model) is not None


def warn_of_another_base(model: ModelFlags, adapter: Path, found: Path) -> None:
    """Says that `adapter` was trained on another version of the named adapter `model`, which `found` is now."""
    from swift.model import adapter_models

    spec = _named_adapter(model)
    noted = json_object(adapter / "adapter_config.json").get("base_model_name_or_path")
    if spec and noted and adapter_models.is_other(spec, str(noted), found):
        print(
            f"{adapter} was trained on {Path(noted).name}, and {spec.model_type} is now {found.name}: "
            "replies may be worse than after training",
            file=sys.stderr,
        )


def record_of(cfg: ModelConfig) -> dict[str, Any]:
    """What training recorded of the checkpoint or the named adapter of the flags; {} if neither is given."""
    from swift.model import adapter_models

    if cfg.backend.ckpt_dir:
        return recorded(checkpoint(cfg.backend.ckpt_dir))
    spec = _named_adapter(cfg.model)
    return adapter_models.record(spec) if spec else {}


def _named_adapter(model: ModelFlags) -> ModelSpec | None:
    from swift.model import catalog

    spec = catalog.by_name(model.model_id_or_path or model.model_type or "", model.registry)
    return spec if spec and spec.adapter else None


def checkpoint(text: str) -> Path:
    """The folder that --ckpt_dir names. ValueError where it holds neither an adapter nor a model."""
    folder = Path(text).expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(f"--ckpt_dir {text}: no such folder{nearest_path(text)}")
    if is_adapter(folder) or (folder / "config.json").exists():
        return folder
    inner = [path for path in folder.rglob("checkpoint-*") if path.is_dir() and not path.name.endswith("-merged")]
    if inner:
        last = max(inner, key=lambda path: path.stat().st_mtime)
        raise ValueError(f"--ckpt_dir {text}: not a checkpoint but a folder of them: did you mean {last}?")
    raise ValueError(f"--ckpt_dir {text}: no checkpoint: neither adapter_config.json nor config.json is there")


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def merged_folder(checkpoint: Path) -> Path:
    """Where a merged adapter goes unless --output_dir says otherwise."""
    return Path(f"{checkpoint}-merged")


def recorded(folder: Path) -> dict[str, Any]:
    """The flags that training recorded in a checkpoint or the run's folder above it; {} if another program trained.

    Raises ValueError for a record that is not a JSON object.
    """
    file = next((path for path in (folder / RECORD, folder.parent / RECORD) if path.is_file()), None)
    return json_object(file) if file else {}


def peft_base(folder: Path) -> str:
    """The base model that PEFT recorded in an adapter's checkpoint. Raises ValueError where it recorded none."""
    name = json_object(folder / "adapter_config.json").get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{folder}: no file here names the adapter's base model: give --model_id_or_path")
    return str(name)


def name(choice: Choice) -> str:
    """What to call the model: its model_type, or the name of its folder."""
    from swift.model import catalog

    model = choice.merge.base if choice.merge else choice.model
    source = model.model_id_or_path or model.model_type or ""
    found = catalog.find(model.model_type or source, model.registry)
    return found.model_type if found else model.model_type or Path(source).expanduser().resolve().name


def model_name(cfg: ModelConfig, given: Collection[str] = ()) -> str:
    return name(choose(cfg, given))


def spec(choice: Choice, path: Path) -> ModelSpec | None:
    """The registered entry of the model, found by its names and last by its folder."""
    from swift.model import catalog

    return catalog.choose(choice.model.model_type, choice.source, str(path), registry=choice.model.registry)


def _usable(record: dict[str, Any]) -> dict[str, Any]:
    """The record without registry files that no longer exist: they are missed only where they named the model."""
    if isinstance(files := record.get("registry"), list):
        return {**record, "registry": [name for name in files if Path(str(name)).is_file()]}
    return record


def _adopted(group: Group, names: Collection[str], record: Mapping[str, object], given: Collection[str]) -> Group:
    """`group` with the flags `names` taken from the record where the user left them at their defaults."""
    now, default = flags.to_dict(group), flags.to_dict(type(group)())
    silent = [name for name in names if name not in given and now[name] == default[name]]
    return flags.update(group, {name: record[name] for name in silent if record.get(name) is not None}, RECORD)
