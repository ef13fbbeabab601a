"""List the tuners: what each is, its paper, its flag, the parameters it trains, and whether it merges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from swift.flag_groups import LoraFlags, TunerFlags
from swift.flags import flag
from swift.model.bundled import MODEL_TYPE

TOKENS = 10
"""What trainable_tokens is counted for, which has no number of its own."""


@dataclass(frozen=True)
class Config:
    words: tuple[str, ...] = flag((), positional=True)
    """List only those whose line holds these words"""
    json: bool = False
    """Print JSON"""
    markdown: bool = False
    """Print the page docs/tuners.md"""
    model_id_or_path: str = flag(MODEL_TYPE, alias=("model",))
    """Model whose parameters are counted"""


class Line(NamedTuple):
    name: str
    flag: str
    about: str
    paper: str
    trained: int | None
    merges: str


def main(cfg: Config) -> list[Line]:
    if cfg.json and cfg.markdown:
        raise ValueError("--json and --markdown exclude each other")
    lines = [line for line in table(cfg.model_id_or_path) if all(word in str(line).lower() for word in cfg.words)]
    if cfg.json:
        print(json.dumps([line._asdict() for line in lines], indent=2))
    elif cfg.markdown:
        print(page(lines, cfg.model_id_or_path), end="")
    else:
        _show(lines)
    return lines


def table(model: str) -> list[Line]:
    """Every tuner, and every variant that a flag makes of one. Parameters are counted without reading weights."""
    from swift.model import location
    from swift.tuner.registry import TUNERS, VARIANTS

    path = location.locate(model)
    lines = [
        Line(name, f"--sft_type {name}", tuner.about, tuner.paper, _trained(path, name, {}), tuner.merges)
        for name, tuner in TUNERS.items()
    ]
    for name, variant in VARIANTS.items():
        said = " ".join(f"--{flag} {json.dumps(value).strip(chr(34))}" for flag, value in variant.flags.items())
        trained = _trained(path, variant.of, variant.flags)
        lines.append(Line(name, said, variant.about, variant.paper, trained, TUNERS[variant.of].merges))
    return lines


def page(lines: list[Line], model: str) -> str:
    """docs/tuners.md"""
    from swift.tuner.registry import LEFT_OUT

    rows = [
        "| tuner | flag | what it trains | paper | trained | merges |",
        "|---|---|---|---|---:|---|",
        *(
            f"| {line.name} | `{line.flag}` | {line.about} | {_link(line.paper)} | {_number(line)} | {line.merges} |"
            for line in lines
        ),
    ]
    missing = [f"- **{name}**: {reason}." for name, reason in LEFT_OUT.items()]
    return "\n".join([HEAD.format(model=model, tokens=TOKENS), *rows, "", "Not there, and why:", "", *missing, ""])


HEAD = """# Tuners

Made by `swift tuners --markdown true`. The column *trained* counts the parameters that {model} trains with the flags
at their defaults (trainable_tokens: {tokens} tokens). A flag that the chosen tuner would ignore is an error.

Weights of 4 or 8 bits are made while the model is loaded: `--quantization_bit 4`, by bitsandbytes, or as
`--quant_method hqq` or `torchao` (8 bits) says; `pip install -e '.[quant]'`. A checkpoint that is quantised
already (GPTQ, AWQ, AQLM) needs no flag, but its own package. Such a base stays as it is: LoRA trains beside it, and is
merged into the whole weights of the same model where there are some.
"""


def _link(paper: str) -> str:
    return f"[{paper}](https://arxiv.org/abs/{paper})" if paper else ""


def _number(line: Line) -> str:
    return "does not fit" if line.trained is None else f"{line.trained:,}"


def _trained(path: Path, name: str, changes: Mapping[str, Any]) -> int | None:
    """The number of trained parameters; None where the tuner does not fit the model."""
    from swift.model import load
    from swift.tuner import peft_models
    from swift.tuner.apply import tune

    values = {**vars(LoraFlags()), **vars(TunerFlags()), "trainable_token_ids": tuple(range(TOKENS)), **changes}
    values["init_lora_weights"] = "true"  # others are computed from the weights, and change no count
    try:
        return peft_models.trained_and_all(tune(load.blank_model(path), name, values))[0]
    except ValueError:
        return None


def _show(lines: list[Line]) -> None:
    width = max((len(line.flag) for line in lines), default=0)
    for line in lines:
        paper = f" (arXiv {line.paper})" if line.paper else ""
        print(f"{line.name:<17} {line.flag:<{width}} {_number(line):>12}  {line.about}{paper}")
