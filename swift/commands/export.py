"""Export a model or checkpoint: merge or pack LoRA, write GGUF or an Ollama Modelfile, quantise, upload to a hub."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from swift import flags
from swift.assembly import checkpoints, merging, model_card
from swift.assembly.merged_model import MergedModel, load_merged
from swift.assembly.preflight import writable
from swift.flag_groups import BackendFlags, GenerationFlags, ModelFlags, TemplateFlags
from swift.flags import flag
from swift.system.atomic_write import atomic_folder
from swift.system.progress import working

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from swift.chat import Conversation


@dataclass(frozen=True)
class HubFlags:
    """Hub"""

    push_to_hub: bool = False
    """Upload the written folder, or the given one unchanged, to ModelScope (--use_hf true: Hugging Face)"""
    hub_model_id: str | None = None
    """Repository OWNER/NAME; created if it does not exist"""
    hub_token: str | None = None
    """Access token; none uses MODELSCOPE_API_TOKEN, or HF_TOKEN and the token of `hf auth login`"""
    hub_private_repo: bool = False
    """Make the repository private"""
    commit_message: str = "update files"
    """Commit message of the upload"""

    def __post_init__(self) -> None:
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("--push_to_hub needs --hub_model_id OWNER/NAME")
        changed = [item.name for item in fields(self) if vars(self)[item.name] != item.default]
        if changed and not self.push_to_hub:
            raise ValueError(f"--{changed[0]} does nothing without --push_to_hub true")


@dataclass(frozen=True)
class ExampleFlags:
    """Calibration data of --quant_method gptq and awq"""

    dataset: tuple[str, ...] = flag((), commas=True)
    """Calibration rows similar to the intended use; none uses built-in dialogues, with and without tools"""
    quant_n_samples: int = 256
    """Maximum number of calibration samples"""
    quant_seqlen: int = 2048
    """Maximum tokens of a calibration sample; longer ones are cut"""

    def __post_init__(self) -> None:
        for name in ("quant_n_samples", "quant_seqlen"):
            if vars(self)[name] < 1:
                raise ValueError(f"--{name} {vars(self)[name]}: must be 1 or more")


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift export --ckpt_dir output/my_run/checkpoint-100 --to_gguf Q8_0"
    most_used: ClassVar[tuple[str, ...]] = (
        "ckpt_dir",
        "model_id_or_path",
        "merge_lora",
        "pack_adapter",
        "to_gguf",
        "to_ollama",
        "quant_bits",
        "quant_method",
        "output_dir",
        "push_to_hub",
    )

    ckpt_dir: str | None = flag(None, alias=("adapters",))
    """Checkpoint that training saved; an adapter is merged in memory before other exports"""
    merge_lora: bool = flag(False, alias=("merge_lora_and_save",))
    """Write the merged model as a folder"""
    pack_adapter: bool = False
    """Write the checkpoint's LoRA adapter in bf16 with the settings that loading reads, not what resumes training"""
    to_gguf: Literal["F16", "BF16", "Q8_0", "Q4_K_M"] | None = flag(None, values={"true": "F16"}, bare="F16")
    """Write a GGUF file for llama.cpp, Ollama or OpenVINO with weights in this format; true means F16"""
    to_ollama: bool = False
    """Write a GGUF file and a Modelfile for Ollama"""
    quant_bits: Literal["0", "4", "8"] = "0"
    """Write a folder with weights quantised to this many bits by --quant_method"""
    output_dir: str | None = flag(None, alias=("quant_output_dir",))
    """Folder to write; none means the name of the checkpoint or model with a suffix such as -merged or -gguf"""
    template_type: str = flag("AUTO", alias=("template",))
    """Chat template of the exported model; AUTO selects that of the training, or the model's own"""
    examples: ExampleFlags = ExampleFlags()
    hub: HubFlags = HubFlags()
    model: ModelFlags = ModelFlags()

    def __post_init__(self) -> None:
        """Raises ValueError for flags that contradict each other."""
        if self.model.quant.bits:
            raise ValueError("--quantization_bit quantises while loading; to write quantised weights give --quant_bits")
        if self.pack_adapter:
            ways = {"merge_lora": self.merge_lora, "to_gguf": self.to_gguf, "to_ollama": self.to_ollama}
            if other := next((name for name, value in {**ways, "quant_bits": self.bits}.items() if value), None):
                raise ValueError(f"--pack_adapter and --{other} exclude each other")
            if not self.ckpt_dir:
                raise ValueError("--pack_adapter true needs --ckpt_dir: the checkpoint whose adapter to pack")
        if self.bits and (self.to_gguf or self.to_ollama):
            raise ValueError("--quant_bits and --to_gguf exclude each other: --to_gguf Q8_0 has 8 bits, Q4_K_M has 4")
        if self.examples != ExampleFlags() and not (self.bits and self.is_calibrated):
            changed = next(item.name for item in fields(ExampleFlags) if vars(self.examples)[item.name] != item.default)
            raise ValueError(f"--{changed} is for --quant_bits with --quant_method gptq or awq: leave it out")

    @property
    def bits(self) -> int:
        return int(self.quant_bits)

    @property
    def is_calibrated(self) -> bool:
        return self.model.quant.quant_method in ("gptq", "awq")


