"""Make, inspect and correct training data: synth makes rows for tools, lint finds errors, show shows what is trained,
review corrects traces."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from swift import flags
from swift.flag_groups import ModelFlags, SynthFlags, TemplateFlags, ToolFlags, WriterFlags
from swift.flags import flag
from swift.system import terminal

if TYPE_CHECKING:
    from swift.assembly.rows_page import RowsPage
    from swift.assembly.sample_view import Shown
    from swift.chat import Conversation
    from swift.data.linting import Report
    from swift.data.row_values import Row
    from swift.template import Rendered, Renderer
    from swift.template.template_diff import Comparison, TemplateDiff
    from swift.template.truncation import Truncated


@dataclass(frozen=True)
class Lint:
    """Report bad rows, and warn of suspicious ones, with file, line, rule and excerpt. Exits with 1 for bad rows."""

    example: ClassVar[str] = "swift data lint my_rows.jsonl"

    files: tuple[str, ...] = flag(positional=True)
    """Data files or folders"""
    columns: dict[str, str] = flag({})
    """Renamed columns, as JSON: {"question": "query"}"""


@dataclass(frozen=True)
class Show:
    """Show rows as training sees them, with the loss weight of each token."""

    example: ClassVar[str] = "swift data show my_rows.jsonl --model smollm2-135m-instruct --row 1"
    most_used: ClassVar[tuple[str, ...]] = (
        "row",
        "model_id_or_path",
        "template_type",
        "agent_template",
        "loss_scale",
        "max_length",
        "against_template",
        "columns",
        "json",
        "system",
    )

    file: tuple[str, ...] = flag(positional=True)
    """Data files, data sets or hub ids"""
    model: ModelFlags = ModelFlags()
    template: TemplateFlags = TemplateFlags(max_length=-1)
    row: int | None = None
    """Show only this row, counted from 1; none shows all"""
    json: bool = False
    """Print a JSON object per sample: tokens, weights, text, and pieces of equal weight"""
    html: str | None = None
    """Write an HTML page to this file: findings of lint, lengths, and rows as chats coloured by weight"""
    against_template: bool = False
    """Compare prompts and dialogues with the model's own chat template, and show the first difference"""
    columns: dict[str, str] = flag({})
    """Renamed columns, as JSON: {"question": "query"}"""


@dataclass(frozen=True)
class Review:
    """Go through traces of `swift agent run` in the terminal: keep, drop or correct each."""

    example: ClassVar[str] = "swift data review traces.jsonl"

    file: str = flag(positional=True)
    """JSON lines with traces, or with other rows that have 'messages'"""
    output: str | None = None
    """File for the rows to train on; none means FILE.reviewed.jsonl. Dropped rows go to a file beside it. Rows that are
    in either file are not shown again"""
    full: bool = False
    """Show long texts as a whole"""


@dataclass(frozen=True)
class Synth:
    """Make conversations in which a model calls your tools, mixed with those of a catalogue of invented functions."""

    example: ClassVar[str] = "swift data synth --tools my_tools.py --rows 2000 --out train.jsonl"
    most_used: ClassVar[tuple[str, ...]] = (
        "tools",
        "mcp",
        "rows",
        "out",
        "own_share",
        "kinds",
        "chinese",
        "catalogue",
        "endpoint",
        "seed",
    )

    tools: ToolFlags = ToolFlags()
    synth: SynthFlags = SynthFlags()
    writer: WriterFlags = WriterFlags()
    out: str = flag("train.jsonl", alias=("output",))
    """File for the rows; FILE.report.json beside it says what they are made of"""


VERBS = {"lint": Lint, "show": Show, "synth": Synth, "review": Review}


