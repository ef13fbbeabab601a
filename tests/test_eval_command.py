"""`swift eval` through its front door, with a tiny random model, a server on the loopback, and scripted replies."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_pages import checked
from test_server import Scripted, served
from tiny import tiny_model_folder

from swift import cli, flags
from swift.agent import tool_format
from swift.assembly import loading
from swift.chat import Delta, ToolCall
from swift.commands import eval as command
from swift.eval import runner
from swift.infer.calibration_file import write_calibration
from swift.infer.confidence import Calibration
from swift.serve.server import create_app

Run = Callable[..., tuple[int, str, str]]
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string", "maxLength": 3}},
            "required": ["path"],
        },
    },
}
QUICK = ("--max_new_tokens", 8, "--template_type", "qwen", "--agent_template", "hermes", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny", initializer_range=0.2)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    asked = [{"messages": [{"role": "user", "content": f"look <at> {n}"}], "tools": [TOOL]} for n in range(4)]
    expected = [[{"name": "look", "arguments": {"path": "/a"}}]] * 3 + [[]]
    lines = [json.dumps({**row, "expected": right}) for row, right in zip(asked, expected, strict=True)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main(["eval", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refused(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err.removeprefix("swift: error: ").rstrip()


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def no_model(*_: object, **__: object) -> None:
    raise AssertionError("a model was loaded")


def test_a_run_leaves_answers_figures_and_a_page_and_a_second_one_asks_nothing(
    swift: Run, model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model", model, "--tasks", "calls", "--dataset", rows, *QUICK)
    code, out, err = swift(*words, "--limit", 2)
    assert code == 0, err
    [folder] = (tmp_path / "output" / "eval").iterdir()
    assert [answer["finish"] for answer in answers(folder)] == ["length"] * 2
    [figure] = [each for each in read(folder)["tasks"]["calls"]["figures"] if each["group"] == "all"][:1]
    assert (figure["metric"], figure["n"]) == ("exact", 2)
    assert 0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1
    assert re.search(r"all .*2 ", out)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "look &lt;at&gt;" in page
    checked(page)
    assert "<at>" not in page
    first = answers(folder)
    code, _, err = swift(*words, "--limit", 4)
    assert code == 0
    assert re.search(r"^2 of 2 asked, right \d+%, 0 s left$", err, re.MULTILINE)
    assert answers(folder)[:2] == first  # the rest is added
    assert len(answers(folder)) == 4
    monkeypatch.setattr(loading, "load_chat", no_model)
    again = swift(*words, "--limit", 4)
    assert again[0] == 0
    assert "all 4 answers are in" in again[2]


def test_ctrl_c_keeps_what_is_answered_and_the_same_command_continues(
    swift: Run, model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model", model, "--tasks", "calls", "--dataset", rows, "--report", tmp_path / "out", *QUICK)
    ask = runner.run

    def interrupted(*about: Any, **more: Any) -> Any:
        records = ask(*about, **more)
        yield next(records)
        records.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    code, _, err = swift(*words)
    assert code == 130
    assert "stopped: 1 answers are in" in err
    kept = answers(tmp_path / "out")
    monkeypatch.setattr(runner, "run", ask)
    code, _, err = swift(*words)
    assert code == 0
    assert "4 answers, 1 of them in" in err
    assert answers(tmp_path / "out")[:1] == kept


def test_a_folder_with_other_settings_or_questions_is_refused(
    swift: Run, model: Path, rows: Path, tmp_path: Path
) -> None:
    words = ("--model", model, "--tasks", "calls", "--dataset", rows, "--report", tmp_path / "out")
    assert swift(*words, *QUICK)[0] == 0
    said = refused(swift(*words, *QUICK, "--system", "Be kind."))
    assert "its answers have another template" in said
    rows.write_text(rows.read_text(encoding="utf-8").replace('"/a"', '"/b"'), encoding="utf-8")
    assert "has answers to another question" in refused(swift(*words, *QUICK))


def test_guided_both_asks_twice_and_compares(swift: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--model", model, "--tasks", "calls", "--dataset", rows, "--report", out, *QUICK, "--guided", "both")
    code, printed, err = swift(*words)
    assert code == 0, err
    assert sorted(answer["guided"] for answer in answers(out)) == [False] * 4 + [True] * 4
    [comparison] = read(out)["comparisons"]["guided against unguided"]
    assert comparison["common"] == 4
    assert "all, guided" in printed


def test_seeds_are_sampled_and_count_as_one_question(swift: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--model", model, "--tasks", "calls", "--dataset", rows, "--report", out, *QUICK)
    code, _, err = swift(*words, "--seeds", "1,2", "--temperature", 1.5, "--limit", 2)
    assert code == 0, err
    assert sorted(answer["seed"] for answer in answers(out)) == [1, 1, 2, 2]
    assert read(out)["tasks"]["calls"]["figures"][0]["n"] == 2


class Caller(Scripted):
    """A server's model that calls `look` with a path that depends on the question."""

    def __init__(self, wrong: str = "") -> None:
        super().__init__()
        self._wrong = wrong

    def __call__(self, messages, tools=(), params=None, template_kwargs=None):
        self.asked.append((messages, tools, params))
        path = "/b" if self._wrong and self._wrong in messages[-1].content else "/a"
        yield Delta(tool_call=ToolCall("look", json.dumps({"path": path}), "call_1"))
        yield Delta(finish="tool_calls")


