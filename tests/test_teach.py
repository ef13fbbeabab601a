"""`swift teach` and `swift data synth --tools` as a whole, on a model that is too small to learn: what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_model_folder

from swift import flags
from swift.cli import main
from swift.commands import teach
from swift.eval import results
from swift.eval.calibration import Rated
from swift.infer.calibration_file import read_calibration, write_calibration
from swift.infer.confidence import Calibration
from swift.synth.synthesis import SHARES

TOOLS = '''
"""A house."""
import pathlib
from typing import Annotated
from pydantic import Field
pathlib.Path(__file__).with_name("imported").touch()

def set_lamp(room: str, percent: int) -> str:
    """Set the brightness of a lamp.

    Args:
        room: The room, such as hall.
        percent: From 0 to 100 percent.

    Examples:
        More light in the hall, 80 percent -> {"room": "hall", "percent": 80}
    """

def open_safe(code: Annotated[str, Field(pattern="^[a-z]{60}$")]) -> str:
    """Open the safe."""

def list_rooms() -> list[str]:
    """List the rooms of the house."""
'''
NAMES = ["set_lamp", "open_safe", "list_rooms"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(the run's folder, what `swift teach` returns)"""
    folder = tmp_path_factory.mktemp("teach")
    tiny_model_folder(folder / "tiny", max_position_embeddings=16384)
    write_calibration(folder / "tiny", Calibration(1.5, 0.09), 200, (0.2, 0.1), "calls")
    (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
    words = ["--tools", str(folder / "tools.py"), "--base", str(folder / "tiny"), "--template_type", "chatml"]
    words += ["--rows", "8", "--eval_rows", "4", "--output_dir", str(folder / "out")]
    return folder, teach.main(flags.parse(teach.Config, words).config)


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_it_leaves_data_an_adapter_figures_and_a_page(taught: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = taught
    assert json.loads((folder / "out/summary.json").read_text(encoding="utf-8")) == json.loads(json.dumps(summary))
    assert (Path(summary["checkpoint"]) / "adapter_config.json").is_file()
    assert len(rows(folder / "out/train.jsonl")) == 8 and len(rows(folder / "out/held_out.jsonl")) == 4
    assert summary["before"]["all"]["exact"][3] == summary["after"]["all"]["exact"][3] > 0
    page = (folder / "out/summary.html").read_text(encoding="utf-8")
    assert "Before and after" in page and 'pre class="command"' in page and "set_lamp" in page and "<svg" in page


def test_each_step_is_a_command_that_can_be_typed(taught: tuple[Path, dict[str, Any]]) -> None:
    commands = taught[1]["commands"]
    assert [command.split(" -m swift.cli ")[-1].split()[0] for command in commands][:4] == [
        "data",
        "data",
        "eval",
        "sft",
    ]
    assert "--agent_template hermes" in commands[2] and "--agent_template hermes" in commands[3]


def test_questions_to_measure_with_end_with_the_first_reply(taught: tuple[Path, dict[str, Any]]) -> None:
    for row in rows(taught[0] / "out/held_out.jsonl"):
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert {each["function"]["name"] for each in row["tools"]} <= set(NAMES)


def test_the_tools_are_offered_as_they_will_be_served(taught: tuple[Path, dict[str, Any]]) -> None:
    offered = [each["function"] for row in rows(taught[0] / "out/held_out.jsonl") for each in row["tools"]]
    lamp = next(each for each in offered if each["name"] == "set_lamp")
    assert lamp["description"] == "Set the brightness of a lamp."
    assert list(lamp["parameters"]["properties"]) == lamp["parameters"]["required"] == ["room", "percent"]


def test_most_rows_offer_all_tools_even_one_that_nobody_can_ask_for(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(TOOLS, encoding="utf-8")
    words = ["--tools", str(tmp_path / "tools.py"), "--rows", "60", "--own_share", "1", "--text_share", "0"]
    assert main(["data", "synth", *words, "--out", str(tmp_path / "a.jsonl")]) == 0
    made = rows(tmp_path / "a.jsonl")
    offered = [[each["function"]["name"] for each in row["tools"]] for row in made]
    assert sum(names == NAMES for names in offered) > 0.7 * len(made)
    called = {
        call["function"]["name"]
        for row in made
        for message in row["messages"]
        for call in message.get("tool_calls") or ()
    }
    assert called == {"set_lamp", "list_rooms"}


def test_no_conversation_is_too_long_unless_a_length_is_given(
    taught: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, summary = taught
    training = next(each for each in summary["commands"] if " sft " in each)
    assert int(training.split("--max_length ")[1].split()[0]) > 2048  # the tiny tokenizer has a token for each byte
    mixture = json.loads((folder / "out/adapter/mixture.json").read_text(encoding="utf-8"))
    assert mixture["total"]["rows"] + mixture["held_out_rows"] == 8
    words = ["--tools", str(folder / "tools.py"), "--base", str(folder / "tiny"), "--template_type", "chatml"]
    words += ["--rows", "8", "--output_dir", str(tmp_path / "out")]
    assert main(["teach", *words, "--max_length", "500"]) == 2
    assert "--max_length 500: no conversation fits, the shortest has" in capsys.readouterr().err


def test_the_calibration_of_the_base_is_kept_where_there_are_too_few_calls_for_another(
    taught: tuple[Path, dict[str, Any]],
) -> None:
    assert "--calibrate" not in taught[1]["commands"][-1]
    assert read_calibration(Path(taught[1]["checkpoint"])) == Calibration(1.5, 0.09)


@pytest.mark.parametrize("least", [0.0, 0.09])
def test_the_least_minimum_confidence_of_a_new_calibration_is_that_of_the_base(
    least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if least:
        write_calibration(tmp_path, Calibration(1.5, least), 200, (0.2, 0.1), "calls")
    rows = [Rated(-1.0 - number % 7, number % 3 > 0) for number in range(60)]
    monkeypatch.setattr(results, "load", lambda folder: SimpleNamespace(tasks=()))
    monkeypatch.setattr(results, "rated", lambda tasks: rows)
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(teach, "_run", lambda commands, *words: ran.append(words))
    teach._calibrate([], ("--ckpt_dir", "taught"), tmp_path / "after", tmp_path, tmp_path / "taught")
    floor = ("--min_confidence", "0.09") if least else ()
    assert ran == [("eval", "--ckpt_dir", "taught", "--calibrate", "true", *floor)]


def test_a_folder_of_another_run_is_not_overwritten(taught: tuple[Path, dict[str, Any]]) -> None:
    folder = taught[0]
    with pytest.raises(ValueError, match=r"train\.jsonl of another run is there: choose another folder"):
        teach.main(teach.Config(tools=("tools.py",), output_dir=str(folder / "out")))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "needs --tools or --mcp"),
        (["--tools", "x.py", "--minutes", "0"], "--minutes 0: must be above 0"),
        (["--tools", "x.py", "--own_share", "0"], "--own_share 0"),
        (["--tools", "x.py", "--max_length", "0"], "--max_length 0: must be 1 or more"),
        (["--tools", "missing.py", "--base", "BASE", "--rows", "1", "--output_dir", "OUT"], "missing.py"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model_folder(tmp_path / "base")
    named = {"BASE": str(tmp_path / "base"), "OUT": str(tmp_path / "out")}
    assert main(["teach", *(named.get(word, word) for word in words), "--template_type", "chatml"]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("swift: error: ") and reason in told[-1]


def test_examples_of_a_tool_that_is_not_there_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tools.py").write_text(TOOLS, encoding="utf-8")
    (tmp_path / "own.jsonl").write_text('{"tool": "set_lamb", "question": "light"}\n', encoding="utf-8")
    words = ["data", "synth", "--tools", str(tmp_path / "tools.py"), "--rows", "2", "--out", str(tmp_path / "a.jsonl")]
    assert main([*words, "--examples", str(tmp_path / "own.jsonl")]) == 2
    told = capsys.readouterr().err
    assert "own.jsonl:1: no tool is called 'set_lamb'" in told and "set_lamp" in told


@pytest.mark.parametrize("word", ["--examples", "--phrasings"])
def test_flags_about_own_tools_need_tools(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "synth", "--rows", "2", "--out", str(tmp_path / "a.jsonl"), word, "held_out"]) == 2
    assert f"{word} has no effect without --tools" in capsys.readouterr().err


def test_rounds_cannot_be_chosen_for_questions_to_measure_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tools.py").write_text(TOOLS, encoding="utf-8")
    words = ["--tools", str(tmp_path / "tools.py"), "--phrasings", "held_out", "--max_rounds", "3"]
    assert main(["data", "synth", *words, "--out", str(tmp_path / "a.jsonl")]) == 2
    assert "--max_rounds has no effect with --phrasings held_out" in capsys.readouterr().err


def test_few_tools_end_with_fewer_conversations_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swift.synth.synthesis.TRIES", 40)
    described = {"name": "ping", "description": "Ping.", "parameters": {"type": "object", "properties": {}}}
    (tmp_path / "tools.json").write_text(json.dumps([{"type": "function", "function": described}]), encoding="utf-8")
    kinds = json.dumps({name: 0 for name in SHARES if name != "one"})
    words = ["--tools", str(tmp_path / "tools.json"), "--rows", "900", "--own_share", "1", "--kinds", kinds]
    words += ["--phrasings", "held_out"]
    assert main(["data", "synth", *words, "--out", str(tmp_path / "a.jsonl")]) == 0
    count = len(rows(tmp_path / "a.jsonl"))
    assert 0 < count < 900
    assert f"warning: {count:,} of 900 conversations" in capsys.readouterr().out
