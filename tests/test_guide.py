"""A guided reply follows its rules, whatever the model would generate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLParserLimits
from llguidance.hf import from_tokenizer
from tiny import tiny_tokenizer
from tokenizers import AddedToken

from swift.agent import TOOL_FORMATS, ReasoningTags, tool_format
from swift.agent.reply import write_reply
from swift.chat import Message, Tool, ToolCall
from swift.engine.interface import TokenOutput
from swift.engine.sampling import SamplingParams, sampler
from swift.guided import guide as guides
from swift.guided.grammar import Rules
from swift.guided.guide import GrammarGuide, Vocabulary
from swift.infer.chat import collect
from swift.infer.local_chat import LocalChat
from swift.template import Renderer, template
from swift.template.render import Prompt

WEATHER = Tool(
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 12},
                    "days": {"type": "integer", "minimum": 1, "maximum": 7},
                    "unit": {"enum": ["C", "F", "天"]},
                },
                "required": ["city"],
            },
        },
    }
)
CLOCK = Tool({"name": "clock", "description": "The time"})
TOOLS = (WEATHER, CLOCK)
SHIP = Tool(
    {
        "name": "ship",
        "parameters": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "pattern": "^[0-9]{5}$", "description": "reads as a number"},
                "size": {"enum": ["1", "2", 3, None]},
                "note": {"anyOf": [{"type": "string", "maxLength": 8}, {"type": "null"}], "default": None},
                "fast": {"type": "boolean"},
                "when": {"$ref": "#/$defs/Day"},
                "what": {"type": "array", "items": {"$ref": "#/$defs/Day"}, "maxItems": 2},
            },
            "required": ["code", "size", "note", "fast", "when", "what"],
            "$defs": {"Day": {"type": "string", "enum": ["Mon", "Tue"]}},
        },
    }
)


def tokenizer_of(name: str) -> Any:
    """Bytes, and the special tokens of models with this tool-call format."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(mark, special=True) for mark in tool_format(name).syntax.special]}
    )
    return tokenizer


def keeps(guide: GrammarGuide, tokenizer: Any, text: str) -> bool:
    """Whether the rules allow `text` as a complete reply."""
    constraint = guide.begin()
    size = len(tokenizer)
    for token in [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]:
        if constraint.mask(torch.zeros(size))[token] < 0:
            return False
        constraint.accept(token)
    return True


