"""Forms of commands' flags, presets, and runs as rows and curves; no page is drawn."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from swift import flags
from swift.runs import history, processes, record
from swift.runs.history import Log
from swift.runs.record import Progress, Record
from swift.studio import jobs as job_files
from swift.studio import run_view
from swift.studio.folders import Folders
from swift.studio.forms import Form, joined, text_of
from swift.studio.jobs import Job
from swift.studio.language import words
from swift.studio.presets import ESSENTIALS, PRESETS, VERBS

COMMANDS = ("sft", "rlhf", "eval", "deploy", "export", "infer")


def form(verb: str = "sft") -> Form:
    return Form(verb, importlib.import_module(f"swift.commands.{verb}").Config)


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_form_has_every_flag_once_with_its_section_and_meaning(verb: str) -> None:
    made = form(verb)
    listed = [field.name for fields in made.sections.values() for field in fields]
    assert sorted(listed) == sorted(flags.names(made.config)) and len(set(listed)) == len(listed)
    assert all(field.meaning for field in made.fields.values())


@pytest.mark.parametrize("verb", COMMANDS)
def test_defaults_are_right_and_add_nothing_to_the_command(verb: str) -> None:
    made = form(verb)
    defaults = {name: field.default for name, field in made.fields.items() if field.default}
    assert made.words(defaults) == made.words({}) == [verb]
    assert {name: text for name, text in made.faults(defaults).items() if not made.fields[name].required} == {}


@pytest.mark.parametrize("verb", ["sft", "rlhf"])
def test_every_flag_goes_to_words_and_back(verb: str) -> None:
    made = form(verb)
    tried = {}
    for name, field in made.fields.items():
        samples = {
            "number": "7.0" if "float" in str(field.flag.kind) else "7",
            "choice": field.choices[-1] if field.choices else "",
            "list": "3 4",
            "json": '{"a": "b"}',
        }
        tried[name] = samples.get(field.kind, "a b'c")
    for name, text in tried.items():
        parts = made.words({name: text})
        try:
            back = made.values(parts)
        except ValueError as error:
            assert f"--{name}" in str(error) or "--" in str(error)  # values that contradict others
            continue
        if text != made.fields[name].default:
            assert made.words(back) == parts, name


def test_a_value_that_begins_with_a_dash_stays_a_value() -> None:
    made = form()
    assert made.words({"max_steps": "-1"}) == ["sft"]  # the default
    assert made.words({"train_dataset_sample": "-2", "system": "--x"}) == [
        "sft",
        "--system=--x",
        "--train_dataset_sample=-2",
    ]
    assert made.values(["sft", "--system=--x"]) == {"system": "--x"}


def test_lists_are_quoted_as_a_shell_does_and_letters_need_no_quotes() -> None:
    made = form()
    words_ = made.words({"model_name": "小斯 'Swifty B'"})
    assert words_ == ["sft", "--model_name", "小斯", "Swifty B"]
    assert joined(words_) == "sft --model_name 小斯 'Swifty B'" and shlex.split(joined(words_)) == words_
    assert made.faults({"model_name": "'open"}) == {"model_name": "'open: No closing quotation"}


def test_all_wrong_values_are_named_at_their_fields() -> None:
    faults = form().faults({"learning_rate": "fast", "lora_rank": "8.5", "dataset": "a.jsonl"})
    assert faults == {"learning_rate": "'fast' is not a number", "lora_rank": "'8.5' is not a whole number"}


def test_flags_that_contradict_each_other_are_named_at_the_first() -> None:
    faults = form().faults({"max_length": "0"})
    assert list(faults) == ["max_length"] and "is not a length" in faults["max_length"]


def test_an_error_of_a_job_belongs_to_the_flag_that_it_names() -> None:
    made = form()
    assert made.field_of("--dataset x.jsonl: there is no such file") == "dataset"
    assert made.field_of("--model: x is no model") == "model_id_or_path"  # an alias
    assert made.field_of("out of memory") == ""


def test_a_pasted_command_with_aliases_fills_the_fields() -> None:
    made = form()
    values = made.values(shlex.split("sft --model m --tuner_type full --target_modules all-linear --use_dora"))
    assert values == {"model_id_or_path": "m", "sft_type": "full", "lora_target_modules": "ALL", "use_dora": "true"}
    with pytest.raises(ValueError, match="unknown flag --modle: did you mean --model"):
        made.values(["sft", "--modle", "m"])


def test_search_reads_names_other_names_meanings_and_chinese() -> None:
    made = form()
    found = {field.name for field in made.search("learning rate", {})}
    assert {"learning_rate", "lora_lr_ratio"} <= found
    assert "sft_type" in {field.name for field in made.search("--tuner_type", {})}
    assert "lora_rank" in {field.name for field in made.search("秩", {made.fields["lora_rank"].meaning: "LoRA 的秩"})}
    assert not list(made.search("no such thing", {}))


@pytest.mark.parametrize("value", [None, True, 3, 1e-5, ("a b", "c"), {"a": "b"}, "x"])
def test_a_value_as_text_is_what_a_command_line_has(value: Any) -> None:
    expected = {None: "none", True: "true", 3: "3", 1e-5: "1e-05", ("a b", "c"): "'a b' c", "x": "x"}
    assert text_of(value) == ('{"a": "b"}' if isinstance(value, dict) else expected[value])


# --- presets and words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_a_preset_is_a_command_without_faults(preset: Any) -> None:
    made = form(preset.words[0])
    values = made.values(preset.words)
    assert not made.faults(values) and values.keys() >= made.values(made.words(values)).keys()
    assert made.words(made.values(made.words(values))) == made.words(values)
    if preset.before:
        verb, below, *rest = preset.before
        flags.parse(importlib.import_module(f"swift.commands.{verb}").VERBS[below], rest)


def test_the_first_section_has_flags_that_exist() -> None:
    assert set(ESSENTIALS) <= set().union(*(form(verb).fields for verb in VERBS))


def test_titles_states_and_presets_have_chinese_texts() -> None:
    texts = {text for preset in PRESETS for text in (preset.title, preset.about)}
    texts |= {*run_view.CURVES.values(), *get_args(record.State), *get_args(job_files.State)}
    texts |= set(run_view.titled(run_view_of(Path())).keys())
    assert not texts - words().keys()


def test_nearly_all_meanings_of_training_flags_have_chinese_texts() -> None:
    fields = [field for verb in VERBS for field in form(verb).fields.values()]
    missing = {text for field in fields for text in (field.meaning, field.section) if text not in words()} - {"flags"}
    assert len(missing) < 0.1 * len(fields), f"words.zh.flags.toml lacks {sorted(missing)}"


# --- runs as rows -----------------------------------------------------------------------------------------------------


def made_record(**changes: Any) -> Record:
    settings: dict[str, Any] = {
        "verb": "sft", "model": "tiny", "tuner": "lora", "command": ["sft", "--max_steps", "9"],
        "training": ["sft"], "python": sys.executable, "working_folder": "/", "environment": {},
        "process": processes.of(os.getpid()), "state": "running", "started": 1000.0, "heartbeat": time.time(),
        "progress": Progress(step=3, steps=9, loss=1.5, step_seconds=2.0, seconds_left=12.0), **changes,
    }  # fmt: skip
    return Record(**settings)


def run_view_of(folder: Path, state: Any = "running", reason: str = "", **changes: Any) -> record.Run:
    return record.Run(folder, made_record(**changes), state, reason)


def a_job(name: str, state: Any, process: Any = None, words_: tuple[str, ...] = ("sft",), reason: str = "") -> Job:
    return Job(name, Path("/jobs") / name, words_, state, reason, 1000.0, process=process)


def test_a_job_and_its_run_are_one_row() -> None:
    own = processes.of(os.getpid())
    run = run_view_of(Path("/o/v0"))
    (row,) = run_view.rows([run], [a_job("j", "running", own)], now=1000)
    assert (row.name, row.state, row.job and row.job.name) == ("v0", "running", "j")
    launched = run_view_of(Path("/o/v0"), process=replace(own, pid=1), launcher=own)
    assert len(run_view.rows([launched], [a_job("j", "running", own)], now=1000)) == 1


def test_a_start_that_failed_is_a_row_with_its_reason_and_other_jobs_are_none() -> None:
    jobs = [
        a_job("bad", "failed", reason="--dataset: no such file"),
        a_job("loading", "running"),
        a_job("evaluation", "running", words_=("eval",)),
        a_job("estimate", "running", words_=("sft", "--dry_run", "true")),
    ]
    rows = run_view.rows([], jobs, now=1000)
    assert {(row.name, row.state, row.reason) for row in rows} == {
        ("bad", "failed", "--dataset: no such file"),
        ("loading", "starting", ""),
    }
    assert not run_view.rows([], [jobs[0]], now=1000 + 2 * run_view.KEPT)


def test_a_run_that_could_not_be_resumed_says_why_until_it_goes_on() -> None:
    folder = Path("/o/v0")
    asked = a_job("r", "failed", words_=("runs", "resume", "/o/v0"), reason="/o/v0 has no checkpoint")
    stopped = run_view_of(folder, "stopped", started=500.0, ended=900.0)
    (row,) = run_view.rows([stopped], [asked], now=1000)
    assert row.fault == "/o/v0 has no checkpoint"
    (row,) = run_view.rows([run_view_of(folder, started=1001.0)], [asked], now=1002)
    assert row.fault == ""


def test_a_slow_search_is_not_repeated_at_once_and_known_runs_are_still_followed(tmp_path: Path) -> None:
    (tmp_path / "v0").mkdir()
    record.write(tmp_path / "v0", made_record())
    clock = iter([0.0, 3.0, 10.0, 59.0, 61.0, 61.0])  # a search of 3 s
    search = run_view.Search(Folders.of(tmp_path), lambda: next(clock))
    assert [run.state for run in search.runs().runs] == ["running"]
    (tmp_path / "v1").mkdir()
    record.write(tmp_path / "v1", made_record())
    record.write(tmp_path / "v0", made_record(process=replace(processes.of(os.getpid()), start="1")))
    assert [run.state for run in search.runs().runs] == ["killed"]
    (tmp_path / "v0/run.json").unlink()
    assert search.runs().runs == []
    assert [run.folder.name for run in search.runs().runs] == ["v1"]


def test_runs_outside_of_the_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("work", "secret/v0"):
        (tmp_path / name).mkdir(parents=True)
    record.write(tmp_path / "secret/v0", made_record())
    (tmp_path / "work/link").symlink_to(tmp_path / "secret")
    assert not run_view.Search(Folders.of(tmp_path / "work")).runs().runs


def test_a_killed_run_says_by_which_signal_where_its_job_saw_it() -> None:
    own = processes.of(os.getpid())
    run = run_view_of(Path("/o/v0"), "killed", "its process is gone without a last word, at step 3")
    (row,) = run_view.rows([run], [a_job("j", "killed", own, reason="by SIGKILL")], now=1000)
    assert row.reason == "by SIGKILL: its process is gone without a last word, at step 3"


def test_cells_sort_by_figures_and_show_texts() -> None:
    cells = run_view.cells(run_view.Row("v0", run_view_of(Path("/o/v0")), None))
    assert (cells["step"], cells["step_text"], cells["loss_text"], cells["left"]) == (3, "3/9", "1.5000", 12.0)
    ended = run_view.cells(run_view.Row("v0", run_view_of(Path("/o/v0"), "killed", "x"), None))
    assert ended["left"] is None and ended["reason"] == "x"


# --- curves -----------------------------------------------------------------------------------------------------------


def write(folder: Path, *lines: dict[str, Any], rest: str = "") -> None:
    (folder / history.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines) + rest)


def test_curves_follow_a_growing_file_and_leave_out_half_a_line(tmp_path: Path) -> None:
    log = Log(tmp_path)
    assert not log.read()
    write(tmp_path, {"step": 1, "loss": 3.0, "epoch": 0.5, "time": 60.0}, rest='{"step": 2, "lo')
    assert log.read() and not log.read()
    with (tmp_path / history.FILE).open("a") as file:
        file.write('ss": 2.0, "epoch": 1.0, "time": 180.0}\n{"step": 2, "eval_loss": 2.5, "epoch": 1.0}\n')
    assert log.read()
    assert log.points("loss", "step") == [(1, 3.0), (2, 2.0)]
    assert log.points("loss", "epoch") == [(0.5, 3.0), (1.0, 2.0)]
    assert log.points("loss", "time") == [(0.0, 3.0), (2.0, 2.0)]
    assert log.points("eval_loss", "step") == [(2, 2.5)] and log.points("eval_loss", "time") == []


def test_curves_drop_the_steps_that_a_resumed_run_logs_again(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 10.0 - step} for step in range(1, 7)]
    write(tmp_path, *lines)
    log = Log(tmp_path)
    log.read()
    write(tmp_path, *lines[:3])
    log.read()
    with (tmp_path / history.FILE).open("a") as file:
        file.write(json.dumps({"step": 4, "loss": 1.0}) + "\n")
    log.read()
    assert log.points("loss", "step") == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 1.0)]


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"step": "x"}', "nonsense", '{"step": 1, "loss": null}', '{"step": 1, "loss": "a"}']
)
def test_a_damaged_log_line_is_left_out(tmp_path: Path, line: str) -> None:
    write(tmp_path, {"step": 1, "loss": 2.0}, rest=line + "\n")
    log = Log(tmp_path)
    log.read()
    assert log.points("loss", "step") == [(1, 2.0)]
