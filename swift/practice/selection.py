"""What is trained: the shortest successes, mostly at tasks solved sometimes, and known replies to tasks never solved.

Knows no model.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from swift.chat import Conversation, Message, Tool
from swift.data.row_values import BadRow
from swift.data.row_writer import as_message
from swift.data.validate import validate
from swift.eval.task import CUT, ERROR
from swift.practice.judging import Attempt
from swift.practice.sampling import Result
from swift.practice.tasks import Task

SOURCE = "practice"


class Selection(NamedTuple):
    """Rows to train on, and how many tasks were solved always, sometimes and never. `unread`: tasks that are solved
    sometimes, but whose text nothing checks, so that they are not trained. `shown`: tasks that are never solved, but
    whose right reply is known, so that it is trained."""

    rows: list[Conversation]
    always: int
    sometimes: int
    never: int
    unread: int = 0
    shown: int = 0


def select(
    results: Sequence[Result], tools: Sequence[Tool], keep: int, always: float, seed: int, show: bool
) -> Selection:
    """At most `keep` different successes of each task that is solved sometimes, the shortest ones; one of a few tasks
    that are always solved, as the share `always` of all rows.

    Of always solved tasks, those come first whose kind has the fewest rows for its share of all tasks. `tools`: those
    that run, for tasks that describe none. A reply that is a wrong step has weight 0, and so has every earlier reply.
    Where no call is right, the task's own reply is trained, since nothing checks the text of an attempt. `show`: the
    right reply to a task that is never solved is trained too, where the task says it.
    """
    sometimes = [each for each in results if 0 < each.right < len(each.attempts)]
    solved = [each for each in results if each.right == len(each.attempts)]
    trained = [each for each in solved if successes(each)]
    rows = [row for result in sometimes for row in _rows(result, tools, keep)]
    shown = [row for each in results if show and not each.right and (row := known_row(each.task))]
    rows += shown
    tasks = Counter(each.task.cluster.kind for each in results)
    kinds = Counter(each.task.cluster.kind for each in sometimes)
    room = round(len(rows) * always / (1 - always)) if rows else 0
    left = random.Random(seed).sample(trained, len(trained))
    for _ in range(min(room, len(left))):
        chosen = min(left, key=lambda each: kinds[each.task.cluster.kind] / tasks[each.task.cluster.kind])
        left.remove(chosen)
        kinds[chosen.task.cluster.kind] += 1
        rows += _rows(chosen, tools, 1)
    random.Random(seed).shuffle(rows)
    unread = sum(each.task.no_call and not successes(each) for each in sometimes)
    never = len(results) - len(solved) - len(sometimes)
    return Selection(rows, len(solved), len(sometimes), never, unread, len(shown))


def known_row(task: Task) -> Conversation | None:
    """The task with its right reply, where it describes its tools and says the right calls, or the reply without any.

    STaR (arXiv 2203.14465) shows the answers to what a model never solves, too.
    """
    if not task.tools or task.check.calls is None or (task.no_call and not task.reply):
        return None
    reply = Message("assistant", task.reply, tool_calls=task.check.calls)
    row = Conversation((*task.messages, reply), task.tools, source=SOURCE)
    return row if _is_valid(row) else None


def successes(result: Result) -> list[Attempt]:
    """What can be trained of a task: its different successes, those without wrong steps first, then the shortest. Where
    no call is right it is the task's own reply, if it has one. Training would refuse some successes, such as a call
    with an argument given twice, the last one right: they are left out."""
    task = result.task
    if task.no_call and not task.check.answer:
        own = Attempt((Message("assistant", task.reply),), 0)
        return [own] if task.reply and result.right else []
    found: dict[Any, Attempt] = {}
    for each in result.attempts:
        if each.succeeded and _is_valid(Conversation((*task.messages, *each.messages), task.tools)):
            found.setdefault(_said(each), each)
    return sorted(found.values(), key=lambda each: (each.wrong_steps, each.tokens))


def _is_valid(row: Conversation) -> bool:
    try:
        validate(row)
    except BadRow:
        return False
    return True


def pairs(results: Sequence[Result], tools: Sequence[Tool], keep: int, show: bool) -> Iterator[dict[str, Any]]:
    """Rows for preference training: a success of a task that is solved sometimes, and the most frequent failures.

    Replies that were cut or could not be made are no examples of what to avoid. `show`: as in `select`.
    """
    for result in results:
        good = [each.messages for each in successes(result)]
        if show and not result.right and (row := known_row(result.task)):
            good = [row.messages[-1:]]
        bad = Counter(_said(each) for each in result.attempts if each.failure not in ("", CUT, ERROR))
        by_said = {_said(each): each for each in reversed(result.attempts)}
        for said, _ in bad.most_common(keep) if good else ():
            asked, offered = result.task.messages, result.task.tools or tools
            yield {
                "messages": [as_message(each) for each in (*asked, *good[0])],
                "rejected_messages": [as_message(each) for each in (*asked, *by_said[said].messages)],
                "tools": [tool.spec for tool in offered],
            }


def _rows(result: Result, tools: Sequence[Tool], keep: int) -> Iterator[Conversation]:
    task = result.task
    offered = task.tools or tuple(tool for tool in tools if task.runs is None or tool.name in task.runs)
    for each in successes(result)[:keep]:
        yield Conversation((*task.messages, *each.messages), offered, source=SOURCE)


def _said(attempt: Attempt) -> Any:
    return tuple(
        (message.role, message.content, tuple((call.name, call.arguments) for call in message.tool_calls))
        for message in attempt.messages
    )
