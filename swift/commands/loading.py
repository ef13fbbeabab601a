"""Flags -> a model that answers: a base model, an adapter's checkpoint, a whole one. Shared by infer and deploy."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from swift import flags
from swift.commands import backends
from swift.commands.groups import BackendFlags, GenerationFlags, ModelFlags, QuantFlags, TemplateFlags
from swift.model.config_files import json_object
from swift.native import processor

if TYPE_CHECKING:
    from swift.engine.interface import Engine, TokenStream
    from swift.engine.sampling import SamplingParams
    from swift.infer.chat import LocalChat
    from swift.model.catalog import ModelSpec

RECORD = "sft_args.json"
MODEL = ("model_type", "model_id_or_path", "model_revision", "registry", *flags.names(QuantFlags))
TEMPLATE = (
    *("template_type", "system", "agent_template", "max_pixels"),
    *("enable_thinking", "chat_template_kwargs", "history_reasoning", "template_date"),
)
Group = TypeVar("Group", ModelFlags, TemplateFlags)


class Loads(Protocol):
    """A command's config, as far as loading a model goes."""

    @property
    def model(self) -> ModelFlags: ...
    @property
    def template(self) -> TemplateFlags: ...
    @property
    def backend(self) -> BackendFlags: ...


class Starts(Loads, Protocol):
    """A command's config, as far as starting an engine goes."""

    @property
    def vllm_log(self) -> Path | None:
        """Where vLLM writes instead of standard output and error; None leaves it these."""


class Choice(NamedTuple):
    """What is to be loaded, once the checkpoint's own record has had its say. `adapter`: an adapter's checkpoint."""

    model: ModelFlags
    template: TemplateFlags
    adapter: Path | None
    trained: bool = False
    """Whether training of ours made it."""

    @property
    def source(self) -> str:
        return self.model.model_id_or_path or self.model.model_type or ""


def load_chat(cfg: Starts, given: Collection[str] = (), keep: bool = False) -> LocalChat:
    """The model of the flags behind an engine and a renderer.

    What training recorded beside a checkpoint holds for flags left at their defaults; `given` names those that the
    user set, so that a default said aloud wins too. An adapter is merged in memory where it can be: the files stay as
    they are. `keep`: the engine's model will be used beside the engine.
    """
    choice = choose(cfg, given)
    processor.forced()

    from swift.commands.rendering import make_renderer
    from swift.commands.tuning import quantisation
    from swift.engine import families
    from swift.engine.cpu import native_runner
    from swift.engine.torch_engine import TorchEngine
    from swift.infer.chat import LocalChat
    from swift.model import devices, load, location
    from swift.tuner import adapter_files, merge, prompts
    from swift.tuner.prompts import Prompted

    model_flags = choice.model
    path = location.locate(choice.source, model_flags.model_revision, model_flags.use_hf, model_flags.registry)
    backend = backends.pick(cfg.backend, choice, path, cfg.vllm_log)
    found = spec(choice, path)
    if choice.adapter:
        adapter_files.check(choice.adapter)
    renderer = make_renderer(path, choice.template, found, model_flags.trust_remote_code, choice.trained)
    if backend != "pt":
        stop = renderer.stop.tokens
        return LocalChat(backends.start(backend, cfg.backend, choice, path, stop, cfg.vllm_log), renderer)
    # PyTorch's own kernels round in the engine, after merging; the other methods while the weights are loaded.
    late = model_flags.quant.bits if model_flags.quant.quant_method == "torch" else 0
    quant = None if late else quantisation(model_flags)
    # the engine's C++ multiplies bf16 on any CPU; what else there is would be slow in it where the processor has none
    foreign = model_flags.dtype == "AUTO" and not quant and devices.has_foreign_bf16(path, model_flags.device)
    missing = native_runner.missing() if foreign else ""
    dtype = "bf16" if foreign and not missing else model_flags.dtype
    model = load.load_model(
        path, dtype, model_flags.device, model_flags.trust_remote_code, quantisation=quant, spec=found
    )
    own = model.generation_config.eos_token_id
    stops = {*renderer.stop.tokens, *(own if isinstance(own, list) else [own] if own is not None else [])}

    def engine(model: Any, unsplit: int = 0) -> TorchEngine:
        most = cfg.backend.max_batch
        known = not families.why_not(model)
        if foreign and (not known or native_runner.why_not(model)):
            model = model.float()
        started = TorchEngine(model, sorted(stops), max_batch=most, unsplit=unsplit, bits=late, keep_weights=keep)
        if reason := started.fast_path_missing or (missing if known else ""):
            print(f"replies take longer than they could: {reason}", file=sys.stderr)
        return started

    if not choice.adapter:
        return LocalChat(engine(model), renderer)
    tuned = adapter_files.load(model, choice.adapter)
    if not merge.why_unmergeable(tuned):
        tuned = merge.merge(tuned)
    if not prompts.is_prompted(tuned):
        return LocalChat(engine(tuned), renderer)
    prompted = Prompted(tuned)
    return LocalChat(_Prefixed(engine(prompted, unsplit=prompted.length), prompted.length), renderer)


class _Prefixed:
    """An engine whose every prompt begins with virtual tokens."""

    def __init__(self, engine: Engine, length: int) -> None:
        self._engine, self._virtual = engine, [0] * length

    @property
    def context(self) -> int | None:
        return self._engine.context

    def submit(
        self, tokens: Sequence[int], params: SamplingParams, inputs: Mapping[str, Any] | None = None
    ) -> TokenStream:
        if inputs:
            raise ValueError("this checkpoint's virtual tokens do not go together with images")
        return self._engine.submit([*self._virtual, *tokens], params)

    def close(self) -> None:
        self._engine.close()


