"""Published chat templates and text forms: what a template writes of calls, its form writes and reads too."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from swift.agent import call_template, tool_format
from swift.agent.jsontext import dumps
from swift.chat import Delta, Draft, Message, Tool, ToolCall
from swift.infer.tool_call_stream import ToolCallStream

found = importlib.util.find_spec("trl")
if found is None or not found.origin:
    pytest.skip("trl, whose wheel holds the templates, is not installed", allow_module_level=True)
FOLDER = Path(found.origin).parent / "chat_templates"


class Published(NamedTuple):
    """What is known of a template, and the form that reads it.

    `opening`: what the assistant's turn opens with, a thought of nothing included; `closing` ends it. `most`: how many
    calls it writes at once; `as_text`: it takes arguments as text; `says`: it writes what is said before the calls;
    `null`: how it writes that, where its form has another word; `escapes`: a text may hold the quotes around it.
    """

    format_name: str
    opening: str
    closing: str
    most: int = 3
    as_text: bool = False
    says: bool = True
    null: str = "null"
    escapes: bool = True


QWEN = ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>\n")
NEMOTRON = Published("nemotron3", "<|im_start|>assistant\n<think></think>", "<|im_end|>\n")
DEEPSEEK = Published("deepseek_v3", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", as_text=True)
HERMES = Published("hermes", "<|im_start|>assistant\n", "<|im_end|>\n")
LLAMA = Published("llama3", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", most=1, says=False)
LFM2 = Published("lfm2", "<|im_start|>assistant\n", "<|im_end|>\n")
GEMMA = Published("gemma4", "<|turn>model\n", "<turn|>\n", says=False)  # behind the results
TEMPLATES = {
    "gptoss": Published("harmony", "<|start|>assistant", "", most=1, says=False),  # that is a thought
    "glm4moe": Published("glm4_5", "<|assistant|>\n<think></think>\n", ""),
    "deepseekv3": DEEPSEEK,
    "deepseek_r1_distill": DEEPSEEK._replace(most=2, says=False),  # what is said takes the place of the calls
    "qwen3_5_think": Published("qwen3_5", *QWEN),
    "qwen3_5_nothink": Published("qwen3_5", *QWEN),
    "qwen3_6": Published("qwen3_6", *QWEN),
    "qwen3_8": Published("qwen3_6", *QWEN),
    "nemotron_3_nano": NEMOTRON,
    "nemotron_3_super": NEMOTRON,
    "nemotron_3_ultra": NEMOTRON,
    "nemotron_3_5_lightning": NEMOTRON,
    "qwen2_5": HERMES,
    "qwen3": Published("hermes", *QWEN),
    "qwen3_vl": HERMES,
    "qwen3_instruct_2507": HERMES,
    "llama3_1": LLAMA,
    "llama3_2": LLAMA,
    "lfm2_v2": LFM2,
    "lfm2_2_5_vl": LFM2,
    "gemma4": GEMMA._replace(null="None"),
    "gemma4_v2": GEMMA._replace(null="None"),
    "gemma4_v3": GEMMA._replace(null="None"),
    "gemma4_v4": GEMMA._replace(null="None"),
    "gemma4_v5": GEMMA,
    "diffusion_gemma": GEMMA,
    "lfm2_2_5": LFM2._replace(escapes=False),
    "lfm2_2_5_v2": LFM2._replace(escapes=False),
    "muse_glimmer": Published("muse", "<|start|>assistant", "<|eot|>", says=False),
}
NAMES = ("get_weather", "web.search-2")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Does it.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "rate": {"type": "number"},
                    "sure": {"type": "boolean"},
                    "until": {"type": "null"},
                    "list": {"type": "array"},
                    "more": {"type": "object"},
                },
            },
        },
    }
    for name in NAMES
]
OFFERED = [Tool(each) for each in TOOLS]

keys = st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,5}", fullmatch=True)
words = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<>`"), max_size=8)
numbers = st.integers(-(2**40), 2**40) | st.floats(-1e6, 1e6, allow_nan=False).filter(lambda value: value != 0)


def arguments(null: bool = True, lists: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    scalars = st.booleans() | numbers | words
    values = st.recursive(
        st.none() | scalars if null else scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=5,
    )
    optional = {
        "city": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12) | st.just('it\'s "a\\n"\nb '),
        "days": st.integers(-(2**40), 2**40),
        "rate": numbers,
        "sure": st.booleans(),
        "until": st.none(),
        "list": st.lists(values, max_size=3 if lists else 0),
        "more": st.dictionaries(keys, values, max_size=3),
    }
    if not null:
        del optional["until"]
    return st.fixed_dictionaries({}, optional=optional)


sizes = st.lists(st.integers(1, 20), min_size=1, max_size=6)


@cache
def source(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def reply(name: str, content: str, asked: Sequence[ToolCall], result: str | None = None) -> str:
    """What a template writes in the assistant's turn, and behind it where a call has a `result`."""
    about = TEMPLATES[name]
    wire = [
        {
            "id": f"call{number:05}",
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": call.arguments if about.as_text else json.loads(call.arguments),
            },
        }
        for number, call in enumerate(asked)
    ]
    said = content or (None if name == "deepseek_r1_distill" else "")
    messages = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": said, "tool_calls": wire}]
    if result is not None:
        messages.append({"role": "tool", "content": result, "tool_call_id": "call00000"})
    texts, _ = render_jinja_template([messages], tools=TOOLS, chat_template=source(name))
    _, opening, text = texts[0].partition("Well?")[2].partition(about.opening)
    assert opening, texts[0]
    return text.removesuffix(about.closing).lstrip()


