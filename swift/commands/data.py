"""Look at training data: `swift data lint FILE...` says what is wrong, `swift data show FILE` what is trained."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from swift import flags
from swift.commands.groups import ModelFlags, TemplateFlags
from swift.flags import flag

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from swift.chat import Conversation
    from swift.template import Rendered


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
    """One JSON object a row: tokens, weights, text, and the pieces of equal weight"""
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
    from swift.data import check

    bad: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    for finding in check.lint(cfg.files, cfg.columns or None):
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
    from swift.commands.rendering import make_renderer
    from swift.model.load import locate
    from swift.model.specs import choose
    from swift.template.fit import fit

    name = cfg.model.model_id_or_path or cfg.model.model_type
    if not name:
        raise ValueError("swift data show needs --model: the tokens and the chat template are a model's")
    rows = _rows(cfg)
    path = locate(name, cfg.model.model_revision, cfg.model.use_hf, cfg.model.registry)
    spec = choose(cfg.model.model_type, name, str(path), registry=cfg.model.registry)
    renderer = make_renderer(path, cfg.template, spec, cfg.model.trust_remote_code)
    bad = 0
    if not cfg.json:
        _print_legend()
    for conversation in rows:
        for fitted in fit(renderer, conversation, cfg.template.max_length, cfg.template.truncation_strategy):
            if fitted.sample is None:
                print(f"{conversation.source}:{conversation.line}: {fitted.rule}: {fitted.reason}", file=sys.stderr)
                bad += 1
                continue
            found = renderer.show_samples(fitted.conversation)
            _print(
                cfg, conversation, found[-1] if fitted.fate == "cut" else found[fitted.part], fitted.part, len(found)
            )
    return 1 if bad else 0


def _rows(cfg: Show) -> Iterable[Conversation]:
    """The rows to show. A bad one is named on standard error."""
    from swift.data.check import Report, checked
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


def _print_legend() -> None:
    """What stands for the loss weights below: colours on a terminal, numbers in a pipe."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    if not _has_colours(console):
        console.print(
            "loss weight of each piece: [0] x0, not trained; [1] x1, trained; [2] x2, counts twice in the loss",
            markup=False,
        )
        return
    legend = Text("loss weight of each token: ")
    for weight, meaning in LEGEND:
        legend.append(meaning, _style(weight)).append("  ")
    console.print(legend)


def _print(cfg: Show, conversation: Conversation, shown: Rendered, part: int = 0, parts: int = 1) -> None:
    if cfg.json:
        sample = shown.sample
        value = {"tokens": sample.tokens, "weights": sample.weights, "text": shown.text, "pieces": shown.pieces}
        print(json.dumps(value, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    # no rule around it, which would cut a long path
    which = f" (sample {part + 1} of {parts})" if parts > 1 else ""
    console.print(f"─── {conversation.source}:{conversation.line}{which}", style="green", markup=False)
    if _has_colours(console):
        console.print(_coloured(shown))
    else:  # the weights are written out
        for text, weight in shown.pieces:
            console.print(f"[{weight:g}] {text!r}", markup=False)
    trained, total = shown.sample.trained, len(shown.sample.tokens)
    weights = ", ".join(f"{number} x{weight:g}" for weight, number in sorted(Counter(shown.sample.weights).items()))
    console.print(f"{total} tokens, {trained} trained ({trained / max(total, 1):.0%}): {weights}", style="dim")


LEGEND = (
    (0.0, "grey x0, not trained"),
    (0.5, "yellow less than x1"),
    (1.0, "green x1"),
    (2.0, "red more than x1, such as x2"),
)


def _has_colours(console: Console) -> bool:
    """False in a pipe, and where NO_COLOR or the terminal says so."""
    return console.is_terminal and not console.no_color and console.color_system is not None


def _style(weight: float) -> str:
    return "bright_black" if weight == 0 else "green" if weight == 1 else "yellow" if weight < 1 else "bold red"


def _coloured(shown: Rendered) -> Text:
    from rich.text import Text

    text = Text()
    for piece, weight in shown.pieces:
        text.append(piece, _style(weight))
    return text
