"""`swift export --to_ollama`: Ollama's template, run by its language's rules, writes the renderer's prompts."""

import json
import re
import shutil
import subprocess

import gotemplate
import pytest
from tiny import tiny_tokenizer

from swift.agent import TOOL_FORMATS, tool_format
from swift.chat import Message, Tool, ToolCall
from swift.template import Renderer, ollama, template

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = tuple(
    Tool(
        {"type": "function", "function": {"name": name, "description": f"Tells the {name}.", "parameters": PARAMETERS}}
    )
    for name in ("weather", "time", "news")
)
CALL = Message("assistant", "Let me look.", (ToolCall("weather", '{"city": "Oslo"}'),))
ASKED = (Message("user", "Does it rain in Oslo {{ really }}?"),)
ONE = (*ASKED, CALL, Message("tool", '{"rain": true}'))
TWO = (
    *ONE,
    Message("assistant", "Yes."),
    Message("user", "And what time is it, and the news?"),
    Message("assistant", "", (ToolCall("time", "{}"), ToolCall("news", '{"city": "Rome"}'))),
    Message("tool", "noon"),
    Message("tool", "none"),
)
OWN = Message("system", "You are Kakarot.")
DIALOGUES = {
    "no tools": (ASKED, ()),
    "no tools, own system": ((OWN, *ASKED, Message("assistant", "Yes."), Message("user", "Sure?")), ()),
    "tools": (ASKED, TOOLS),
    "a call and its result": (ONE, TOOLS[:1]),
    "two rounds": (TWO, TOOLS),
    "two rounds, own system": ((OWN, *TWO), TOOLS),
}
FORMS_OF_OLLAMA = tuple(name for name in TOOL_FORMATS if not tool_format(name).syntax.tags)


def as_it_came(format_name, messages, tools):
    """The dialogue as Ollama has it: what opens an answer in the form is part of a reply's content."""
    word = tool_format(format_name).syntax.answer if tools else ""
    said = f"Thought: I now know.\n{word}" if word == "Final Answer:" else word
    return tuple(
        Message("assistant", f"{said} {each.content}") if said and each.content == "Yes." else each for each in messages
    )


def ollamas(messages, tools):
    """What Ollama gives its template: its names, and all system texts in one."""
    calls = [
        [{"Function": {"Name": call.name, "Arguments": json.loads(call.arguments)}} for call in each.tool_calls]
        for each in messages
    ]
    return {
        "System": "\n\n".join(each.content for each in messages if each.role == "system"),
        "Messages": [
            {"Role": each.role, "Content": each.content, "ToolCalls": asked}
            for each, asked in zip(messages, calls, strict=True)
        ],
        "Tools": [
            {
                "Type": "function",
                "Function": {"Name": tool.name, "Description": tool.description, "Parameters": tool.parameters},
            }
            for tool in tools
        ],
    }


def written(format_name, table="qwen"):
    """The template of the Modelfile, its default system text, and the whole of it."""
    text, missing = ollama.modelfile("m.gguf", template(table), tool_format(format_name), tiny_tokenizer(), [2], {})
    assert not missing
    found = re.search(r'TEMPLATE """(.*?)"""\n(?:SYSTEM """(.*?)"""\n)?', text, re.DOTALL)
    return found[1], found[2] or "", text


def given(messages, system):
    """Ollama puts the Modelfile's SYSTEM first where a dialogue has none."""
    return messages if messages[0].role == "system" or not system else (Message("system", system), *messages)


def without_spaces(text):
    """Ollama writes JSON as Go does, which a template cannot change: spaces outside of words are no part of it."""
    return re.sub(r'(?<=[":,{}\[\]])\s+(?=["\[{}\]])|(?<=[{\[])\s+|\s+(?=[}\]])', "", text)


def expected(format_name, messages, tools, table="qwen"):
    renderer = Renderer(tiny_tokenizer(), template(table), format_name)
    return renderer.decode(renderer.prompt_tokens(messages, tools))


@pytest.mark.parametrize("format_name", FORMS_OF_OLLAMA)
@pytest.mark.parametrize("messages, tools", DIALOGUES.values(), ids=DIALOGUES)
def test_ollama_writes_the_prompt_that_the_renderer_writes(format_name, messages, tools):
    text, system, _ = written(format_name)
    messages = as_it_came(format_name, messages, tools)
    found = gotemplate.render(text, **ollamas(given(messages, system), tools))
    assert without_spaces(found) == without_spaces(expected(format_name, messages, tools))
    if not tools:
        assert found == expected(format_name, messages, tools)


def test_a_reply_ends_at_the_forms_stop_text():
    assert 'PARAMETER stop "Observation:"\n' in written("react_en")[2]
    assert "Observation:" not in written("hermes")[2].split("PARAMETER")[1]


@pytest.mark.parametrize("format_name", TOOL_FORMATS)
def test_a_form_is_written_as_it_is_or_the_export_says_why_not(format_name):
    text, missing = ollama.modelfile("m.gguf", template("qwen"), tool_format(format_name), tiny_tokenizer(), [2], {})
    assert bool(missing) != (".Tools" in text)


def test_a_template_without_a_place_for_a_system_text_offers_no_tools():
    text, missing = ollama.modelfile(
        "m.gguf", template("mistral-nemo"), tool_format("hermes"), tiny_tokenizer(), [2], {}
    )
    assert "does not support a system prompt" in missing and ".Tools" not in text


GO = """package main
import ("encoding/json"; "os"; "text/template")
type Call struct { Function struct { Name string; Arguments map[string]any } }
type Message struct { Role, Content string; ToolCalls []Call }
type Tool struct {
	Type string `json:"type"`
	Function struct {
		Name string `json:"name"`; Description string `json:"description"`
		Parameters json.RawMessage `json:"parameters"`
	} `json:"function"`
}
type Values struct { System string; Messages []Message; Tools []Tool }
func main() {
	var all []struct { Template string; Values Values }
	if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil { panic(err) }
	funcs := template.FuncMap{"json": func(v any) string { b, _ := json.Marshal(v); return string(b) }}
	texts := []string{}
	for _, each := range all {
		t := template.Must(template.New("").Option("missingkey=zero").Funcs(funcs).Parse(each.Template))
		w := new(writer)
		v := map[string]any{"System": each.Values.System, "Messages": each.Values.Messages, "Tools": each.Values.Tools}
		if err := t.Execute(w, v); err != nil { panic(err) }
		texts = append(texts, string(*w))
	}
	json.NewEncoder(os.Stdout).Encode(texts)
}
type writer []byte
func (w *writer) Write(b []byte) (int, error) { *w = append(*w, b...); return len(b), nil }
"""


@pytest.mark.skipif(not shutil.which("go"), reason="needs Go, whose text/template Ollama uses")
def test_gos_own_text_template_writes_the_same(tmp_path):
    (tmp_path / "main.go").write_text(GO)
    cases = []
    for format_name in FORMS_OF_OLLAMA:
        text, system, _ = written(format_name)
        for messages, tools in DIALOGUES.values():
            messages = given(as_it_came(format_name, messages, tools), system)
            cases.append({"Template": text, "Values": ollamas(messages, tools)})
    done = subprocess.run(
        ["go", "run", "main.go"], cwd=tmp_path, input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    for case, found in zip(cases, json.loads(done.stdout), strict=True):
        assert found == gotemplate.render(case["Template"], **case["Values"])
