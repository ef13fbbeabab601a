"""Flags -> samples to train on: all at once, kept on the disk from the last start, one by one, or as a stream."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from swift import flags
from swift.flag_groups import DataFlags, LoaderFlags, ModelFlags, TemplateFlags, TrainFlags
from swift.system import gc_tuning

if TYPE_CHECKING:
    from swift.chat import Conversation, Sample
    from swift.data.linting import Report
    from swift.data.mix import DataPlan
    from swift.template import Renderer
    from swift.template.truncation import LengthReport, Outcome, SampleRef
    from swift.train.lazy_datasets import Stream
    from swift.train.ranks import Ranks
    from swift.train.report import Share

Say = Callable[[str], None]
LOOK = 256
"""Rows that are looked at before a run whose rows are not tokenised beforehand."""
SCALED = 100
"""Rows in which a named loss scale must find something."""
NAMED = 100
"""Rows left out on the way that a process names, before it only counts on."""
RULES = ("agent", "data", "template", "chat.py", "train/sample_cache.py", "train/report.py", "assembly/pipeline.py")
"""What of this package decides the tokens of a row and what is kept beside them."""


class Feeds(Protocol):
    """A command's config, as far as its rows go."""

    @property
    def model(self) -> ModelFlags: ...
    @property
    def template(self) -> TemplateFlags: ...
    @property
    def data(self) -> DataFlags: ...
    @property
    def loader(self) -> LoaderFlags: ...
    @property
    def train(self) -> TrainFlags: ...


class Data(NamedTuple):
    """What is trained on, what is held out, what became of every row, and the first row as the model sees it.

    `val` is the samples of `held_out` rows. With a `stream` on, `train` is what was looked at of it.
    """

    train: Sequence[Sample]
    val: Sequence[Sample]
    shares: dict[str, Share]
    fates: dict[str, Any]
    said: list[str]
    first_row: str
    held_out: int
    stream: Callable[[int, int, int, int], Stream[Any]] | None = None
    """(batch size, accumulation, rank, world) -> the stream."""


def check(cfg: Feeds) -> None:
    """ValueError for flags that contradict each other. Reads nothing."""
    loader, default = cfg.loader, LoaderFlags()
    ways = [f"--{name}" for name in ("streaming", "lazy_tokenize", "token_cache") if getattr(loader, name)]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} exclude each other: each says when rows are tokenised")
    if loader.shuffle_buffer_size != default.shuffle_buffer_size and not loader.streaming:
        raise ValueError("--shuffle_buffer_size does nothing without --streaming true")
    if loader.shuffle_buffer_size < 1:
        raise ValueError(f"--shuffle_buffer_size {loader.shuffle_buffer_size}: must be 1 or more")
    if loader.streaming and cfg.train.max_steps < 1:
        raise ValueError("--streaming true needs --max_steps: nobody knows how many rows there are")


@gc_tuning.infrequent()  # in processes that share rows out too: they are forked within
def read(cfg: Feeds, renderer: Renderer, say: Say, ranks: Ranks) -> Data:
    """The rows of the flags; `say` hears what became of them."""
    loader = cfg.loader
    if loader.streaming:
        data = _streamed(cfg, renderer, say)
    elif loader.lazy_tokenize:
        data = _lazy(cfg, renderer, say)
    elif loader.token_cache:
        data = _kept(cfg, renderer, say, ranks)
    else:
        data = _tokenised(cfg, renderer, say)
    _refuse_untrained(data, cfg)
    _warn_unmatched(data, renderer, say)
    return data


def _plan(cfg: Feeds) -> DataPlan:
    from swift.data.mix import DataPlan

    flags_of_data = {field.name: getattr(cfg.data, field.name) for field in fields(cfg.data)}
    return DataPlan(**flags_of_data, registry=cfg.model.registry)


# --- all at once ----------------------------------------------------------------------------------------------------