@pytest.mark.parametrize("name", TOOL_FORMATS)
class TestEveryFormat:
    def guide(self, name: str, **rules: Any) -> tuple[GrammarGuide, Any]:
        tokenizer = tokenizer_of(name)
        return Vocabulary(tokenizer, [tokenizer.eos_token_id]).guide(
            tool_format(name), Rules(TOOLS, **rules)
        ), tokenizer

    def test_allows_correct_calls_and_plain_text(self, name: str) -> None:
        guide, tokenizer = self.guide(name)
        one, two = ToolCall("get_weather", '{"city": "北京", "days": 3, "unit": "天"}'), ToolCall("clock", "{}")
        for content, calls in (("", [one]), ("I look.", [one]), ("", [two, one]), ("Hello, {you}:\nyes", [])):
            assert keeps(guide, tokenizer, tool_format(name).call(content, calls)), (content, calls)

    def test_allows_json_or_a_call_each_after_the_formats_labels(self, name: str) -> None:
        tokenizer = tokenizer_of(name)
        rules = Rules(TOOLS, schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
        guide = Vocabulary(tokenizer, [tokenizer.eos_token_id]).guide(tool_format(name), rules)
        call = (ToolCall("clock", "{}"),)
        for thought in ("", "I know") if tool_format(name).syntax.thought else ("",):
            for message in (
                Message("assistant", '{"n": 1}', reasoning=thought),
                Message("assistant", "", call, reasoning=thought),
            ):
                text = write_reply(tool_format(name), message, offered=True, after_result=True)
                if tool_format(name).syntax.answer or not thought or message.tool_calls:
                    assert keeps(guide, tokenizer, text), text
        assert keeps(guide, tokenizer, '{"n": 1}'), "the words are the model's to leave out"
        for wrong in ("It is one.", '{"n": "1"}', f"{tool_format(name).syntax.answer} one"):
            assert not keeps(guide, tokenizer, wrong)

    @settings(max_examples=8, deadline=None)
    @given(seed=st.integers(0, 2**32))
    def test_a_model_of_pure_noise_generates_json_without_labels_and_calls(self, name: str, seed: int) -> None:
        tokenizer = tokenizer_of(name)
        chat = LocalChat(Noise(tokenizer, seed), Renderer(tokenizer, template("qwen"), name))
        rules = Rules(TOOLS, parallel=False, schema={"enum": [{"n": 1}]})
        reply = collect(chat((Message("user", "x"),), TOOLS, SamplingParams(guide=chat.guide(rules), max_tokens=2000)))
        assert reply.message.tool_calls or json.loads(reply.message.content) == {"n": 1}

    def test_forbids_wrong_calls(self, name: str) -> None:
        guide, tokenizer = self.guide(name, required=True)
        for wrong in (
            ToolCall("get_wether", '{"city": "x"}'),
            ToolCall("get_weather", '{"city": [1, 2, 3, 4, 5]}'),
            ToolCall("get_weather", '{"days": 3}'),
            ToolCall("get_weather", '{"city": "x", "days": 9}'),
            ToolCall("get_weather", '{"city": "x", "mood": 1}'),
            ToolCall("clock", '{"a": 1}'),
        ):
            assert not keeps(guide, tokenizer, tool_format(name).call("", [wrong])), wrong
        assert not keeps(guide, tokenizer, "No call.")

    def test_allows_one_call_where_calls_are_not_parallel(self, name: str) -> None:
        guide, tokenizer = self.guide(name, required=True, parallel=False)
        call = ToolCall("clock", "{}")
        assert keeps(guide, tokenizer, tool_format(name).call("", [call]))
        assert not keeps(guide, tokenizer, tool_format(name).call("", [call, call]))

    @settings(max_examples=8, deadline=None)
    @given(seed=st.integers(0, 2**32))
    def test_a_model_of_pure_noise_generates_valid_calls(self, name: str, seed: int) -> None:
        tokenizer = tokenizer_of(name)
        chat = LocalChat(Noise(tokenizer, seed), Renderer(tokenizer, template("qwen"), name))
        tools = (*TOOLS, SHIP)
        params = SamplingParams(guide=chat.guide(Rules(tools, required=True, parallel=False)), max_tokens=2000)
        reply = collect(chat((Message("user", "x"),), tools, params))
        assert reply.finish == "tool_calls"
        (call,) = reply.message.tool_calls
        tool = {tool.name: tool for tool in tools}[call.name]
        Draft202012Validator({"type": "object", **tool.parameters}).validate(json.loads(call.arguments))


THINK = ReasoningTags("<think>", "</think>")
HARMONY = ReasoningTags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant", "<|channel|>final<|message|>")
OPENED = {  # prefill -> the reasoning that the model generates after it
    "": ("<think>\nOr {not}?\n</think>\n\n", "\n<think></think>\n", ""),
    "<think>\n": ("Or {not}?\n</think>\n\n", "</think>"),
    "<think>\n\n</think>\n\n": ("",),
    "\n<think></think>": ("", "\n"),
}


def as_text(guide: GrammarGuide, tokenizer: Any) -> GrammarGuide:
    """The same guide as another engine with llguidance compiles it from its text."""
    return GrammarGuide(
        guide.text, LLMatcher(from_tokenizer(tokenizer, eos_token=[tokenizer.eos_token_id]), guide.text)
    )


@pytest.mark.parametrize(
    ("name", "special"),
    [
        *((name, False) for name in TOOL_FORMATS if name != "llama4"),
        ("hermes", True),
        ("react_en", True),
        ("chatglm4", True),
    ],
)
class TestReasoning:
    """Without Llama 4, which does not reason: llguidance misses its marker, a single letter, after white space."""

    def guide(self, name: str, special: bool, **rules: Any) -> tuple[GrammarGuide, Any]:
        tokenizer = tokenizer_of(name)
        if special:
            tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]}, False)
        vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
        return vocabulary.guide(tool_format(name), Rules(thinking=THINK, **rules)), tokenizer

    def test_comes_before_the_constrained_reply(self, name: str, special: bool) -> None:
        call = tool_format(name).call("", [ToolCall("get_weather", '{"city": "北京"}')])
        for rules, right, wrong in (
            ({"tools": TOOLS, "required": True}, call, "Hello"),
            ({"schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}, '{"n": 1}', '{"n": "1"}'),
            ({"tools": TOOLS}, call, tool_format(name).call("", [ToolCall("get_wether", "{}")])),
        ):
            guide, tokenizer = self.guide(name, special, **rules)
            for prefill, thoughts in OPENED.items():
                opened = guide.after(prefill)
                for thought in thoughts:
                    assert keeps(opened, tokenizer, thought + right), (prefill, thought, right)
                    assert not keeps(opened, tokenizer, thought + wrong), (prefill, thought, wrong)
                assert keeps(as_text(opened, tokenizer), tokenizer, thoughts[0] + right)
                assert not keeps(as_text(opened, tokenizer), tokenizer, f"<think>a</think>{wrong}")

    def test_contains_no_call_and_ends_before_the_reply(self, name: str, special: bool) -> None:
        guide, tokenizer = self.guide(name, special, tools=TOOLS)
        opened = guide.after("<think>\n")
        call = tool_format(name).call("Or", [ToolCall("get_wether", "{}")])
        assert keeps(opened, tokenizer, f"{call if not tool_format(name).syntax.special else 'Or'}\n</think>\n\nHello")
        assert not keeps(opened, tokenizer, "Hello")
        assert not keeps(guide, tokenizer, "<think>\nHello")

    def test_is_over_where_content_is_continued(self, name: str, special: bool) -> None:
        guide, tokenizer = self.guide(name, special, schema={"const": {"n": 1}})
        assert keeps(guide.after("<think>a</think>It is"), tokenizer, '{"n": 1}')
        assert not keeps(guide.after("It is"), tokenizer, '<think></think>{"n": 1}')


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), prefill=st.sampled_from(list(OPENED)))
def test_reasoning_of_a_model_of_pure_noise_comes_before_a_valid_call(seed: int, prefill: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    renderer = Renderer(tokenizer, template("qwen"), "hermes")
    renderer.thinking, renderer.supports_thinking = THINK, True
    prompt = renderer.prompt_tokens((Message("user", "x"),), (CLOCK,))
    renderer.prompt = lambda messages, tools=(), kwargs=None: Prompt(prompt, prefill)  # type: ignore[method-assign]
    chat = LocalChat(Noise(tokenizer, seed), renderer)
    rules = Rules((CLOCK,), required=True, parallel=False)
    params = SamplingParams(guide=chat.guide(rules), max_tokens=9000)
    reply = collect(chat((Message("user", "x"),), (CLOCK,), params))
    assert [call.name for call in reply.message.tool_calls] == ["clock"]


def test_markers_that_are_added_tokens_but_not_special_are_generated_as_these_tokens() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in ("<think>", "</think>", "<tool_call>", "<b>")])
    vocabulary = Vocabulary(tokenizer, [tokenizer.eos_token_id])
    call = tool_format("hermes").call("I look.", [ToolCall("clock", "{}")])
    for rules, text in (
        (Rules((CLOCK,), required=True), call.removeprefix("I look.\n")),
        (Rules((CLOCK,), required=True, thinking=THINK), f"<think>Or not?</think>\n{call[8:]}"),
        (Rules((CLOCK,)), call),
        (Rules((CLOCK,), thinking=THINK), f"<think>Hm.\n</think>\n\n{call}"),
        (Rules((CLOCK,), thinking=THINK), f"<think><b> or <tool_call>\n</think>\n\n{call}"),
        (Rules(schema={"type": "string"}), '"<tool_call> <b>"'),
    ):
        guide = vocabulary.guide(tool_format("hermes"), rules)
        assert keeps(guide, tokenizer, text), text
        if "<b>" not in text:  # such an engine takes it for a special token
            assert keeps(as_text(guide, tokenizer), tokenizer, text), text


