"""What an evaluation task is: questions, answers, judgements. Knows no task, no model and no file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

from swift.chat import FinishReason, Message, Tool, Usage
from swift.infer.chat import Chat

NO_CALL = "no call"
UNPARSABLE = "unparsable call"
UNKNOWN_TOOL = "unknown tool"
WRONG_TOOL = "wrong tool"
MISSING_ARGUMENT = "missing argument"
WRONG_VALUE = "wrong value"
TOO_FEW_CALLS = "too few calls"
TOO_MANY_CALLS = "too many calls"
CUT = "cut"
WRONG_ANSWER = "wrong answer"
ERROR = "error"

FAILURES: Mapping[str, str] = {
    NO_CALL: "the reply calls no tool where one or more calls are right",
    UNPARSABLE: "the reply has the markup of a call, or arguments, that do not parse",
    UNKNOWN_TOOL: "the reply calls a tool that is not offered",
    WRONG_TOOL: "the reply calls another tool than the right one",
    MISSING_ARGUMENT: "the right tool, without an argument that it must have",
    WRONG_VALUE: "the right tool, with a wrong value or an argument too many",
    TOO_FEW_CALLS: "right tools, but not as many calls as are right",
    TOO_MANY_CALLS: "more calls than are right, such as any call where none is right",
    CUT: "the reply reached its maximum length",
    WRONG_ANSWER: "another answer in text than the right one",
    ERROR: "the model could not be asked, for instance because the prompt exceeds its context",
}
"""Kind of failure -> what it means, in the order of reports. Tasks may have further kinds."""


@dataclass(frozen=True, slots=True)
class Question:
    """A dialogue that the model continues, and the right answer.

    `id`: unique within the task, and the same in every run. `expected`: a JSON value, for reports and for the judge.
    `group`: the subset with figures of its own. `max_tokens`: of one reply. `stop`: stop strings beside those of the
    chat template and of the tool-call format; a format's own, such as `Observation:`, stays in the reply.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    expected: Any = None
    group: str = ""
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


def fingerprint(question: Question) -> str:
    """16 hex digits that change with anything in the question."""
    found = asdict(question)
    for message in found["messages"]:
        del message["declined"]  # no part of a question; answers of earlier versions stay valid
    text = json.dumps(found, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model did with a question.

    `messages`: everything after the question: one reply, or several with the results of tools between them.
    `usage`: the sum over all replies; `finish`: of the last one. `markup`: the text of a reply contains the markup of
    a call that does not parse. `values`: what the task itself measured (JSON values), such as a loss.
    """

    messages: tuple[Message, ...]
    finish: FinishReason = "stop"
    usage: Usage = Usage(0, 0)
    markup: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> Message:
        """The last message of the model; an empty one if there is none."""
        said = (message for message in reversed(self.messages) if message.role == "assistant")
        return next(said, Message("assistant"))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an answer is worth. `scores`: metric -> value; a metric that does not apply to the question is left out.

    `failure`: a kind of FAILURES or one of the task's own, "" if correct. `detail`: one line on what is wrong.
    """

    correct: bool
    scores: Mapping[str, float]
    failure: str = ""
    detail: str = ""


class Metric(NamedTuple):
    """A figure of a task: the mean of one score over the questions of a group that have it.

    `share`: scores are from 0 to 1, and a question that could not be asked counts as 0; otherwise it is left out.
    """

    name: str
    title: str
    share: bool = True
    higher_is_better: bool = True


class Total(NamedTuple):
    """A weighted mean of a metric over groups, beside the mean over all questions. Groups without questions are left
    out, and the weights of the others scaled to 1."""

    title: str
    metric: str
    weights: Mapping[str, float]


class Subject(Protocol):
    """The model under test with the settings of the run: sampling, seed, guided decoding."""

    @property
    def chat(self) -> Chat:
        """The model itself, for tasks that measure something else than replies."""

    def reply(self, question: Question) -> Answer:
        """One reply to the dialogue of `question`. Raises ValueError if the model cannot take it."""


def one_reply(subject: Subject, question: Question) -> Answer:
    return subject.reply(question)


Judge = Callable[[Question, Answer], Judgement]


@dataclass(frozen=True)
class Task:
    """Questions and how answers to them are obtained and judged.

    `metrics`: the first is the headline. `answer` obtains the answer to one question; a task with several turns calls
    `subject.reply` with questions of longer dialogues. It and `judge` run on several threads at once. `version`: of
    the questions and rules; results of different versions do not mix. `notes`: printed beside the figures.
    """

    name: str
    questions: Sequence[Question]
    judge: Judge
    metrics: tuple[Metric, ...]
    answer: Callable[[Subject, Question], Answer] = one_reply
    totals: tuple[Total, ...] = ()
    version: str = "1"
    notes: tuple[str, ...] = ()


class NoQuestions(ValueError):
    """The rows of --dataset hold nothing that the task could ask."""


class Settings(NamedTuple):
    """What a task may need to know to make its questions. `say` prints a remark for the user.

    `dataset`: files, registered names or hub ids. `max_tokens`: of a reply, None for the task's own limit.
    `limit`: the questions that will be asked, for tasks that ask them all at once. `seed`: of
    generated questions. `model_name`, `model_author`: what the model was trained to say of itself; one for both
    languages, or Chinese and English. `variant`: the text after the colon of `--tasks name:variant`, such as a
    category; "" for all.
    """

    dataset: tuple[str, ...] = ()
    max_tokens: int | None = None
    limit: int | None = None
    seed: int = 42
    variant: str = ""
    model_name: tuple[str, ...] = ()
    model_author: tuple[str, ...] = ()
    say: Callable[[str], None] = print