def run(argv: Sequence[str]) -> int:
    """`argv` is the verb and its flags. Returns the exit status."""
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", ())
    if verb in ("--help", "-h", "--help-all", "help"):
        print(
            "usage: swift data lint FILE... | swift data show FILE [flags] | swift data synth [flags] | "
            "swift data review FILE [flags]\n"
        )
        for name, config in VERBS.items():
            print(f"  {name:<6}  {config.__doc__}")
        return 0
    if verb not in VERBS:
        raise ValueError(f"unknown verb 'swift data {verb}'{flags.nearest(verb, VERBS)}")
    if verb == "lint":
        return lint(flags.parse(Lint, rest, prog="swift data lint").config)
    if verb == "synth":
        return synth(flags.parse(Synth, rest, prog="swift data synth").config)
    if verb == "review":
        return review(flags.parse(Review, rest, prog="swift data review").config)
    return show(flags.parse(Show, rest, prog="swift data show").config)


def lint(cfg: Lint) -> int:
    from swift.data import linting
    from swift.data.readers import missing

    paths = [Path(each).expanduser() for each in cfg.files]
    for path in paths:  # before anything is read: a name that is mistyped is no finding about data
        if not path.exists():
            raise ValueError(missing(path))
    bad: Counter[str] = Counter()
    warnings: Counter[str] = Counter()
    for finding in linting.lint(paths, cfg.columns or None):
        (warnings if finding.warning else bad)[finding.rule] += 1
        print(finding)
    for what, found in (("bad rows", bad), ("warnings", warnings)):
        if found:
            counts = ", ".join(f"{number} {rule}" for rule, number in found.most_common())
            print(f"{what}: {counts}", file=sys.stderr)
    if not bad:
        print("no bad rows" if warnings else "nothing wrong", file=sys.stderr)
    return 1 if bad else 0


def review(cfg: Review) -> int:

    from swift.data.readers import read_rows
    from swift.data.row_values import BadRow
    from swift.infer.terminal_input import line_editor
    from swift.traces.decisions import why_not
    from swift.traces.review_dialogue import Files, ReviewDialogue

    source = Path(cfg.file).expanduser()
    output = Path(cfg.output).expanduser() if cfg.output else source.with_name(f"{source.stem}.reviewed.jsonl")
    if output.resolve() == source.resolve():
        raise ValueError(f"--output {output}: this is the file to review: choose another")
    rows: list[Row] = []
    for line, row in read_rows(source):
        if reason := row.message if isinstance(row, BadRow) else why_not(row):
            print(f"{source}:{line}: cannot be reviewed: {reason}", file=sys.stderr)
        else:
            assert isinstance(row, dict)
            rows.append(row)
    if not rows:
        raise ValueError(f"{source}: no row to review")
    files = Files(output)
    for note in files.notes:
        print(note, file=sys.stderr)
    ReviewDialogue(rows, files, line_editor(sys.stdin, sys.stdout), terminal.console(), cfg.full).run()
    return 0


def synth(cfg: Synth) -> int:
    from swift.assembly import synthesis

    synthesis.write(cfg.tools, cfg.synth, Path(cfg.out).expanduser(), print, cfg.writer)
    return 0


def show(cfg: Show) -> int:
    from swift.assembly.rendering import named_renderer
    from swift.assembly.sample_view import Lines, Page
    from swift.data.linting import Report

    name = cfg.model.model_id_or_path or cfg.model.model_type
    if not name:
        raise ValueError("swift data show needs --model, for the tokenizer and the chat template")
    page = _page(cfg)
    report = Report(on_warning=page.warn) if page else Report()
    rows = _rows(cfg, report)
    renderer = named_renderer(cfg.model, cfg.template)
    diff = _template_diff(cfg, renderer, name) if cfg.against_template else None
    view = page or (Lines(renderer.decode) if cfg.json else Page(renderer.decode))
    bad, fates = 0, Counter[str]()
    for conversation in rows:
        for shown in _samples(cfg, renderer, conversation, diff):
            if isinstance(shown, str):
                print(shown, file=sys.stderr)
                bad += 1
                if page:
                    page.refuse(shown)
            else:
                fates.update(map(_fate, shown.compared or ()))
                view.show(shown)
    if page:
        page.write(report)
    if diff:
        counts = ", ".join(f"{fates[fate]} {fate}" for fate in FATES if fates[fate])
        print(f"prompts and dialogues beside the chat template: {counts or 'none'}", file=sys.stderr)
    return 1 if bad else 0


