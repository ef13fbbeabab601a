"""The task `react`: the steps of ReAct dialogues, one at a time, each after the right steps before it.

The figures are those of ModelScope-Agent (arXiv 2309.00986, section on automatic evaluation): exact match of the
action, F1 of its arguments, ROUGE-L of the final answer. Stop discipline is added.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from swift.agent import Syntax, tool_format
from swift.chat import Conversation, Message, ToolCall
from swift.eval.call_matching import arguments_of, call_of, compare, described, same
from swift.eval.task import (
    CUT,
    TOO_MANY_CALLS,
    UNPARSABLE,
    Answer,
    Judgement,
    Metric,
    NoQuestions,
    Question,
    Settings,
    Task,
)
from swift.eval.tasks import held_out_rows, text_steps
from swift.eval.tasks.calls import read_text

NO_ANSWER = "no final answer"
GOES_ON = "does not stop"
METRICS = (
    Metric("step", "right steps"),
    Metric("action_em", "action exact match"),
    Metric("argument_f1", "argument F1"),
    Metric("rouge_l", "ROUGE-L of answers"),
    Metric("stop", "stops rightly"),
)
MAX_TOKENS = 256
ACTION, ANSWER = "action", "final answer"
FORMATS = ("react_en", "react_zh")


def load(settings: Settings) -> Task:
    """The questions of `settings.dataset`. Raises NoQuestions if no row is a ReAct dialogue."""
    if settings.variant:
        raise ValueError(f"--tasks react:{settings.variant}: react has no variants")
    rows, origin = held_out_rows.load(settings, "ms_agent")
    asked: dict[str, Question] = {}
    skipped = 0
    for row in rows:
        found = list(_questions(row, settings.max_tokens or MAX_TOKENS))
        skipped += not found
        for question in found:
            if question.id in asked:
                raise ValueError(f"react: two dialogues are at {question.id}: give each row a line of its own")
            asked[question.id] = question
    if not asked:
        raise NoQuestions(f"react: {origin}: no row has ReAct's steps as text (Action: ... Action Input: ...)")
    notes = [f"react: {len(asked)} questions from {origin}"]
    if skipped:
        notes.append(f"react: {skipped} rows that are no ReAct dialogues are left out")
    return Task("react", list(asked.values()), judge, METRICS, notes=tuple(notes))


def _questions(row: Conversation, max_tokens: int) -> Iterator[Question]:
    """A question for each step with an action or a final answer."""
    name = None if row.tools else text_steps.format_name(row)
    if name not in FORMATS:
        return
    call_format = tool_format(name)
    syntax = call_format.syntax
    for index, message in enumerate(row.messages):
        if message.role != "assistant" or message.weight == 0:
            continue
        for number, step in enumerate(text_steps.steps(message.content, call_format), 1):
            if not step.calls and syntax.answer not in step.text:
                continue
            begun = (Message("assistant", message.content[: step.start]),) if step.start else ()
            yield Question(
                f"{row.source}:{row.line}:{index + 1}.{number}",
                (*row.messages[:index], *begun),
                expected={"actions": [described(call) for call in step.calls], "text": step.text, "format": name},
                group=ACTION if step.calls else ANSWER,
                max_tokens=max_tokens,
                stop=syntax.stop,
                template_kwargs=row.template_kwargs,
            )


def judge(question: Question, answer: Answer) -> Judgement:
    """Judges a step by the reference step in `question.expected`.

    Stop discipline. A step with an action ends at `Observation:`, so that the model neither writes the observation nor
    an answer before it has one. A final answer comes without an action and ends by itself.
    """
    name = question.expected["format"]
    syntax, read = tool_format(name).syntax, read_text(answer, name)
    return _judge_action(question, read, syntax) if question.group == ACTION else _judge_answer(question, read, syntax)


def _judge_action(question: Question, answer: Answer, syntax: Syntax) -> Judgement:
    expected = [call_of(each) for each in question.expected["actions"]]
    text, calls = answer.message.content, answer.message.tool_calls
    found = compare(expected, answer)
    stops = bool(calls) and text.rstrip().endswith(syntax.stop) and syntax.answer not in text
    named = bool(calls) and calls[0].name == expected[0].name
    scores = {
        "step": float(stops and not found.failure),
        "action_em": float(named),
        "argument_f1": argument_f1(expected[0], calls[0]) if calls else 0.0,
        "stop": float(stops),
    }
    failure, detail = found.failure, found.detail
    if not failure and not stops:
        failure, detail = GOES_ON, f"an action must end with {syntax.stop[0]}"
    return Judgement(not failure, scores, failure, detail)


def _judge_answer(question: Question, answer: Answer, syntax: Syntax) -> Judgement:
    text, calls = answer.message.content, answer.message.tool_calls
    _, label, said = text.partition(syntax.answer)
    acts = bool(calls) or answer.markup
    reference = question.expected["text"].partition(syntax.answer)[2]
    stops = bool(label) and not acts and answer.finish == "stop" and not text.rstrip().endswith(syntax.stop)
    scores = {
        "step": float(stops),
        "rouge_l": 0.0 if acts else rouge_l(said if label else text, reference),
        "stop": float(stops),
    }
    failure = ""
    if not stops:
        failure = TOO_MANY_CALLS if calls else UNPARSABLE if acts else CUT if answer.finish == "length" else NO_ANSWER
    return Judgement(stops, scores, failure, "" if stops else f"the reply must be a {syntax.answer} without an action")


def argument_f1(expected: ToolCall, made: ToolCall) -> float:
    """F1 over the arguments of one call: an argument with the right value counts 1, with a wrong one 0.5.

    With m = 0.5 * half matches + full matches, R = m / right arguments and P = m / arguments made, F1 = 2PR/(P+R)
    (arXiv 2309.00986). Two calls without arguments match in full.
    """
    wanted, given = arguments_of(expected), arguments_of(made)
    if wanted is None or given is None:
        return float(expected.arguments.strip() == made.arguments.strip())
    if not wanted and not given:
        return 1.0
    matched = sum(1.0 if same(value, given[key]) else 0.5 for key, value in wanted.items() if key in given)
    return 2 * matched / (len(wanted) + len(given))


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L as F1: the longest common subsequence of tokens over both lengths (Lin 2004, ROUGE).

    Tokens are lower-cased words, and single characters in Chinese and Japanese.
    """
    left, right = tokens(text), tokens(reference)
    if not left or not right:
        return float(left == right)
    return 2 * _common(left, right) / (len(left) + len(right))


_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for each in left:
        before = 0
        for index, other in enumerate(right, 1):
            before, row[index] = row[index], before + 1 if each == other else max(row[index], row[index - 1])
    return row[-1]