def measured(swift: Run, rows: Path, folder: Path, wrong: str = "") -> str:
    with served(create_app(Caller(wrong), "tiny")) as url:
        code, out, err = swift(
            "--endpoint", f"{url}/v1", "--tasks", "calls", "--dataset", rows, "--report", folder, "--api_key", "x"
        )
    assert code == 0, err
    return out


def test_a_servers_model_is_measured(swift: Run, rows: Path, tmp_path: Path) -> None:
    out = measured(swift, rows, tmp_path / "out")
    figures = {
        (each["group"], each["metric"]): each["mean"] for each in read(tmp_path / "out")["tasks"]["calls"]["figures"]
    }
    assert figures[("all", "exact")] == 0.75  # it calls where it must not
    assert (figures[("one call", "exact")], figures[("no call", "exact")]) == (1, 0)
    assert "failures: too many calls 1" in out


def test_two_folders_are_compared_without_a_model(
    swift: Run, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(swift, rows, tmp_path / "a", wrong="at> 1")
    measured(swift, rows, tmp_path / "b", wrong="at> 2")
    monkeypatch.setattr(loading, "load_chat", no_model)
    code, out, err = swift("--compare", tmp_path / "a", tmp_path / "b", "--report", tmp_path / "c")
    assert code == 0, err
    assert "of 4 questions, 1 became right and 1 wrong; 1 of 2 right answers stayed right" in out
    [task] = json.loads((tmp_path / "c" / "comparison.json").read_text(encoding="utf-8"))["tasks"]
    assert [(flip["id"].split(":")[-2:], flip["to"]) for flip in task["flips"]] == [
        (["3", "2"], "wrong"),
        (["2", "2"], "right"),
    ]
    change = next(each for each in task["changes"] if (each["group"], each["metric"]) == ("all", "exact"))
    assert (change["first"], change["second"], change["difference"]) == (0.5, 0.5, 0.0)
    assert change["low"] < 0 < change["high"]
    page = (tmp_path / "c" / "comparison.html").read_text(encoding="utf-8")
    assert page.count("&quot;/b&quot;") >= 2
    assert "<at>" not in page


def test_a_model_is_compared_with_another_and_with_results(swift: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    words = ("--model", model, "--tasks", "calls", "--dataset", rows, *QUICK)
    other = tiny_model_folder(tmp_path / "other", initializer_range=0.2, seed=1)
    code, out, err = swift(*words, "--report", tmp_path / "out", "--compare", other)
    assert code == 0, err
    assert "tiny against other" in out
    assert len(answers(tmp_path / "out" / "compared")) == 4
    code, out, err = swift(*words, "--report", tmp_path / "out", "--compare", tmp_path / "out" / "compared")
    assert code == 0, err
    assert "of 4 questions, 0 became right and 0 wrong" in out


class Sure:
    """A local model whose calls are right for every question but each third, always with the same confidence."""

    def __init__(self) -> None:
        self.calibrations = {"": Calibration(9.0)}
        self.engine = SimpleNamespace(close=lambda: None)
        self.renderer = SimpleNamespace(tool_format=tool_format("hermes"))

    def __call__(self, messages, tools=(), params=None, template_kwargs=None):
        assert params.confidence and not self.calibrations  # the model's own confidence is kept
        path = "/b" if int(messages[-1].content) % 3 == 0 else "/a"
        yield Delta(tool_call=ToolCall("look", json.dumps({"path": path}), confidence=0.95))
        yield Delta(finish="tool_calls")


def test_the_confidence_of_calls_is_reported_and_calibrated(
    swift: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows, out = tiny_model_folder(tmp_path / "tiny"), tmp_path / "rows.jsonl", tmp_path / "out"
    right = [{"name": "look", "arguments": {"path": "/a"}}]
    asked = [[{"role": "user", "content": str(number)}] for number in range(60)]
    lines = [json.dumps({"messages": each, "tools": [TOOL], "expected": right}) for each in asked]
    rows.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(loading, "load_chat", lambda *_, **__: Sure())
    words = ("--model", model, "--tasks", "calls", "--dataset", rows, "--report", out)
    code, printed, err = swift(*words, "--limit", 20, "--calibrate")
    assert code == 2
    assert "--calibrate true: 20 calls are too few" in err
    assert "confidence of calls: 20 replies with calls" in printed
    code, _, err = swift(*words, "--calibrate")
    assert code == 0, err
    assert read(out)["calibrations"]["calls"]["ece"] == pytest.approx(0.95 - 2 / 3, abs=1e-6)
    kept = json.loads((model / "calibration.json").read_text(encoding="utf-8"))
    assert 0.95 ** (1 / kept["temperature"]) == pytest.approx(2 / 3, abs=0.01)
    assert (kept["rows"], kept["source"], kept["min_confidence"]) == (60, f"calls, {rows}", 0)
    assert swift(*words)[0] == 0
    assert read(out)["calibrations"]["calls"]["ece"] < 0.01  # with the calibration that is kept now
    assert "data:image/svg+xml;base64," in (out / "report.html").read_text(encoding="utf-8")
    asked_again = NotImplementedError("the answers are there")
    monkeypatch.setattr(Sure, "__call__", lambda *_, **__: (_ for _ in ()).throw(asked_again))
    code, _, err = swift(*words, "--calibrate", "--min_confidence", 0.09)
    assert code == 0 and "minimum confidence: 0.09, as given" in err
    assert json.loads((model / "calibration.json").read_text(encoding="utf-8"))["min_confidence"] == 0.09


def test_a_checkpoint_is_measured_with_the_minimum_confidence_that_it_is_used_with(
    swift: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Asked(Sure):
        def __call__(self, messages, tools=(), params=None, template_kwargs=None):
            asked.append(params.min_confidence)
            return super().__call__(messages, tools, params, template_kwargs)

    model, rows = tiny_model_folder(tmp_path / "tiny"), tmp_path / "rows.jsonl"
    row = {"messages": [{"role": "user", "content": "1"}], "tools": [TOOL], "expected": []}
    rows.write_text(json.dumps(row), encoding="utf-8")
    write_calibration(model, Calibration(2.0, 0.5), 60, (0.2, 0.1), "calls")
    monkeypatch.setattr(loading, "load_chat", lambda *_, **__: Asked())
    words = ("--model", model, "--tasks", "calls", "--dataset", rows)
    for number, more in enumerate(((), ("--min_confidence", 0), ("--min_confidence", 0.1), ("--calibrate",))):
        swift(*words, *more, "--report", tmp_path / f"out{number}")
    assert asked == pytest.approx([0.25, 0.0, 0.01, 0.0])  # before calibration: 0.5 ** 2, 0.1 ** 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tasks", "cals"), "--tasks cals: no such task: did you mean calls?"),
        (("--limit", 0), "--limit 0: must be 1 or more"),
        (("--tasks", "calls,calls"), "calls is given twice"),
        (("--temperature", 1), "--temperature has no effect without --seeds"),
        (("--seed", 1), "--seed has no effect here"),
        (("--seeds", 1, "--temperature", 0), "--seeds without effect"),
        (("--dataset", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--tasks", "self_cognition", "--dataset", "rows.jsonl", "--model_name", "x"), "--dataset has no effect"),
        (("--model_name", "x"), "--model_name has no effect without --tasks self_cognition"),
        (("--tasks", "react", "--guided"), "--guided true has no effect: no question of react offers tools"),
        (("--tasks", "react", "--dataset", "rows.jsonl"), "no row has ReAct's steps as text"),
        (("--endpoint", "http://127.0.0.1:9/v1", "--guided"), "--guided true needs a model of this process"),
        (("--endpoint", "http://127.0.0.1:9/v1", "--dtype", "fp32"), "--dtype has no effect with --endpoint"),
        (("--endpoint", "http://127.0.0.1:9/v1", "--calibrate"), "--calibrate true needs a checkpoint of this machine"),
        (("--compare", "nowhere"), "'nowhere' is neither a folder nor a known model"),
        (("--compare", "a", "b"), "a: no results of swift eval: results.json is not there"),
        (("--compare", "a"), "--compare: give two folders of results, or a model beside it"),
        (("--compare", "a", "b", "c"), "--compare takes one or two values, not 3"),
        (("--compare", "a", "b", "--limit", 3), "--limit has no effect: --compare of two folders asks no model"),
    ],
)
def test_wrong_flags_are_refused_in_one_line_before_a_model_is_loaded(
    swift: Run, rows: Path, model: Path, words: tuple[object, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_chat", no_model)
    named = () if "--endpoint" in words or words[1] == "a" else ("--model", model)
    assert said in refused(swift(*words, *named))


def test_no_model_is_named(swift: Run) -> None:
    assert "no model is named" in refused(swift("--tasks", "calls"))


def test_default_tasks_that_find_nothing_in_the_rows_are_left_out(swift: Run, model: Path, rows: Path) -> None:
    code, out, err = swift("--model", model, "--dataset", rows, *QUICK, "--limit", 1)
    assert code == 0, err
    assert "left out: react: " in err
    assert "calls" in out


def test_every_task_is_described_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    from swift.eval.registry import TASKS

    with pytest.raises(SystemExit):
        command.run(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in TASKS if name not in shown] == []


def test_the_commands_of_the_page_have_valid_flags() -> None:
    page = Path(__file__).parent.parent.joinpath("docs", "evaluation.md").read_text(encoding="utf-8")
    lines = [line for line in page.replace("\\\n", " ").splitlines() if line.startswith("swift eval ")]
    assert len(lines) > 5
    for line in lines:
        flags.parse(command.Config, shlex.split(line)[2:], prog="swift eval")
