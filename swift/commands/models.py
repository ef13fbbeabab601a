"""List and search the registered models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from swift.flags import flag

if TYPE_CHECKING:
    from swift.model.catalog import ModelSpec
    from swift.model.loading_methods import LoadingMethod
    from swift.model.verified import Verified

    Row = tuple[ModelSpec, LoadingMethod, Verified]


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift models qwen3"

    word: tuple[str, ...] = flag((), positional=True)
    """Words to find in name, hub ids, template, class, loading method and verification; none lists all"""
    json: bool = False
    """Print JSON"""
    markdown: bool = False
    """Print the page docs/models.md"""
    registry: tuple[str, ...] = ()
    """TOML files with your own models"""


def main(cfg: Config) -> None:
    from swift.model import catalog
    from swift.model.loading_methods import loading_method
    from swift.model.verified import verified

    known = {name: (spec, loading_method(spec), verified(spec)) for name, spec in catalog.table(cfg.registry).items()}
    found = {name: row for name, row in known.items() if all(_holds(*row, word) for word in cfg.word)}
    if not found:
        near = next(filter(None, (catalog.nearest(word, cfg.registry) for word in cfg.word)), "")
        raise ValueError(f"no model matches {' '.join(cfg.word)}{near and f': did you mean {near}?'}")
    if cfg.json:
        print(json.dumps([as_json(*row) for row in found.values()], ensure_ascii=False, indent=2))
    elif cfg.markdown:
        print(page(found), end="")
    else:
        print("\n".join(lines(found)))


def as_json(spec: ModelSpec, way: LoadingMethod, verified: Verified) -> dict[str, object]:
    return {
        **asdict(spec),
        **{"loads": way.kind, "why": way.why, "needs": way.needs},
        **_adapter(spec),
        "verified": verified._asdict(),
    }


def _adapter(spec: ModelSpec) -> dict[str, object]:
    from swift.model import adapter_models

    if not spec.adapter:
        return {}
    card = adapter_models.card(spec)
    return {"adapter_bytes": adapter_models.size(spec), "card": str(card) if card else None}


def lines(rows: Mapping[str, Row]) -> list[str]:
    """A line per model: name, loading method, template, class, verification, hub ids and requirements."""
    found = []
    for name, (spec, way, verified) in rows.items():
        needs = "" if way.kind in ("native", "converted") else f"  ({way.why}{_adapter_facts(spec)})"
        ids = [f"{hub}::{id}" for hub, id in (("MS", spec.ms), ("HF", spec.hf)) if id]
        where = " ".join([*ids, *(path for path in (spec.path, spec.adapter) if path)])
        found.append([name, way.kind, spec.template or "its own", spec.arch or "its own", str(verified), where + needs])
    head = ["name", "loads", "template", "class", "verified", "where"]
    wide = [max(len(row[column]) for row in [head, *found]) for column in range(5)]
    text = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, wide, strict=False)), row[5]])
        for row in [head, *found]
    ]
    return [*text, counted(rows)]


def _adapter_facts(spec: ModelSpec) -> str:
    """The size of an adapter and its model card; empty for other models."""
    from swift.model import adapter_models

    if not spec.adapter:
        return ""
    size, card = adapter_models.size(spec), adapter_models.card(spec)
    what = "its weights are missing" if size is None else f"{size / 1e6:.1f} MB"
    return f"; {what}{f'; card: {card}' if card else ''}"


def counted(rows: Mapping[str, Row]) -> str:
    from swift.model.verified import PARTS

    kinds = Counter(way.kind for _, way, _ in rows.values())
    shown = Counter(part for _, _, verified in rows.values() for part in verified.parts)
    return "; ".join(
        [
            f"{len(rows)} models: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
            "verified by tests: " + (", ".join(f"{part} of {shown[part]}" for part in PARTS if shown[part]) or "none"),
        ]
    )


HEAD = """\
# Models

Every name below is a value of `--model_type`, every hub id one of `--model_id_or_path`; so is the folder of any other
model, whose class is the one in its `config.json` and whose template is its tokenizer's own. A model is looked up
locally first, in the caches of ModelScope and Hugging Face, and only then downloaded.

| loads | meaning |
|---|---|
| native | transformers has its class |
| converted | weights and tokenizer are mapped to another class while they are read; no Python code of the model runs |
| needs a package | quantised weights that another package reads |
| remote code | SWIFT has no reader; `--trust_remote_code true` runs the model's own Python code, if it still works |
| adapter | a LoRA adapter on another model, with the settings it was trained with |

## Models that are an adapter

The first use of such a model merges the adapter into its base model, in fp32 with one rounding to the dtype of the
base, and keeps the result in SWIFT's cache (`$SWIFT_CACHE`, else `~/.cache/swift`). From then on it is a model like any
other: it is trained, served, quantised and exported by its name. The settings of its training, such as the tool-call
format, hold where flags do not say otherwise, as those of a checkpoint do. `swift models NAME` shows the size of the
adapter and its model card.

