"""Asks a model the questions of tasks, several at once, and judges the answers. Knows no task and no flag."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import NamedTuple

from swift.agent import TOOL_FORMATS, Syntax, tool_format
from swift.chat import Message, Tool
from swift.engine.sampling import SamplingParams
from swift.eval import records
from swift.eval.records import Key, Record, Store, Variant
from swift.eval.task import ERROR, Answer, Judgement, Question, Task, fingerprint
from swift.guided.guide import Guide
from swift.infer.chat import Chat, collect

MakeGuide = Callable[[Sequence[Tool]], Guide]
"""The tools of a question -> the grammar of its reply. Raises ValueError for tools that no grammar can describe."""


class Model(NamedTuple):
    """A model under test. `guide`: None if it has no guided decoding. `syntax`: that of its tool-call format, None if
    it is not known. `params`: sampling of runs with a seed; greedy runs take the other parameters from it."""

    chat: Chat
    params: SamplingParams
    guide: MakeGuide | None = None
    syntax: Syntax | None = None


class Job(NamedTuple):
    """A question to ask in one way."""

    task: Task
    question: Question
    variant: Variant

    @property
    def key(self) -> Key:
        return Key(self.task.name, self.question.id, self.variant)


def select(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """At most `limit` questions: equally many of each group, in an order that depends on their ids alone.

    The selection for a smaller limit is part of that for a larger one. Raises ValueError if two questions have one id.
    """
    ids = [question.id for question in questions]
    if len(set(ids)) < len(ids):
        raise ValueError(f"two questions have the id {next(each for each in ids if ids.count(each) > 1)}")
    if limit is None or limit >= len(questions):
        return list(questions)
    groups: dict[str, list[Question]] = {}
    for question in sorted(questions, key=lambda each: hashlib.sha256(each.id.encode()).digest()):
        groups.setdefault(question.group, []).append(question)
    placed = [(place, name, question) for name, group in groups.items() for place, question in enumerate(group)]
    chosen = {question.id for _, _, question in sorted(placed, key=lambda each: each[:2])[:limit]}
    return [question for question in questions if question.id in chosen]


def jobs(tasks: Iterable[tuple[Task, Sequence[Question]]], variants: Sequence[Variant]) -> list[Job]:
    """The questions in every variant, those with the same beginning next to each other.

    Guided decoding changes nothing without tools: such questions are asked unguided, or not at all if they are asked
    so anyway.
    """
    seeds = list(dict.fromkeys(variant.seed for variant in variants))
    found = []
    for task, questions in tasks:
        for question in sorted(questions, key=_beginning):
            asked = variants if question.tools else [Variant(False, seed) for seed in seeds]
            found += [Job(task, question, variant) for variant in asked]
    return found


def _beginning(question: Question) -> str:
    """The text that prompts with the same prefix share."""
    tools = json.dumps([tool.spec for tool in question.tools], ensure_ascii=False)
    return tools + "".join(f"\0{message.role}\0{message.content}" for message in question.messages)


def pending(wanted: Iterable[Job], store: Store) -> list[Job]:
    """The jobs without a record. Raises ValueError if the record of one belongs to another question or version."""
    missing = []
    for job in wanted:
        record = store.records.get(job.key)
        if record is None:
            missing.append(job)
        elif record.question != fingerprint(job.question) or record.version != job.task.version:
            what = "version of the task" if record.version != job.task.version else f"question {job.question.id}"
            raise ValueError(
                f"--report: {job.task.name}: the folder has answers to another {what}: give another folder"
            )
    return missing


def run(model: Model, wanted: Sequence[Job], workers: int) -> Generator[Record, None, None]:
    """Asks `workers` questions at a time, and yields the judged answers as they come.

    A question that the model cannot take (ValueError) is judged as an empty answer. OSError, of a server that cannot be
    reached, ends the run. Closing the iterator drops questions that have not been asked.
    """
    guides = _Guides(model.guide)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="eval")
    try:
        futures: list[Future[Record]] = [pool.submit(_answer, model, guides, job) for job in wanted]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(model: Model, guides: _Guides, job: Job) -> Record:
    began = time.monotonic()
    error = ""
    try:
        answer = job.task.answer(_Subject(model, guides, job.variant), job.question)
    except ValueError as refused:
        answer, error = Answer((), "cancelled"), " ".join(str(refused).split())
    seconds = time.monotonic() - began
    judgement = job.task.judge(job.question, answer)
    if error:
        shares = {metric.name for metric in job.task.metrics if metric.share}
        judgement = Judgement(False, {name: 0.0 for name in judgement.scores if name in shares}, ERROR, error)
    return records.make(job.task, job.question, job.variant, answer, judgement, seconds, error)


class _Guides:
    """The grammars of tool sets; questions with the same tools share one."""

    def __init__(self, make: MakeGuide | None) -> None:
        self._make = make
        self._made: dict[str, Guide] = {}

    def of(self, tools: Sequence[Tool]) -> Guide:
        assert self._make is not None, "this model has no guided decoding"
        key = json.dumps([tool.spec for tool in tools], ensure_ascii=False)
        if key not in self._made:  # two threads may both make one
            self._made[key] = self._make(tools)
        return self._made[key]


class _Subject:
    """A model with the settings of a variant."""

    def __init__(self, model: Model, guides: _Guides, variant: Variant) -> None:
        self.chat = model.chat
        self._model, self._guides, self._variant = model, guides, variant

    def reply(self, question: Question) -> Answer:
        params = replace(
            self._model.params,
            max_tokens=question.max_tokens,
            clip=True,
            stop=(*self._model.params.stop, *question.stop),
            include_stop=True if question.stop else None,
            **({"temperature": 0.0} if self._variant.seed is None else {"seed": self._variant.seed}),
        )
        if self._variant.guided and question.tools:
            params = replace(params, guide=self._guides.of(question.tools))
        reply = collect(self.chat(question.messages, question.tools, params, question.template_kwargs or None))
        return Answer((reply.message,), reply.finish, reply.usage, has_markup(reply.message, self._model.syntax))


def has_markup(message: Message, syntax: Syntax | None) -> bool:
    """Whether the text of a reply has the markup of a call that was not parsed, or asks for a result without one.

    Without `syntax`, of a server's model, the markup of all formats counts that does not occur in prose.
    """
    marks: Collection[str] = _unmistakable() if syntax is None else syntax.call
    lines = message.content.splitlines()
    if syntax is not None and syntax.stop and not message.tool_calls and message.content.rstrip().endswith(syntax.stop):
        return True
    if syntax is not None and syntax.opens_line:
        return any(line.lstrip().startswith(tuple(marks)) for line in lines)
    return any(mark in message.content for mark in marks)


def _unmistakable() -> set[str]:
    marks = {mark for name in TOOL_FORMATS for mark in tool_format(name).syntax.call}
    return {mark for mark in marks if mark.startswith(("<", "[", "{", "✿")) and any(map(str.isalpha, mark))}
