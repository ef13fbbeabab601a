"""A reply as text: thoughts, answers and calls apart, in every text form and however the text comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.agent import TOOL_FORMATS, ReasoningTags, tool_format
from swift.agent.reasoning_parser import ReasoningParser, ReplyText
from swift.agent.reply import LabelParser, read_reply, write_reply
from swift.chat import Message, ToolCall

CALL = ToolCall("look", '{"at": "é"}')
THINKING = [name for name in TOOL_FORMATS if tool_format(name).syntax.thought]
ANSWERING = [name for name in TOOL_FORMATS if tool_format(name).syntax.answer]
words = st.text(st.sampled_from("ab é.:\n"), max_size=12).map(str.strip)


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_a_reply_is_read_back(name: str) -> None:
    for message in (
        Message("assistant", "It is dry."),
        Message("assistant", "", (CALL,)),
        Message("assistant", "I look.", (CALL,)),
    ):
        assert (
            read_reply(tool_format(name), write_reply(tool_format(name), message, offered=True, after_result=True))
            == message
        )


@pytest.mark.parametrize("name", THINKING)
def test_a_thought_before_an_answer_or_a_call_is_read_back_as_reasoning(name: str) -> None:
    for message in (
        Message("assistant", "", (CALL,), reasoning="I need to look.\nTwice."),
        *([Message("assistant", "It is dry.", reasoning="I know")] if tool_format(name).syntax.answer else []),
    ):
        text = write_reply(tool_format(name), message, offered=True)
        assert text.startswith(f"Thought: {message.reasoning}\n")
        assert read_reply(tool_format(name), text) == message


def test_an_answer_without_a_thought_opens_with_the_forms_word_for_it() -> None:
    said = Message("assistant", "It is dry.")
    assert write_reply(tool_format("react_en"), said, offered=True) == "Final Answer: It is dry."
    assert write_reply(tool_format("react_en"), said) == "It is dry.", "no tools are on offer"
    assert write_reply(tool_format("qwen_en"), said, offered=True) == "It is dry."
    assert write_reply(tool_format("qwen_en"), said, offered=True, after_result=True) == "✿RETURN✿: It is dry."
    assert write_reply(tool_format("hermes"), said, offered=True, after_result=True) == "It is dry."


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
    assert write_reply(tool_format("react_en"), Message("assistant", content), offered=True) == content


def test_a_call_that_cannot_be_read_is_content_and_not_thought() -> None:
    message = read_reply(tool_format("react_en"), "Thought: I look\nAction: look\nObservation:")
    assert (message.reasoning, message.content) == ("I look", "Action: look\nObservation:")


def test_a_reply_that_only_thinks_answers_with_its_thought() -> None:
    message = read_reply(tool_format("react_en"), "Thought: It is dry.")
    assert (message.reasoning, message.content) == ("It is dry.", "It is dry.")


def test_a_reply_cut_within_its_thought_has_no_answer() -> None:
    split = LabelParser(tool_format("react_en").syntax)
    assert split.push("Thought: It is d") + split.end(answers=False) == ReplyText("It is d", "")


def test_words_within_a_line_and_behind_the_answers_word_are_text() -> None:
    message = read_reply(tool_format("react_en"), "Thought: a Final Answer: b\nFinal Answer: c\nThought: d")
    assert (message.reasoning, message.content) == ("a Final Answer: b", "c\nThought: d")


@given(st.data(), words, words, st.booleans())
def test_however_the_text_is_cut_the_parts_are_the_same(
    data: st.DataObject, thought: str, answer: str, calls: bool
) -> None:
    marks = tool_format("react_en").syntax
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
    whole = LabelParser(marks)
    expected = whole.push(text) + whole.end(answers=not calls)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    split, told = LabelParser(marks), ReplyText()
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        told += split.push(text[start:end])
    assert told + split.end(answers=not calls) == expected


def test_a_form_without_such_words_passes_text_on_at_once() -> None:
    split = LabelParser(tool_format("hermes").syntax)
    assert split.push("Thought: a \n") == ReplyText("", "Thought: a \n")


THINK = ReasoningTags("<think>", "</think>")
HARMONY = ReasoningTags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant", "<|channel|>final<|message|>")
GEMMA = ReasoningTags("<|channel>thought\n", "<channel|>")
ADDRESSED = ReasoningTags(" to=self<|message|>", "<|eom|><|start|>assistant", " to=user<|message|>")


@pytest.mark.parametrize(
    ("thinking", "prefill", "text", "reasoning", "content"),
    [
        (THINK, "", "<think>\nIt rains.\n</think>\n\nYes.", "It rains.", "Yes."),
        (THINK, "", "\n<think>It rains.</think>\nYes.\n", "It rains.", "Yes.\n"),
        (THINK, "<think>\n", "It rains.\n</think>\n\nYes.", "It rains.", "Yes."),
        (THINK, "<think>\n\n</think>\n\n", "Yes.", "", "Yes."),
        (THINK, "\n<think></think>", "\nYes.", "", "Yes."),
        (THINK, "<think>\n\n</think>\n\n", "<think>a</think>Yes.", "a", "Yes."),
        (THINK, "", "<think>a</think>\n<think>\n</think> <think> b</think>c", "a\nb", "c"),
        (THINK, "<think>\n", "It ra", "It ra", ""),
        (THINK, "<think>\n", "It rains.\n</thi", "It rains.\n</thi", ""),
        (THINK, "<think>\nIt", " rains.</think>Yes.", " rains.", "Yes."),
        (THINK, "", " Yes, <think>a</think>", "", " Yes, <think>a</think>"),
        (THINK, "", "<thin ice>", "", "<thin ice>"),
        (THINK, "", "<", "", "<"),
        (THINK, "", " ", "", " "),
        (THINK, "<think>\n\n</think>\n\nIt is", " cold.", "", " cold."),
        (THINK, "It is <", "b>", "", "b>"),
        (GEMMA, "", "<|channel>thought\nIt rains.\n<channel|>Yes.", "It rains.", "Yes."),
        (
            HARMONY,
            "",
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
            "a",
            "Yes.",
        ),
        (HARMONY, "", "<|channel|>final<|message|>Yes.", "", "Yes."),
        (
            HARMONY,
            "<|channel|>analysis<|message|>",
            "a<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
            "a",
            "Yes.",
        ),
        (
            HARMONY,
            "",
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>b<|end|><|start|>assistant to=functions.f",
            "a\nb",
            "I look.\nto=functions.f",
        ),
        (ADDRESSED, "", " to=self<|message|>a<|eom|><|start|>assistant to=user<|message|>Yes.", "a", "Yes."),
        (None, "<think>\n", "a</think>\n\nYes.", "", "a</think>\n\nYes."),
    ],
)
def test_a_block_of_thought_is_reasoning_and_no_content_however_it_comes(
    thinking: ReasoningTags | None, prefill: str, text: str, reasoning: str, content: str
) -> None:
    thoughts = ReasoningParser(thinking, prefill)
    assert thoughts.push(text) + thoughts.end() == ReplyText(reasoning, content)
    letters, told = ReasoningParser(thinking, prefill), ReplyText()
    for letter in text:
        told += letters.push(letter)
    assert told + letters.end() == ReplyText(reasoning, content)


parts = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "a", "\n", " ", "<", "</", "é", *HARMONY, "<|channel|>commentary<|message|>", "<|end|>"]
    ),
    max_size=8,
).map("".join)


@given(st.data(), st.sampled_from([THINK, HARMONY, GEMMA, ADDRESSED]), parts, parts)
def test_however_a_reply_is_cut_its_thoughts_are_the_same(
    data: st.DataObject, thinking: ReasoningTags, prefill: str, text: str
) -> None:
    whole = ReasoningParser(thinking, prefill)
    expected = whole.push(text) + whole.end()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    thoughts, told = ReasoningParser(thinking, prefill), ReplyText()
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        told += thoughts.push(text[start:end])
    assert told + thoughts.end() == expected


def test_content_is_told_as_soon_as_no_mark_can_begin_with_it() -> None:
    thoughts = ReasoningParser(THINK, "<think>\n")
    assert thoughts.push("It rains") == ReplyText("It rains")
    assert thoughts.push(". \n") == ReplyText("."), "white space may be the edge"
    assert thoughts.push("</think>\n\n") == ReplyText()
    assert thoughts.push("Yes <") == ReplyText("", "Yes <")


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_a_thought_before_a_call_is_reasoning_in_every_form_and_a_call_within_it_is_none(name: str) -> None:
    call = tool_format(name).call("", [CALL])
    for prefill, opening in (("", "<think>\n"), ("<think>\n", "")):
        message = read_reply(tool_format(name), f"{opening}I need {call}.\n</think>\n\n{call}", (), THINK, prefill)
        assert (message.reasoning, message.content, message.tool_calls) == (f"I need {call}.", "", (CALL,))


def test_a_block_and_the_forms_own_thought_are_both_reasoning() -> None:
    message = read_reply(tool_format("react_en"), "<think>a</think>\nThought: b\nFinal Answer: c", (), THINK)
    assert (message.reasoning, message.content) == ("a\nb", "c")


def test_a_thought_that_the_form_has_no_word_for_may_be_written_as_a_block() -> None:
    message = Message("assistant", "It is dry.", (CALL,), reasoning="I look.")
    for name in TOOL_FORMATS:
        said = tool_format(name).call("It is dry.", [CALL])
        assert write_reply(tool_format(name), message) == said
        assert write_reply(tool_format(name), message, block=True) == f"<think>\nI look.\n</think>\n\n{said}"
        if name not in THINKING:
            text = write_reply(tool_format(name), message, offered=True, block=True)
            assert text == f"<think>\nI look.\n</think>\n\n{said}"
    answer = Message("assistant", "It is dry.", reasoning="I know")
    text = write_reply(tool_format("react_en"), answer, offered=True, block=True)
    assert text == "Thought: I know\nFinal Answer: It is dry."