def _tokenised(cfg: Feeds, renderer: Renderer, say: Say) -> Data:
    from swift.data.disk_list import IN_MEMORY
    from swift.data.mix import load_datasets
    from swift.template.truncation import LengthReport, processes_for, truncate_all
    from swift.train.report import abbreviate, mixture
    from swift.train.sample_cache import CompactSamples

    train_rows, val_rows, report = load_datasets(_plan(cfg), say)
    lengths, limits = LengthReport(), cfg.template
    trained, held_out = Counter[str](), Counter[str]()
    train, val = (
        (
            CompactSamples.on_disk
            if len(rows) > IN_MEMORY and not renderer.image_processor
            else CompactSamples.in_memory
        )(
            truncate_all(
                renderer,
                rows,
                limits.max_length,
                limits.truncation_strategy,
                lengths,
                # what makes the pixels of a row stays in this process
                1 if renderer.image_processor else cfg.loader.preprocess_num_proc or processes_for(len(rows)),
                partial(_shown, doing=doing, total=len(rows), kept=kept),
            )
        )
        for rows, doing, kept in (
            (train_rows, "reading rows", trained),
            (val_rows, "reading held-out rows", held_out),
        )
    )
    fates, said = _told(report, lengths, say)
    first = next((row for row in train_rows if train and row.source == train[0].source), None)
    shown = abbreviate(renderer.show_samples(first)[0].pieces) if first else ""
    return Data(train, val, mixture(train, trained), fates, said, shown, held_out.total())


def _shown(rows: Iterable[list[Outcome]], doing: str, total: int, kept: Counter[str]) -> Iterable[list[Outcome]]:
    """The rows, counted, with a progress bar where they are many and somebody looks."""
    from rich.progress import track

    disable = not sys.stderr.isatty() or total < 1000
    return track(_counted(rows, kept), doing, total, disable=disable, transient=True)


def _counted(rows: Iterable[list[Outcome]], kept: Counter[str]) -> Iterator[list[Outcome]]:
    """The rows; `kept` counts those of each source that have a sample."""
    for row in rows:
        kept[row[0].source] += any(each.sample is not None for each in row)
        yield row


def _told(report: Report, lengths: LengthReport, say: Say) -> tuple[dict[str, Any], list[str]]:
    """What became of the rows, as JSON and as it is said here."""
    said = [*(f"data: {line}" for line in report.lines()), *lengths.lines()]
    for line in said:
        say(line)
    return {**report.as_dict(), "lengths": lengths.fates, "left_out": lengths.unrendered + lengths.reasons}, said


def _refuse_untrained(data: Data, cfg: Feeds) -> None:
    """ValueError where a run would teach nothing, or never teach when to stop."""
    if not data.train:
        why = next(iter(data.fates.get("left_out", ())), f"none fits into --max_length {cfg.template.max_length}")
        raise ValueError(f"no row is left to train on: {why}")
    for source, share in data.shares.items():
        if not share.trained_tokens:
            raise ValueError(
                f"{source}: no token of its {share.rows} rows is trained: "
                f"look at one with `swift data show`, and at --loss_scale {cfg.template.scale}"
            )
    looked_at = data.train[:LOOK] if cfg.loader.lazy_tokenize else data.train
    if not any(sample.weights[-1] for sample in looked_at):
        raise ValueError(
            "the token that ends a reply is never trained, so the model would not learn to stop: "
            f"look at a row with `swift data show`, and at --loss_scale {cfg.template.scale}"
        )


def _warn_unmatched(data: Data, renderer: Renderer, say: Say) -> None:
    """Tells of a named loss scale that finds nothing to weigh."""
    if renderer.scale.names == ("AUTO",):
        return
    seen = data.train[:SCALED]
    trained = [[token for token, weight in zip(row.tokens, row.weights, strict=True) if weight] for row in seen]
    for name in renderer.scale.unmatched([renderer.decode(tokens) for tokens in trained]):
        say(
            f"warning: --loss_scale {name} finds nothing to weigh in the first {len(seen)} rows: "
            "leave the flag out, and calls count twice as the text form writes them"
        )


