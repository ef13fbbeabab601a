"""The model card README.md: what was trained, on what data, with what result, and how to use it.

It is made to be published: local files appear by name, without their folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swift.model.catalog import ModelSpec
    from swift.train.report import Share

README = "README.md"
BEGINS, ENDS = "## Training data", "## How to use it"
"""The sections of an adapter's card that also apply to a model merged from it."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SETTINGS = (
    *("rlhf_type", "beta", "learning_rate", "lr_scheduler_type", "num_train_epochs", "max_steps", "batch_size"),
    *("gradient_accumulation_steps", "optim", "weight_decay", "max_length", "loss_scale", "dtype", "quantization_bit"),
    *("lora_rank", "lora_alpha", "lora_dropout_p", "lora_target_modules", "seed"),
)
"""Flags to list in the card."""


def base_name(spec: ModelSpec | None, name: str) -> str:
    """The base model's hub id, else the name of its folder."""
    if spec and (spec.hf or spec.ms):
        return spec.hf or spec.ms
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() or path.is_absolute() else name


def published(spec: ModelSpec | None, name: str) -> str:
    """The hub id of the base model; empty for a folder without a known hub id."""
    if spec and (spec.hf or spec.ms):
        return spec.hf or spec.ms
    return name if HUB_ID.fullmatch(name) and not Path(name).expanduser().exists() else ""


def finish(folder: Path, base: str, hub_id: str, shares: Mapping[str, Share], flags: Mapping[str, Any]) -> None:
    """Writes the card of a checkpoint, and replaces the base model's path in adapter_config.json by its hub id."""
    note = folder / "adapter_config.json"
    if note.is_file() and hub_id:
        noted = json.loads(note.read_text(encoding="utf-8"))
        text = json.dumps({**noted, "base_model_name_or_path": hub_id}, indent=2, sort_keys=True)
        note.write_text(text + "\n", encoding="utf-8")
    kind = str(json.loads(note.read_text(encoding="utf-8"))["peft_type"]) if note.is_file() else ""
    by_peft = bool(kind) and (folder / "adapter_model.safetensors").is_file() and kind not in _own_kinds()
    rows = sum(share.rows for share in shares.values())
    method = str(flags["sft_type"])
    what = f"Adapter ({method}) for {base}" if kind else f"{base}, fully fine-tuned ({method})"
    data = [(_file_name(source), share.rows, share.tokens, share.trained_tokens) for source, share in shares.items()]
    text = "\n".join(
        [
            *_front(base, "peft" if by_peft else "transformers", method, kind != "", [name for name, *_ in data]),
            f"# {_title(flags, base)}\n",
            f"{what}, trained with SWIFT {version('swift-agents')} on {rows:,} rows.\n",
            f"{BEGINS}\n",
            *_table(("source", "rows", "tokens", "trained tokens"), data),
            "\n## Training\n",
            *_table(("flag", "value"), _settings(flags)),
            "\n## Results\n",
            *_table(("figure", "value"), _figures(folder)),
            f"\n{ENDS}\n",
            *_usage(base, bool(kind), by_peft),
        ]
    )
    (folder / README).write_text(text + "\n", encoding="utf-8")


def merged(folder: Path, base: str, template: str | None, adapter: Path | None, what: str) -> None:
    """Writes the card of an exported folder, with the training sections of the adapter's card."""
    story = _story(adapter) if adapter else ""
    text = "\n".join(
        [
            *_front(base, "transformers", "merged" if adapter else "quantised", False, ()),
            f"# {base}, {what}\n",
            f"{base}, {what} by SWIFT {version('swift-agents')}."
            + (f" Chat template: {template}." if template else "")
            + "\n",
            *([story] if story else []),
            f"{ENDS}\n",
            *_usage(base, False, False),
        ]
    )
    (folder / README).write_text(text + "\n", encoding="utf-8")


