"""The judged answers of a run: JSON lines in its folder, to which a later run adds. Asks nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from swift.chat import FinishReason, Message, ToolCall
from swift.eval.task import Answer, Judgement, Question, Task, fingerprint

ANSWERS = "answers.jsonl"


class Variant(NamedTuple):
    """Guided decoding or not, and the sampling seed; seed None means greedy decoding."""

    guided: bool = False
    seed: int | None = None


class Key(NamedTuple):
    """What a record answers: one question, asked in one way."""

    task: str
    id: str
    variant: Variant


@dataclass(frozen=True)
class Record:
    """A line of the file: a question, the answer and its judgement, as JSON values.

    `version`: of the task; `question`: the fingerprint of the question; `asked`: its last message; `messages`: the
    answer's, each with role, content and, where there are any, reasoning and calls; `seconds`: from the request to the
    end of the answer; `error`: why the model could not be asked, else "". The others are fields of Question, Answer and
    Judgement.
    """

    task: str
    version: str
    id: str
    guided: bool
    seed: int | None
    question: str
    group: str
    asked: str
    expected: Any
    messages: list[dict[str, Any]]
    finish: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    markup: bool
    values: Mapping[str, Any]
    correct: bool
    failure: str
    detail: str
    scores: Mapping[str, float]
    error: str = ""

    @property
    def key(self) -> Key:
        return Key(self.task, self.id, Variant(self.guided, self.seed))


def make(
    task: Task,
    question: Question,
    variant: Variant,
    answer: Answer,
    judgement: Judgement,
    seconds: float,
    error: str = "",
) -> Record:
    return Record(
        task=task.name,
        version=task.version,
        id=question.id,
        guided=variant.guided,
        seed=variant.seed,
        question=fingerprint(question),
        group=question.group,
        asked=question.messages[-1].content if question.messages else "",
        expected=question.expected,
        messages=[_as_json(message) for message in answer.messages],
        finish=answer.finish,
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens,
        seconds=round(seconds, 3),
        markup=answer.markup,
        values=answer.values,
        correct=judgement.correct,
        failure=judgement.failure,
        detail=judgement.detail,
        scores=judgement.scores,
        error=error,
    )


def reply(record: Record) -> Message:
    """The last message of the model, with its calls and their confidence."""
    empty: dict[str, Any] = {"content": ""}
    said = next((each for each in reversed(record.messages) if each["role"] == "assistant"), empty)
    calls = tuple(
        ToolCall(call["name"], call["arguments"], confidence=call.get("confidence")) for call in said.get("calls", ())
    )
    return Message("assistant", said["content"], calls)


def _as_json(message: Message) -> dict[str, Any]:
    calls = [
        {"name": call.name, "arguments": call.arguments}
        | ({} if call.confidence is None else {"confidence": call.confidence})
        for call in message.tool_calls
    ]
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    return found | ({"reasoning": message.reasoning} if message.reasoning else {}) | ({"calls": calls} if calls else {})


class Store:
    """The records in `answers.jsonl` of a folder. A record is on the disk when `add` returns.

    An incomplete last line, of a run that was killed, is dropped. Raises ValueError for any other line that is not a
    record.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / ANSWERS
        self.records: dict[Key, Record] = {}
        if self._file.exists():
            complete = 0
            for number, line, end in _lines(self._file):
                record = _record(line, f"{self._file}:{number}")
                self.records[record.key] = record
                complete = end
            with self._file.open("r+b") as file:
                file.truncate(complete)
        else:
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, record: Record) -> None:
        line = json.dumps(asdict(record), ensure_ascii=False) + "\n"
        with self._file.open("a", encoding="utf-8", errors="surrogatepass") as file:
            file.write(line)
        self.records[record.key] = record


def read(folder: Path) -> dict[Key, Record]:
    """The records of a folder, without writing to it. Raises ValueError as Store does, OSError if there are none."""
    file = folder / ANSWERS
    records = (_record(line, f"{file}:{number}") for number, line, _ in _lines(file))
    return {record.key: record for record in records}


def _lines(file: Path) -> Iterator[tuple[int, bytes, int]]:
    """(number, line, its end in bytes) of the complete lines."""
    end = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            end += len(line)
            if line.endswith(b"\n"):
                yield number, line, end


_FIELDS = {item.name for item in fields(Record)}


def _record(line: bytes, place: str) -> Record:
    try:
        value = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise ValueError(f"{place}: not a record of swift eval: {error}") from None
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        raise ValueError(f"{place}: not a record of this version of swift eval: give another folder to --report")
    return Record(**value)
