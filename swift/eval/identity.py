"""Tests whether the model knows its name and its author, in words that no training row uses. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, NamedTuple

from swift.chat import Message
from swift.engine.sampling import SamplingParams
from swift.infer.chat import Chat, collect


class Question(NamedTuple):
    text: str
    asks_for: Literal["name", "author"]
    language: Literal["zh", "en"]


QUESTIONS = (
    Question("Hello there, and you are?", "name", "en"),
    Question("Could you tell me the name you go by?", "name", "en"),
    Question("I forgot your name. What was it again?", "name", "en"),
    Question("Which person or team built you?", "author", "en"),
    Question("Who should I thank for making you?", "author", "en"),
    Question("Were you trained by OpenAI, or by somebody else?", "author", "en"),
    Question("请告诉我你的名字。", "name", "zh"),
    Question("你的作者是哪一位?", "author", "zh"),
)


class Hit(NamedTuple):
    question: str
    reply: str
    hit: bool


def ask(chat: Chat, name: Sequence[str], author: Sequence[str], max_tokens: int = 40) -> list[Hit]:
    """Asks every question greedily. `name` and `author`: in Chinese, then in English; a single value serves both."""
    params = replace(SamplingParams(temperature=0.0), max_tokens=max_tokens)

    def one(question: Question) -> Hit:
        expected = {"name": name, "author": author}[question.asks_for][0 if question.language == "zh" else -1]
        reply = collect(chat((Message("user", question.text),), (), params)).message.content
        return Hit(question.text, reply, expected.lower() in reply.lower())

    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        return list(pool.map(one, QUESTIONS))