`swift export --ckpt_dir output/.../checkpoint-N --pack_adapter true --output_dir my-agent` makes such an adapter of a
checkpoint ([export](export.md)), and a table with `of` and `adapter` gives it a name, as below. It must be plain LoRA,
without embeddings and head. A checkpoint that is trained on top records the name, not the adapter: another adapter
under the same name changes what it computes, of which loading warns. Merging takes the memory of the base model in fp32
once, and keeps one folder for each version of the adapter.

## Your own models

A TOML file registers models by name; `--registry my.toml` loads it in `swift sft`, `infer`, `deploy`, `export`,
`data show` and `models`. A checkpoint records the file, which may register data sets as well.

```toml
[models.my-qwen]
of = "qwen2_5-7b-instruct"              # template and LoRA targets of that model
path = "models/my-qwen"                 # relative to this file; or ms = "...", hf = "..."

[models.my-llama]
hf = "me/my-llama"
template = "llama3"                     # default: the tokenizer's own
lora = ["q_proj", "k_proj", "v_proj", "o_proj"]

[models.my-agent]
of = "smollm2-135m-instruct"
adapter = "my-agent"                    # a folder that `swift export --pack_adapter true` wrote, or a checkpoint

[models.odd]
path = "models/odd"
template = "chatml"
model = "my_model.py:model"             # a function (folder, **options of from_pretrained) -> model
tokenizer = "my_model.py:tokenizer"     # a function (folder) -> fast tokenizer
```

A checkpoint of a model with a custom loader has the layout of `save_pretrained` and loads without the function.
`swift/model/models.toml` has the same keys and documents each; `of`, `path`, `model` and `tokenizer` are for your own
files. A table may name one that stands before it.

## Limits of conversion

- Adapters are saved in PEFT's format for the class of transformers. For complete models, "saved as" below is what
  `swift export` and full fine-tuning write; the converted folder loads without conversion.
- The first Qwen's own code uses dynamic NTK and log-n attention beyond its training length. They are not converted: the
  context ends at that length.
- The rows of Baichuan2's output head have length 1. They are normalised when the head is read; training the head does
  not keep them normalised.
"""


VERIFIED = """\
## What tests have verified

`swift models` shows what tests have verified for each model, not what should work:

| verified | a test |
|---|---|
| weights | loads a tiny random checkpoint of its class, or of the converted layout, and compares the logits |
| prompts | each prompt equals the output of the published chat template, in dialogues of up to this number of rounds |
| calls | parses the calls that the published template renders, by the named tool-call format |
| nothing | none of these; the model may work all the same |

No test downloads the models themselves. Quantised published weights (GPTQ, AWQ, FP8, MXFP4) are not covered by
"weights", and whether a tokenizer comes with a template is taken from its publisher. `swift/model/verified.toml` has
the claims; a test fails for each claim without evidence.

A model that is not in the table needs no entry: its class is the one in its `config.json`, and the chat template of its
tokenizer renders its prompts, tools and reasoning. These published templates have been rendered, some of families that
are newer than the table:
"""


def page(rows: Mapping[str, Row]) -> str:
    from swift.model.convert import families
    from swift.model.verified import templates

    saved = ["| converter | saved as |", "|---|---|"]
    saved += [f"| `{name}` | {family.SAVES} |" for name, family in families().items()]
    shown = ["| published template | of | rounds | with tools | calls read by |", "|---|---|---|---|---|"]
    for name, each in sorted(templates().items()):
        cells = [
            f"`{name}`",
            each.of,
            str(each.rounds or ""),
            "yes" if each.tools else "",
            each.form and f"`{each.form}`",
        ]
        shown.append(_line(cells))
    table = ["| name | ModelScope | Hugging Face | template | class | verified | loads | needs |"]
    table.append("|---|---|---|---|---|---|---|---|")
    for name, (spec, way, verified) in rows.items():
        loads = f"converted (`{spec.convert}`)" if way.kind == "converted" else way.kind
        needs = "" if way.kind in ("native", "converted") else way.why
        cells = [f"`{name}`", spec.ms, spec.hf, spec.template or "its own", spec.arch, str(verified), loads, needs]
        table.append(_line(cells))
    return "\n".join([HEAD, *saved, "", VERIFIED, *shown, "", "## All models", "", *table, "", f"{counted(rows)}.", ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _holds(spec: ModelSpec, way: LoadingMethod, verified: Verified, word: str) -> bool:
    texts = (*spec.names, spec.template, spec.arch, spec.modality, spec.quant, spec.convert, way.kind, str(verified))
    return any(word.lower() in text.lower() for text in texts)