# --- kept from the last start ---------------------------------------------------------------------------------------


def _kept(cfg: Feeds, renderer: Renderer, say: Say, ranks: Ranks) -> Data:
    """The rows from the cache, which the first process fills where it has not these rows or not all of them."""
    from swift.train import sample_cache
    from swift.train.report import Share

    word = str(cfg.loader.token_cache)
    root = Path("~/.cache/swift/tokens" if word.lower() == "true" else word).expanduser()

    def fill() -> Path:
        folder = root / _key(cfg, renderer)
        if (known := sample_cache.read(folder)) is None:
            data = _tokenised(cfg, renderer, say)
            if any(sample.inputs for samples in (data.train, data.val) for sample in samples):
                raise ValueError("--token_cache keeps tokens, not images: take --lazy_tokenize true for these rows")
            shares = {source: share._asdict() for source, share in data.shares.items()}
            facts = {
                **{"fates": data.fates, "said": data.said, "shares": shares, "first_row": data.first_row},
                "held_out": data.held_out,
            }
            sample_cache.write(folder, {"train": data.train, "val": data.val}, facts)
            say(f"tokens: kept in {folder}")
        else:
            say(f"tokens: taken from {folder}")
            for line in known[1]["said"]:
                say(line)
        return folder

    folder = ranks.broadcast(fill)
    found = sample_cache.read(folder)
    if found is None:
        raise ValueError(f"--token_cache {word}: {folder} is not there, or changed: all processes have to see it")
    sets, facts = found
    shares = {source: Share(**share) for source, share in facts["shares"].items()}
    said, first_row, held_out = (facts[name] for name in ("said", "first_row", "held_out"))
    return Data(sets["train"], sets["val"], shares, facts["fates"], said, first_row, held_out)


def _key(cfg: Feeds, renderer: Renderer) -> str:
    """A name for the tokens of a run: other bytes of the data, tokenizer, template, rules or versions, another name."""
    from swift.data.mix import files

    found = hashlib.sha256()
    plan = _plan(cfg)
    found.update(json.dumps([flags.to_dict(cfg.data), flags.to_dict(cfg.template)], sort_keys=True).encode())
    found.update(json.dumps([version(name) for name in ("swift-agents", "transformers", "tokenizers")]).encode())
    tokenizer = renderer.tokenizer
    found.update(tokenizer.backend_tokenizer.to_str().encode())
    found.update(repr((tokenizer.special_tokens_map, tokenizer.chat_template, renderer.stop)).encode())
    found.update(repr(cfg.model.model_type).encode())
    package = Path(__file__).parent.parent
    rules = [path for part in RULES for path in sorted([package / part, *(package / part).rglob("*")])]
    given = [Path(cfg.template.scale).expanduser()]  # a loss scale of the user's own
    for file in [*files(plan), *rules, *given]:
        if file.is_file() and file.suffix != ".pyc":
            found.update(f"{file.name} {file.stat().st_size}".encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 22):
                    found.update(block)
    return found.hexdigest()[:32]


# --- one by one -----------------------------------------------------------------------------------------------------


def _lazy(cfg: Feeds, renderer: Renderer, say: Say) -> Data:
    from swift.data.mix import load_datasets
    from swift.template.truncation import LengthReport, SampleRefs, truncate_all
    from swift.train.lazy_datasets import LEFT_OUT, LazySamples
    from swift.train.report import abbreviate, mixture

    train_rows, val_rows, report = load_datasets(_plan(cfg), say)
    lengths, held_out, limits = LengthReport(), Counter[str](), cfg.template
    count = partial(_counted, kept=held_out)
    val = list(truncate_all(renderer, val_rows, limits.max_length, limits.truncation_strategy, lengths, watch=count))
    fates, said = _told(report, lengths, say)
    places = SampleRefs(renderer, train_rows)
    train = LazySamples(places, _size, _maker(cfg, renderer))
    say(f"tokens: rows are tokenised when they are trained on; what follows is of the first {LOOK} samples")
    shown = abbreviate(renderer.show_samples(train_rows[0])[0].pieces) if train_rows else ""
    looked_at, rows, first = [], Counter[str](), True
    for part, sample in zip(places[:LOOK], train[:LOOK], strict=True):
        first = part.number == 0 or first
        if sample is not LEFT_OUT:
            looked_at.append(sample)
            rows[sample.source] += first
            first = False
    return Data(train, val, mixture(looked_at, rows), fates, said, shown, held_out.total())