@pytest.mark.parametrize("special", [False, True], ids=["text", "tokens"])
def test_content_with_its_own_opening_has_it_before_json(special: bool) -> None:
    tokenizer = tiny_tokenizer()
    if special:
        marks = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"]
        tokenizer.add_special_tokens({"additional_special_tokens": marks})
    rules = Rules(schema={"const": {"n": 1}}, thinking=HARMONY)
    guide = Vocabulary(tokenizer, [tokenizer.eos_token_id]).guide(tool_format("hermes"), rules)
    thought = f"{HARMONY.open}Hm.{HARMONY.close}"
    for prefill, text in (
        ("", f'{HARMONY.answer}{{"n": 1}}'),
        ("", f'{thought}{HARMONY.answer}{{"n": 1}}'),
        (HARMONY.open, f'Hm.{HARMONY.close}{HARMONY.answer}{{"n": 1}}'),
        (thought, f'{HARMONY.answer}{{"n": 1}}'),
        (HARMONY.answer, '{"n": 1}'),
    ):
        opened = guide.after(prefill)
        for held in (opened, as_text(opened, tokenizer)):
            assert keeps(held, tokenizer, text), (prefill, text)
            assert not keeps(held, tokenizer, text.replace("1", "2"))
    assert not keeps(guide, tokenizer, '{"n": 1}')


