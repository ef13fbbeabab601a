"""What fine-tuning left of a model's general ability: short answers, and the loss on held-out text.

The bundled questions and texts are never trained on. What a tuned model forgot is what its base model answers right
and it does not: compare the two.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.chat import Conversation, Message
from swift.data.general import general_rows
from swift.data.rows import conversation
from swift.engine.torch_engine import TorchEngine
from swift.eval.task import WRONG_ANSWER, Answer, Judgement, Metric, Question, Settings, Subject, Task, one_reply
from swift.infer.local_chat import LocalChat

FILE = Path(__file__).with_name("general_questions.jsonl")
TEXT = "text"
"""The group of the held-out texts."""
MAX_TOKENS = 48
"""Of a reply to a question whose answer is a word."""


def load(settings: Settings) -> Task:
    """`settings.variant`: `en` or `zh` (questions of a language), or `text` (the loss); all by default."""
    questions = [*_questions(settings.max_tokens or MAX_TOKENS), *_texts()]
    groups = dict.fromkeys(question.group for question in questions)
    if settings.variant and settings.variant not in groups:
        raise ValueError(f"--tasks general:{settings.variant}: no such part (known: {', '.join(groups)})")
    losses = _Losses()

    def answer(subject: Subject, question: Question) -> Answer:
        return losses.answer(subject, question) if question.group == TEXT else one_reply(subject, question)

    return Task(
        "general",
        [each for each in questions if settings.variant in ("", each.group)],
        judge,
        (
            Metric("accuracy", "short answers right"),
            Metric("loss", "loss on held-out text, nats/token", share=False, higher_is_better=False),
        ),
        answer,
        notes=("to see what a tuned model forgot, compare it with its base model: --compare BASE",),
    )


def judge(question: Question, answer: Answer) -> Judgement:
    """A short answer is right if the first line of the reply contains one of the accepted ones, as whole words."""
    if question.group == TEXT:
        return Judgement(True, {"loss": answer.values["loss"]} if answer.values else {})
    said = first_line(answer.message.content)
    right = any(contains(said, accepted) for accepted in question.expected)
    return Judgement(right, {"accuracy": float(right)}, "" if right else WRONG_ANSWER)


def first_line(reply: str) -> str:
    return next((line for line in reply.splitlines() if line.strip()), "")


def contains(text: str, words: str) -> bool:
    """Whether `words` are in a text, regardless of case and width. Whole words, where a script has spaces."""
    text, words = (unicodedata.normalize("NFKC", each).casefold() for each in (text, words))
    before = r"(?<![a-z0-9])(?<!\d[.,])" if words[0].isascii() else ""
    after = r"(?![a-z0-9])(?![.,]\d)" if words[-1].isascii() else ""
    return re.search(before + re.escape(words) + after, text) is not None


def _questions(max_tokens: int) -> list[Question]:
    with FILE.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        Question(
            f"{row['language']}-{number}",
            (Message("user", row["question"]),),
            expected=row["answers"],
            group=row["language"],
            max_tokens=max_tokens,
        )
        for number, row in enumerate(rows, 1)
    ]


def _texts() -> list[Question]:
    rows = [conversation(dict(row)) for row in general_rows("test")]
    return [Question(f"{TEXT}-{number}", row.messages, group=TEXT) for number, row in enumerate(rows, 1)]


class _Losses:
    """Computes the loss of the replies in held-out rows, one row at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[int, Any] = {}  # id of an engine's model -> the model in which losses are computed

    def answer(self, subject: Subject, question: Question) -> Answer:
        chat = subject.chat
        if not isinstance(chat, LocalChat) or not isinstance(chat.engine, TorchEngine):
            raise ValueError("the loss on held-out text needs a model in this process: --infer_backend pt")
        [sample] = chat.renderer.samples(Conversation(question.messages))
        with self._lock:
            loss = _mean_loss(self._model(chat.engine.model), [sample])
        return Answer((), values={"loss": loss})

    def _model(self, model: Any) -> Any:
        """A copy in fp32 of a bf16 model on a CPU, where bf16 may be slow and the engine still needs its own."""
        if id(model) not in self._models:
            narrow = model.device.type == "cpu" and "float32" not in str(model.dtype)
            self._models[id(model)] = copy.deepcopy(model).float() if narrow else model
        return self._models[id(model)]


def _mean_loss(model: Any, samples: Sequence[Any]) -> float:
    """The mean negative log-likelihood of the trained tokens, in nats."""
    from swift.train.batch import collate
    from swift.train.loss import no_grad_scores, output_head

    return float(no_grad_scores(model, output_head(model), collate(samples)).nll.mean())
