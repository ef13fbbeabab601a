"""Loss scales: which words of a reply count how much."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from swift.agent import TOOL_FORMATS, tool_format
from swift.agent.reply import split_observations
from swift.chat import Conversation, Message, Tool, ToolCall
from swift.template import Renderer, Template, template
from swift.template.loss_scale import SCALES, loss_scale

CALL = "Thought: t\nAction: a\nAction Input: b\nObservation:"


def test_react_counts_calls_twice_and_observations_never() -> None:
    assert loss_scale("react")(f"{CALL} seen\nFinal Answer: done") == [
        ("Thought:", 1.0),
        (" t\n", 1.0),
        ("Action:", 2.0),
        (" a\n", 2.0),
        ("Action Input:", 2.0),
        (" b\n", 2.0),
        ("Observation:", 2.0),
        (" seen\n", 0.0),
        ("Final Answer:", 1.0),
        (" done", 1.0),
    ]


@pytest.mark.parametrize("name", ["react_en", "qwen_en"])
def test_an_observation_that_an_argument_mentions_is_trained_like_the_argument(name: str) -> None:
    call_format = tool_format(name)
    mark = call_format.syntax.stop[0]
    written = call_format.call("", [ToolCall("note", f'{{"text": "{mark} rain", "n": 1}}')])
    assert split_observations(written) == [(written, False)]
    scale = "react" if name == "react_en" else "qwen"
    for each in ("AUTO", scale):
        assert {weight for part, weight in loss_scale(each, name)(written) if part} == {2.0}
    assert loss_scale(scale, name)(f"{written} seen")[-1] == (" seen", 0.0)


@pytest.mark.parametrize("name", ["react_en", "qwen_en"])
def test_a_call_that_mentions_an_observation_is_trained_up_to_its_result(name: str) -> None:
    call_format = tool_format(name)
    call = ToolCall("note", f'{{"text": "{call_format.syntax.stop[0]} rain", "n": 1}}', "1")
    row = (Message("user", "x"), Message("assistant", "", (call,)), Message("tool", "seen", tool_call_id="1"))
    tools = (Tool({"type": "function", "function": {"name": "note", "parameters": {"type": "object"}}}),)
    tokenizer = tiny_tokenizer()
    renderer = Renderer(tokenizer, template("qwen"), name)
    (sample,) = renderer.samples(Conversation((*row, Message("assistant", "done")), tools))
    trained = tokenizer.decode([t for t, weight in zip(sample.tokens, sample.weights, strict=True) if weight])
    assert trained.startswith(call_format.call("", (call,)))
    assert trained.endswith("done<|im_end|>")
    assert "seen" not in trained


def test_a_plain_reply_counts_once() -> None:
    for name in ("react", "hermes", "qwen", "agentflan", "alpha_umi", "default", "none", "ignore_empty_think"):
        assert loss_scale(name)("hello") == [("hello", 1.0)]


def test_hermes_counts_a_call_twice() -> None:
    text = 'ok <tool_call>\n{"name": "a"}\n</tool_call>'
    assert loss_scale("hermes")(text) == [("ok ", 1.0), ('<tool_call>\n{"name": "a"}\n</tool_call>', 2.0)]


def test_agentflan_counts_what_names_and_fills_a_call_three_times() -> None:
    assert loss_scale("agentflan")("Action: a\nAction Input: b") == [
        ("Action:", 1.0),
        (" a\n", 3.0),
        ("Action Input:", 1.0),
        (" b", 3.0),
    ]
    assert loss_scale("agentflan")("f", query="What is the tool you want to use?") == [("f", 3.0)]


def test_alpha_umi_counts_the_next_speaker_twice() -> None:
    assert loss_scale("alpha_umi")("Next: caller") == [("Next:", 2.0), (" caller", 2.0)]


def test_a_token_that_begins_with_white_space_takes_the_weight_of_what_follows() -> None:
    words = {"I": 0, " say": 1, " Next": 2, ":": 3, " go": 4, "\n": 5, "!": 6, "?": 7}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_of_words(words), eos_token="!", clean_up_tokenization_spaces=False
    )
    plain = Template("plain", prompt=("{{QUERY}}",), suffix=("!",), chat_sep=("!",))
    renderer = Renderer(tokenizer, plain, scale="alpha_umi")
    row = Conversation((Message("user", "I"), Message("assistant", "I say Next: go\n")))
    sample = renderer.encode(row)
    assert list(zip(tokenizer.convert_ids_to_tokens(sample.tokens), sample.weights, strict=True)) == [
        ("I", 0.0),
        ("I", 1.0),
        (" say", 1.0),
        (" Next", 2.0),
        (":", 2.0),
        (" go", 2.0),
        ("\n", 2.0),
        ("!", 1.0),
    ]


def _of_words(words: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|[:\n!]"), "isolated")
    return tokenizer


def test_an_empty_thought_counts_nothing() -> None:
    assert loss_scale("ignore_empty_think")("<think>\n\n</think>\n\nyes") == [
        ("<think>\n\n</think>\n\n", 0.0),
        ("yes", 1.0),
    ]
    assert loss_scale("ignore_empty_think")("a <think></think>") == [("a <think></think>", 1.0)]


def test_last_round_leaves_earlier_replies_out() -> None:
    assert loss_scale("last_round+react")("Action: a", last=False) == [("Action: a", 0.0)]
    assert loss_scale("last_round+react")("Action: a", last=True) == [("Action:", 2.0), (" a", 2.0)]


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_by_default_calls_count_twice_in_every_text_form_and_results_never(name: str) -> None:
    call = ToolCall("look_up", '{"key": "wert"}')
    renderer = Renderer(tiny_tokenizer(), template("chatml"), name)
    for said in ("hm", ""):
        row = Conversation(
            (
                Message("user", "Q"),
                Message("assistant", said, (call,)),
                Message("tool", "[1]"),
                Message("assistant", "done"),
            ),
            (Tool({"name": "look_up", "parameters": {}}),),
        )
        sample = renderer.encode(row)
        weighed = list(zip(sample.tokens, sample.weights, strict=True))
        twice = renderer.decode([token for token, weight in weighed if weight == 2])
        once = renderer.decode([token for token, weight in weighed if weight == 1])
        assert "look_up" in twice and "key" in twice and "wert" in twice
        assert not any(word in twice for word in ("hm", "done", "[1]"))
        assert said in once and "done" in once and "[1]" not in once


def test_by_default_react_text_counts_in_a_dialogue_of_another_form_too() -> None:
    scale = loss_scale("AUTO", "hermes")
    assert scale(f"{CALL} ") == loss_scale("react")(f"{CALL} ")
    assert scale("Action: is what we need.") == [("Action: is what we need.", 1.0)]
    assert loss_scale("AUTO", "react_en")(CALL) == loss_scale("react")(CALL)


def test_a_named_scale_tells_where_it_finds_nothing() -> None:
    texts = ["hello", '<tool_call>\n{"name": "a"}\n</tool_call>']
    assert loss_scale("hermes").unmatched(texts) == []
    assert loss_scale("react+hermes+last_round+ignore_empty_think").unmatched(texts) == ["react"]


def test_names_compose_by_multiplying() -> None:
    text = "<think></think>Action: <tool_call>x</tool_call>"
    weights = loss_scale("ignore_empty_think+react+hermes")(text)
    assert "".join(piece for piece, _ in weights) == text
    assert [(piece, weight) for piece, weight in weights if weight != 2.0] == [
        ("<think></think>", 0.0),
        ("<tool_call>x</tool_call>", 4.0),
    ]


@given(
    st.lists(
        st.sampled_from(["Action:", "Action Input:", "Observation:", "Thought:", "Next:", "<tool_call>", "\n", "x"])
    ),
    st.lists(st.sampled_from(sorted(SCALES)), min_size=1, max_size=3),
)
def test_pieces_join_to_the_reply(words: list[str], names: list[str]) -> None:
    text = "".join(words)
    assert "".join(piece for piece, _ in loss_scale("+".join(names))(text)) == text
    assert "".join(part for part, _ in split_observations(text)) == text


def test_a_file_of_ones_own_is_a_scale(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"SQL:": [1, 5], "(?s)```.*?```": [0.5]}), encoding="utf-8")
    assert loss_scale(str(path))("SQL: select") == [("SQL:", 1.0), (" select", 5.0)]


@pytest.mark.parametrize("content", ["{", "[]", '{"a": "b"}', '{"a": [1, 2, 3]}', '{"a": [-1, 1]}', '{"(": [1]}'])
def test_a_malformed_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.json"):
        loss_scale(str(path))


def test_an_unknown_scale_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'react'"):
        loss_scale("reakt")


def test_the_environment_speaks_until_a_line_opens_with_a_keyword() -> None:
    text = f'{CALL} {{"text": "Action: not the model\'s"}}\nmore\nThought: mine'
    assert split_observations(text) == [
        (CALL, False),
        (' {"text": "Action: not the model\'s"}\nmore\n', True),
        ("Thought: mine", False),
    ]


def test_a_reply_that_calls_nothing_has_no_environment() -> None:
    assert split_observations("Observation: the sky is blue.") == [("Observation: the sky is blue.", False)]
    assert split_observations("Observation: the sky is blue.", agent=True)[1] == (" the sky is blue.", True)