class Noise:
    """An engine with random logits, which do not prefer readable text."""

    def __init__(self, tokenizer: Any, seed: int) -> None:
        self._size, self._stop = len(tokenizer), tokenizer.eos_token_id
        self._random = torch.Generator().manual_seed(seed)

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Any:
        return self._steps(sampler(params, tokens), params.max_tokens or 0)

    def _steps(self, sample: Any, room: int) -> Any:
        reply: list[int] = []
        while len(reply) < room:
            choice = sample(torch.randn(self._size, generator=self._random), reply)
            reply.append(choice.token)
            yield TokenOutput(choice.token, choice.logprob, "stop" if choice.token == self._stop else None)
        yield TokenOutput(0, 0.0, "length")

    def close(self) -> None: ...


def vocabulary() -> Vocabulary:
    return Vocabulary(tiny_tokenizer(), [2])


def test_content_can_be_constrained_to_a_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    guide = vocabulary().guide(tool_format("hermes"), Rules(schema=schema))
    for text in ('{"n": 1}', '{"n":1}', '{\n  "n": -1\n}', '{"n": 1, "more": []}'):
        assert keeps(guide, tiny_tokenizer(), text)
    for text in ('{"n": "1"}', "{}", "n", '{"n":                      1}'):
        assert not keeps(guide, tiny_tokenizer(), text)


def test_a_call_may_replace_constrained_content() -> None:
    guide = vocabulary().guide(tool_format("hermes"), Rules(TOOLS, schema={"type": "object"}))
    assert keeps(guide, tiny_tokenizer(), '{"a": 1}')
    assert keeps(guide, tiny_tokenizer(), tool_format("hermes").call("", [ToolCall("clock", "{}")]))
    assert not keeps(guide, tiny_tokenizer(), "free talk")


def test_an_answer_may_begin_like_a_call() -> None:
    named = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    guide = vocabulary().guide(tool_format("llama3"), Rules(TOOLS, schema=named))
    calls = [ToolCall("clock", "{}"), ToolCall("get_weather", '{"city": "x"}')]
    for text in ('{"name": "Bo"}', '{"name": "clock"}', *(tool_format("llama3").call("", calls[:n]) for n in (1, 2))):
        assert keeps(guide, tiny_tokenizer(), text), text
    assert not keeps(guide, tiny_tokenizer(), '{"nam": "Bo"}')
    once = vocabulary().guide(tool_format("llama3"), Rules(TOOLS, parallel=False, schema={"const": 1}))
    assert not keeps(once, tiny_tokenizer(), tool_format("llama3").call("", calls))
    assert not keeps(once, tiny_tokenizer(), tool_format("llama3").call("", [ToolCall("get_weather", '{"city": 1}')]))


@pytest.mark.parametrize("name", ["react_en", "react_zh", "toolbench", "qwen_en", "qwen_zh"])
def test_a_guided_call_is_whole_where_an_argument_has_the_stop_string_of_the_format(name: str) -> None:
    (stop,) = tool_format(name).syntax.stop
    arguments = {"text": f"{stop} it rains", "n": 1}
    parameters = {"properties": {"text": {"const": arguments["text"]}, "n": {"const": 1}}, "required": ["text", "n"]}
    note = Tool({"name": "note", "parameters": {"type": "object", **parameters}})
    chat = LocalChat(Noise(tiny_tokenizer(), 0), Renderer(tiny_tokenizer(), template("qwen"), name))
    guide = chat.guide(Rules((note,), required=True, parallel=False))
    reply = collect(chat((Message("user", "x"),), (note,), SamplingParams(guide=guide, max_tokens=2000)))
    assert [json.loads(call.arguments) for call in reply.message.tool_calls] == [arguments]


