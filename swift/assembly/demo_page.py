"""The page of `swift demo`: a model before and after training, from the content of summary.json. Measures nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.agent import tool_format
from swift.agent.reply import read_reply
from swift.assembly import run_charts
from swift.chat import ToolCall
from swift.eval.statistics import Interval, interval, wilson
from swift.pages import dialogue, document, elements
from swift.pages.dialogue import Call, Turn
from swift.pages.document import Section
from swift.pages.elements import Bar, Fact
from swift.system.durations import duration

FORMAT = "react_en"
"""The tool-call format of the demo's model."""
SHARES = {
    "format_valid": "replies in valid format",
    "tool_correct": "right tool",
    "arguments_correct": "right arguments",
}
SIDES = {"base": "before", "tuned": "after"}
SHOWN, OPENED = 12, 2
"""Questions that are listed, and those among them whose replies are open."""
OPEN_TURNS = 8
"""Turns of other questions that are open."""


def page(
    summary: Mapping[str, Any], history: Sequence[dict[str, Any]], picture: Path, commands: Sequence[str] = ()
) -> str:
    """`history`: log lines of the training. `picture`: of the fire task. `commands`: what to do next."""
    base, tuned = summary["base"], summary["tuned"]
    sections = [
        Section("Before and after", _figures(base, tuned)),
        Section("Is there a fire?", _fire(base, tuned, picture)),
        Section("Questions about tools that it never saw", _replies(base, tuned)),
        Section("Other questions", _others(base["general"], tuned["general"])),
        Section("Training", run_charts.losses(history) + elements.settings(_training(summary["training"]))),
        Section("Go on", elements.commands(commands)),
    ]
    return document.render(
        "A model learns to call tools",
        [section for section in sections if section.body],
        lead=opening(summary),
        kind="demo",
        head=_glance(summary),
    )


def opening(summary: Mapping[str, Any]) -> str:
    """What the model can do now."""
    base, tuned = summary["base"], summary["tuned"]
    return (
        f"The model calls the right tool in {tuned['tool_correct']:.0%} of {len(tuned['replies'])} questions about "
        f"tools that are not in its training data ({base['tool_correct']:.0%} before training), with the right "
        f"arguments in {tuned['arguments_correct']:.0%} ({base['arguments_correct']:.0%})."
    )


def _glance(summary: Mapping[str, Any]) -> str:
    base, tuned, training = summary["base"], summary["tuned"], summary["training"]
    titles = {**SHARES, "format_valid": "valid format", "self_cognition": "knows its name"}
    found = [
        Fact(title, f"{tuned[name]:.0%}", f"{base[name]:.0%} before", "good" if tuned[name] > base[name] else "plain")
        for name, title in titles.items()
    ]
    found.append(Fact("general loss", f"{tuned['general_loss']:.2f}", f"{base['general_loss']:.2f} before"))
    found.append(Fact("training", duration(training["train_time"]), f"{training['global_step']:,} steps"))
    return elements.facts(found)


