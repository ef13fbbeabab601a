"""Rows -> samples to train on, in four ways: in advance, from a cache, on demand, as a stream. Knows no flags."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from swift.system.progress import tracked

if TYPE_CHECKING:
    from swift.chat import Conversation, Sample
    from swift.data.linting import Report
    from swift.data.mix import DataPlan
    from swift.template import Renderer
    from swift.template.truncation import LengthReport, Outcome, SampleRef, Strategy, Truncate
    from swift.train.lazy_datasets import Stream
    from swift.train.ranks import Ranks
    from swift.train.report import Piece, Share

Say = Callable[[str], None]
PREVIEW = 256
"""Rows that are tokenised before the run starts where the others are not."""
NAMED = 100
"""Dropped rows that each process names during training; later ones are only counted."""


class Data(NamedTuple):
    """Training and held-out samples, and what became of every row.

    `val` has the samples of `held_out` rows. With a `stream`, `train` is only its preview.
    """

    train: Sequence[Sample]
    val: Sequence[Sample]
    shares: dict[str, Share]
    outcomes: dict[str, Any]
    """Counts of kept, cut and dropped rows, for mixture.json."""
    report: list[str]
    """The same as printed lines."""
    first_row: list[Piece]
    """The first row as the model sees it: (text, weight), abbreviated."""
    held_out: int
    sources: Sequence[str]
    """All data sets that are trained on; `shares` may have only those of the first rows."""
    stream: Callable[[int, int, int, int], Stream[Any]] | None = None
    """(batch size, accumulation, rank, world) -> the stream."""


class RowTokenizer(NamedTuple):
    """Rows -> samples of at most `max_length` tokens."""

    renderer: Renderer
    max_length: int
    strategy: Strategy
    truncate: Truncate | None = None
    """What makes the samples of a row; None: `truncation.truncate`."""

    def samples(
        self,
        rows: Sequence[Conversation],
        lengths: LengthReport,
        kept: Counter[str],
        processes: int = 1,
        title: str = "",
    ) -> Iterator[Sample]:
        """The samples of all rows; `kept` counts the rows of each source that have one. `title`: of a progress bar."""
        from swift.template.truncation import truncate, truncate_all

        watch = partial(_with_progress, title=title, total=len(rows), kept=kept)
        make = self.truncate or truncate
        return truncate_all(self.renderer, rows, self.max_length, self.strategy, lengths, processes, watch, make)

    def late(self) -> Callable[[SampleRef], Sample | None]:
        """Makes a sample when it is trained on; names dropped rows on standard error."""
        from swift.template.truncation import truncate

        names = iter(range(NAMED))

        def make(part: SampleRef) -> Sample | None:
            row = part.row
            fitted = truncate(self.renderer, row, self.max_length, self.strategy)[part.number]
            if fitted.sample is None and next(names, None) is not None:
                _to_stderr(f"{fitted.rule}: {row.source}:{row.line}: {fitted.reason}")
            return fitted.sample

        return make

    def preview(self, row: Conversation | None) -> list[Piece]:
        from swift.chat import Preference
        from swift.train.report import abbreviated

        if row is None:
            return []
        shown = abbreviated(self.renderer.show_samples(row)[0].pieces)
        other = row.other if isinstance(row, Preference) else None
        return [*shown, ("\n--- rejected:\n", 0.0), *self.preview(other)] if other else shown


def tokenised(plan: DataPlan, tokenizer: RowTokenizer, say: Say, processes: int | None = None) -> Data:
    """All rows, tokenised in advance by `processes` processes; None chooses their number."""
    from swift.data.disk_list import IN_MEMORY
    from swift.data.mix import load_datasets
    from swift.template.truncation import LengthReport, processes_for
    from swift.train.report import mixture
    from swift.train.sample_cache import CompactSamples

    train_rows, val_rows, report = load_datasets(plan, say)
    lengths, has_images = LengthReport(), tokenizer.renderer.image_processor is not None
    trained, held_out = Counter[str](), Counter[str]()

    def compact(rows: Sequence[Conversation], kept: Counter[str], title: str) -> CompactSamples:
        number = 1 if has_images else processes or processes_for(len(rows))  # image inputs stay in this process
        samples = tokenizer.samples(rows, lengths, kept, number, title)
        on_disk = len(rows) > IN_MEMORY and not has_images
        return CompactSamples.on_disk(samples) if on_disk else CompactSamples.in_memory(samples)

    train = compact(train_rows, trained, "reading rows")
    val = compact(val_rows, held_out, "reading held-out rows")
    outcomes, lines = _report(report, lengths, say)
    first = next((row for row in train_rows if train and row.source == train[0].source), None)
    shares = mixture(train, trained)
    return Data(train, val, shares, outcomes, lines, tokenizer.preview(first), held_out.total(), tuple(shares))


def cached(root: Path, key: Callable[[], str], make: Callable[[], Data], ranks: Ranks, say: Say) -> Data:
    """Samples from the folder `root / key()`; the first process fills it with `make()` if it is missing or damaged."""
    from swift.train import sample_cache
    from swift.train.report import Share

    def fill() -> Path:
        folder = root / key()
        if (known := sample_cache.read(folder)) is None:
            _write_cache(folder, make())
            say(f"tokens: kept in {folder}")
        else:
            say(f"tokens: taken from {folder}")
            for line in known[1]["said"]:
                say(line)
        return folder

    folder = ranks.broadcast(fill)
    found = sample_cache.read(folder)
    if found is None:
        raise ValueError(f"--token_cache: {folder} is missing or damaged: all processes need access to it")
    sets, facts = found
    shares = {source: Share(**share) for source, share in facts["shares"].items()}
    lines, first_row, held_out = (facts[name] for name in ("said", "first_row", "held_out"))
    return Data(sets["train"], sets["val"], shares, facts["fates"], lines, first_row, held_out, tuple(shares))


def _write_cache(folder: Path, data: Data) -> None:
    from swift.train import sample_cache

    if any(sample.inputs for samples in (data.train, data.val) for sample in samples):
        raise ValueError("--token_cache cannot hold images: use --lazy_tokenize true for these rows")
    shares = {source: share._asdict() for source, share in data.shares.items()}
    facts = {"fates": data.outcomes, "said": data.report, "shares": shares, "first_row": data.first_row}
    sample_cache.write(folder, {"train": data.train, "val": data.val}, {**facts, "held_out": data.held_out})


def on_demand(plan: DataPlan, tokenizer: RowTokenizer, say: Say) -> Data:
    """All rows, each tokenised whenever it is trained on; held-out rows in advance."""
    from swift.data.mix import load_datasets
    from swift.template.truncation import LengthReport, SampleRefs
    from swift.train.lazy_datasets import LEFT_OUT, LazySamples
    from swift.train.report import mixture

    train_rows, val_rows, report = load_datasets(plan, say)
    lengths, held_out = LengthReport(), Counter[str]()
    val = list(tokenizer.samples(val_rows, lengths, held_out))
    outcomes, lines = _report(report, lengths, say)
    refs = SampleRefs(tokenizer.renderer, train_rows)
    sources: dict[str, None] = {}

    def size(part: SampleRef) -> int:
        sources[part.row.source] = None  # rows may be on disk: this is the only pass over all of them
        return _characters(part)

    train = LazySamples(refs, size, tokenizer.late())
    say(f"tokens: rows are tokenised when they are trained on; what follows is of the first {PREVIEW} samples")
    preview, rows, is_first = [], Counter[str](), True
    for ref, sample in zip(refs[:PREVIEW], train[:PREVIEW], strict=True):
        is_first = ref.number == 0 or is_first
        if sample is not LEFT_OUT:
            preview.append(sample)
            rows[sample.source] += is_first
            is_first = False
    first_row = tokenizer.preview(train_rows[0] if train_rows else None)
    shares = mixture(preview, rows)
    return Data(train, val, shares, outcomes, lines, first_row, held_out.total(), tuple(sources))


def streamed(plan: DataPlan, tokenizer: RowTokenizer, buffer: int, seed: int, say: Say) -> Data:
    """An endless stream of rows, mixed by a shuffle buffer of `buffer` rows; --val_dataset in advance."""
    from swift.data.linting import Report
    from swift.data.mix import load_datasets, resolved
    from swift.data.registry import catalogue
    from swift.data.streaming import rows
    from swift.template.truncation import LengthReport, sample_refs
    from swift.train.lazy_datasets import Stream
    from swift.train.report import mixture

    begin = rows(plan, _to_stderr)
    preview = list(islice(begin(0, False), PREVIEW))
    lengths, report = LengthReport(), Report()
    trained, held_out = Counter[str](), Counter[str]()
    train = list(tokenizer.samples(preview, lengths, trained))
    val: list[Sample] = []
    if plan.val_dataset:
        _, val_rows, report = load_datasets(replace(plan, dataset=()), say)
        val = list(tokenizer.samples(val_rows, lengths, held_out))
    else:
        say("stream: no rows are held out, give --val_dataset for some")
    outcomes, lines = _report(report, lengths, say)
    say(f"stream: what follows is of the first {len(preview)} rows")

    def refs(number: int, aloud: bool) -> Iterator[SampleRef]:
        return chain.from_iterable(sample_refs(tokenizer.renderer, row) for row in begin(number, aloud))

    def stream(batch_size: int, accumulation: int, rank: int, world: int) -> Stream[SampleRef]:
        make = tokenizer.late()
        return Stream(
            refs, _characters, make, batch_size, accumulation, buffer=buffer, rank=rank, world=world, seed=seed
        )

    first_row = tokenizer.preview(preview[0] if preview else None)
    shares = mixture(train, trained)
    sources = [source.name for source in resolved(plan.dataset, catalogue(plan.registry))]
    return Data(train, val, shares, outcomes, lines, first_row, held_out.total(), sources, stream)


def _with_progress(
    rows: Iterable[list[Outcome]], title: str, total: int, kept: Counter[str]
) -> Iterable[list[Outcome]]:
    """The rows, counted in `kept`, with their progress if they have a title."""
    counted = _counted(rows, kept)
    return tracked(counted, title, total) if title else counted


def _counted(rows: Iterable[list[Outcome]], kept: Counter[str]) -> Iterator[list[Outcome]]:
    """The rows; `kept` counts those of each source that have a sample."""
    for row in rows:
        kept[row[0].source] += any(each.sample is not None for each in row)
        yield row


def _report(report: Report, lengths: LengthReport, say: Say) -> tuple[dict[str, Any], list[str]]:
    """The numbers of kept, cut and dropped rows: as JSON values, and as the lines that it prints."""
    lines = [*(f"data: {line}" for line in report.lines()), *lengths.lines()]
    for line in lines:
        say(line)
    return {**report.as_dict(), "lengths": lengths.counts, "left_out": lengths.unrendered + lengths.dropped}, lines


def _characters(part: SampleRef) -> int:
    """A row's length in characters, the estimate that is known before it is tokenised."""
    return sum(
        len(message.content) + len(message.reasoning) + sum(len(call.arguments) for call in message.tool_calls)
        for message in part.row.messages
    )


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
