"""Flags -> conversations for tools, written to a file with a report of what they are made of. Knows no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift import flags
from swift.assembly import catalogues
from swift.assembly.benchmark_questions import questions
from swift.assembly.preflight import writable
from swift.assembly.question_writer import QuestionWriter
from swift.assembly.tool_sources import open_tools
from swift.chat import Conversation, Tool
from swift.data.general import general_rows
from swift.data.row_writer import write_jsonl
from swift.flag_groups import SynthFlags, ToolFlags, WriterFlags
from swift.synth import own_examples
from swift.synth.described import Made, apart, functions, near_misses
from swift.synth.offers import Masking
from swift.synth.overlap import Overlap
from swift.synth.own_examples import Example
from swift.synth.synthesis import OFFERED, SHARES, Mixture, Synthesis, rounds
from swift.system.progress import tracked

Say = Callable[[str], None]
Examples = Mapping[str, Sequence[Example]]
NO_WRITER = WriterFlags()
PLAIN_CHARACTERS = 240
"""Longest answer to a plain question beside tools: longer ones would take the place of calls."""


def write(
    tools: ToolFlags, cfg: SynthFlags, out: Path, say: Say, writer_flags: WriterFlags = NO_WRITER
) -> dict[str, Any]:
    """Writes the rows to `out` and the report to OUT.report.json, which is returned. With a dry run of the writer,
    neither is written and the report is empty.

    Raises ValueError or OSError for tools that cannot be read, flags that contradict each other, and a file that cannot
    be written.
    """
    if out.is_dir():
        raise ValueError(f"--out {out}: a folder: name a file in it, such as {out / 'train.jsonl'}")
    own: list[Tool] = []
    examples: Examples = {}
    if tools.given:
        with open_tools(tools) as toolbox:
            own = [bound.tool for bound in toolbox.tools]
        examples = own_phrasings(tools.tools, own, cfg.examples)
    elif unused := next(
        (name for name in ("examples", "phrasings") if vars(cfg)[name] != vars(SynthFlags())[name]), None
    ):
        raise ValueError(f"--{unused} has no effect without --tools")
    described = functions(own, examples)
    for note in described.notes:
        say(f"warning: {note}")
    if own and not described.functions:
        raise ValueError("nothing can be made for these tools: see the warnings above")
    made = synthesis(own, described, cfg, say)
    writable(str(out.parent), "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    writer = None
    if writer_flags.endpoint is not None:
        writer = QuestionWriter(writer_flags, out, cfg.seed, say)
        drafts = list(made.drafts(cfg.rows))
        items = writer.items(drafts)
        writer.estimate(items)
        if writer_flags.dry_run:
            return {}
        rows = iter(writer.rewrite(drafts, items, made.overlaps))
    else:
        rows = made.make(cfg.rows)
    if cfg.phrasings == "held_out":
        rows = map(_first_reply_only, rows)
    count = write_jsonl(tracked(rows, "conversations", cfg.rows), partial)
    partial.replace(out)
    if count < cfg.rows:
        say(f"warning: {count:,} of {cfg.rows:,} conversations: these functions allow no further different ones")
    report = {
        "rows": count,
        "kinds": dict(made.report.kinds.most_common()),
        "forms": dict(made.report.forms),
        "direct_questions": dict(made.report.direct),
        "dropped": dict(made.report.dropped),
        "why_checks_failed": made.report.examples,
        "functions": len(made.report.functions),
        "your_functions": {tool.name: made.report.functions[tool.name] for tool in own},
        "your_phrasings": {each.name: len(each.ask) + len(each.zh) for each in described.functions},
        "phrasings_dropped": dict(described.dropped),
        "notes": described.notes,
        "settings": flags.to_dict(cfg),
        **({"endpoint": writer.report()} if writer else {}),
    }
    beside = out.with_name(out.name + ".report.json")
    beside.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _say_report(report, out, say)
    return report


def own_phrasings(words: Sequence[str], own: Sequence[Tool], file: str | None) -> Examples:
    """The user's questions: from the docstrings of Python files among `words`, the values of --tools, and from `file`.

    Raises ValueError for a file that cannot be read, and for questions of tools that are not there.
    """
    names, found = {tool.name for tool in own}, {}
    for word in words:
        path = Path(word).expanduser()
        if path.suffix == ".py":
            found.update({name: each for name, each in own_examples.of_python_file(path).items() if name in names})
    if file is not None:
        for name, each in own_examples.of_json_lines(Path(file).expanduser()).items():
            if name not in names:
                raise ValueError(f"{each[0].place}: no tool is called {name!r}{flags.nearest(name, names)}")
            found[name] = [*each, *found.get(name, ())]
    return found


def synthesis(own: Sequence[Tool], described: Made, cfg: SynthFlags, say: Say) -> Synthesis:
    """What makes the conversations. `own`: the user's tools; `described`: what was made of them."""
    domains = catalogues.domains(cfg, say)
    overlap = Overlap(questions(cfg.check_overlap), [tool.name for tool in own])
    for benchmark, number in overlap.counts.items():
        say(f"checked against {benchmark}: {number:,} questions")
    if not overlap.counts:
        say("no benchmark is installed: no overlap is checked")
    split = "test" if cfg.functions == "held_out" else "train"
    plain = [row for row in general_rows(split) if len(row["response"]) <= PLAIN_CHARACTERS]
    train, away = apart(described.functions)
    chosen = {"all": described.functions, "train": train, "held_out": away}[cfg.phrasings]
    order = [tool.name for tool in own]
    offered = sorted([*chosen, *described.unasked], key=lambda function: order.index(function.name))
    wanted = mixture(cfg)
    if cfg.phrasings == "held_out":
        if unused := next(
            (each for each in ("max_rounds", "one_round_share") if vars(cfg)[each] != vars(SynthFlags())[each]), ""
        ):
            raise ValueError(f"--{unused} has no effect with --phrasings held_out, which makes one round each")
        wanted = replace(wanted, rounds=(1.0,))
    return Synthesis(domains, plain, wanted, cfg.seed, offered, near_misses(own, described.functions), overlap)


