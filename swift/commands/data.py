"""Look at training data: `swift data lint FILE...` says what is wrong, `swift data show FILE` what is trained."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from swift import flags
from swift.flag_groups import ModelFlags, TemplateFlags
from swift.flags import flag

if TYPE_CHECKING:
    from swift.chat import Conversation
    from swift.template import Rendered, Renderer
    from swift.template.template_diff import Comparison, TemplateDiff
    from swift.template.truncation import Truncated


@dataclass(frozen=True)
class Lint:
    """Name every bad row of the files, and what looks odd in others: file, line, rule, excerpt. Exit 1 for bad rows."""

    files: tuple[str, ...] = flag(positional=True)
    """Data files or folders"""
    columns: dict[str, str] = flag({})
    """Other names of a file's columns, as JSON: {"question": "query"}"""


@dataclass(frozen=True)
class Show:
    """Show rows as training sees them, with the loss weight of each token."""

    file: tuple[str, ...] = flag(positional=True)
    """Data files, data sets or hub ids"""
    model: ModelFlags = ModelFlags()
    template: TemplateFlags = TemplateFlags(max_length=-1)
    row: int | None = None
    """Show this row alone, counted from 1; none shows all"""
    json: bool = False
    """One JSON object a sample: tokens, weights, text, and the pieces of equal weight"""
    against_template: bool = False
    """Tell where prompts and dialogues first differ from what the model's own chat template gives"""
    columns: dict[str, str] = flag({})
    """Other names of a file's columns, as JSON: {"question": "query"}"""


VERBS = {"lint": Lint, "show": Show}


def run(argv: Sequence[str]) -> int:
    """`argv` is the verb and its flags. Returns the exit status."""
    verb, rest = (argv[0], argv[1:]) if argv else ("--help", ())
    if verb in ("--help", "-h"):
        print("usage: swift data lint FILE... | swift data show FILE [flags]\n")
        for name, config in VERBS.items():
            print(f"  {name}  {config.__doc__}")
        return 0
    if verb not in VERBS:
        raise ValueError(f"unknown verb 'swift data {verb}'{flags.nearest(verb, VERBS)}")
    if verb == "lint":
        return lint(flags.parse(Lint, rest, prog="swift data lint").config)
    return show(flags.parse(Show, rest, prog="swift data show").config)


def lint(cfg: Lint) -> int:
    from swift.data import linting

    bad: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    for finding in linting.lint(cfg.files, cfg.columns or None):
        (odd if finding.warning else bad)[finding.rule] += 1
        print(finding)
    for what, found in (("bad rows", bad), ("warnings", odd)):
        if found:
            counts = ", ".join(f"{number} {rule}" for rule, number in found.most_common())
            print(f"{what}: {counts}", file=sys.stderr)
    if not bad:
        print("no bad rows" if odd else "nothing wrong", file=sys.stderr)
    return 1 if bad else 0


def show(cfg: Show) -> int:
    from swift.assembly.rendering import make_renderer
    from swift.assembly.sample_view import Lines, Page, Shown
    from swift.model.catalog import choose
    from swift.model.location import locate
    from swift.template.truncation import truncate

    name = cfg.model.model_id_or_path or cfg.model.model_type
    if not name:
        raise ValueError("swift data show needs --model: the tokens and the chat template are a model's")
    rows = _rows(cfg)
    path = locate(name, cfg.model.model_revision, cfg.model.use_hf, cfg.model.registry)
    spec = choose(cfg.model.model_type, name, str(path), registry=cfg.model.registry)
    renderer = make_renderer(path, cfg.template, spec, cfg.model.trust_remote_code)
    against = _against(cfg, renderer, name) if cfg.against_template else None
    view: Lines | Page = Lines(renderer.decode) if cfg.json else Page(renderer.decode)
    bad = 0
    beside: Counter[str] = Counter()
    for conversation in rows:
        found = truncate(renderer, conversation, cfg.template.max_length, cfg.template.truncation_strategy)
        whole = renderer.show_samples(conversation) if any(each.fate == "kept" for each in found) else []
        for fitted in found:
            if fitted.sample is None:
                print(f"{conversation.source}:{conversation.line}: {fitted.rule}: {fitted.reason}", file=sys.stderr)
                bad += 1
                continue
            cut = fitted.fate == "cut"
            rendered = _cut(renderer, fitted) if cut else whole[fitted.part]
            compared = None
            if against:
                every = against.compare(fitted.conversation)
                part = every[-1].part if cut and every else fitted.part
                compared = [each for each in every if each.part == part]
                beside.update(_fate(each) for each in compared)
            view.show(
                Shown(conversation.source, conversation.line, fitted.part + 1, len(found), cut, rendered, compared)
            )
    if against:
        counts = ", ".join(f"{beside[fate]} {fate}" for fate in FATES if beside[fate])
        print(f"prompts and dialogues beside the chat template: {counts or 'none'}", file=sys.stderr)
    return 1 if bad else 0


def _against(cfg: Show, renderer: Renderer, name: str) -> TemplateDiff:
    from swift.template import Renderer
    from swift.template.template_diff import TemplateDiff

    if not renderer.tokenizer.chat_template:
        raise ValueError(f"--against_template: the tokenizer of {name} brings no chat template: leave it out")
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
    """A sample that lost its oldest part: the last of a shorter dialogue, or the end of a text."""
    from swift.template import Rendered

    if not fitted.conversation.is_text:
        return renderer.show_samples(fitted.conversation)[-1]
    assert fitted.sample
    text = renderer.decode(fitted.sample.tokens)
    return Rendered(fitted.sample, text, [(text, fitted.sample.weights[0])])


def _rows(cfg: Show) -> Iterable[Conversation]:
    """The rows to show. A bad one is named on standard error."""
    from swift.data.linting import Report, checked
    from swift.data.registry import catalogue
    from swift.data.sources import resolve

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    if cfg.row is not None and cfg.row < 1:
        raise ValueError(f"--row {cfg.row}: rows are counted from 1")
    report, known = Report(), catalogue(cfg.model.registry)
    sources = [resolve(name, known) for name in cfg.file]
    every = (row for source in sources for row in checked(source, "warning", report, say, cfg.columns or None))
    if cfg.row is None:
        return every
    found = list(islice(every, cfg.row - 1, cfg.row))
    if not found:
        raise ValueError(f"--row {cfg.row}: there are {report.total('kept')} good rows")
    return found
