"""Flags -> a model behind an engine and a renderer, for infer and deploy."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from swift.assembly import backends, checkpoints, merging
from swift.assembly.merged_model import eos_tokens
from swift.flag_groups import GenerationFlags
from swift.native import processor

if TYPE_CHECKING:
    from swift.engine.interface import Engine, TokenStream
    from swift.engine.sampling import SamplingParams
    from swift.infer.local_chat import LocalChat
    from swift.model.catalog import ModelSpec


class ChatConfig(checkpoints.ModelConfig, Protocol):
    """The flags that loading a chat reads."""

    @property
    def vllm_log(self) -> Path | None:
        """The file that receives vLLM's output; None: standard output and error."""


def load_chat(cfg: ChatConfig, given: Collection[str] = (), keep: bool = False) -> LocalChat:
    """The model of the flags behind an engine and a renderer.

    Flags left at their defaults come from the checkpoint's record, except those that `given` names. With --merge_lora
    an adapter is first merged into a folder; without, it is merged in memory if possible. `keep`: keep the weights
    usable outside the engine. Raises ValueError for flags and checkpoints that do not fit.
    """
    choice = checkpoints.choose(cfg, given)
    processor.forced()
    if unmerged := choice.merge:
        merging.merge_checkpoint(str(unmerged.checkpoint), unmerged.base, choice.template.template_type, overwrite=True)

    from swift.assembly.rendering import make_renderer
    from swift.infer.calibration_file import read_calibration
    from swift.infer.local_chat import LocalChat
    from swift.model import location
    from swift.tuner import adapter_files

    model = choice.model
    path = location.locate(choice.source, model.model_revision, model.use_hf, model.registry)
    backend = backends.pick(cfg.backend, choice, path, cfg.vllm_log)
    spec = checkpoints.spec(choice, path)
    if choice.adapter:
        adapter_files.check(choice.adapter)
        checkpoints.warn_of_another_base(model, choice.adapter, path)
    calibration = read_calibration(choice.adapter or path)
    renderer = make_renderer(path, choice.template, spec, model.trust_remote_code, choice.trained)
    stops = renderer.stop.tokens
    if backend == "pt":
        engine = _torch_engine(choice, path, spec, stops, cfg.backend.max_batch, keep)
    else:
        engine = backends.start(backend, cfg.backend, choice, path, stops, cfg.vllm_log)
    if calibration and backend == "openvino":  # which cannot begin again without a token
        calibration = calibration._replace(min_confidence=0.0)
    return LocalChat(engine, renderer, calibrations={"": calibration} if calibration else None)


def _torch_engine(
    choice: checkpoints.Choice, path: Path, spec: ModelSpec | None, stops: Sequence[int], max_batch: int, keep: bool
) -> Engine:
    """PyTorch's engine on the model of a folder, with its adapter merged in memory if possible."""
    from swift.assembly.tuner_setup import quantisation
    from swift.engine import decoder
    from swift.engine.cpu import native_runner
    from swift.engine.torch_engine import TorchEngine
    from swift.model import devices, load
    from swift.tuner import adapter_files, merge, virtual_tokens
    from swift.tuner.virtual_tokens import VirtualTokenModel

    flags = choice.model
    # --quant_method torch quantises in the engine, after merging; the others while loading
    late = flags.quant.bits if flags.quant.quant_method == "torch" else 0
    quant = None if late else quantisation(flags)
    # the engine's C++ multiplies bf16 on any CPU; all other code is slow in bf16 on processors without it
    foreign = flags.dtype == "AUTO" and not quant and devices.has_foreign_bf16(path, flags.device)
    missing = native_runner.missing() if foreign else ""
    dtype = "bf16" if foreign and not missing else flags.dtype
    model = load.load_model(path, dtype, flags.device, flags.trust_remote_code, quantisation=quant, spec=spec)
    end_tokens = sorted({*stops, *eos_tokens(model)})

    def start(model: Any, unsplit: int = 0) -> TorchEngine:
        known = not decoder.why_not(model)
        if foreign and (not known or native_runner.why_not(model)):
            model = model.float()
        engine = TorchEngine(model, end_tokens, max_batch=max_batch, unsplit=unsplit, bits=late, keep_weights=keep)
        if reason := engine.fast_path_missing or (missing if known else ""):
            print(f"replies are slower than they could be: {reason}", file=sys.stderr)
        return engine

    if not choice.adapter:
        return start(model)
    tuned = adapter_files.load(model, choice.adapter)
    if not merge.why_unmergeable(tuned):
        tuned = merge.merge(tuned)
    if not virtual_tokens.has_virtual_tokens(tuned):
        return start(tuned)
    prompted = VirtualTokenModel(tuned)
    return _WithVirtualTokens(start(prompted, unsplit=prompted.length), prompted.length)


class _WithVirtualTokens:
    """An engine that prepends virtual tokens to every prompt."""

    def __init__(self, engine: Engine, length: int) -> None:
        self._engine, self._virtual = engine, [0] * length

    @property
    def context(self) -> int | None:
        return self._engine.context

    def submit(
        self, tokens: Sequence[int], params: SamplingParams, inputs: Mapping[str, Any] | None = None
    ) -> TokenStream:
        if inputs:
            raise ValueError("this checkpoint's virtual tokens cannot be combined with images")
        return self._engine.submit([*self._virtual, *tokens], params)

    def close(self) -> None:
        self._engine.close()


def sampling(flags: GenerationFlags) -> SamplingParams:
    """The engine's sampling parameters. `max_new_tokens` is an upper bound; the context may end a reply earlier."""
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
        min_confidence=flags.min_confidence,
    )
