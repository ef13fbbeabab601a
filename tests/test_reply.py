"""A reply as text: thoughts, answers and calls apart, in every text form and however the text comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.agent import FORMS, form
from swift.agent.reply import Said, Split, read_reply, write_reply
from swift.chat import Message, ToolCall

CALL = ToolCall("look", '{"at": "é"}')
THINKING = [name for name in FORMS if form(name).marks.thought]
ANSWERING = [name for name in FORMS if form(name).marks.answer]
words = st.text(st.sampled_from("ab é.:\n"), max_size=12).map(str.strip)


@pytest.mark.parametrize("name", FORMS)
def test_a_reply_is_read_back(name: str) -> None:
    for message in (
        Message("assistant", "It is dry."),
        Message("assistant", "", (CALL,)),
        Message("assistant", "I look.", (CALL,)),
    ):
        assert read_reply(form(name), write_reply(form(name), message, offered=True, after_result=True)) == message


@pytest.mark.parametrize("name", THINKING)
def test_a_thought_before_an_answer_or_a_call_is_read_back_as_reasoning(name: str) -> None:
    for message in (
        Message("assistant", "", (CALL,), reasoning="I need to look.\nTwice."),
        *([Message("assistant", "It is dry.", reasoning="I know")] if form(name).marks.answer else []),
    ):
        text = write_reply(form(name), message, offered=True)
        assert text.startswith(f"Thought: {message.reasoning}\n")
        assert read_reply(form(name), text) == message


def test_an_answer_without_a_thought_opens_with_the_forms_word_for_it() -> None:
    said = Message("assistant", "It is dry.")
    assert write_reply(form("react_en"), said, offered=True) == "Final Answer: It is dry."
    assert write_reply(form("react_en"), said) == "It is dry.", "no tools are on offer"
    assert write_reply(form("qwen_en"), said, offered=True) == "It is dry."
    assert write_reply(form("qwen_en"), said, offered=True, after_result=True) == "✿RETURN✿: It is dry."
    assert write_reply(form("hermes"), said, offered=True, after_result=True) == "It is dry."


@pytest.mark.parametrize(
    "content",
    [
        "Thought: I know\nFinal Answer: dry",
        "Final Answer: dry",
        "I look\nAction: look\nAction Input: {}\nObservation: dry\n",
        "final answer: dry",
    ],
)
def test_content_that_is_written_in_the_form_stays_as_it_is(content: str) -> None:
    assert write_reply(form("react_en"), Message("assistant", content), offered=True) == content


def test_a_call_that_cannot_be_read_is_content_and_not_thought() -> None:
    message = read_reply(form("react_en"), "Thought: I look\nAction: look\nObservation:")
    assert (message.reasoning, message.content) == ("I look", "Action: look\nObservation:")


def test_a_reply_that_only_thinks_answers_with_its_thought() -> None:
    message = read_reply(form("react_en"), "Thought: It is dry.")
    assert (message.reasoning, message.content) == ("It is dry.", "It is dry.")


def test_a_reply_cut_within_its_thought_has_no_answer() -> None:
    split = Split(form("react_en").marks)
    assert split.push("Thought: It is d") + split.end(answers=False) == Said("It is d", "")


def test_words_within_a_line_and_behind_the_answers_word_are_text() -> None:
    message = read_reply(form("react_en"), "Thought: a Final Answer: b\nFinal Answer: c\nThought: d")
    assert (message.reasoning, message.content) == ("a Final Answer: b", "c\nThought: d")


@given(st.data(), words, words, st.booleans())
def test_however_the_text_is_cut_the_parts_are_the_same(
    data: st.DataObject, thought: str, answer: str, calls: bool
) -> None:
    marks = form("react_en").marks
    text = data.draw(
        st.sampled_from(
            [
                f"Thought: {thought}\nFinal Answer: {answer}",
                f"{thought}\nFinal Answer: {answer}",
                f"Thought: {thought}\n Thought:{answer}\nAction: f",
                f"{thought}\n{answer}",
            ]
        )
    )
    whole = Split(marks)
    expected = whole.push(text) + whole.end(answers=not calls)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    split, told = Split(marks), Said()
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        told += split.push(text[start:end])
    assert told + split.end(answers=not calls) == expected


def test_a_form_without_such_words_passes_text_on_at_once() -> None:
    split = Split(form("hermes").marks)
    assert split.push("Thought: a \n") == Said("", "Thought: a \n")
