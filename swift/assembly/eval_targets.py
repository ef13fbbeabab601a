"""Models under test: the one of the flags, and the one that --compare names. Knows no question and no answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from swift import flags
from swift.assembly import checkpoints, endpoint
from swift.assembly.endpoint import EndpointFlags
from swift.assembly.loading import ChatConfig
from swift.flag_groups import GenerationFlags
from swift.system.urls import without_secrets

if TYPE_CHECKING:
    from swift.chat import Tool
    from swift.eval.results import Evaluation
    from swift.eval.runner import Model
    from swift.guided.guide import Guide

FOLDERS = Path("output/eval")
SAMPLED = ("temperature", "top_k", "top_p")
"""Generation flags that sampling alone reads."""
AT_ONCE = 16
"""Requests in flight to a server."""


class TargetConfig(ChatConfig, Protocol):
    """The flags that select the model under test and its sampling."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def compare(self) -> tuple[str, ...]: ...
    @property
    def calibrate(self) -> bool: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def generation(self) -> GenerationFlags: ...
    @property
    def server(self) -> EndpointFlags: ...


class Target(NamedTuple):
    """A model to measure. `name`: what reports call it; `settings`: what its answers depend on, as JSON values.

    `weights`: the folder of the checkpoint or model, where its calibration is kept; None behind a server.
    """

    config: TargetConfig
    given: frozenset[str]
    name: str
    settings: dict[str, Any]
    weights: Path | None = None

    @property
    def folder(self) -> Path:
        """A folder that no other settings have."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return FOLDERS / f"{self.name.replace('/', '-')}-{digest[:8]}"

    @property
    def workers(self) -> int:
        """Questions to ask at a time."""
        return AT_ONCE if self.config.server.endpoint else self.config.backend.max_batch


def target_of(cfg: TargetConfig, given: frozenset[str]) -> Target:
    """The model of the flags. Raises ValueError or OSError where there is none; loads no weights."""
    from swift.model.location import locate

    generation = {
        "max_new_tokens": cfg.generation.max_new_tokens if "max_new_tokens" in given else None,
        "sampling": {name: getattr(cfg.generation, name) for name in SAMPLED},
        "repetition_penalty": cfg.generation.repetition_penalty,
        "stop_words": list(cfg.generation.stop_words),
    }
    if cfg.server.endpoint:
        chat = endpoint.connect(cfg.server, cfg.model, cfg.template, given)
        settings: dict[str, Any] = {
            "endpoint": without_secrets(cfg.server.endpoint),
            "model": chat.model,
            "template": _changed(cfg.template),
        }
        return Target(cfg, given, chat.model, {**settings, **generation})
    choice = checkpoints.choose(cfg, given)
    where = choice.merge.checkpoint if choice.merge else choice.adapter
    if choice.merge is None:  # an adapter that is still to be merged has no folder yet
        base = locate(choice.source, choice.model.model_revision, choice.model.use_hf, choice.model.registry)
        where = where or base
    name, path = checkpoints.name(choice), Path(choice.source).expanduser()
    settings = {
        "model": str(path.resolve()) if path.exists() else choice.source,
        "ckpt_dir": None,
        # the folder's name changes with the adapter
        "weights": base.name if checkpoints.is_named_adapter(choice.model) else None,
        "loading": _changed(choice.model, without=("model_type", "model_id_or_path", "registry")),
        "template": _changed(choice.template),
        "backend": _changed(cfg.backend, without=("ckpt_dir", "max_batch")),
    }
    if cfg.backend.ckpt_dir:
        folder = checkpoints.checkpoint(cfg.backend.ckpt_dir)
        settings |= {"ckpt_dir": str(folder), "weights": _weights(folder)}
        name = f"{name}-{folder.parent.name}-{folder.name}"
    if least := _least_confidence(cfg, where):
        settings["min_confidence"] = least
    return Target(cfg, given, name, {**settings, **generation}, where)


def _least_confidence(cfg: TargetConfig, weights: Path | None) -> float:
    """The probability, not calibrated, below which calls are not made: as the model will be used. Answers to calibrate
    with need all calls."""
    from swift.infer.calibration_file import read_calibration
    from swift.infer.confidence import UNCALIBRATED

    kept = (read_calibration(weights) if weights and weights.is_dir() else None) or UNCALIBRATED
    least = 0.0 if cfg.calibrate or cfg.backend.infer_backend == "openvino" else cfg.generation.min_confidence
    return float((kept.min_confidence if least is None else least) ** kept.temperature)


def _changed(group: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The flags of a group that differ from their defaults."""
    default = flags.to_dict(type(group)())
    return {
        name: value for name, value in flags.to_dict(group).items() if value != default[name] and name not in without
    }


def _weights(folder: Path) -> str:
    """Changes with the weights of a checkpoint: names, sizes and times of its files."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".gguf"))
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def other_target(cfg: TargetConfig, beside: Target) -> Target | Evaluation:
    """What --compare names: results, a checkpoint or a model, asked as `beside` is."""
    from swift.eval import results

    [text] = cfg.compare
    if results.is_results(text):
        return results.load(Path(text).expanduser())
    path = Path(text).expanduser()
    is_checkpoint = path.is_dir() and ((path / "adapter_config.json").exists() or (path / "sft_args.json").exists())
    if path.is_dir() and not is_checkpoint and not (path / "config.json").exists():
        raise ValueError(f"--compare {text}: neither results (results.json) nor a checkpoint nor a model is there")
    changes: dict[str, str | None] = {
        "ckpt_dir": None,
        "model_id_or_path": None,
        "model_type": None,
        "endpoint": None,
        "api_key": None,
    }
    changes["ckpt_dir" if is_checkpoint else "model_id_or_path"] = text
    return target_of(flags.update(cfg, changes, "--compare"), beside.given - changes.keys())


@contextmanager
def loaded(target: Target) -> Iterator[Model]:
    """The model of a target, ready to be asked."""
    from swift.assembly.loading import load_chat, sampling
    from swift.eval.runner import Model
    from swift.guided.grammar import Rules

    cfg = target.config
    params = sampling(cfg.generation)
    if cfg.server.endpoint:
        served = endpoint.connect(cfg.server, cfg.model, cfg.template, _sent(target))
        yield Model(served, replace(params, confidence=True))
        return
    chat = load_chat(cfg, target.given, keep=True)
    chat.calibrations.clear()  # answers keep the model's own confidence

    def guide(tools: Sequence[Tool]) -> Guide:
        return chat.guide(Rules(tuple(tools)))

    try:
        params = replace(params, confidence=True, min_confidence=target.settings.get("min_confidence", 0.0))
        yield Model(chat, params, guide, chat.renderer.tool_format.syntax)
    finally:
        chat.engine.close()


def _sent(target: Target) -> frozenset[str]:
    """The generation flags that a server must not choose itself."""
    return (
        target.given
        | {"max_new_tokens", "temperature", "seed"}
        | (frozenset(SAMPLED) if target.config.seeds else set())
    )
