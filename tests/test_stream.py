"""Tokens of one byte each, so that characters and stop texts lie across token borders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from swift.infer.stream import Detokenizer, Ending, Gate, Stream, Talk

TOKENIZER = tiny_tokenizer()


def ids(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def pieces(stream, tokens):
    shown = [stream.push(token) for token in tokens]
    return [*shown, stream.flush()]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_pieces_are_whole_characters_and_join_to_the_text(text):
    shown = pieces(Detokenizer(TOKENIZER.decode), ids(text))
    assert "".join(shown) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in shown)


def test_a_character_comes_with_its_last_byte():
    assert pieces(Detokenizer(TOKENIZER.decode), ids("a火!")) == ["a", "", "", "火", "!", ""]


def test_a_character_cut_by_the_end_of_the_reply_is_shown_as_broken():
    assert "".join(pieces(Detokenizer(TOKENIZER.decode), ids("a火")[:-1])) == "a\ufffd"


def test_the_space_before_a_first_word_survives_a_decoder_that_drops_it():
    words = {1: "▁Observation:", 2: "▁ok", 3: "▁then"}

    def decode(tokens):
        return "".join(words[token] for token in tokens).replace("▁", " ").removeprefix(" ")

    assert pieces(Detokenizer(decode, before=[1]), [2, 3]) == [" ok", " then", ""]
    assert pieces(Detokenizer(decode), [2, 3]) == ["ok", " then", ""]


def test_a_stop_text_across_token_borders_is_never_shown():
    stream = Stream(TOKENIZER.decode, [Ending("<END>", keep=False)])
    shown = pieces(stream, ids("a<b <EN <END> more"))
    assert "".join(shown) == "a<b <EN "
    assert stream.ended == Ending("<END>", keep=False)
    assert shown[1:3] == ["", "<b"], "what may begin a stop text is held back, and no longer"


def test_a_stop_text_that_is_kept_ends_the_text():
    stream = Stream(TOKENIZER.decode, [Ending("Observation:", keep=True)])
    assert "".join(pieces(stream, ids("Action: a\nObservation: [1]"))) == "Action: a\nObservation:"


def test_the_beginning_of_a_stop_text_at_the_end_of_a_reply_is_shown():
    stream = Stream(TOKENIZER.decode, [Ending("Observation:", keep=True)])
    assert "".join(pieces(stream, ids("My Observ"))) == "My Observ"
    assert stream.ended is None


def test_of_two_stop_texts_the_first_to_begin_wins_and_then_the_longer():
    gate = Gate([Ending("ab", keep=True), Ending("abc", keep=True), Ending("bc", keep=True)])
    assert gate.push("xabcd") == "xabc"
    assert gate.push("anything") == "" == gate.flush()


@given(
    st.text("ab:\n", max_size=30),
    st.lists(st.builds(Ending, st.text("ab:\n", min_size=1, max_size=4), st.booleans()), max_size=3),
    st.integers(1, 5),
)
def test_the_gate_passes_what_a_look_at_the_whole_text_would_pass(text, endings, size):
    gate = Gate(endings)
    passed = "".join(gate.push(text[at : at + size]) for at in range(0, len(text), size)) + gate.flush()
    if gate.ended is None:
        assert passed == text
        assert not any(ending.text in text for ending in endings)
    else:
        before = passed.removesuffix(gate.ended.text) if gate.ended.keep else passed
        assert text.startswith(before + gate.ended.text)
        assert not any(ending.text in before for ending in endings)


def test_without_endings_nothing_is_held_back():
    assert pieces(Stream(TOKENIZER.decode), ids("abc")) == ["a", "b", "c", ""]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_from_a_call_mark_on_everything_waits(size):
    text = "Thought: I act.\nAction: look\nAction Input: {}"
    talk = Talk(("Action:",))
    shown = "".join(talk.push(text[at : at + size]) for at in range(0, len(text), size))
    assert shown == "Thought: I act."
    assert talk.rest("Thought: I act.") == ""
    assert talk.rest(text) == text.removeprefix(shown)


def test_a_call_mark_in_other_letters_waits_too():
    talk = Talk(("Action:",))
    assert "".join(map(talk.push, "so\nACTION: x")) == "so"


def test_white_space_is_shown_once_something_follows_it():
    talk = Talk(("<tool_call>",))
    assert [talk.push("a "), talk.push("\n"), talk.push("b"), talk.push(" ")] == ["a", "", " \nb", ""]
    assert talk.rest("a \nb ") == " "
