"""Tasks of lm-evaluation-harness on a model of this process. Knows no question: the harness asks and judges.

Its data sets come from the Hugging Face hub or from files that a task's own YAML names.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.chat import Message
from swift.engine.torch_engine import TorchEngine
from swift.eval.runner import select
from swift.eval.task import WRONG_ANSWER, Answer, Judgement, Metric, Question, Settings, Subject, Task
from swift.infer.local_chat import LocalChat
from swift.system.nearest import closest, nearest_path

SHARES = ("acc", "acc_norm", "exact_match", "f1", "pass_at_1")
"""Metrics of the harness that are from 0 to 1."""
BATCH = 8


def load(settings: Settings) -> Task:
    """`settings.variant`: a task or group of the harness, or the path of a task's YAML file.

    The scores of a question are the harness's own for that row, so metrics that are no mean over rows, such as corpus
    perplexity, are left out. Raises ValueError for a missing package and an unknown task, OSError for data that cannot
    be read.
    """
    manager, name = _select(settings.variant)
    found: dict[str, Any] = manager.load([name])["tasks"]
    asked = [question for task, each in found.items() for question in _questions(task, each)]
    questions = select(asked, settings.limit)
    scores = _Scores(manager, name, questions)
    title = f"lm_eval:{name}"

    def judge(question: Question, answer: Answer) -> Judgement:
        values = answer.values["scores"]
        first = next(iter(values.values()), 0.0)
        return Judgement(first > 0, values, "" if first > 0 else WRONG_ANSWER)

    return Task(title, questions, judge, tuple(_metrics(found.values())), scores.answer)


def _questions(name: str, task: Any) -> Iterator[Question]:
    docs = task.eval_docs
    for number in range(len(docs)):
        doc = docs[number]
        asked = (Message("user", str(task.doc_to_text(doc))),)
        yield Question(f"{name}-{number}", asked, expected=task.doc_to_target(doc), group=name)


def _metrics(tasks: Iterator[Any] | Any) -> Iterator[Metric]:
    named: dict[str, bool] = {}
    for task in tasks:
        filters = [each["name"] for each in task.config.filter_list or [{"name": "none"}]]
        for each in task.config.metric_list or ():
            for applied in filters:
                named.setdefault(_title(str(each["metric"]), applied), bool(each.get("higher_is_better", True)))
    for title, higher in named.items():
        yield Metric(title, title, title.split(" ")[0] in SHARES, higher)


def _title(metric: str, applied: str) -> str:
    return metric if applied == "none" else f"{metric} ({applied})"


class _Scores:
    """Runs the harness over all questions at the first one, in batches, and keeps the scores of each."""

    def __init__(self, manager: Any, name: str, questions: Sequence[Question]) -> None:
        self._manager, self._name, self._questions = manager, name, questions
        self._lock = threading.Lock()
        self._found: dict[int, dict[str, Answer]] = {}  # id of an engine -> question id -> answer

    def answer(self, subject: Subject, question: Question) -> Answer:
        chat = subject.chat
        if not isinstance(chat, LocalChat) or not isinstance(chat.engine, TorchEngine):
            raise ValueError("tasks of lm_eval need a model in this process: --infer_backend pt")
        with self._lock:
            if id(chat.engine) not in self._found:
                self._found[id(chat.engine)] = self._run(chat.engine.model, chat.renderer.tokenizer)
        return self._found[id(chat.engine)][question.id]

    def _run(self, model: Any, tokenizer: Any) -> dict[str, Answer]:
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        rows: dict[str, list[int]] = {}
        for question in self._questions:
            rows.setdefault(question.group, []).append(int(question.id.rpartition("-")[2]))
        results = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, device=str(model.device)),
            tasks=[self._name],
            samples=rows,
            apply_chat_template=bool(tokenizer.chat_template),
            task_manager=self._manager,
            bootstrap_iters=0,
        )
        assert results is not None
        return answers(results["samples"])


def answers(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Answer]:
    """Question id -> the harness's scores of it: those of each filter that reads the reply."""
    scores: dict[str, dict[str, float]] = {}
    replies: dict[str, str] = {}
    for task, logged in samples.items():
        for each in logged:
            key = f"{task}-{each['doc_id']}"
            found = {metric: each[metric] for metric in each["metrics"] if isinstance(each[metric], (int, float))}
            titled = {_title(metric, each.get("filter", "none")): float(value) for metric, value in found.items()}
            scores.setdefault(key, {}).update(titled)
            replies.setdefault(key, str(each["filtered_resps"]))
    return {
        key: Answer((Message("assistant", replies[key]),), values={"scores": values}) for key, values in scores.items()
    }


def _select(name: str) -> tuple[Any, str]:
    """The harness's task manager and the name of the task in it."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        missing = "--tasks lm_eval:NAME needs lm-evaluation-harness: pip install 'swift-agents[lm-eval]'"
        raise ValueError(missing) from None
    if not name:
        raise ValueError("--tasks lm_eval needs the name of a task: lm_eval:NAME, or lm_eval:FILE.yaml")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folder = None
    if name.endswith((".yaml", ".yml")):
        file = Path(name).expanduser()
        name, folder = _name_in(file), str(file.parent)
    manager = TaskManager(include_path=folder)
    if not manager.match_tasks([name]):
        near = closest(name, manager.all_tasks, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise ValueError(f"--tasks lm_eval:{name}: lm-evaluation-harness has no such task{hint}")
    return manager, name


def _name_in(file: Path) -> str:
    if not file.is_file():
        raise ValueError(f"--tasks lm_eval:{file}: no such file{nearest_path(file)}")
    found = re.search(r"^task:\s*[\"']?([^\s\"']+)", file.read_text(encoding="utf-8"), flags=re.M)
    if found is None:
        raise ValueError(f"--tasks lm_eval:{file}: the file names no task (a line 'task: NAME')")
    return found[1]