def model_name(cfg: Loads, given: Collection[str] = ()) -> str:
    return name(choose(cfg, given))


def name(choice: Choice) -> str:
    """What to call the model: its model_type, or the name of its folder."""
    from swift.model import catalog

    found = catalog.find(choice.model.model_type or choice.source, choice.model.registry)
    return found.model_type if found else choice.model.model_type or Path(choice.source).expanduser().resolve().name


def spec(choice: Choice, path: Path) -> ModelSpec | None:
    """What is registered for the model, by its names and last by its folder."""
    from swift.model import catalog

    return catalog.choose(choice.model.model_type, choice.source, str(path), registry=choice.model.registry)


def sampling(flags: GenerationFlags) -> SamplingParams:
    """The flags as the engine takes them: `max_new_tokens` is a ceiling, less where the context ends earlier."""
    from swift.engine.sampling import SamplingParams

    if flags.max_new_tokens < 1:
        raise ValueError(f"--max_new_tokens {flags.max_new_tokens}: must be 1 or more")
    return SamplingParams(
        max_tokens=flags.max_new_tokens,
        clip=True,
        temperature=flags.temperature if flags.do_sample else 0.0,
        top_k=flags.top_k,
        top_p=flags.top_p,
        repetition_penalty=flags.repetition_penalty,
        seed=flags.seed,
        stop=flags.stop_words,
    )


def choose(cfg: Loads, given: Collection[str] = ()) -> Choice:
    """Which model, which template, which adapter. Raises ValueError where the flags and the checkpoint do not say."""
    if cfg.backend.ckpt_dir is None:
        if not (cfg.model.model_id_or_path or cfg.model.model_type):
            raise ValueError("no model is named: give --model_type, --model_id_or_path or --ckpt_dir")
        if cfg.backend.merge_lora:
            raise ValueError("--merge_lora true needs --ckpt_dir: the LoRA checkpoint to merge")
        return Choice(cfg.model, cfg.template, None)
    folder = checkpoint(cfg.backend.ckpt_dir)
    record = _record(folder) if cfg.backend.load_args_from_ckpt_dir else {}
    template = _adopted(cfg.template, TEMPLATE, record, given)
    if not (folder / "adapter_config.json").exists():
        if cfg.backend.merge_lora:
            raise ValueError(f"{folder}: a whole model, with no adapter to merge: leave --merge_lora out")
        # The checkpoint is the model; its record says what it was made from, which still names its template.
        model = _adopted(cfg.model, ("model_type", "registry"), record, given)
        return Choice(flags.update(model, {"model_id_or_path": str(folder)}), template, None, bool(record))
    if cfg.model.model_id_or_path or cfg.model.model_type:
        model = cfg.model
    else:
        model = _adopted(cfg.model, MODEL, record, given)
        if not (model.model_id_or_path or model.model_type):
            model = flags.update(model, {"model_id_or_path": _base(folder)})
    if cfg.backend.merge_lora:
        return Choice(flags.update(model, {"model_id_or_path": _merged(folder, model, template)}), template, None, True)
    return Choice(model, template, folder, True)


def checkpoint(text: str) -> Path:
    """The folder that --ckpt_dir names. ValueError where it holds neither an adapter nor a model."""
    folder = Path(text).expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(f"--ckpt_dir {text}: no such folder")
    if (folder / "adapter_config.json").exists() or (folder / "config.json").exists():
        return folder
    inner = [path for path in folder.rglob("checkpoint-*") if path.is_dir()]
    if inner:
        last = max(inner, key=lambda path: path.stat().st_mtime)
        raise ValueError(f"--ckpt_dir {text}: not a checkpoint but a folder of them: did you mean {last}?")
    raise ValueError(f"--ckpt_dir {text}: no checkpoint: neither adapter_config.json nor config.json is there")


def _record(folder: Path) -> dict[str, object]:
    """What training noted, in the checkpoint or in the folder above it; empty where another program trained."""
    file = next((path for path in (folder / RECORD, folder.parent / RECORD) if path.is_file()), None)
    record = json_object(file) if file else {}
    if isinstance(files := record.get("registry"), list):
        # one that is gone since is missed only where it gave the model its name
        record["registry"] = [name for name in files if Path(str(name)).is_file()]
    return record


def _base(folder: Path) -> str:
    """The model that PEFT noted below its adapter."""
    name = json_object(folder / "adapter_config.json").get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{folder}: nothing here says which model the adapter is for: give --model_id_or_path")
    return str(name)


def _adopted(group: Group, names: Collection[str], record: dict[str, object], given: Collection[str]) -> Group:
    """The flags `names` of `group` as the record has them, where the user said nothing else."""
    now, default = flags.to_dict(group), flags.to_dict(type(group)())
    silent = [name for name in names if name not in given and now[name] == default[name]]
    recorded = {name: record[name] for name in silent if record.get(name) is not None}
    return flags.update(group, recorded, RECORD)


def _merged(folder: Path, model: ModelFlags, template: TemplateFlags) -> str:
    from swift.commands import export, merging

    model = flags.update(model, {"quantization_bit": 0})  # what was learned beside rounded weights goes into whole ones
    wanted = export.Config(str(folder), merge_lora=True, template_type=template.template_type, model=model)
    return str(merging.merge_checkpoint(wanted, overwrite=True))
