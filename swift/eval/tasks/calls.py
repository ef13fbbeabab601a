"""The task `calls`: does the model make the calls that held-out rows hold, and none where they hold none?

Every assistant message of a row with tools is a question. Calls are compared whatever their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count

from swift.agent import tool_format
from swift.chat import Conversation, Message, ToolCall
from swift.eval.call_matching import arguments_of, call_of, compare, described
from swift.eval.task import Answer, Judgement, Metric, NoQuestions, Question, Settings, Task, fingerprint
from swift.eval.tasks import held_out_rows, text_steps

METRICS = (
    Metric("exact", "exact calls"),
    Metric("names_f1", "F1 of names"),
    Metric("arguments_f1", "F1 of arguments"),
    Metric("format", "valid format"),
)
MAX_TOKENS = 256
ONE, SEVERAL, NONE = "one call", "several calls", "no call"


def load(settings: Settings) -> Task:
    """The questions of `settings.dataset`. Raises NoQuestions if no row has tools."""
    if settings.variant:
        raise ValueError(f"--tasks calls:{settings.variant}: calls has no variants")
    rows, origin = held_out_rows.load(settings, "messages")
    questions: dict[str, Question] = {}
    formats: dict[str, str] = {}
    seen: set[str] = set()
    skipped = repeated = 0
    for row in rows:
        found = list(_questions(row, settings.max_tokens or MAX_TOKENS))
        skipped += not found
        for question, name in found:
            content = fingerprint(replace(question, id=""))
            if content in seen:
                repeated += 1
                continue
            seen.add(content)
            named = replace(question, id=_unused(question.id, questions))
            questions[named.id] = named
            if name:
                formats[named.id] = name
    if not questions:
        raise NoQuestions(f"calls: {origin}: no row has tools and a reply to compare with")
    notes = [f"calls: {len(questions)} questions from {origin}"]
    if skipped:
        notes.append(f"calls: {skipped} rows without tools or without a trained reply are left out")

    if repeated:
        notes.append(f"calls: {repeated} questions that occur twice are asked once")

    def judge(question: Question, answer: Answer) -> Judgement:
        name = formats.get(question.id)
        return judge_calls(question, read_text(answer, name) if name else answer, name)

    return Task("calls", list(questions.values()), judge, METRICS, notes=tuple(notes))


def _questions(row: Conversation, max_tokens: int) -> Iterator[tuple[Question, str]]:
    """(question, the format of calls in text or "") for each trained reply of a row with tools."""
    name = "" if row.tools else text_steps.format_name(row)
    if name is None:
        return
    for index, message in enumerate(row.messages):
        if message.role != "assistant" or message.weight == 0:
            continue
        place, before = f"{row.source}:{row.line}:{index + 1}", row.messages[:index]
        if not name:
            made = question(place, before, message.tool_calls, max_tokens)
            yield replace(made, tools=row.tools, template_kwargs=row.template_kwargs), ""
            continue
        call_format = tool_format(name)
        for number, step in enumerate(text_steps.steps(message.content, call_format), 1):
            begun = (Message("assistant", message.content[: step.start]),) if step.start else ()
            made = question(f"{place}.{number}", (*before, *begun), step.calls, max_tokens)
            yield replace(made, stop=call_format.syntax.stop, template_kwargs=row.template_kwargs), name


def question(id: str, messages: tuple[Message, ...], calls: tuple[ToolCall, ...], max_tokens: int) -> Question:
    """A question whose right answer is `calls`, which may be none."""
    group = NONE if not calls else ONE if len(calls) == 1 else SEVERAL
    return Question(id, messages, expected=[described(call) for call in calls], group=group, max_tokens=max_tokens)


def read_text(answer: Answer, name: str) -> Answer:
    """An answer in text as one with calls, in the format `name`."""
    call_format = tool_format(name)
    content, calls = call_format.parse(answer.message.content)
    markup = answer.markup or any(mark in content for mark in call_format.syntax.call)
    return replace(answer, messages=(replace(answer.message, tool_calls=calls),), markup=markup)


def judge_calls(question: Question, answer: Answer, text_format: str | None = None) -> Judgement:
    """Compares with the calls in `question.expected`. `text_format`: the format in which calls are text, whose stop
    string must end a call."""
    expected = [call_of(each) for each in question.expected]
    found = compare(expected, answer, {tool.name for tool in question.tools})
    scores = {"exact": float(not found.failure), "names_f1": found.names_f1}
    if found.arguments_f1 is not None:
        scores["arguments_f1"] = found.arguments_f1
    scores["format"] = float(_is_valid(answer, bool(expected), text_format))
    return Judgement(not found.failure, scores, found.failure, found.detail)


def _is_valid(answer: Answer, needs_call: bool, text_format: str | None) -> bool:
    """Whether every call is readable, there is no markup of another, and a call is where one must be."""
    calls = answer.message.tool_calls
    stop = tool_format(text_format).syntax.stop if text_format else ()
    ended = not calls or not stop or answer.message.content.rstrip().endswith(stop)
    readable = all(arguments_of(call) is not None for call in calls)
    return readable and ended and not answer.markup and (bool(calls) or not needs_call)


def _unused(id: str, taken: Mapping[str, Question]) -> str:
    """`id`, with a number if another question has it: a row of a file may become several dialogues."""
    return id if id not in taken else next(made for number in count(2) if (made := f"{id}#{number}") not in taken)
