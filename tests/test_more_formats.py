"""The text forms of Kimi K2, MiniMax M2, Granite 4, Mistral with ids, SmolLM3, Hunyuan and Phi-4-mini."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_guide import keeps, tokenizer_of

from swift.agent import ReasoningTags, call_template, tool_format
from swift.chat import Conversation, Delta, Draft, Message, Tool, ToolCall
from swift.guided.grammar import Rules
from swift.guided.guide import Vocabulary
from swift.infer.tool_call_stream import ToolCallStream
from swift.template import Renderer

NAMES = (
    "granite4", "hunyuan", "kimi_k2", "minimax_m2", "mistral_ids", "mistral_v11", "mistral_v13", "phi4_mini", "smollm3",
)  # fmt: skip
WITH_IDS = ("kimi_k2", "mistral_ids", "mistral_v11")

names = st.from_regex(r"[a-z][\w.-]{0,12}", fullmatch=True).filter(str.isascii)
contents = st.text(st.sampled_from("ab é.:\n{}[],\"'<>|/"), max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True).filter(str.isascii), values, max_size=3)


def described(name: str, given: dict[str, Any]) -> Tool:
    """A tool whose schema says of each argument what its value is."""
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return Tool(
        {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kinds.get(type(value), "null")} for key, value in given.items()},
            },
        }
    )


@pytest.mark.parametrize("format_name", NAMES)
@settings(max_examples=40)
@given(content=contents, asked=st.dictionaries(names, arguments, min_size=1, max_size=3))
def test_what_a_form_writes_it_reads_back(format_name: str, content: str, asked: dict[str, dict[str, Any]]) -> None:
    calls = tuple(ToolCall(name, json.dumps(given, ensure_ascii=False)) for name, given in asked.items())
    tools = [described(name, given) for name, given in asked.items()]
    said, found = tool_format(format_name).parse(tool_format(format_name).call(content, calls), tools)
    assert said == content
    assert [(each.name, json.loads(each.arguments)) for each in found] == list(asked.items())
    if not tool_format(format_name).syntax.tags:
        assert found == calls


LOOK = ToolCall("look", '{"at": "北", "n": [1, 2]}', "abc123XYZ")
GO = ToolCall("go", "{}", "000000001")


@pytest.mark.parametrize(
    ("format_name", "text"),
    [
        (
            "granite4",
            'So.\n<tool_call>\n{"name": "look", "arguments": {"at": "北", "n": [1, 2]}}\n</tool_call>\n'
            '<tool_call>\n{"name": "go", "arguments": {}}\n</tool_call>',
        ),
        (
            "hunyuan",
            'So.<tool_calls>[{"name": "look", "arguments": {"at": "北", "n": [1, 2]}}, '
            '{"name": "go", "arguments": {}}]</tool_calls>',
        ),
        (
            "minimax_m2",
            'So.\n<minimax:tool_call>\n<invoke name="look">\n<parameter name="at">北</parameter>\n'
            '<parameter name="n">[1, 2]</parameter>\n</invoke>\n<invoke name="go">\n</invoke>\n</minimax:tool_call>',
        ),
        (
            "mistral_ids",
            'So.[TOOL_CALLS] [{"name": "look", "arguments": {"at": "北", "n": [1, 2]}, "id": "abc123XYZ"}, '
            '{"name": "go", "arguments": {}, "id": "000000001"}]',
        ),
        (
            "mistral_v11",
            'So.[TOOL_CALLS]look[CALL_ID]abc123XYZ[ARGS]{"at": "北", "n": [1, 2]}'
            "[TOOL_CALLS]go[CALL_ID]000000001[ARGS]{}",
        ),
        ("mistral_v13", 'So.[TOOL_CALLS]look[ARGS]{"at": "北", "n": [1, 2]}[TOOL_CALLS]go[ARGS]{}'),
        (
            "phi4_mini",
            'So.functools[{"name": "look", "arguments": {"at": "北", "n": [1, 2]}}, {"name": "go", "arguments": {}}]',
        ),
    ],
)
def test_calls_are_written_as_the_family_writes_them(format_name: str, text: str) -> None:
    assert tool_format(format_name).call("So.", [LOOK, GO]) == text
    said, found = tool_format(format_name).parse(text)
    assert (said, [(each.name, each.arguments) for each in found]) == (
        "So.",
        [(each.name, each.arguments) for each in (LOOK, GO)],
    )


def test_kimi_names_a_tool_in_the_id_of_its_call() -> None:
    calls = [ToolCall("look", '{"n": 1}', "functions.look:3"), ToolCall("a.b-c", "{}", "functions.a.b-c:4")]
    text = tool_format("kimi_k2").call("So.", calls)
    assert text == (
        'So.<|tool_calls_section_begin|><|tool_call_begin|>functions.look:3<|tool_call_argument_begin|>{"n": 1}'
        "<|tool_call_end|><|tool_call_begin|>functions.a.b-c:4<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    )
    assert tool_format("kimi_k2").parse(text) == ("So.", tuple(calls))
    for other in ("call_0123", "functions.go:1"):
        assert "functions.look:" in tool_format("kimi_k2").call("", [ToolCall("look", "{}", other)])
    for loose in (text.replace(":3<", ":3 <"), text.replace("functions.look", "look")):
        assert [each.name for each in tool_format("kimi_k2").parse(loose)[1]] == ["look", "a.b-c"]
    nameless = text.replace("functions.look:3", "0")
    assert [each.name for each in tool_format("kimi_k2").parse(nameless)[1]] == ["a.b-c"]


@pytest.mark.parametrize("format_name", WITH_IDS)
def test_an_id_that_was_written_is_read_back_and_one_that_will_not_do_is_replaced(format_name: str) -> None:
    written = {"kimi_k2": "functions.look:12"}.get(format_name, "abc123XYZ")
    for identity, kept in ((written, written), ("", ""), ("né", "")):
        call = ToolCall("look", "{}", identity)
        assert tool_format(format_name).parse(tool_format(format_name).call("", [call])) == (
            "",
            (ToolCall("look", "{}", kept),),
        )


def test_mistral_shortens_the_id_of_a_server_as_its_template_does() -> None:
    call = ToolCall("look", "{}", "call_0123456789abcdef")
    assert '"id": "789abcdef"' in tool_format("mistral_ids").call("", [call])


def test_mistral_reads_calls_with_and_without_ids() -> None:
    for name in ("mistral_v11", "mistral_v13"):
        for text in ("[TOOL_CALLS]f[ARGS]{} [TOOL_CALLS] g [CALL_ID]000000001[ARGS] {}", "[TOOL_CALLS]f[ARGS]{}\n"):
            assert tool_format(name).parse(f"a {text}")[0] == "a "
            assert tool_format(name).parse(text)[1][0] == ToolCall("f", "{}")
    assert tool_format("mistral_v11").parse("[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]g[ARGS]{") == ("", (ToolCall("f", "{}"),))


@pytest.mark.parametrize("call", ['{"name": "f", "arguments": {"a": 1}}', '[{"name": "f", "parameters": {"a": 1}}]'])
def test_phi_reads_the_mark_of_its_vocabulary_too(call: str) -> None:
    assert tool_format("phi4_mini").parse(f"So.<|tool_call|>{call}<|/tool_call|>") == (
        "So.",
        (ToolCall("f", '{"a": 1}'),),
    )
    assert tool_format("phi4_mini").parse(f"functools[1] <|tool_call|>{call}")[1] == (ToolCall("f", '{"a": 1}'),)


@pytest.mark.parametrize("format_name", NAMES)
@pytest.mark.parametrize("mark", ["functools[", "[TOOL_CALLS]", "<tool_calls>", "<minimax:tool_call>", "<tool_call>"])
def test_a_mark_without_a_call_behind_it_is_text(format_name: str, mark: str) -> None:
    for text in (f"I write {mark} so.", f"{mark}[", f"{mark}[1]", f'{mark}[{{"nam": "f"}}]', f'{mark}{{"name": 1}}'):
        assert tool_format(format_name).parse(text) == (text, ())


def with_ids(format_name: str) -> tuple[ToolCall, ToolCall]:
    """Two calls whose ids a model of the form would write."""
    if format_name == "kimi_k2":
        return ToolCall("look", '{"n": [1, 2]}', "functions.look:7"), ToolCall("go", "{}", "functions.go:8")
    return ToolCall("look", '{"n": [1, 2]}', "abc123XYZ"), ToolCall("go", "{}", "Zyx987qwe")


@pytest.mark.parametrize("format_name", WITH_IDS)
def test_calls_are_read_along_whatever_ids_the_model_gives_them(format_name: str) -> None:
    marks = tool_format(format_name).syntax
    talk, draft = ToolCallStream(marks, call_template(tool_format(format_name))), Draft()
    begun_at = []
    text = tool_format(format_name).call("So.", with_ids(format_name))
    for number, letter in enumerate(text):
        said, calls = talk.push(letter)
        draft.add(Delta(said))
        for call in calls:
            draft.add(Delta(tool_call=call))
            begun_at += [number] if call.name else []
    assert draft.message.content == "So."
    assert [(call.name, call.arguments) for call in draft.calls] == [("look", '{"n": [1, 2]}'), ("go", "{}")]
    assert len(text) > begun_at[1] > begun_at[0] > len("So.")


@pytest.mark.parametrize("format_name", WITH_IDS)
def test_a_model_that_is_guided_gives_its_calls_the_ids_that_it_likes(format_name: str) -> None:
    tokenizer = tokenizer_of(format_name)
    look = Tool({"name": "look", "parameters": {"type": "object", "properties": {"n": {"type": "array"}}}})
    for rules in (Rules((look, Tool({"name": "go"}))), Rules((look, Tool({"name": "go"})), required=True)):
        guide = Vocabulary(tokenizer, [tokenizer.eos_token_id]).guide(tool_format(format_name), rules)
        text = tool_format(format_name).call("", with_ids(format_name))
        assert keeps(guide, tokenizer, text)
        for identity, wrong in (("abc123XYZ", "abc1"), ("abc123XYZ", "abc-23XYZ"), ("look:7", "look:x")):
            if identity in text:
                assert not keeps(guide, tokenizer, text.replace(identity, wrong))


# By the tokenizer's own chat template ---------------------------------------------------------------------------------

ARGUMENTS = "{{ c.function.arguments | tojson }}"
OBJECT = f'{{"name": "{{{{ c.function.name }}}}", "arguments": {ARGUMENTS}'
COMMA = "{{ ', ' if not loop.last }}"
NINE = "{% if c.id | length != 9 %}{{ raise_exception('ids have 9 letters') }}{% endif %}"
WRITTEN = {
    "hermes": ("", f"{{{{ '\\n' if m.content or not loop.first }}}}<tool_call>\n{OBJECT}}}\n</tool_call>", ""),
    "hunyuan": ("<tool_calls>[", OBJECT + "}" + COMMA, "]</tool_calls>"),
    "kimi_k2": (
        "<|tool_calls_section_begin|>",
        f"<|tool_call_begin|>{{{{ c.id }}}}<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    ),
    "minimax_m2": (
        "{{ '\\n' if m.content }}<minimax:tool_call>\n",
        '<invoke name="{{ c.function.name }}">{{ "\\n" }}{% for k, v in c.function.arguments | items %}'
        '<parameter name="{{ k }}">{{ v if v is string else v | tojson }}</parameter>{{ "\\n" }}{% endfor %}'
        '</invoke>{{ "\\n" }}',
        "</minimax:tool_call>",
    ),
    "mistral_ids": ("[TOOL_CALLS] [", NINE + OBJECT + ', "id": "{{ c.id }}"}' + COMMA, "]"),
    "mistral_v11": ("", f"{NINE}[TOOL_CALLS]{{{{ c.function.name }}}}[CALL_ID]{{{{ c.id }}}}[ARGS]{ARGUMENTS}", ""),
    "mistral_v13": ("", f"[TOOL_CALLS]{{{{ c.function.name }}}}[ARGS]{ARGUMENTS}", ""),
    "phi4_mini": ("functools[", OBJECT + "}" + COMMA, "]"),
}
"""What a chat template writes before the calls `c` of a message `m`, for each of them, and after them."""
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% if m.tool_calls %}BEFORE{% for c in m.tool_calls %}EACH{% endfor %}AFTER{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CITY = Tool({"name": "city", "parameters": {"type": "object", "properties": {"of": {"type": "string"}}}})


@pytest.mark.parametrize("format_name", WRITTEN)
def test_the_form_of_a_chat_template_is_found_by_what_it_writes(format_name: str) -> None:
    tokenizer = tokenizer_of(format_name)
    before, each, after = WRITTEN[format_name]
    tokenizer.chat_template = TEMPLATE.replace("BEFORE", before).replace("EACH", each).replace("AFTER", after)
    renderer = Renderer(tokenizer, None)
    assert renderer.format_name == format_name
    calls = (ToolCall("city", '{"of": "x"}', "call_0123456789abcdef"), ToolCall("city", '{"of": "y"}'))
    asked, called = Message("user", "Where?"), Message("assistant", "So.", calls)
    results = (Message("tool", "1", tool_call_id="call_0123456789abcdef"), Message("tool", "2"))
    shown = renderer.decode(renderer.prompt_tokens((asked, called, *results), (CITY,)))
    reply = shown.split("<|im_start|>assistant\n")[1].partition("<|im_end|>")[0]
    said, found = tool_format(format_name).parse(reply, (CITY,))
    assert (said, [(call.name, call.arguments) for call in found]) == (
        "So.",
        [(call.name, call.arguments) for call in calls],
    )
    sample = renderer.encode(Conversation((asked, called), (CITY,)))
    trained = [token for token, weight in zip(sample.tokens, sample.weights, strict=True) if weight]
    assert renderer.decode(trained).partition("<|im_end|>")[0] == reply


def test_a_template_that_tells_tools_by_the_ids_of_calls_alone_is_given_ids_that_name_them() -> None:
    tokenizer = tokenizer_of("kimi_k2")
    before, each, after = WRITTEN["kimi_k2"]
    result = "{% if m.role == 'tool' %}## Return of {{ m.tool_call_id }}\n{% endif %}{{ m.content or '' }}"
    written = TEMPLATE.replace("BEFORE", before).replace("EACH", each).replace("AFTER", after)
    tokenizer.chat_template = written.replace("{{ m.content or '' }}", result)
    calls = (ToolCall("city", "{}", "call_b"), ToolCall("town", "{}", "call_a"))
    results = (Message("tool", "A", tool_call_id="call_a"), Message("tool", "B", tool_call_id="call_b"))
    again = Message("assistant", "", (ToolCall("city", "{}", "functions.city:7"),))
    messages = (Message("user", "Where?"), Message("assistant", "", calls), *results, again, Message("tool", "C"))
    renderer = Renderer(tokenizer, None)
    shown = renderer.decode(renderer.prompt_tokens(messages, (CITY, Tool({"name": "town"}))))
    assert "functions.city:0<|tool_call_arg" in shown and "functions.town:1<|tool_call_arg" in shown
    assert "## Return of functions.town:1\nA" in shown and "## Return of functions.city:0\nB" in shown
    assert "functions.city:7<|tool_call_arg" in shown and "## Return of functions.city:7\nC" in shown


def test_a_thought_takes_the_place_of_the_empty_block_that_a_template_writes_for_none() -> None:
    tokenizer = tokenizer_of("kimi_k2")
    before, each, after = WRITTEN["kimi_k2"]
    thought = "{% if m.role == 'assistant' %}<think>{{ m.reasoning_content if m.tool_calls }}</think>{% endif %}"
    written = TEMPLATE.replace("BEFORE", before).replace("EACH", each).replace("AFTER", after)
    tokenizer.chat_template = written.replace("{{ m.content or '' }}", thought + "{{ m.content or '' }}")
    renderer = Renderer(tokenizer, None)
    assert renderer.thinking == ReasoningTags("<think>", "</think>")
    call = (ToolCall("city", "{}", "functions.city:0"),)
    for said, wanted in (
        (Message("assistant", "Here.", reasoning="I know."), "<think>I know.</think>Here."),
        (Message("assistant", "Here."), "<think></think>Here."),
        (
            Message("assistant", "", call, reasoning="I ask."),
            f"<think>I ask.</think>{tool_format('kimi_k2').call('', call)}",
        ),
    ):
        sample = renderer.encode(Conversation((Message("user", "Where?"), said), (CITY,)))
        trained = [token for token, weight in zip(sample.tokens, sample.weights, strict=True) if weight]
        assert renderer.decode(trained) == f"{wanted}<|im_end|>"