def _first_reply_only(row: Conversation) -> Conversation:
    """A conversation of which training and evaluation read the first reply alone."""
    first = next(at for at, message in enumerate(row.messages) if message.role == "assistant")
    return replace(row, messages=row.messages[: first + 1])


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
        rounds=rounds(cfg.one_round_share, cfg.max_rounds),
        offered=tuple((most, weight) for most, weight in OFFERED if most <= cfg.max_tools_offered) or ((1, 1.0),),
        chinese=cfg.chinese,
        text=cfg.text_share,
        thoughts=cfg.thoughts,
        own=cfg.own_share,
        direct=cfg.direct_questions,
        same_tools=cfg.same_tools,
        masking=Masking(
            cfg.masking.masked_names,
            cfg.masking.masked_parameters,
            short=cfg.masking.short_descriptions,
            bare=cfg.masking.bare_parameters,
        ),
    )


def _say_report(report: dict[str, Any], out: Path, say: Say) -> None:
    rounds = sum(report["kinds"].values())
    shares = ", ".join(f"{kind} {count / rounds:.0%}" for kind, count in report["kinds"].items())
    say(f"{out}: {report['rows']:,} conversations with {rounds:,} rounds, which call {report['functions']:,} functions")
    say(f"kinds of rounds: {shares}")
    if found := report.get("endpoint"):
        kept = ", ".join(f"{count} {why}" for why, count in found["from_templates"].items())
        say(
            f"{found['model']} wrote {found['questions']:,} questions and {found['thoughts']:,} thoughts "
            f"({found['right_at_the_second_reply']:,} at the second reply), with {found['prompt_tokens']:,} tokens of "
            f"requests and {found['completion_tokens']:,} of replies" + (f"; from templates: {kept}" if kept else "")
        )
    if direct := report["direct_questions"]:
        styles = ", ".join(f"{count:,} {style}" for style, count in direct.items())
        say(f"direct questions: {sum(direct.values()) / rounds:.0%} of the rounds ({styles})")
    if report["dropped"]:
        say("dropped: " + ", ".join(f"{count} {why}" for why, count in report["dropped"].items()))