def packed(folder: Path, name: str, base: str, checkpoint: Path, is_named: bool) -> None:
    """Writes the card of a packed adapter, with the training sections of its checkpoint's card.

    `is_named`: commands know the adapter by `name`.
    """
    usage = [f"swift {verb} --model {name}" for verb in ("infer", "deploy", "eval")]
    text = "\n".join(
        [
            *_front(base, "peft", "lora", True, ()),
            f"# {name}\n",
            f"A LoRA adapter for {base}, packed in bf16 by SWIFT {version('swift-agents')}.\n",
            *([story.rstrip(), ""] if (story := _story(checkpoint)) else []),
            f"{ENDS}\n",
            *(["```", *usage, "```"] if is_named else _usage(base, True, True)),
        ]
    )
    (folder / README).write_text(text + "\n", encoding="utf-8")


def _story(checkpoint: Path) -> str:
    """The sections of an adapter's card from the training data to the results; empty without a card."""
    file = checkpoint / README
    card = file.read_text(encoding="utf-8") if file.is_file() else ""
    return card[card.index(BEGINS) : card.index(ENDS)] if BEGINS in card and ENDS in card else ""


def _own_kinds() -> Iterable[str]:
    from swift.tuner import extra_modules

    return extra_modules.KINDS


def _title(flags: Mapping[str, Any], base: str) -> str:
    return f"{flags.get('model_type') or base.rsplit('/', 1)[-1]}-{flags['sft_type']}"


def _front(base: str, library: str, method: str, adapter: bool, sources: Sequence[str]) -> list[str]:
    """The YAML front matter that hubs read."""
    relation = f"base_model:adapter:{base}" if adapter else f"base_model:finetune:{base}"
    datasets = [name for name in sources if HUB_ID.fullmatch(name)]
    return [
        "---",
        f"base_model: {base}",
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        *(["datasets:", *(f"- {name}" for name in datasets)] if datasets else []),
        "tags:",
        *(f"- {tag}" for tag in (relation, method, "swift", "transformers")),
        "---\n",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(map(_cell, row))} |" for row in rows]


def _cell(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return shown.replace("|", "\\|")


def _file_name(source: str) -> str:
    path = Path(source).expanduser()
    return path.name if path.exists() or path.is_absolute() or path.suffix else source


def _settings(flags: Mapping[str, Any]) -> list[tuple[str, object]]:
    lora = flags["sft_type"] == "lora"
    found = [(name, flags[name]) for name in SETTINGS if flags.get(name) is not None]
    kept = [(name, value) for name, value in found if lora or not name.startswith("lora_")]
    return [
        ("sft_type", flags["sft_type"]),
        *(
            (name, _file_name(str(value)) if name == "loss_scale" else value)
            for name, value in kept
            if not (name == "max_steps" and value == -1) and not (name == "quantization_bit" and value == "0")
        ),
    ]


def _figures(folder: Path) -> list[tuple[str, object]]:
    """Figures of the checkpoint's step from its log."""
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    step, history = state["global_step"], state["log_history"]
    figures: list[tuple[str, object]] = [("steps", step), ("epochs", f"{state['epoch']:.3g}")]
    losses = [line["loss"] for line in history if "loss" in line]
    held_out = [line for line in history if "eval_loss" in line and line["step"] == step]
    figures += [("training loss", f"{losses[-1]:.4f}")] if losses else []
    for line in held_out[-1:]:
        figures += [("held-out loss", f"{line['eval_loss']:.4f}")]
        named = {"acc": "accuracy", "rewards/accuracies": "reward accuracy", "rewards/margins": "reward margin"}
        for key, name in named.items():
            figures += [(f"held-out {name}", f"{line[f'eval_{key}']:.3f}")] if f"eval_{key}" in line else []
    return figures


def _usage(base: str, adapter: bool, by_peft: bool) -> list[str]:
    flag = "--ckpt_dir FOLDER"
    lines = ["```", f"swift infer {flag}", f"swift deploy {flag}", "```"]
    if adapter and not by_peft:
        return [*lines, "", "This kind of adapter is specific to SWIFT; PEFT does not load it."]
    if adapter:
        code = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'base = AutoModelForCausalLM.from_pretrained("{base}")',
            'model = PeftModel.from_pretrained(base, "FOLDER")',
            f'tokenizer = AutoTokenizer.from_pretrained("{base}")',
        ]
    else:
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        ]
    return [*lines, "", "```python", *code, "```", "", "`FOLDER` is the folder of this file."]