def run(argv: Sequence[str]) -> None:
    parsed = flags.parse(Config, argv, prog="swift export")
    main(parsed.config, parsed.given)


def main(config: Config, given: Collection[str] = ()) -> Path:
    """Returns the folder that was written, or uploaded unchanged."""
    hub = config.hub
    if not (hub.push_to_hub and hub.hub_model_id):
        return _write(config, given)

    from swift.model import download

    download.check_push(hub.hub_model_id, config.model.use_hf)
    folder = _write(config, given)
    where = download.push(
        folder, hub.hub_model_id, hub.hub_token, hub.hub_private_repo, hub.commit_message, config.model.use_hf
    )
    print(f"{folder}: uploaded to {where}", file=sys.stderr)
    return folder


def _write(config: Config, given: Collection[str]) -> Path:
    if config.to_gguf or config.to_ollama:
        return write_gguf(config, given)
    if config.bits:
        return write_quantised(config, given)
    if config.pack_adapter:
        return pack_adapter(config, given)
    if config.merge_lora and not config.ckpt_dir and checkpoints.is_named_adapter(config.model):
        return write_named(config)
    if config.merge_lora:
        return merging.merge_checkpoint(config.ckpt_dir, config.model, config.template_type, config.output_dir)
    if not config.hub.push_to_hub:
        raise ValueError(
            "nothing to export: give --merge_lora true, --pack_adapter true, --to_gguf F16, --to_ollama true or "
            "--quant_bits 4"
        )
    folder = Path(config.ckpt_dir or config.model.model_id_or_path or "").expanduser()
    if not folder.is_dir() or not (config.ckpt_dir or config.model.model_id_or_path):
        raise ValueError("--push_to_hub uploads a folder: give it as --ckpt_dir or --model_id_or_path")
    return folder.resolve()


class _Wanted(NamedTuple):
    model: ModelFlags
    template: TemplateFlags
    backend: BackendFlags


def choose(config: Config, given: Collection[str] = ()) -> checkpoints.Choice:
    """The model of the flags, unquantised: an adapter trained on quantised weights is merged into the original ones."""
    template = TemplateFlags(template_type=config.template_type)
    choice = checkpoints.choose(_Wanted(config.model, template, BackendFlags(ckpt_dir=config.ckpt_dir)), given)
    return choice._replace(model=flags.update(choice.model, {"quantization_bit": 0}))


def target(config: Config, choice: checkpoints.Choice, suffix: str) -> Path:
    """The folder to write. Raises ValueError if it exists."""
    # next to a checkpoint or a folder that the user named; for a cached model in the current folder
    source = config.ckpt_dir or choice.model.model_id_or_path
    named = Path(source).expanduser().resolve() if source and Path(source).expanduser().exists() else None
    stem = named if named else Path.cwd() / checkpoints.name(choice)
    folder = Path(config.output_dir).expanduser().resolve() if config.output_dir else Path(f"{stem}-{suffix}")
    if folder.exists():
        raise ValueError(f"{folder} exists: remove it, or give another --output_dir")
    writable(folder, "--output_dir")
    return folder