@st.composite
def turns(draw: st.DrawFn, name: str, written_alike: bool = False) -> tuple[str, list[ToolCall]]:
    """What an assistant says, and what it calls; `written_alike`: only values that template and form write the same."""
    about = TEMPLATES[name]
    possible = arguments(about.null == "null", about.escapes) if written_alike else arguments()
    content = draw(st.sampled_from(["", "I look.", "Two\n\nlines: {x}", "好 <b>"])) if about.says else ""
    given = possible if about.escapes else possible.filter(_has_no_quotes)
    asked = draw(st.lists(st.tuples(st.sampled_from(NAMES), given), min_size=1, max_size=about.most))
    return content, [ToolCall(called, dumps(values)) for called, values in asked]


def _has_no_quotes(given: dict[str, Any]) -> bool:
    return not re.search(r"['\\\n]", given.get("city", ""))


def same(asked: Sequence[ToolCall], others: Sequence[ToolCall]) -> bool:
    return [(each.name, json.loads(each.arguments)) for each in asked] == [
        (each.name, json.loads(each.arguments)) for each in others
    ]


@pytest.mark.parametrize("name", TEMPLATES)
class TestEveryTemplate:
    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_its_form_writes_what_it_writes(self, name: str, data: st.DataObject) -> None:
        content, asked = data.draw(turns(name, written_alike=True))
        read = tool_format(TEMPLATES[name].format_name)
        written, text = read.call(content, asked), reply(name, content, asked)
        if name == "deepseek_r1_distill" and len(asked) == 1:
            text += "<｜tool▁calls▁end｜>"  # which the template leaves out
        for stop in read.syntax.stop:
            written, text = written.removesuffix(stop), text.removesuffix(stop)
        assert written.lstrip() == text

    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_its_form_reads_the_calls_back(self, name: str, data: st.DataObject) -> None:
        content, asked = data.draw(turns(name))
        said, calls = tool_format(TEMPLATES[name].format_name).parse(reply(name, content, asked), OFFERED)
        assert said == content
        assert same(calls, asked)

    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_pieces_of_any_size_give_the_same(self, name: str, data: st.DataObject) -> None:
        content, asked = data.draw(turns(name))
        said, calls = streamed(TEMPLATES[name].format_name, reply(name, content, asked), data.draw(sizes))
        assert said == content
        assert same(calls, asked)

    def test_the_forms_stop_mark_comes_before_what_a_tool_returned(self, name: str) -> None:
        read, call = tool_format(TEMPLATES[name].format_name), ToolCall("get_weather", '{"city": "Oslo"}')
        if read.syntax.stop and name != "gemma4_v2":  # whose turn ends there
            assert reply(name, "", [call], result="RESULT").startswith(read.call("", [call]).lstrip())


def streamed(format_name: str, text: str, pieces: Sequence[int]) -> tuple[str, list[ToolCall]]:
    """What comes of a text in pieces of these sizes, again and again."""
    read, draft, at = tool_format(format_name), Draft(), 0
    talk = ToolCallStream(read.syntax, call_template(read))
    told = []
    for size in cycle(pieces):
        if at >= len(text):
            break
        told.append(talk.push(text[at : at + size]))
        at += size
    told.append(talk.end(Message("assistant", *read.parse(text, OFFERED))))
    for said, calls in told:
        draft.add(Delta(said))
        for call in calls:
            draft.add(Delta(tool_call=call))
    return draft.message.content, draft.calls
