"""Flags -> conversations for tools, written to a file with a report of what they are made of. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from swift import flags
from swift.assembly.benchmark_questions import questions
from swift.assembly.preflight import writable
from swift.assembly.tool_sources import open_tools
from swift.chat import Conversation, Tool
from swift.data.row_writer import write_jsonl
from swift.data.synth import general_rows
from swift.flag_groups import SynthFlags, ToolFlags
from swift.synth import catalogue
from swift.synth.offers import Masking
from swift.synth.overlap import Overlap
from swift.synth.synthesis import OFFERED, SHARES, Mixture, Synthesis

Say = Callable[[str], None]
PLAIN_CHARACTERS = 240
"""Longest answer to a plain question beside tools: longer ones would take the place of calls."""


def write(tools: ToolFlags, cfg: SynthFlags, out: Path, say: Say) -> dict[str, Any]:
    """Writes the rows to `out` and the report to OUT.report.json, which is returned.

    Raises ValueError or OSError for tools that cannot be read, flags that contradict each other, and a file that cannot
    be written.
    """
    own: list[Tool] = []
    if tools.given:
        with open_tools(tools) as toolbox:
            own = [bound.tool for bound in toolbox.tools]
    elif cfg.examples:
        raise ValueError("--examples has no effect without --tools")
    made = synthesis(own, cfg, say)
    writable(str(out.parent), "--out")
    partial = out.with_name(out.name + ".partial")
    count = write_jsonl(_counted(made.make(cfg.rows), cfg.rows, say), partial)
    partial.replace(out)
    report = {
        "rows": count,
        "kinds": dict(made.report.kinds.most_common()),
        "forms": dict(made.report.forms),
        "dropped": dict(made.report.dropped),
        "why_checks_failed": made.report.examples,
        "functions": len(made.report.functions),
        "your_functions": {tool.name: made.report.functions[tool.name] for tool in own},
        "settings": flags.to_dict(cfg),
    }
    beside = out.with_name(out.name + ".report.json")
    beside.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _say_report(report, out, say)
    return report


def synthesis(own: Sequence[Tool], cfg: SynthFlags, say: Say) -> Synthesis:
    """What makes the conversations. `own`: the user's tools."""
    overlap = Overlap(questions(cfg.check_overlap))
    for benchmark, number in overlap.counts.items():
        say(f"checked against {benchmark}: {number:,} questions")
    if not overlap.counts:
        say("no benchmark is installed: no overlap is checked")
    held_out = cfg.functions == "held_out"
    domains = [each for each in catalogue.domains() if each.held_out == held_out]
    split = "test" if held_out else "train"
    plain = [row for row in general_rows(split) if len(row["response"]) <= PLAIN_CHARACTERS]
    return Synthesis(domains, plain, mixture(cfg), cfg.seed, (), overlap)


def mixture(cfg: SynthFlags) -> Mixture:
    """The mixture of the flags. Raises ValueError for an unknown kind of round."""
    for kind, share in cfg.kinds.items():
        if kind not in SHARES:
            raise ValueError(f"--kinds: no kind {kind!r}{flags.nearest(kind, SHARES)} (known: {', '.join(SHARES)})")
        if share < 0:
            raise ValueError(f"--kinds: {kind} has the share {share:g}: must be 0 or more")
    shares = {**SHARES, **cfg.kinds}
    if not any(shares.values()):
        raise ValueError("--kinds: every share is 0")
    return Mixture(
        shares=shares,
        offered=tuple((most, weight) for most, weight in OFFERED if most <= cfg.max_tools_offered) or ((1, 1.0),),
        chinese=cfg.chinese,
        text=cfg.text_share,
        thoughts=cfg.thoughts,
        own=cfg.own_share,
        masking=Masking(
            cfg.masked_names,
            cfg.masked_parameters,
            short=cfg.short_descriptions,
            bare=cfg.bare_parameters,
        ),
    )


def _counted(rows: Iterator[Conversation], total: int, say: Say) -> Iterator[Conversation]:
    for number, row in enumerate(rows, 1):
        yield row
        if number % 1000 == 0 and number < total:
            say(f"{number:,} of {total:,} conversations")


def _say_report(report: dict[str, Any], out: Path, say: Say) -> None:
    rounds = sum(report["kinds"].values())
    shares = ", ".join(f"{kind} {count / rounds:.0%}" for kind, count in report["kinds"].items())
    say(f"{out}: {report['rows']:,} conversations with {rounds:,} rounds, which call {report['functions']:,} functions")
    say(f"kinds of rounds: {shares}")
    if report["dropped"]:
        say("dropped: " + ", ".join(f"{count} {why}" for why, count in report["dropped"].items()))