def pack_adapter(config: Config, given: Collection[str]) -> Path:
    """Writes the adapter of --ckpt_dir for distribution."""
    unread = flags.names(ModelFlags) - {"use_hf"} | {"template_type"}
    if changed := min(unread & set(given), default=None):
        raise ValueError(f"--{changed} has no effect on --pack_adapter: leave it out")

    checkpoint = checkpoints.checkpoint(str(config.ckpt_dir))
    if not checkpoints.is_adapter(checkpoint):
        raise ValueError(f"{checkpoint}: a full model, with no adapter to pack")
    folder = Path(config.output_dir).expanduser().resolve() if config.output_dir else Path(f"{checkpoint}-packed")
    if folder.exists():
        raise ValueError(f"{folder} exists: remove it, or give another --output_dir")
    writable(folder, "--output_dir")

    from swift.assembly import adapter_package

    return adapter_package.pack(checkpoint, folder)


def write_named(config: Config) -> Path:
    """Writes the model of a named adapter, such as smollm2-135m-agent, as a folder."""
    for name, value in (("dtype", config.model.dtype), ("template_type", config.template_type)):
        if value != "AUTO":
            raise ValueError(f"--{name} {value} has no effect on merging without --ckpt_dir: leave it out")
    choice = choose(config)
    folder = target(config, choice, "merged")

    from swift.assembly import adapter_package
    from swift.model import location

    model = choice.model
    source = location.locate(choice.source, model.model_revision, model.use_hf, model.registry)
    return adapter_package.copy_named(source, checkpoints.name(choice), folder)


def write_gguf(config: Config, given: Collection[str]) -> Path:
    """Writes a folder with a GGUF file, checked by reading it back, and with --to_ollama a Modelfile."""
    choice = choose(config, given)
    kind = config.to_gguf or "F16"
    folder = target(config, choice, "ollama" if config.to_ollama else "gguf")

    from swift import agent
    from swift.model import gguf_check, gguf_k_quants, gguf_write
    from swift.template import ollama

    if kind in gguf_k_quants.KINDS:
        gguf_k_quants.check()
    ready = load_merged(choice)
    if config.to_ollama and ready.template is None:
        raise ValueError("--to_ollama needs a registered chat template: give --template_type")
    with atomic_folder(folder) as new:
        file = new / f"{ready.name}-{kind}.gguf"
        begins = ready.template is None or ready.template.auto_add_bos
        first = new / "f32.gguf" if kind in gguf_k_quants.KINDS else file
        in_full = "F32" if kind in gguf_k_quants.KINDS else kind
        gguf_write.write(ready.model, ready.tokenizer, ready.stops, first, in_full, ready.name, begins)
        if first != file:
            with working(f"quantise {file.name}"):
                gguf_k_quants.quantise(first, file, kind)
            first.unlink()
        if config.to_ollama and ready.template:
            name = choice.template.agent_template
            name = "react_en" if name == "AUTO" else name
            tool_format = agent.tool_format(name)
            text, missing = ollama.modelfile(
                file.name, ready.template, tool_format, ready.tokenizer, ready.stops, _parameters()
            )
            (new / "Modelfile").write_text(text, encoding="utf-8")
            if missing:
                print(
                    f"the Modelfile has no tools: Ollama's templates cannot express {name}: {missing}", file=sys.stderr
                )
        away = gguf_check.verify(file, ready.model, ready.tokenizer)
    print(
        f"{folder / file.name}: written and read back; {kind} moves no logit by more than {away:.1e}", file=sys.stderr
    )
    if config.to_ollama:
        print(f"next: ollama create {ready.name} -f {folder / 'Modelfile'}", file=sys.stderr)
    return folder


def _parameters() -> dict[str, float]:
    """The sampling defaults of `swift infer` by Ollama's names."""
    usual = GenerationFlags()
    return {
        "temperature": usual.temperature,
        "top_k": usual.top_k,
        "top_p": usual.top_p,
        "repeat_penalty": usual.repetition_penalty,
    }