def _streamed(cfg: Feeds, renderer: Renderer, say: Say) -> Data:
    from dataclasses import replace

    from swift.data.linting import Report
    from swift.data.mix import load_datasets
    from swift.data.streaming import rows
    from swift.template.truncation import LengthReport, sample_refs, truncate_all
    from swift.train.lazy_datasets import Stream
    from swift.train.report import abbreviate, mixture

    plan = _plan(cfg)
    begin = rows(plan, _to_stderr)
    looked_at = list(islice(begin(0, False), LOOK))
    lengths, limits = LengthReport(), cfg.template
    trained, held_out = Counter[str](), Counter[str]()

    def fitted(rows: Iterable[Conversation], kept: Counter[str]) -> list[Sample]:
        limit, count = limits.max_length, partial(_counted, kept=kept)
        return list(truncate_all(renderer, rows, limit, limits.truncation_strategy, lengths, watch=count))

    train = fitted(looked_at, trained)
    val: list[Sample] = []
    report = Report()
    if plan.val_dataset:
        _, val_rows, report = load_datasets(replace(plan, dataset=()), say)
        val = fitted(val_rows, held_out)
    else:
        say("stream: no rows are held out, give --val_dataset for some")
    fates, said = _told(report, lengths, say)
    say(f"stream: what follows is of the first {len(looked_at)} rows")

    def begin_parts(number: int, aloud: bool) -> Iterator[SampleRef]:
        return chain.from_iterable(sample_refs(renderer, row) for row in begin(number, aloud))

    def stream(batch_size: int, accumulation: int, rank: int, world: int) -> Stream[SampleRef]:
        return Stream(
            begin_parts,
            _size,
            _maker(cfg, renderer),
            batch_size,
            accumulation,
            buffer=cfg.loader.shuffle_buffer_size,
            rank=rank,
            world=world,
            seed=cfg.train.seed,
        )

    shown = abbreviate(renderer.show_samples(looked_at[0])[0].pieces) if looked_at else ""
    return Data(train, val, mixture(train, trained), fates, said, shown, held_out.total(), stream)


def _size(part: SampleRef) -> int:
    """Characters: what is known of a row's length before it is tokenised."""
    return sum(
        len(message.content) + len(message.reasoning) + sum(len(call.arguments) for call in message.tool_calls)
        for message in part.row.messages
    )


def _maker(cfg: Feeds, renderer: Renderer) -> Callable[[SampleRef], Sample | None]:
    """Tokenises a row where it is trained on; a row that does not fit is named there."""
    from swift.template.truncation import truncate

    limits, left_out = cfg.template, iter(range(NAMED))

    def make(part: SampleRef) -> Sample | None:
        row = part.row
        fitted = truncate(renderer, row, limits.max_length, limits.truncation_strategy)[part.number]
        if fitted.sample is None and next(left_out, None) is not None:
            _to_stderr(f"{fitted.rule}: {row.source}:{row.line}: {fitted.reason}")
        return fitted.sample

    return make


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def inputs(data: Data, batch_size: int, device: Any) -> Iterator[dict[str, Any]]:
    """Training rows as a model takes them, for start values that are drawn from data."""
    from swift.train.batch import collate

    for start in range(0, len(data.train), batch_size):
        batch = collate(data.train[start : start + batch_size])
        batch["labels"] = batch["input_ids"].masked_fill(batch.pop("weights") == 0, -100)
        yield {name: tensor.to(device) for name, tensor in batch.items()}
