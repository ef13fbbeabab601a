"""Dialogues of several turns with simulated services: the official loop and checker. Knows no model.

The model calls tools until it answers, turn after turn; the checker compares the state of the services and the results
of calls with those of the right calls.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from swift.chat import Message, Tool, ToolCall, Usage
from swift.eval.task import NO_CALL, UNPARSABLE, Answer, Judgement, Question, Subject
from swift.eval.tasks.bfcl import official
from swift.eval.tasks.bfcl.judging import ACCURACY, decoded
from swift.tools.errors import TimeLimitError
from swift.tools.python.source import PythonFile

CATEGORY = "multi_turn_base"
MAX_STEPS = 20
"""Replies with calls in one turn; one more ends the dialogue."""
SECONDS = 30.0
"""Time limit of the services for the calls of a dialogue."""
TOO_MANY_STEPS = "too many steps"
WRONG_STATE = "wrong state"
MISSING_RESULT = "missing result"
NO_SUCH_CALL = "no_such_function()"
"""Stands for a call that must not be evaluated: it fails like a call of an unknown function."""
KINDS = {
    "multi_turn:empty_turn_model_response": NO_CALL,
    "multi_turn:instance_state_mismatch": WRONG_STATE,
    "multi_turn:execution_response_mismatch": MISSING_RESULT,
}


class Dialogue(NamedTuple):
    """A row: the users' messages of each turn, the services and the right calls of each turn."""

    id: str
    turns: Sequence[tuple[Message, ...]]
    config: dict[str, Any]
    classes: list[str]
    answers: list[list[str]]


def load(functions: official.Official, max_tokens: int) -> tuple[list[Question], dict[str, Dialogue]]:
    """The questions of the category, which hold the first turn, and the whole rows by their ids."""
    docs = {name: official.lines(Path("multi_turn_func_doc") / file) for name, file in functions.services.items()}
    answers = {row["id"]: row["ground_truth"] for row in official.rows(CATEGORY, "possible_answer")}
    questions, rows = [], {}
    for row in official.rows(CATEGORY):
        id, classes = row["id"], row["involved_classes"]
        turns = [messages(turn) for turn in row["question"]]
        offered = copy.deepcopy([each for name in classes for each in docs[name]])
        functions.hinted([{"id": id, "function": offered}])
        tools = tuple(map(Tool, functions.openai_tools(offered)))
        rows[id] = Dialogue(id, turns, row["initial_config"], classes, answers[id])
        questions.append(Question(id, turns[0], tools, answers[id], CATEGORY, max_tokens))
    return questions, rows


def messages(turn: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The messages of a turn of a row."""
    return tuple(Message(each["role"], each["content"]) for each in turn)


def answer(rows: Mapping[str, Dialogue], subject: Subject, question: Question) -> Answer:
    """Lets the model act, turn after turn. The answer holds the later turns' messages of the user as well.

    Raises ValueError if a dialogue becomes too long for the model.
    """
    row = rows[question.id]
    names = {tool.name for tool in question.tools}
    said: list[Message] = []
    done: list[list[str]] = []
    usage, markup = Usage(0, 0), False
    for turn in row.turns:
        said += turn if said else ()
        for _ in range(MAX_STEPS + 1):
            reply = subject.reply(replace(question, messages=(*question.messages, *said)))
            said += reply.messages
            usage = Usage(*(sum(pair) for pair in zip(usage, reply.usage, strict=True)))
            markup = markup or reply.markup
            calls = reply.message.tool_calls
            texts = written(calls, names)
            if not texts:
                break
            done.append(texts)
            try:
                results = _services("execute", row, steps=done)
            except TimeLimitError:
                return Answer(tuple(said), reply.finish, usage, markup)
            for call, text, result in zip(calls, texts, results, strict=True):
                if text == NO_SUCH_CALL:
                    result = f"Error during execution: no function {call.name!r} with these arguments"
                said.append(Message("tool", result, tool_call_id=call.id, name=call.name))
        else:
            break
    return Answer(tuple(said), reply.finish, usage, markup)


def written(calls: Sequence[ToolCall], names: set[str]) -> list[str]:
    """Calls as Python text, as the official handler writes them; none if the arguments of one do not parse.

    The text is evaluated, so names of functions and arguments are checked here.
    """
    texts = []
    for call in decoded(calls) or ():
        ((name, arguments),) = call.items()
        safe = name in names and all(key.isidentifier() for key in arguments)
        given = ",".join(f"{key}={value!r}" for key, value in arguments.items())
        texts.append(f"{name}({given})" if safe else NO_SUCH_CALL)
    return texts


def judge(rows: Mapping[str, Dialogue], question: Question, answer: Answer) -> Judgement:
    """`accuracy`: the official checker's verdict, 0 or 1."""
    row = rows[question.id]
    turns = _steps(answer.messages, {tool.name for tool in question.tools})
    if len(turns) != len(row.turns) or any(len(steps) > MAX_STEPS for steps in turns):
        return _wrong(TOO_MANY_STEPS, f"turn {len(turns)} of {len(row.turns)} did not end within {MAX_STEPS} replies")
    try:
        found = _services("verdict", row, turns=turns, answers=row.answers)
    except TimeLimitError:
        return _wrong(WRONG_STATE, f"the calls took more than {SECONDS:g} s")
    if found["valid"]:
        return Judgement(True, {ACCURACY: 1.0})
    kind = KINDS.get(found["error_type"], WRONG_STATE)
    return _wrong(UNPARSABLE if kind == NO_CALL and answer.markup else kind, found["error_message"])


def _wrong(failure: str, detail: str) -> Judgement:
    return Judgement(False, {ACCURACY: 0.0}, failure, detail)


def _steps(messages: Sequence[Message], names: set[str]) -> list[list[list[str]]]:
    """For each turn its steps: the calls of each reply that has calls."""
    turns: list[list[list[str]]] = [[]]
    for message in messages:
        if message.role == "user":
            turns.append([])
        elif message.role == "assistant" and (texts := written(message.tool_calls, names)):
            turns[-1].append(texts)
    return turns


def _services(function: str, row: Dialogue, **arguments: Any) -> Any:
    of_row = {"id": row.id, "config": row.config, "classes": row.classes}
    return json.loads(_backends()[function]({**of_row, **arguments}, SECONDS).text)


@cache
def _backends() -> Mapping[str, Any]:
    """The functions of the worker process, which starts here."""
    return {tool.name: tool.invoke for tool in PythonFile(Path(__file__).with_name("backends.py")).tools}
