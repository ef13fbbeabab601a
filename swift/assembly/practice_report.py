"""What `swift practice` shows: figures of rounds as lines and as a page, and what failed. Measures nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swift.practice.clusters import Failures
    from swift.practice.figures import Measured
    from swift.practice.sampling import Result


def _percent(interval: Any) -> str:
    return f"{interval.mean:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _figures(found: Measured) -> dict[str, str]:
    """Title -> figure with its 95 % interval."""
    shown = {f"pass@{k}": _percent(found.pass_at(k)) for k in dict.fromkeys((1, found.samples))}
    wrongly = found.called_wrongly()
    if wrongly is not None:
        shown["calls where none is right"] = _percent(wrongly)
    if found.general_loss is not None:
        shown["general loss"] = f"{found.general_loss:.4f} nats/token"
    return shown


def say_round(number: int, found: Measured, before: Measured | None) -> None:
    """Prints the figures of a round, and what they gained."""
    from swift.practice.figures import gain

    name = f"round {number}" if number else "start"
    print(f"{name}: " + ", ".join(f"{title} {figure}" for title, figure in _figures(found).items()))
    if before is not None:
        change = gain(before, found)
        print(
            f"  against the round before: pass@1 {100 * change.mean:+.1f} points "
            f"({100 * change.low:+.1f} to {100 * change.high:+.1f})"
        )


def table(rounds: Sequence[Measured]) -> str:
    """The rounds as aligned text."""
    rows = [["", *_figures(rounds[0])]]
    rows += [[f"round {number}" if number else "start", *_figures(each).values()] for number, each in enumerate(rounds)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def shown_failures(counts: Counter[Failures]) -> str:
    """The three most frequent failures in words."""
    return ", ".join(f"{each.failure} ({each.kind}, {each.domain})" for each, _ in counts.most_common(3))


def failures_table(results: Sequence[Result]) -> list[str]:
    """Lines with the number of failed attempts, by kind of task and kind of failure."""
    from swift.practice.clusters import failures

    by_kind: dict[str, Counter[str]] = {}
    for each, number in failures(results).items():
        by_kind.setdefault(each.kind, Counter())[each.failure] += number
    totals = Counter(result.task.cluster.kind for result in results)
    attempts = {kind: number * len(results[0].attempts) for kind, number in totals.items()}
    return [
        f"{kind}: {sum(counts.values())} of {attempts[kind]} failed ("
        + ", ".join(f"{failure} {number}" for failure, number in counts.most_common())
        + ")"
        for kind, counts in sorted(by_kind.items())
    ]


def page(folder: Path, settings: Mapping[str, Any], rounds: Sequence[Measured], top: int) -> str:
    """The practice as an HTML page. `folder`: of the practice; `settings`: its flags."""
    from swift.pages import chart, document, elements
    from swift.pages.chart import Curve
    from swift.practice import figures
    from swift.practice.record import Round

    titles = list(_figures(rounds[0]))
    names = [f"round {number}" if number else "start" for number in range(len(rounds))]
    names[top] += " (best)"
    rows = [(name, *_figures(each).values()) for name, each in zip(names, rounds, strict=True)]
    bars = [_bar(name, each.pass_at(1), at == top) for at, (name, each) in enumerate(zip(names, rounds, strict=True))]
    ks = figures.shown_ks(rounds[0].samples)
    curves = {f"pass@{k}": [(float(number), each.pass_at(k).mean) for number, each in enumerate(rounds)] for k in ks}
    drawn = [Curve(name, points, at % 6 + 1, dots=True) for at, (name, points) in enumerate(curves.items())]
    held_out = elements.bars([("right at the first attempt (pass@1)", bars)]) + elements.table(("", *titles), rows)
    sections = [
        document.Section("Held-out tasks", held_out),
        document.Section("pass@k by round", chart.chart(drawn, x="round", y="share of held-out tasks")),
    ]
    for number in range(1, len(rounds)):
        at = Round(folder, number)
        results = at.results()
        body = elements.settings(at.about()) + elements.code("\n".join(failures_table(results)))
        body += elements.details("A success and a failure of three tasks", _examples(results))
        sections.append(document.Section(f"Round {number}", body))
    given = {name: value for name, value in settings.items() if value is not None}
    sections.append(document.Section("Flags", elements.settings(given)))
    return document.render("Practice", sections, lead=_opening(rounds, top), kind="practice")


def _opening(rounds: Sequence[Measured], top: int) -> str:
    first, best = rounds[0].pass_at(1), rounds[top].pass_at(1)
    count = f"{len(rounds) - 1} round{'s' * (len(rounds) != 2)}"
    if not top:
        return f"No round of {len(rounds) - 1} is better than the start, which is right in {_percent(first)}."
    return f"After {count} of practice, round {top} is the best: {_percent(best)} right, {_percent(first)} before."


def _bar(name: str, found: Any, is_best: bool) -> Any:
    from swift.pages.elements import Bar

    return Bar(name, found.mean, _percent(found), found.low, found.high, 1 if is_best else 6)


def _examples(results: Sequence[Result]) -> str:
    """What was tried at tasks that are solved sometimes."""
    from swift.pages import dialogue, elements
    from swift.pages.dialogue import Turn
    from swift.practice.selection import successes

    shown = ""
    for result in [each for each in results if each.right < len(each.attempts) and successes(each)][:3]:
        failed = next(each for each in result.attempts if each.failure)
        asked = Turn("user", result.task.messages[-1].content)
        sides = (("right", successes(result)[0], ""), ("wrong", failed, f"{failed.failure}: {failed.detail}"))
        shown += elements.columns(
            (title, dialogue.chat([asked, *_turns(attempt)]) + (elements.note(note) if note else ""))
            for title, attempt, note in sides
        )
    return shown or elements.text("No task was solved sometimes only.")


def _turns(attempt: Any) -> list[Any]:
    from swift.pages.dialogue import Call, Turn

    return [
        Turn(message.role, message.content, tuple(Call(call.name, call.arguments) for call in message.tool_calls))
        for message in attempt.messages
    ]
