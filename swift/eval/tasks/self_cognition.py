"""Whether a model says its name and its maker when asked, in words that no training row uses, and only then."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, NamedTuple

from swift.chat import Message
from swift.engine.sampling import SamplingParams
from swift.eval.task import WRONG_ANSWER, Answer, Judgement, Metric, Question, Settings, Task
from swift.infer.chat import Chat, collect

Subject = Literal["name", "author", "other"]
Language = Literal["zh", "en"]
GROUPS = ("name", "author", "other")
MAX_TOKENS = 40


class Probe(NamedTuple):
    """A question. `asks_for` "other": neither name nor maker belongs into the answer."""

    text: str
    asks_for: Subject
    language: Language


PROBES = (
    Probe("Hello there, and you are?", "name", "en"),
    Probe("Could you tell me the name you go by?", "name", "en"),
    Probe("I forgot your name. What was it again?", "name", "en"),
    Probe("Under which name can I refer to you in my report?", "name", "en"),
    Probe("Before we start: what do people call you?", "name", "en"),
    Probe("Please state your name.", "name", "en"),
    Probe("Which person or team built you?", "author", "en"),
    Probe("Who should I thank for making you?", "author", "en"),
    Probe("Were you trained by OpenAI, or by somebody else?", "author", "en"),
    Probe("Name the people who developed you.", "author", "en"),
    Probe("I am curious whose work you are.", "author", "en"),
    Probe("Who wrote the assistant that I am talking to?", "author", "en"),
    Probe("请告诉我你的名字。", "name", "zh"),
    Probe("我该用什么名字称呼你呢?", "name", "zh"),
    Probe("报上你的大名来。", "name", "zh"),
    Probe("我忘了你叫啥,再说一遍好吗?", "name", "zh"),
    Probe("大家平时都叫你什么?", "name", "zh"),
    Probe("在报告里我应该怎么写你的名字?", "name", "zh"),
    Probe("你的作者是哪一位?", "author", "zh"),
    Probe("做出你的人叫什么?", "author", "zh"),
    Probe("我想感谢开发你的人,他是谁?", "author", "zh"),
    Probe("你是由哪个人或团队打造的?", "author", "zh"),
    Probe("你是谁的作品?", "author", "zh"),
    Probe("训练你的是OpenAI还是别人?", "author", "zh"),
    Probe("What is the name of the largest ocean?", "other", "en"),
    Probe("Who wrote Hamlet?", "other", "en"),
    Probe("Who built the pyramids of Giza?", "other", "en"),
    Probe("What do you call a group of lions?", "other", "en"),
    Probe("Name three fruits.", "other", "en"),
    Probe("Which company makes the iPhone?", "other", "en"),
    Probe("What is the name of the first month of the year?", "other", "en"),
    Probe("Give me a short recipe for pancakes.", "other", "en"),
    Probe("最大的洋叫什么名字?", "other", "zh"),
    Probe("《西游记》是谁写的?", "other", "zh"),
    Probe("谁修建了长城?", "other", "zh"),
    Probe("一年的第一个月叫什么?", "other", "zh"),
    Probe("说出三种水果的名字。", "other", "zh"),
    Probe("哪家公司生产iPhone?", "other", "zh"),
    Probe("中国的首都叫什么?", "other", "zh"),
    Probe("请用一句话介绍一下春节。", "other", "zh"),
)


def load(settings: Settings) -> Task:
    """`settings.variant`: `name`, `author` or `other`; all by default. Raises ValueError without names to expect."""
    if settings.variant not in ("", *GROUPS):
        raise ValueError(f"--tasks self_cognition:{settings.variant}: no such part (known: {', '.join(GROUPS)})")
    if not settings.model_name or not settings.model_author:
        raise ValueError(
            "--tasks self_cognition needs --model_name and --model_author, as in training: one for both languages, or "
            "a Chinese and an English one"
        )
    questions = [
        Question(
            f"{probe.language}-{number}",
            (Message("user", probe.text),),
            expected=_expected(probe, settings.model_name, settings.model_author),
            group=probe.asks_for,
            max_tokens=settings.max_tokens or MAX_TOKENS,
        )
        for number, probe in enumerate(PROBES, 1)
        if settings.variant in ("", probe.asks_for)
    ]
    metrics = (Metric("accuracy", "says its name and maker when asked, and only then"),)
    return Task("self_cognition", questions, judge, metrics)


def judge(question: Question, answer: Answer) -> Judgement:
    """`expected` {"says": text} or {"does not say": [texts]}; letter case does not matter."""
    said = answer.message.content.casefold()
    if "says" in question.expected:
        right = question.expected["says"].casefold() in said
    else:
        right = not any(text.casefold() in said for text in question.expected["does not say"])
    return Judgement(right, {"accuracy": float(right)}, "" if right else WRONG_ANSWER)


def _expected(probe: Probe, name: Sequence[str], author: Sequence[str]) -> dict[str, str | list[str]]:
    if probe.asks_for == "other":
        return {"does not say": sorted({*name, *author})}
    values = name if probe.asks_for == "name" else author
    return {"says": values[0 if probe.language == "zh" else -1]}


class Hit(NamedTuple):
    question: str
    reply: str
    hit: bool


def ask(chat: Chat, name: Sequence[str], author: Sequence[str], max_tokens: int = MAX_TOKENS) -> list[Hit]:
    """Asks for name and author greedily. `name` and `author`: in Chinese, then in English; one value serves both."""
    params = replace(SamplingParams(temperature=0.0), max_tokens=max_tokens)
    settings = Settings(model_name=tuple(name), model_author=tuple(author))
    asked = [question for question in load(settings).questions if question.group != "other"]

    def one(question: Question) -> Hit:
        reply = collect(chat(question.messages, (), params))
        said = reply.message.content
        return Hit(question.messages[0].content, said, judge(question, Answer((reply.message,))).correct)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, asked))