def test_react_may_reason_for_one_line_before_a_required_call() -> None:
    guide = vocabulary().guide(tool_format("react_en"), Rules(TOOLS, required=True))
    call = tool_format("react_en").call("", [ToolCall("clock", "{}")])
    assert keeps(guide, tiny_tokenizer(), f"Thought: What time is it?\n{call}")
    assert not keeps(guide, tiny_tokenizer(), f"Hm.\n{call}")


def test_a_marker_in_the_middle_of_a_line_is_text_where_the_format_parses_it_so() -> None:
    guide = vocabulary().guide(tool_format("react_en"), Rules(TOOLS))
    assert keeps(guide, tiny_tokenizer(), "My Action: none")
    assert not keeps(guide, tiny_tokenizer(), "So\nAction: none")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://example.invalid/schema"},
        {"type": "string", "pattern": "(?=x)y"},
        {"not": {"type": "string"}},
        {"$ref": "#"},
        {"enum": [str(number) for number in range(200_000)]},
    ],
)
def test_a_strict_schema_without_a_grammar_is_refused_with_the_reason(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a grammar cannot enforce") as caught:
        vocabulary().guide(tool_format("hermes"), Rules(schema=schema, strict_schema=True))
    assert "\n" not in str(caught.value)
    lenient = vocabulary().guide(tool_format("hermes"), Rules(schema=schema))
    assert lenient.unenforced
    assert keeps(lenient, tiny_tokenizer(), '"xy"'), "a dropped keyword forbids nothing"


def argument(schema: Any, **more: Any) -> Tool:
    return Tool({"name": "f", "parameters": {"type": "object", "properties": {"x": schema}, "required": ["x"], **more}})


def one_of(*schemas: Any) -> dict[str, Any]:
    return {"anyOf": list(schemas)}


TEXT, NUMBER, NOTHING = {"type": "string"}, {"type": "number"}, {"type": "null"}


@pytest.mark.parametrize("name", [name for name in TOOL_FORMATS if tool_format(name).syntax.tags])
@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (TEXT, ["", "a\nb", "12", "null", '"a"', " x "], []),
        ({}, ["a", 1, None, [{"b": "c"}]], []),
        ({**TEXT, "minLength": 2, "maxLength": 3}, ["ab", "123", "北京"], ["a", "abcd", 1234]),
        ({**TEXT, "pattern": "^a/?b+$"}, ["ab", "a/bb"], ["xab", "abc"]),
        ({**TEXT, "pattern": "b|c"}, ["abc", "c"], ["a"]),
        ({"enum": ["1", "x", 2]}, ["1", "x", 2], ["2x", 3]),
        ({"const": "only"}, ["only"], ["onl"]),
        ({"type": "boolean"}, [True, False], ["yes", 1]),
        ({"type": ["integer", "null"]}, [7, None], ["x", 1.5]),
        (one_of({**TEXT, "maxLength": 5}, NOTHING), ["abc", None], ["abcdef"]),
        (one_of({"enum": ["low"]}, NUMBER), ["low", 1.5], ["lo"]),
        (one_of({**TEXT, "minLength": 2, "pattern": "^a"}, NOTHING, False), ["ab", None], ["a", "xx"]),
        (True, ["a", 1], []),
        (
            {"type": "object", "properties": {"y": {"type": "integer"}}, "required": ["y"]},
            [{"y": 1}],
            [{"y": "1"}, "{"],
        ),
        ({"$ref": "#/$defs/City"}, ["Rome"], ["Oslo"]),
    ],
)
def test_a_tagged_value_follows_its_schema_and_is_parsed_by_it(
    name: str, schema: Any, right: list[Any], wrong: list[Any]
) -> None:
    tokenizer = tokenizer_of(name)
    tool = argument(schema, **{"$defs": {"City": {"enum": ["Rome"]}}})
    guide = Vocabulary(tokenizer, [tokenizer.eos_token_id]).guide(tool_format(name), Rules((tool,), required=True))
    for value in right:
        text = tool_format(name).call("", [ToolCall("f", json.dumps({"x": value}))])
        assert keeps(guide, tokenizer, text), value
        (call,) = tool_format(name).parse(text, [tool])[1]
        assert json.loads(call.arguments) == {"x": value}
    for value in wrong:
        assert not keeps(guide, tokenizer, tool_format(name).call("", [ToolCall("f", json.dumps({"x": value}))])), value


