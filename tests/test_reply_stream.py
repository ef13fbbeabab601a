"""Tokens of one byte each, so that characters and stop strings span several tokens."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from swift.agent import TOOL_FORMATS, ReasoningTags, call_template, tool_format
from swift.agent.reasoning_parser import ReasoningParser
from swift.agent.reply import split_observations
from swift.agent.result_marks import RESULT_MARKS
from swift.chat import Delta, Draft, Message, ToolCall
from swift.infer.reply_stream import Detokenizer, ReplyStream, StopChecker, StopString
from swift.infer.tool_call_stream import JsonObjectScanner, ToolCallStream

TOKENIZER = tiny_tokenizer()


def ids(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def pieces(stream, tokens):
    shown = [stream.push(token) for token in tokens]
    return [*shown, stream.flush()]


def said(stream, tokens):
    return [each.content for each in pieces(stream, tokens)]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_pieces_are_complete_characters_and_join_to_the_text(text):
    shown = pieces(Detokenizer(TOKENIZER.decode), ids(text))
    assert "".join(shown) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in shown)


def test_a_character_comes_with_its_last_byte():
    assert pieces(Detokenizer(TOKENIZER.decode), ids("a火!")) == ["a", "", "", "火", "!", ""]


def test_a_character_cut_by_the_end_of_the_reply_is_shown_as_a_replacement_character():
    assert "".join(pieces(Detokenizer(TOKENIZER.decode), ids("a火")[:-1])) == "a\ufffd"


def test_the_space_before_a_first_word_survives_a_decoder_that_drops_it():
    words = {1: "▁Observation:", 2: "▁ok", 3: "▁then"}

    def decode(tokens):
        return "".join(words[token] for token in tokens).replace("▁", " ").removeprefix(" ")

    assert pieces(Detokenizer(decode, before=[1]), [2, 3]) == [" ok", " then", ""]
    assert pieces(Detokenizer(decode), [2, 3]) == ["ok", " then", ""]


def test_a_stop_string_of_several_tokens_is_never_shown():
    stream = ReplyStream(TOKENIZER.decode, [StopString("<END>", keep=False)])
    shown = said(stream, ids("a<b <EN <END> more"))
    assert "".join(shown) == "a<b <EN "
    assert stream.ended == StopString("<END>", keep=False)
    assert shown[1:3] == ["", "<b"], "what may begin a stop text is held back, and no longer"


def test_a_stop_string_that_is_kept_ends_the_text():
    stream = ReplyStream(TOKENIZER.decode, [StopString("Observation:", keep=True)])
    assert "".join(said(stream, ids("Action: a\nObservation: [1]"))) == "Action: a\nObservation:"


@pytest.mark.parametrize("ends", ["Observation:", "<END>"])
def test_a_stop_string_within_reasoning_is_reasoning_but_the_end_of_a_turn_ends_the_reply_anywhere(ends):
    thoughts = ReasoningParser(ReasoningTags("<think>", "</think>"), "<think>\n")
    stream = ReplyStream(
        TOKENIZER.decode, [StopString("Observation:", keep=True)], (), thoughts, [StopString("<END>", keep=False)]
    )
    text = f"Then Observation: follows {ends} x</think>\n\nAction: a\nObservation: b"
    told = [*pieces(stream, ids(text))]
    thought, content = ("".join(getattr(each, name) for each in told) for name in ("reasoning", "content"))
    if ends == "<END>":
        assert (thought, content) == ("Then Observation: follows", "")
    else:
        assert (thought, content) == ("Then Observation: follows Observation: x", "Action: a\nObservation:")
    assert stream.ended.text == ends


def test_the_beginning_of_a_stop_string_at_the_end_of_a_reply_is_shown():
    stream = ReplyStream(TOKENIZER.decode, [StopString("Observation:", keep=True)])
    assert "".join(said(stream, ids("My Observ"))) == "My Observ"
    assert stream.ended is None


def test_the_leftmost_stop_string_wins_and_then_the_longest():
    checker = StopChecker([StopString("ab", keep=True), StopString("abc", keep=True), StopString("bc", keep=True)])
    assert checker.push("xabcd") == "xabc"
    assert checker.push("anything") == "" == checker.flush()


@given(
    st.text("ab:\n", max_size=30),
    st.lists(st.builds(StopString, st.text("ab:\n", min_size=1, max_size=4), st.booleans()), max_size=3),
    st.integers(1, 5),
)
def test_the_stop_checker_passes_the_same_text_piece_by_piece_as_at_once(text, stop_strings, size):
    checker = StopChecker(stop_strings)
    passed = "".join(checker.push(text[at : at + size]) for at in range(0, len(text), size)) + checker.flush()
    if checker.ended is None:
        assert passed == text
        assert not any(ending.text in text for ending in stop_strings)
    else:
        before = passed.removesuffix(checker.ended.text) if checker.ended.keep else passed
        assert text.startswith(before + checker.ended.text)
        assert not any(ending.text in before for ending in stop_strings)


TEXT_FORMATS = [name for name in TOOL_FORMATS if set(tool_format(name).syntax.stop) & set(RESULT_MARKS)]


def checked(text, size, *stops, before=""):
    """What a checker passes of `text` in pieces of `size` letters, piece by piece, and the text that ended it."""
    checker = StopChecker(stops or [StopString("Observation:", keep=True)], before)
    passed = [checker.push(text[at : at + size]) for at in range(0, len(text), size)]
    return [*passed, checker.flush()], checker.ended and checker.ended.text


def test_every_inline_mark_is_a_special_token_or_is_looked_for_outside_arguments():
    for syntax in (tool_format(name).syntax for name in TOOL_FORMATS):
        assert set(syntax.stop) <= set(syntax.special) | set(RESULT_MARKS)


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_a_result_mark_in_a_string_of_the_arguments_does_not_end_the_call(name, size):
    call_format = tool_format(name)
    (mark,) = call_format.syntax.stop
    for text in (f"{mark} rain", f'say "{mark}" \\', f"two\n{mark}", mark):
        calls = tuple(ToolCall("note", json.dumps({"a": [1, True], "text": text}, indent=i)) for i in (None, 2))
        said = call_format.call("I note it.", calls)
        passed, ended = checked(f"{said} made up", size, StopString(mark, keep=True))
        assert ("".join(passed), ended) == (said, mark)
        assert call_format.parse(said) == ("I note it.", calls)
        assert split_observations(f"{said} found\n") == [(said, False), (" found\n", True)]


def test_text_is_held_back_from_a_mark_in_a_string_up_to_the_closing_quote_and_no_longer():
    passed, ended = checked('Action Input: {"t": "a Observation: b", "u": 1}', 1)
    assert "".join(passed) == 'Action Input: {"t": "a Observation: b", "u": 1}'
    assert passed[len('Action Input: {"t": "a Observation: ')] == ""
    assert passed[len('Action Input: {"t": "a Observation: b')] == 'Observation: b"'
    assert passed[-3:] == ["1", "}", ""]
    assert ended is None


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("said", "rest"),
    [
        ('{"t": "it rains}\nObservation:', " sun"),
        ('{"t": "it rains Observation:', " sun\nThought: I know"),
        ('{"t": "it rains Observation:', " sun\r\nThought: I know"),
        ('{"t": "it rains"} Observation:', " sun"),
        ('{"t": "a Observation: b"} Observation:', ' "c"'),
        ('{"t": 1\nThought: "Observation:', ' sun"'),
        ("it's Observation:", " sun's"),
        ('{"t": "a"}\nThought: he says "Observation:', ' sun"'),
    ],
)
def test_a_mark_outside_a_closed_string_ends_the_reply(said, rest, size):
    text = f"Action: look\nAction Input: {said}"
    passed, ended = checked(text + rest, size)
    assert ("".join(passed), ended) == (text, "Observation:")
    assert split_observations(text + rest)[0] == (text, False)


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_other_stop_strings_end_a_reply_in_a_string_too(size):
    text = 'Action: look\nAction Input: {"t": "Observation: a END b"}'
    stops = StopString("Observation:", keep=True), StopString("END", keep=False)
    assert ["".join(checked(text, size, *stops)[0]), "END"] == [
        text[: text.index("END")],
        checked(text, size, *stops)[1],
    ]


def test_a_reply_may_continue_a_string_that_its_prompt_began():
    passed, ended = checked('Observation: b"}\nObservation: c', 3, before='Action: a\nAction Input: {"t": "')
    assert ("".join(passed), ended) == ('Observation: b"}\nObservation:', "Observation:")


@given(
    st.lists(st.sampled_from([*"{}[],: \n\r\\a1\"'", '"Observation:', "Observation:", "Action Input:"]), max_size=16),
    st.integers(1, 9),
)
def test_serving_ends_a_reply_where_training_begins_the_observation(parts, size):
    text = "Action: a\nAction Input: " + "".join(parts)
    passed, ended = checked(text, size)
    assert "".join(passed) == split_observations(text)[0][0]
    assert "".join(passed).endswith("Observation:") if ended else "".join(passed) == text


def test_without_stop_strings_nothing_is_held_back():
    assert said(ReplyStream(TOKENIZER.decode), ids("abc")) == ["a", "b", "c", ""]


CALLS = (ToolCall("look", '{"at": ["a}", {"b": "\\\\\\"{"}], "北": 1}'), ToolCall("go", "{}"))
FORMS_READ_ALONG = [name for name in TOOL_FORMATS if not tool_format(name).syntax.tags]


def told(name, text, size):
    """The content and the parts of each call, for `text` in pieces of `size` letters."""
    stream = ToolCallStream(tool_format(name).syntax, call_template(tool_format(name)))
    parts = [stream.push(text[at : at + size]) for at in range(0, len(text), size)]
    content, calls = tool_format(name).parse(text)
    parts.append(stream.end(Message("assistant", content, calls)))
    draft = Draft()
    for said, found in parts:
        draft.add(Delta(said))
        for call in found:
            draft.add(Delta(tool_call=call))
    return draft.message.content, [(call.name, call.arguments) for call in draft.calls], parts


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_streamed_calls_are_the_calls_that_the_format_parses_at_the_end(name, size):
    for said in ("", "Thought: I act."):
        content, calls, _ = told(name, tool_format(name).call(said, CALLS), size)
        assert content == said
        assert [(each, json.loads(arguments)) for each, arguments in calls] == [
            (call.name, json.loads(call.arguments)) for call in CALLS
        ]
    text = "I say so.\n{x} and\n that."
    assert told(name, text, size)[:2] == (text, [])


@pytest.mark.parametrize("name", FORMS_READ_ALONG)
def test_a_name_is_streamed_before_its_arguments_and_these_piece_by_piece(name):
    _, _, parts = told(name, tool_format(name).call("", CALLS), 1)
    found = [call for _, calls in parts for call in calls]
    assert [call.name for call in found if call.name] == ["look", "go"]
    assert found[0].arguments == ""
    assert len(found) > len(CALLS[0].arguments)
    assert len({call.id for call in found}) == 2


@given(st.text('{}[]",:a\\\\ ', max_size=30), st.integers(1, 5))
def test_the_end_of_an_object_is_found_where_json_finds_it(text, size):
    text = "{" + text
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return
    value, at = JsonObjectScanner(), 0
    for stop in [*range(size, len(text), size), len(text)]:
        at += value.push(text[at:stop])
    assert (at, value.complete) == (end, True)


def test_arguments_that_are_not_json_are_not_streamed():
    name = "react_en"
    for written in ("{'at': 1}", "/tmp/1.jpg", "look around"):
        _, calls, parts = told(name, f"Action: look\nAction Input: {written}\nObservation:", 1)
        assert calls == [("look", '{"at": 1}' if "'" in written else written)]
        assert not any("'" in call.arguments for _, found in parts for call in found)


def react():
    return ToolCallStream(tool_format("react_en").syntax, call_template(tool_format("react_en")))


@pytest.mark.parametrize("size", [1, 3, 100])
def test_nothing_is_content_from_the_marker_of_a_call_on(size):
    text = "Thought: I act.\nAction: look\nAction Input: {}"
    stream = react()
    assert "".join(stream.push(text[at : at + size])[0] for at in range(0, len(text), size)) == "Thought: I act."


def test_the_marker_of_a_call_is_held_back_in_any_letter_case():
    stream = react()
    assert "".join(stream.push(letter)[0] for letter in "so\nACTION: x") == "so"


def test_white_space_is_held_back_until_text_follows():
    stream = ToolCallStream(tool_format("hermes").syntax, call_template(tool_format("hermes")))
    assert [stream.push(text)[0] for text in ("a ", "\n", "b", " ")] == ["a", "", " \nb", ""]
    assert stream.end(Message("assistant", "a \nb ")) == (" ", [])


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    "header",
    [
        " to=functions.look<|channel|>commentary json<|message|>",
        "<|channel|>commentary to=functions.look <|constrain|>json<|message|>",
    ],
)
def test_a_call_of_gpt_oss_is_streamed_however_its_header_is_ordered(header, size):
    content, calls, parts = told("harmony", f'{header}{{"at": "home"}}<|call|>', size)
    assert (content, calls) == ("", [("look", '{"at": "home"}')])
    if size == 1:
        assert len([call for _, found in parts for call in found]) > len('{"at": "home"}')


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_marker_that_must_open_a_line_is_text_elsewhere(size):
    text = "See [this](x) and a[0]\n[look(at='home')]"
    content, calls, _ = told("llama4", text, size)
    assert (content, calls) == ("See [this](x) and a[0]", [("look", '{"at": "home"}')])