def write_quantised(config: Config, given: Collection[str]) -> Path:
    """Writes a folder with quantised weights, and checks it by reading it back."""
    choice = choose(config, given)
    folder = target(config, choice, f"{config.model.quant.quant_method}-int{config.bits}")

    from swift.model import devices, load

    wanted = choice.model
    device = devices.pick_device(wanted.device)
    dtype = "bf16" if wanted.dtype == "AUTO" and device.type == "cpu" else wanted.dtype
    # missing packages are reported before anything is loaded
    quantise_model = (_calibrated if config.is_calibrated else _direct)(config, choice, dtype)
    ready = load_merged(choice)
    tokens = ready.tokenizer(merging.PROBE, return_tensors="pt").input_ids.to(device)
    with atomic_folder(folder) as new, tempfile.TemporaryDirectory(dir=new.parent) as between:
        before = merging.logits(ready.model, tokens)
        numbers = devices.DTYPES[devices.pick_dtype(dtype, device)]
        for parameter in ready.model.parameters():  # not buffers: rotary frequencies stay in fp32
            parameter.data = parameter.data.to(numbers)
        with working(f"quantise {ready.name}"):
            model = quantise_model(ready, Path(between))
        model.generation_config.eos_token_id = ready.stops if len(ready.stops) > 1 else ready.stops[0]
        # before the first use, at which bitsandbytes repacks weights for the CPU and would save them wrong
        model.save_pretrained(new)
        ready.tokenizer.save_pretrained(new)
        merging.write_records(new, {"model_type": wanted.model_type}, ready.spec, ready.template, choice.source, dtype)
        how = f"with weights of {config.bits} bits ({config.model.quant.quant_method})"
        named = ready.template.name if ready.template else None
        model_card.merged(new, model_card.base_name(ready.spec, choice.source), named, choice.adapter, how)
        after = merging.logits(model, tokens)
        again = merging.logits(load.load_model(new, dtype, wanted.device), tokens)
        merging.check_agreement("the folder, read back, differs from the quantised model", again, after)
        same = int((before.argmax(-1) == after.argmax(-1)).sum())
    moved = merging.difference(after, before)
    print(
        f"{folder}: {ready.name} with {config.bits} bits, read back; for a prompt of {tokens.shape[1]} tokens {same} "
        f"argmax tokens are unchanged, and logits differ by up to {moved:.1e} of the largest",
        file=sys.stderr,
    )
    return folder


Quantiser = Callable[[MergedModel, Path], "PreTrainedModel"]
"""Quantises a model, which must not be used afterwards; the folder is for temporary files."""


def _calibrated(config: Config, choice: checkpoints.Choice, dtype: str) -> Quantiser:
    """Quantisation calibrated on samples (GPTQ, AWQ)."""
    from swift.model import calibration
    from swift.template import Renderer

    method, most = config.model.quant.quant_method, config.examples.quant_seqlen
    calibration.check(method)
    rows = _examples(config.examples, choice.model.registry)

    def quantise_model(ready: MergedModel, between: Path) -> PreTrainedModel:
        renderer = Renderer(ready.tokenizer, ready.template, choice.template.agent_template)
        tokens = [
            sample.tokens[:most] for row in rows for sample in renderer.samples(row)
        ]  # with the template of training and serving
        calibration.calibrate(ready.model, method, config.bits, tokens)
        return ready.model

    return quantise_model


def _direct(config: Config, choice: checkpoints.Choice, dtype: str) -> Quantiser:
    """Quantisation without calibration, by the library that also loads the result."""
    from swift.assembly.tuner_setup import quantisation
    from swift.model import load, quantise

    how = quantisation(flags.update(config.model, {"quantization_bit": config.quant_bits}))
    assert how is not None, config.bits
    quantise.check(how)
    if how.method == "hqq":
        raise ValueError("--quant_method hqq quantises while loading and cannot save: use bnb or torchao")

    def quantise_model(ready: MergedModel, between: Path) -> PreTrainedModel:
        ready.model.save_pretrained(between)
        ready.model.to("meta")  # frees memory for the second
        return load.load_model(between, dtype, choice.model.device, quantisation=how)

    return quantise_model


def _examples(wanted: ExampleFlags, registry: Sequence[str]) -> Sequence[Conversation]:
    from random import Random

    from swift.chat import Conversation, Message
    from swift.data.demo_rows import agent_rows
    from swift.data.general import general_rows
    from swift.data.mix import DataPlan, load_datasets, sample

    rows: Sequence[Conversation]
    if wanted.dataset:
        rows, _, _ = load_datasets(DataPlan(dataset=wanted.dataset, dataset_test_ratio=0.0, registry=tuple(registry)))
    else:
        talk = [
            Conversation((Message("user", row["query"]), Message("assistant", row["response"])))
            for row in general_rows()
        ]
        rows = [*agent_rows(wanted.quant_n_samples // 3 + 1, seed=0, style="messages"), *talk]
    return rows if len(rows) <= wanted.quant_n_samples else sample(rows, wanted.quant_n_samples, Random(0))
