"""The BFCL task of `swift eval`: its questions, one group a category, and the leaderboard's totals. Knows no model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from swift.chat import Tool
from swift.eval.task import Answer, Judgement, Metric, Question, Settings, Task, Total
from swift.eval.tasks.bfcl import multi_turn, official
from swift.eval.tasks.bfcl.judging import ACCURACY, HONEST, Row, judge
from swift.system.nearest import closest

NON_LIVE = (
    "simple_python",
    "simple_java",
    "simple_javascript",
    "multiple",
    "parallel",
    "parallel_multiple",
    "irrelevance",
)
LIVE = (
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
    "live_irrelevance",
    "live_relevance",
)
MAX_TOKENS = 512

METRICS = (
    Metric(ACCURACY, "accuracy"),
    Metric(HONEST, "no call, no markup"),
)
LIVE_ROWS = {"live_simple": 258, "live_multiple": 1053, "live_parallel": 16, "live_parallel_multiple": 24}
TOTALS = (
    Total(
        "non-live AST",
        ACCURACY,
        {
            **dict.fromkeys(("simple_python", "simple_java", "simple_javascript"), 1 / 12),
            **dict.fromkeys(("multiple", "parallel", "parallel_multiple"), 1 / 4),
        },
    ),
    Total("live AST", ACCURACY, LIVE_ROWS),
    Total("irrelevance, official", ACCURACY, {"irrelevance": 1, "live_irrelevance": 1}),
    Total("irrelevance, honest", HONEST, {"irrelevance": 1, "live_irrelevance": 1}),
)
"""As in the leaderboard: the mean of simple (itself the mean of three), multiple, parallel and parallel multiple; the
live categories weighted by their rows; the mean of both irrelevances."""
NOTES = (
    "Official irrelevance counts a call that does not parse as no call; the honest one does not.",
    "Totals follow the leaderboard's formulas.",
)


def load(settings: Settings) -> Task:
    """The task with the categories of the variant: one of them, `live`, `non_live`, or "" for all of a single turn.

    Raises ValueError for an unknown one, and where bfcl-eval, or what its checker needs, is not installed.
    """
    categories = _categories(settings.variant)
    installed = official.installed_version()
    functions = official.load()
    if installed != official.TESTED:
        settings.say(f"bfcl: bfcl-eval {installed} is installed; figures of {official.TESTED} may differ")
    made = _multi_turn if categories == (multi_turn.CATEGORY,) else _single_turn
    task = made(functions, categories, settings.max_tokens or MAX_TOKENS)
    name = f"bfcl:{settings.variant}" if settings.variant else "bfcl"
    return replace(task, name=name, version=f"bfcl-eval {installed}")


def _single_turn(functions: official.Official, categories: Sequence[str], max_tokens: int) -> Task:
    rows: dict[str, Row] = {}
    questions: list[Question] = []
    for category in categories:
        read = official.rows(category)
        answers = {} if "relevance" in category else _answers(category)
        shown = functions.hinted(copy.deepcopy(read))
        for raw, row in zip(read, shown, strict=True):
            id, messages = raw["id"], multi_turn.messages(raw["question"][0])
            rows[id] = Row(category, raw["function"], answers.get(id, ()))
            tools = tuple(map(Tool, functions.openai_tools(row["function"])))
            questions.append(Question(id, messages, tools, _expected(rows[id]), category, max_tokens))

    def judged(question: Question, answer: Answer) -> Judgement:
        return judge(functions, rows[question.id], answer)

    return Task("bfcl", questions, judged, METRICS, totals=TOTALS, notes=NOTES)


def _multi_turn(functions: official.Official, categories: Sequence[str], max_tokens: int) -> Task:
    questions, dialogues = multi_turn.load(functions, max_tokens)
    answer, judged = partial(multi_turn.answer, dialogues), partial(multi_turn.judge, dialogues)
    return Task("bfcl", questions, judged, METRICS[:1], answer)


def _categories(variant: str) -> tuple[str, ...]:
    sets = {"": (*NON_LIVE, *LIVE), "non_live": NON_LIVE, "live": LIVE}
    known = {**sets, **{name: (name,) for name in (*sets[""], multi_turn.CATEGORY)}}
    if variant not in known:
        near = closest(variant, known, n=1)
        hint = f": did you mean bfcl:{near[0]}?" if near else ""
        names = ", ".join(name for name in known if name)
        raise ValueError(f"--tasks bfcl:{variant}: no such category{hint} (known: {names})")
    return known[variant]


def _answers(category: str) -> dict[str, Any]:
    return {row["id"]: row["ground_truth"] for row in official.rows(category, "possible_answer")}


def _expected(row: Row) -> Any:
    if row.answers:
        return row.answers
    return "no call" if "irrelevance" in row.category else "a call"
