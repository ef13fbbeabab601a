"""The Python API: the commands' work as functions, for notebooks and scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model_folder

import swift
from swift import Message, Tool, ToolCall
from swift.chat import Delta
from swift.commands.sft import Config
from swift.flag_groups import ModelFlags, TrainFlags

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool({"type": "function", "function": {"name": "weather", "parameters": SCHEMA}})


def weather(city: str) -> str:
    """The weather of a city."""
    return f"dry in {city}"


def scripted(*replies: Delta) -> Any:
    """A chat that gives one reply after the other."""
    left = iter(replies)

    def chat(messages: Any, tools: Any = (), params: Any = None) -> Iterator[Delta]:
        yield next(left)
        yield Delta(finish="stop")

    return chat


def called(name: str, arguments: str) -> Delta:
    return Delta(tool_call=ToolCall(name, arguments, id="1"))


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row_with_a_call(city: str) -> dict[str, Any]:
    call = {"function": {"name": "weather", "arguments": json.dumps({"city": city})}}
    return {
        "messages": [
            {"role": "user", "content": f"Is it dry in {city}?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "dry"},
            {"role": "assistant", "content": "It is."},
        ],
        "tools": [WEATHER.wrapped],
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run")
    rows = write(folder / "rows.jsonl", *({"query": f"twice {n}?", "response": f"{2 * n}"} for n in range(8)))
    return swift.fine_tune(
        model=model, dataset=[rows], template="qwen", max_steps=2, output_dir=folder / "out", dtype="fp32"
    )


def test_a_run_returns_its_checkpoints_and_its_figures(run: dict[str, Any]) -> None:
    assert run["global_step"] == 2
    assert (Path(run["last_model_checkpoint"]) / "adapter_config.json").is_file()
    assert Path(run["last_model_checkpoint"]).parent == Path(run["output_dir"])


def test_a_config_of_the_command_serves_as_well_as_flags(model: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", *({"query": f"twice {n}?", "response": f"{2 * n}"} for n in range(8)))
    config = Config(model=ModelFlags(model_id_or_path=str(model)), train=TrainFlags(max_steps=5))
    run = swift.fine_tune(config, dataset=rows, template_type="qwen", max_steps=1, output_dir=tmp_path / "out")
    assert run["global_step"] == 1


def test_a_checkpoint_answers_as_it_was_trained(run: dict[str, Any]) -> None:
    chat = swift.load_chat(run["last_model_checkpoint"])
    flags = {"max_new_tokens": 5, "do_sample": False}
    reply = swift.generate(chat, "twice 2?", **flags)
    dialogue = [Message("user", "twice 2?")]
    assert reply.role == "assistant"
    assert reply == swift.generate(chat, dialogue, **flags)
    chat.engine.close()


def test_guided_calls_fit_the_schemas_of_the_functions(run: dict[str, Any]) -> None:
    chat = swift.load_chat(run["last_model_checkpoint"], template_type="qwen")
    trace = swift.run_agent(chat, "Is it dry in Oslo?", [weather], guided_tools=True, max_turns=1, max_new_tokens=40)
    assert trace.end in ("answer", "length", "max_turns")
    assert not [result for result in trace.results if result.failure]
    chat.engine.close()


def test_an_agent_calls_functions_until_it_answers() -> None:
    chat = scripted(called("weather", '{"city": "Oslo"}'), Delta("It is dry."))
    trace = swift.run_agent(chat, "Is it dry in Oslo?", [weather])
    assert trace.answer == "It is dry."
    assert [message.content for message in trace.messages if message.role == "tool"] == ["dry in Oslo"]


def test_an_agent_calls_the_tools_of_files_beside_functions(tmp_path: Path) -> None:
    (tmp_path / "house.py").write_text("def lamp(on: bool) -> str:\n    'Switches.'\n    return f'lamp {on}'\n")
    calls = [called("weather", '{"city": "Oslo"}'), called("lamp", '{"on": true}')]
    trace = swift.run_agent(scripted(*calls, Delta("Done.")), "Light!", [weather, tmp_path / "house.py"])
    assert [result.text for result in trace.results] == ["dry in Oslo", "lamp True"]
    with swift.open_tools(tools=[tmp_path / "house.py"]) as toolbox:
        trace = swift.run_agent(scripted(calls[1], Delta("Done.")), "Light!", toolbox)
        assert [result.text for result in trace.results] == ["lamp True"]


def test_an_agent_asks_before_a_call_cuts_results_and_offers_few_tools() -> None:
    offered: list[list[str]] = []

    def parcel(number: int) -> str:
        """Where a parcel is."""
        return "x" * 100

    def chat(messages: Any, tools: Any = (), params: Any = None) -> Iterator[Delta]:
        offered.append([tool.name for tool in tools])
        yield called("parcel", '{"number": 1}') if len(offered) < 3 else Delta("Done.")
        yield Delta(finish="stop")

    answers = iter([True, False])
    trace = swift.run_agent(
        chat,
        "Where is my parcel?",
        [weather, parcel],
        max_tools=1,
        max_result_chars=10,
        confirm=lambda bound, call: next(answers),
    )
    assert offered == [["parcel"]] * 3
    assert trace.results[0].cut == 90
    assert [result.failure for result in trace.results] == ["", "declined"]


def test_a_described_tool_ends_the_run_with_its_call(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER.spec]))
    trace = swift.run_agent(scripted(called("weather", '{"city": "Oslo"}')), "Dry?", [tmp_path / "tools.json"])
    assert trace.end == "requires_action"
    assert [call.name for call in trace.messages[-1].tool_calls] == ["weather"]


def test_a_reply_with_tools_holds_calls_that_did_not_run() -> None:
    for tool in (weather, WEATHER):
        reply = swift.generate(scripted(called("weather", '{"city": "Oslo"}')), "Is it dry in Oslo?", [tool])
        assert reply.tool_calls[0].arguments == '{"city": "Oslo"}'


def test_held_out_rows_score_the_calls(tmp_path: Path) -> None:
    rows = write(tmp_path / "held_out.jsonl", row_with_a_call("Oslo"), row_with_a_call("Rome"))
    right = called("weather", '{"city": "Oslo"}')
    scores = swift.evaluate(scripted(right, right), rows)
    assert scores == swift.ToolCallScores(2, 1.0, 1.0, 0.5)


def test_rows_that_describe_tools_in_the_system_prompt_score_the_first_call_of_a_text(tmp_path: Path) -> None:
    call = 'Thought: t\nAction: weather\nAction Input: {"city": "Oslo"}\nObservation:'
    text = f"{call} dry\nThought: t\nFinal Answer: Dry."
    turns = [("system", "You can call: weather"), ("user", "Dry?"), ("assistant", text)]
    rows = write(tmp_path / "react.jsonl", {"conversations": [{"from": role, "value": said} for role, said in turns]})
    scores = swift.evaluate(scripted(Delta(call)), rows)
    assert scores == swift.ToolCallScores(1, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda: swift.fine_tune(datset="x"), "fine_tune: unknown flag datset: did you mean dataset?"),
        (lambda: swift.fine_tune(lora_rank="many"), "fine_tune: lora_rank: "),
        (lambda: swift.load_chat(), "no model is named"),
        (lambda: swift.load_chat("nowhere"), "no such folder"),
        (lambda: swift.load_chat(tempertaure=1), "load_chat: unknown flag tempertaure"),
        (lambda: swift.generate(scripted(), "hi", temprature=1), "generate: unknown flag temprature: did you mean"),
        (lambda: swift.run_agent(scripted(), "hi", [weather, weather]), "two tools"),
        (lambda: swift.run_agent(scripted(), "hi", ["gone.py"]), "gone.py: no such file"),
        (lambda: swift.open_tools(tool=["a.py"]), "open_tools: unknown flag tool: did you mean tools?"),
        (lambda: swift.open_tools(tools=["a.py"], confirm="all"), "open_tools: confirm is a matter of run_agent"),
        (lambda: swift.run_agent(scripted(), "hi", [weather], guided_tools=True), "guided_tools needs"),
    ],
)
def test_wrong_calls_say_what_is_wrong_in_one_line(mistake: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        mistake()
    assert said in str(error.value)


def test_rows_without_calls_cannot_be_scored(tmp_path: Path) -> None:
    rows = write(tmp_path / "plain.jsonl", {"query": "hi", "response": "hello"})
    with pytest.raises(ValueError, match=r"plain\.jsonl: no row has an assistant message with one tool call"):
        swift.evaluate(scripted(), rows)


def test_importing_swift_imports_nothing_heavy() -> None:
    code = "import sys, swift; swift.fine_tune; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "set()", done.stderr


def test_every_name_of_the_api_has_a_docstring() -> None:
    for name in swift.__all__:
        assert getattr(swift, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'train_it'"):
        _ = swift.train_it  # type: ignore[attr-defined]