def _page(cfg: Show) -> RowsPage | None:
    """The page of --html. Raises ValueError for a file that must not be overwritten, and for flags without effect."""
    from swift.assembly.rows_page import RowsPage

    if cfg.html is None:
        return None
    for what, given in (("--json true", cfg.json), ("--against_template true", cfg.against_template)):
        if given:
            raise ValueError(f"--html and {what} exclude each other: leave one of them out")
    file = Path(cfg.html).expanduser()
    if file.is_dir() or file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html {cfg.html}: name a file that ends in .html")
    return RowsPage(file, ", ".join(cfg.file), print, only=cfg.row is not None)


def _samples(
    cfg: Show, renderer: Renderer, conversation: Conversation, diff: TemplateDiff | None
) -> Iterator[Shown | str]:
    """The samples of a row; for one that does not fit, the reason."""
    from swift.assembly.sample_view import Shown
    from swift.template.truncation import truncate

    found = truncate(renderer, conversation, cfg.template.max_length, cfg.template.truncation_strategy)
    uncut = renderer.show_samples(conversation) if any(each.status == "kept" for each in found) else []
    source, line = conversation.source, conversation.line
    for fitted in found:
        if fitted.sample is None:
            yield f"{source}:{line}: {fitted.rule}: {fitted.reason}"
            continue
        is_cut = fitted.status == "cut"
        rendered = _cut(renderer, fitted) if is_cut else uncut[fitted.part]
        compared = None
        if diff:
            comparisons = diff.compare(fitted.conversation)
            part = comparisons[-1].part if is_cut and comparisons else fitted.part
            compared = [each for each in comparisons if each.part == part]
        yield Shown(source, line, fitted.part + 1, len(found), is_cut, rendered, fitted.conversation, compared)


def _template_diff(cfg: Show, renderer: Renderer, name: str) -> TemplateDiff:
    from swift.template import Renderer
    from swift.template.template_diff import TemplateDiff

    if not renderer.tokenizer.chat_template:
        raise ValueError(f"--against_template: the tokenizer of {name} has no chat template: leave it out")
    own = renderer
    if not renderer.uses_tokenizer_template:
        own = Renderer(
            renderer.tokenizer, None, image_processor=renderer.image_processor, today=cfg.template.date(trained=True)
        )
    return TemplateDiff(renderer, own.layout, cfg.template.system)


FATES = ("same", "different", "different as the template leaves its own prompt", "refused")


def _fate(compared: Comparison) -> str:
    same, different, leaves, refused = FATES
    if compared.refusal:
        return refused
    return same if compared.is_same else leaves if compared.leaves_prompt else different


def _cut(renderer: Renderer, fitted: Truncated) -> Rendered:
    """A sample that was cut: the last of a shortened dialogue, or the end of a text."""
    from swift.template import Rendered

    if not fitted.conversation.is_text:
        return renderer.show_samples(fitted.conversation)[-1]
    assert fitted.sample
    text = renderer.decode(fitted.sample.tokens)
    return Rendered(fitted.sample, text, [(text, fitted.sample.weights[0])], [(text, "reply")])


def _rows(cfg: Show, report: Report) -> Iterable[Conversation]:
    """The rows to show. Bad rows are reported on standard error."""
    from swift.data.linting import checked
    from swift.data.registry import catalogue
    from swift.data.sources import resolve

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    if cfg.row is not None and cfg.row < 1:
        raise ValueError(f"--row {cfg.row}: rows are counted from 1")
    known = catalogue(cfg.model.registry)
    sources = [resolve(name, known) for name in cfg.file]
    rows = (row for source in sources for row in checked(source, "warning", report, say, cfg.columns or None))
    if cfg.row is None:
        return rows
    found = list(islice(rows, cfg.row - 1, cfg.row))
    if not found:
        raise ValueError(f"--row {cfg.row}: there are {report.total('kept')} good rows")
    return found