def _figures(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    groups = []
    for name, title in SHARES.items():
        groups.append((title, [_bar(side, _of_replies(found["replies"], name)) for side, found in _both(base, tuned)]))
    asked = len(tuned["general"]) // 2 - 1  # the first exchange is the general question
    if asked > 0:
        bars = [_bar(side, wilson(round(found["self_cognition"] * asked), asked)) for side, found in _both(base, tuned)]
        groups.append(("knows its name and maker", bars))
    losses = [(side, found["general_loss"], math.exp(found["general_loss"])) for side, found in _both(base, tuned)]
    note = (
        "Whiskers are 95 % intervals. A right tool needs a valid format, right arguments need the right tool. The loss "
        "is of held-out rows of the same collection as the general training rows; lower is better."
    )
    return elements.bars(groups) + elements.table(("loss on general text", "nats/token", "perplexity"), losses) + (
        elements.note(note)
    )  # fmt: skip


def _both(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return zip(SIDES.values(), (base, tuned), strict=True)


def _of_replies(replies: Sequence[Mapping[str, Any]], name: str) -> Interval:
    return interval([float(each[name]) for each in replies])


def _bar(side: str, found: Interval) -> Bar:
    text = f"{found.mean:.0%} ({found.low:.0%} to {found.high:.0%})"
    return Bar(side, found.mean, text, found.low, found.high, 1 if side == "after" else 6)


# --- dialogues --------------------------------------------------------------------------------------------------------


def turns(messages: Iterable[Mapping[str, str]]) -> list[Turn]:
    """Messages whose calls are in their text, as turns with calls."""
    return [
        _reply(each["content"]) if each["role"] == "assistant" else Turn(each["role"], each["content"])
        for each in messages
    ]


def _reply(text: str, note: str = "") -> Turn:
    found = read_reply(tool_format(FORMAT), text)
    calls = tuple(Call(call.name, call.arguments) for call in found.tool_calls)
    thought = "" if found.content == found.reasoning else found.reasoning
    return Turn("assistant", found.content, calls, thought, note)


def _fire(base: Mapping[str, Any], tuned: Mapping[str, Any], picture: Path) -> str:
    scene = ""
    if picture.is_file():
        what = (
            "The picture of the tutorial's task. The tools are real: one looks for the colour of flames in the "
            "picture, the others write to a log. The picture and the tools are not in the training data."
        )
        drawn = elements.picture(picture.read_bytes(), "a room with a fire", "jpeg")
        scene = f'<div class="scene">{drawn}{elements.text(what)}</div>'
    return scene + _sides(base["scenario"], tuned["scenario"])


def _sides(base: Iterable[Mapping[str, str]], tuned: Iterable[Mapping[str, str]]) -> str:
    return elements.columns([("before", dialogue.chat(turns(base))), ("after", dialogue.chat(turns(tuned)))])


def _others(base: Sequence[Mapping[str, str]], tuned: Sequence[Mapping[str, str]]) -> str:
    """A general question and some about its name; the others on request."""
    first = _sides(base[:OPEN_TURNS], tuned[:OPEN_TURNS])
    more = len(tuned) - OPEN_TURNS
    if more <= 0:
        return first
    return first + elements.details(f"{more // 2} more", _sides(base[OPEN_TURNS:], tuned[OPEN_TURNS:]))


def _replies(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    """Questions with both replies: first some that became right, then what is still wrong, then the others."""
    pairs = list(zip(base["replies"], tuned["replies"], strict=True))
    ordered = sorted(pairs, key=lambda pair: _order(pair[1]))
    shown = [_compared(*pair, opened=at < OPENED) for at, pair in enumerate(ordered)]
    more = "".join(shown[SHOWN:])
    return "".join(shown[:SHOWN]) + (elements.details(f"{len(shown) - SHOWN} more questions", more) if more else "")


def _order(after: Mapping[str, Any]) -> int:
    return 0 if after["arguments_correct"] else 1


def _compared(before: Mapping[str, Any], after: Mapping[str, Any], opened: bool) -> str:
    body = elements.columns(
        [(side, dialogue.chat([_reply(each["reply"], _verdict(each))])) for side, each in zip(
            SIDES.values(), (before, after), strict=True
        )]
    )  # fmt: skip
    mark = "right" if after["arguments_correct"] else "wrong"
    return elements.details(f"{after['question']} ({mark} after training)", body, opened)


def _verdict(reply: Mapping[str, Any]) -> str:
    expected = ToolCall(**reply["expected"])
    right = f"{expected.name} {_json(expected.arguments)}"
    if reply["arguments_correct"]:
        return "right"
    if reply["tool_correct"]:
        return f"right tool, wrong arguments; right is {right}"
    return f"{'wrong tool' if reply['format_valid'] else 'not a valid call'}; right is {right}"


def _json(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _training(training: Mapping[str, Any]) -> dict[str, object]:
    """Figures of the training that a reader may want; folders stand in the commands."""
    return {
        "steps": training["global_step"],
        "time": duration(training["train_time"]),
        "tokens/s": round(training["tokens_per_second"]),
        "trained tokens": f"{training['trained_token_share']:.0%}",
        "peak memory": f"{training['memory_gib']:.1f} GiB",
    }
