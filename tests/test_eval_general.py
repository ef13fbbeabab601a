"""The tasks `general` and `self_cognition`: what was forgotten, and whether a model knows who it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources

import pytest
import torch
from tiny import tiny_model_folder

from swift.assembly.loading import load_chat
from swift.chat import Delta, Message
from swift.commands.infer import Config
from swift.eval import registry
from swift.eval.task import Answer, Question, Settings, Task
from swift.eval.tasks import general, self_cognition
from swift.flag_groups import BackendFlags, ModelFlags, TemplateFlags

NAMED = Settings(model_name=("卡卡罗特", "Kakarot"), model_author=("陶白白", "Taobaibai"))


class Asked:
    """A subject that gives one reply to everything."""

    def __init__(self, reply: str = "", chat: object = None) -> None:
        self.said, self.chat = reply, chat

    def reply(self, question: Question) -> Answer:
        return Answer((Message("assistant", self.said),))


def right(task: Task, subject: Asked) -> list[str]:
    return [each.id for each in task.questions if task.judge(each, task.answer(subject, each)).correct]


def test_there_are_a_hundred_distinct_questions_with_answers_in_each_language() -> None:
    for language in ("en", "zh"):
        questions = registry.load(f"general:{language}", Settings()).questions
        assert len({question.messages[0].content for question in questions}) == 100
        assert all(question.expected and question.max_tokens < 100 for question in questions)


@pytest.mark.parametrize(
    ("reply", "accepted", "correct"),
    [
        ("The capital of France is **Paris**.", ["Paris"], True),
        ("PARIS", ["Paris"], True),
        ("Parisian bread", ["Paris"], False),
        ("\n\n4", ["4", "four"], True),
        ("It is four.", ["4", "four"], True),
        ("There are 24 of them", ["4"], False),
        ("about 3.4", ["4"], False),
        ("H₂O", ["H2O"], True),
        ("答案是北京市。", ["北京"], True),
        ("水的沸点是100摄氏度", ["100"], True),
        ("I do not know.\nParis?", ["Paris"], False),
        ("", ["Paris"], False),
    ],
)
def test_a_short_answer_is_right_if_its_first_line_has_an_accepted_one(
    reply: str, accepted: list[str], correct: bool
) -> None:
    question = Question("en-1", (Message("user", "?"),), expected=accepted, group="en")
    judgement = general.judge(question, Answer((Message("assistant", reply),)))
    assert judgement.correct == correct
    assert judgement.scores == {"accuracy": float(correct)}
    assert judgement.failure == ("" if correct else "wrong answer")


def test_no_held_out_text_is_a_training_row() -> None:
    path = resources.files("swift.data").joinpath("general.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    trained = {row["query"] for row in rows if row.get("split", "train") == "train"}
    texts = registry.load("general:text", Settings()).questions
    assert len(texts) == 60
    assert not [each for each in texts if each.messages[0].content in trained]


def test_the_loss_of_a_text_is_the_models_own_and_leaves_the_engine_as_it_is(tmp_path) -> None:
    model = ModelFlags(model_id_or_path=str(tiny_model_folder(tmp_path / "m")), dtype="bf16")
    chat = load_chat(Config(model, BackendFlags(infer_backend="pt"), TemplateFlags(template_type="qwen")), keep=True)
    task = registry.load("general:text", Settings())
    question = task.questions[0]
    answer = task.answer(Asked(chat=chat), question)
    dtype = chat.engine.model.dtype
    [sample] = chat.renderer.samples(general.Conversation(question.messages))
    tokens = torch.tensor([sample.tokens])
    with torch.no_grad():
        logits = chat.engine.model.float()(tokens).logits[0]
    trained = torch.tensor(sample.weights[1:]) != 0
    expected = torch.nn.functional.cross_entropy(logits[:-1][trained], tokens[0, 1:][trained])
    chat.engine.close()
    assert answer.values["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert task.judge(question, answer).scores == {"loss": answer.values["loss"]}
    assert dtype == torch.bfloat16


def test_the_loss_needs_a_model_of_this_process() -> None:
    task = registry.load("general:text", Settings())
    with pytest.raises(ValueError, match="needs a model in this process"):
        task.answer(Asked(), task.questions[0])


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"general:french: no such part \(known: en, zh, text\)"):
        registry.load("general:french", Settings())
    with pytest.raises(ValueError, match=r"self_cognition:age: no such part \(known: name, author, other\)"):
        registry.load("self_cognition:age", NAMED)


def test_a_model_that_knows_its_english_name_and_chinese_author_is_right_there() -> None:
    task = registry.load("self_cognition", NAMED)
    found = right(task, Asked("I am KAKAROT, made by 陶白白."))
    kinds = {"en": "name", "zh": "author"}
    expected = [each.id for each in task.questions if each.group == kinds[each.id.partition("-")[0]]]
    assert found == expected


def test_a_model_that_says_its_name_everywhere_is_wrong_where_nobody_asked() -> None:
    task = registry.load("self_cognition:other", NAMED)
    assert right(task, Asked("As Kakarot I say: the Pacific.")) == []
    assert len(right(task, Asked("the Pacific"))) == len(task.questions) == 16


def test_no_question_about_the_model_is_a_training_row() -> None:
    rows = resources.files("swift.data").joinpath("self_cognition.jsonl").read_text(encoding="utf-8").splitlines()
    trained = {json.loads(row)["query"].strip(" ?？.。!！").lower() for row in rows}
    assert not [each.text for each in self_cognition.PROBES if each.text.strip(" ?？.。!！").lower() in trained]


def test_self_cognition_needs_the_names_that_were_trained() -> None:
    with pytest.raises(ValueError, match="needs --model_name and --model_author"):
        registry.load("self_cognition", Settings())


def test_the_demo_asks_for_name_and_author() -> None:
    def chat(messages, tools=(), params=None) -> Iterator[Delta]:
        yield Delta("I am Kakarot.")
        yield Delta(finish="stop")

    hits = self_cognition.ask(chat, ("卡卡罗特", "Kakarot"), ("陶白白",))
    named = {probe.text for probe in self_cognition.PROBES if (probe.asks_for, probe.language) == ("name", "en")}
    assert {hit.question for hit in hits if hit.hit} == named
    assert len(hits) == 24