PAIR = {"type": "object", "properties": {"k": TEXT, "n": {"type": "integer"}}, "required": ["k"]}


@pytest.mark.parametrize(
    "name", [name for name in TOOL_FORMATS if (tags := tool_format(name).syntax.tags) and tags.notation.quote]
)
@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string"}, ['it\'s "x"\\n\n', "<|x|>"], []),
        (one_of({**TEXT, "maxLength": 3}, NUMBER), ["abc", 1.5], ["abcd", True]),
        ({"type": ["string", "integer", "null"], "minLength": 1, "maximum": 3}, ["a", 3, None], ["", 4]),
        (
            {"type": "array", "items": PAIR, "minItems": 1, "maxItems": 2},
            [[{"k": "a"}], [{"k": "a", "n": 1}, {"k": "b"}]],
            [[], [{"n": 1}], [{"k": 1}], [{"k": "a"}] * 3],
        ),
        ({"type": "array", "items": TEXT}, [[], ["a"], ["a", "b"]], [[1], "a"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"a": 1, "b": 2}], [{"a": "x"}, 1]),
        ({"type": "object"}, [{}, {"a": {"b": ["c", None, {}]}}], ["a"]),
        ({"enum": [{"a": ["b", None]}, "c"]}, [{"a": ["b", None]}, "c"], [{"a": ["b"]}]),
    ],
)
def test_a_quoted_value_follows_its_schema_at_any_depth(
    name: str, schema: Any, right: list[Any], wrong: list[Any]
) -> None:
    tokenizer = tokenizer_of(name)
    guide = Vocabulary(tokenizer, [tokenizer.eos_token_id]).guide(
        tool_format(name), Rules((argument(schema),), required=True)
    )
    assert not guide.unenforced
    for value in right:
        text = tool_format(name).call("", [ToolCall("f", json.dumps({"x": value}))])
        assert keeps(guide, tokenizer, text), value
        (call,) = tool_format(name).parse(text, [argument(schema)])[1]
        assert json.loads(call.arguments) == {"x": value}
    for value in wrong:
        assert not keeps(guide, tokenizer, tool_format(name).call("", [ToolCall("f", json.dumps({"x": value}))])), value


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (
            {"type": "array", "prefixItems": [TEXT]},
            "argument 'x' has 'prefixItems', which can be enforced in JSON alone",
        ),
        ({"type": "object", "required": ["y"]}, "argument 'x' requires 'y', which it does not describe"),
        ({"$ref": "#/$defs/Nowhere"}, "'\\$ref' at /properties/x: .* does not exist"),
    ],
)
def test_strict_keywords_that_literals_cannot_follow_are_refused(schema: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"tool 'f': a grammar cannot enforce .*{reason}"):
        vocabulary().guide(tool_format("gemma4"), Rules((argument(schema),), strict=frozenset(["f"])))
    guide = vocabulary().guide(tool_format("gemma4"), Rules((argument(schema),)))
    assert keeps(guide, tiny_tokenizer(), tool_format("gemma4").call("", [ToolCall("f", '{"x": [{"y": "ab"}]}')]))


