"""Flags -> training data: chooses how rows are tokenised, and refuses data that would train nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift import flags
from swift.assembly import training_data
from swift.assembly.training_config import TrainingConfig
from swift.assembly.training_data import PREVIEW, Data, RowTokenizer, Say
from swift.flag_groups import LoaderFlags, TrainFlags
from swift.system import gc_tuning

if TYPE_CHECKING:
    from swift.data.mix import DataPlan
    from swift.template import Renderer
    from swift.train.ranks import Ranks

SCALED = 100
"""Rows among which a named loss scale must match something."""
RULES = (
    *("agent", "data", "template", "chat.py", "train/sample_cache.py", "train/report.py"),
    *("assembly/pipeline.py", "assembly/training_data.py"),
)
"""Files of this package that decide the tokens of a row, and what is cached with them."""


def check(cfg: TrainingConfig) -> None:
    """Raises ValueError for flags that contradict each other. Reads nothing."""
    loader, default = cfg.loader, LoaderFlags()
    ways = [f"--{name}" for name in ("streaming", "lazy_tokenize", "token_cache") if getattr(loader, name)]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} exclude each other: each says when rows are tokenised")
    if loader.shuffle_buffer_size != default.shuffle_buffer_size and not loader.streaming:
        raise ValueError("--shuffle_buffer_size does nothing without --streaming true")
    for name in ("streaming", "lazy_tokenize"):
        if loader.group_by_prefix and getattr(loader, name):
            raise ValueError(
                f"--group_by_prefix compares the tokens of all rows, which --{name} does not know: leave one out"
            )
    if loader.shuffle_buffer_size < 1:
        raise ValueError(f"--shuffle_buffer_size {loader.shuffle_buffer_size}: must be 1 or more")
    if loader.streaming and cfg.train.max_steps < 1:
        raise ValueError("--streaming true needs --max_steps: the number of rows is unknown")


def plan(cfg: TrainingConfig) -> DataPlan:
    """The data sets of the flags. Reads nothing."""
    from swift.data.mix import DataPlan

    return DataPlan(**flags.values(cfg.data), registry=cfg.model.registry)


@gc_tuning.infrequent()  # also for the tokenising processes, which are forked within
def read(cfg: TrainingConfig, renderer: Renderer, say: Say, ranks: Ranks) -> Data:
    """The training data of the flags. `say` receives a line for each thing to report about rows.

    Raises ValueError where no row is left, or no token of a source is trained.
    """
    loader, limits = cfg.loader, cfg.template
    wanted, tokenizer = plan(cfg), RowTokenizer(renderer, limits.max_length, limits.truncation_strategy)

    def tokenised() -> Data:
        return training_data.tokenised(wanted, tokenizer, say, loader.preprocess_num_proc)

    if loader.streaming:
        data = training_data.streamed(wanted, tokenizer, loader.shuffle_buffer_size, cfg.train.seed, say)
    elif loader.lazy_tokenize:
        data = training_data.on_demand(wanted, tokenizer, say)
    elif loader.token_cache:
        folder = "~/.cache/swift/tokens" if loader.token_cache.lower() == "true" else loader.token_cache
        data = training_data.cached(
            Path(folder).expanduser(), lambda: _cache_key(cfg, wanted, renderer), tokenised, ranks, say
        )
    else:
        data = tokenised()
    check_trained(data, cfg)
    warn_unmatched(data, renderer, say)
    return data


def inputs(data: Data, batch_size: int, device: Any) -> Iterator[dict[str, Any]]:
    """Training batches as model inputs with labels, for initial weights that are computed from data."""
    from swift.train.batch import collate

    for start in range(0, len(data.train), batch_size):
        batch = collate(data.train[start : start + batch_size])
        batch["labels"] = batch["input_ids"].masked_fill(batch.pop("weights") == 0, -100)
        yield {name: tensor.to(device) for name, tensor in batch.items()}


def expected_tokens(train: TrainFlags, data: Data, world: int) -> float:
    """About how many tokens the run will train on, with repetitions."""
    from swift.train.lazy_datasets import lengths

    each = lengths(data.train)
    passes = train.num_train_epochs or 1
    if train.max_steps > 0:
        passes = train.max_steps * train.batch_size * (train.gradient_accumulation_steps or 1) * world / len(each)
    return sum(each) * passes


def check_trained(data: Data, cfg: TrainingConfig) -> None:
    """Raises ValueError for data that trains nothing, or never trains a stop token."""
    if not data.train:
        why = next(iter(data.outcomes.get("left_out", ())), f"none fits into --max_length {cfg.template.max_length}")
        raise ValueError(f"no row is left to train on: {why}")
    for source, share in data.shares.items():
        if not share.trained_tokens:
            raise ValueError(
                f"{source}: no token of its {share.rows} rows is trained: "
                f"look at one with `swift data show`, and at --loss_scale {cfg.template.scale}"
            )
    checked = data.train[:PREVIEW] if cfg.loader.lazy_tokenize else data.train
    if not any(sample.weights[-1] for sample in checked):
        raise ValueError(
            "the stop token of a reply is never trained, so the model would not learn to stop: "
            f"look at a row with `swift data show`, and at --loss_scale {cfg.template.scale}"
        )


def warn_unmatched(data: Data, renderer: Renderer, say: Say) -> None:
    """Warns of a named loss scale that matches nothing."""
    if renderer.scale.names == ("AUTO",):
        return
    seen = data.train[:SCALED]
    trained = [[token for token, weight in zip(row.tokens, row.weights, strict=True) if weight] for row in seen]
    for name in renderer.scale.unmatched([renderer.decode(tokens) for tokens in trained]):
        say(
            f"warning: --loss_scale {name} finds nothing to weigh in the first {len(seen)} rows: "
            "leave the flag out, and tool calls count twice in the format of the template"
        )


def _cache_key(cfg: TrainingConfig, plan: DataPlan, renderer: Renderer) -> str:
    """The cache folder's name, a hash of all that the tokens depend on: data, flags, tokenizer, template, code."""
    from swift.data.mix import files

    found = hashlib.sha256()
    found.update(json.dumps([flags.to_dict(cfg.data), flags.to_dict(cfg.template)], sort_keys=True).encode())
    found.update(json.dumps([version(name) for name in ("swift-agents", "transformers", "tokenizers")]).encode())
    tokenizer = renderer.tokenizer
    found.update(tokenizer.backend_tokenizer.to_str().encode())
    found.update(repr((tokenizer.special_tokens_map, tokenizer.chat_template, renderer.stop)).encode())
    found.update(repr(cfg.model.model_type).encode())
    package = Path(__file__).parent.parent
    rules = [path for part in RULES for path in sorted([package / part, *(package / part).rglob("*")])]
    loss_scale = [Path(cfg.template.scale).expanduser()]  # may be a file of the user's
    for file in [*files(plan), *rules, *loss_scale]:
        if file.is_file() and file.suffix != ".pyc":
            found.update(f"{file.name} {file.stat().st_size}".encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 22):
                    found.update(block)
    return found.hexdigest()[:32]