@pytest.mark.parametrize("name", ["functiongemma", "gemma4", "qwen3_coder"])
def test_a_schema_that_contains_itself_is_enforced_or_reported(name: str) -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    tool = argument({"$ref": "#/$defs/node"}, **{"$defs": {"node": node}})
    guide = Vocabulary(tiny_tokenizer(), [2]).guide(tool_format(name), Rules((tool,), required=True))
    assert [each.pointer for each in guide.unenforced] == ([] if name == "qwen3_coder" else ["/properties/x"])


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        (argument(one_of({**TEXT, "maxLength": 3}, NUMBER)), "argument 'x' mixes constrained strings with other types"),
        (argument(False), ".*"),
        (argument({"$ref": "#/$defs/Nowhere"}), "'\\$ref' at /properties/x: .* does not exist"),
        (
            argument({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"$ref": "#/$defs/A"}}}),
            "'\\$ref' at /\\$defs/A: it matches nothing, or refers only to itself",
        ),
        (argument({**TEXT, "pattern": "^a|b"}), "argument 'x' has a pattern with anchors on one side"),
        (
            argument(TEXT, minProperties=1),
            "'minProperties' at the top level: it applies to all arguments, which have tags",
        ),
        (argument(TEXT, required=["x", "y"]), "'required' at the top level: 'y' is not among the properties"),
    ],
)
def test_strict_keywords_that_tagged_arguments_cannot_follow_are_refused(tool: Tool, reason: str) -> None:
    with pytest.raises(ValueError, match=f"tool 'f': a grammar cannot enforce .*{reason}"):
        vocabulary().guide(tool_format("qwen3_coder"), Rules((tool,), strict=frozenset(["f"])))
    guide = vocabulary().guide(tool_format("qwen3_coder"), Rules((tool,)))
    assert {each.tool for each in guide.unenforced} == {"f"}
    call = tool_format("qwen3_coder").call("", [ToolCall("f", '{"x": "ab"}')])
    assert keeps(guide, tiny_tokenizer(), call), "a dropped keyword forbids nothing"


MAIL = argument({**TEXT, "format": "email", "pattern": r"^(?!\.)[a-z@.]+$"})


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_a_tool_with_an_unsupported_keyword_is_guided_by_the_rest(name: str) -> None:
    tokenizer = tokenizer_of(name)
    guide = Vocabulary(tokenizer, [tokenizer.eos_token_id]).guide(
        tool_format(name), Rules((MAIL, CLOCK), required=True)
    )
    (dropped,) = (each for each in guide.unenforced)
    assert (dropped.tool, dropped.pointer, dropped.keyword) == ("f", "/properties/x", "pattern")
    assert "look-ahead" in dropped.reason
    assert keeps(guide, tokenizer, tool_format(name).call("", [ToolCall("f", '{"x": "a@b.de"}')]))
    assert not keeps(guide, tokenizer, tool_format(name).call("", [ToolCall("f", '{"x": "a@b.de", "y": 1}')]))
    assert not keeps(guide, tokenizer, tool_format(name).call("", [ToolCall("f", "{}")]))


def test_tools_that_are_too_large_together_leave_the_largest_unguided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides, "LIMITS", LLParserLimits(max_grammar_size=400))
    wide = Tool({"name": "wide", "parameters": {"properties": {f"p{n}": {"type": "integer"} for n in range(60)}}})
    guide = vocabulary().guide(tool_format("hermes"), Rules((wide, argument(NUMBER)), required=True))
    (dropped,) = guide.unenforced
    assert (dropped.tool, dropped.pointer) == ("wide", "")
    assert "too big" in dropped.reason
    assert keeps(guide, tiny_tokenizer(), tool_format("hermes").call("", [ToolCall("wide", '{"q": 1}')]))
    assert not keeps(guide, tiny_tokenizer(), tool_format("hermes").call("", [ToolCall("f", '{"x": "a"}')]))
    with pytest.raises(ValueError, match=r"tool 'wide': a grammar cannot enforce the schema: .*too big"):
        vocabulary().guide(tool_format("hermes"), Rules((wide,), required=True, strict=frozenset(["wide"])))


def test_padding_ids_are_never_sampled_and_log_probabilities_are_the_models_own() -> None:
    guide = vocabulary().guide(tool_format("hermes"), Rules(schema={"const": "a"}))
    sample = sampler(SamplingParams(guide=guide, temperature=0, top_logprobs=2))
    logits = torch.zeros(300)
    logits[299] = 9.0
    choice = sample(logits, [])
    assert tiny_tokenizer().decode([choice.token]) == '"'
    assert choice.logprob == pytest.approx(float(logits.log_softmax(-1)[choice.token]))
    assert choice.top[0][0] == 299


def test_a_guided_reply_ends_with_its_grammar() -> None:
    with pytest.raises(ValueError, match="ignore_eos"):
        SamplingParams(guide=vocabulary().guide(tool_format("hermes"), Rules(schema={})), ignore_eos=True)
