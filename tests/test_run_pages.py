"""What is said of a training run: its opening line, its warnings, its page; pages of several. Nothing is trained."""

from __future__ import annotations

import html
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_folders import falling, lines, run_folder
from test_pages import HOSTILE, checked

from swift import cli
from swift.assembly import run_comparison, run_page
from swift.runs import contents, outcome, processes
from swift.runs.record import Progress, Run

OWN = processes.of(os.getpid())
OVERFIT = {step: 2.0 + abs(step - 120) / 200 for step in range(40, 301, 40)}
BETTER = {step: 2.6 - step / 500 for step in range(40, 301, 40)}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(run: Run) -> str:
    return outcome.opening(contents.read(run))


def warned(run: Run) -> str:
    return "\n".join(outcome.warnings(contents.read(run)))


# --- the opening line -------------------------------------------------------------------------------------------------


def test_a_run_that_over_fits_names_the_step_and_the_best_checkpoint(here: Path) -> None:
    run = run_folder(here / "v0", lines(falling(300), OVERFIT), checkpoints=(120, 280))
    assert said(run) == (
        "Loss fell from 2.65 to 1.98; held-out loss stopped falling at step 120 of 300; "
        "the checkpoint of step 120 is the best."
    )
    assert "Over-fitting: after step 120 held-out loss rose from 2.00 to 2.80" in warned(run)
    assert "still falling" not in warned(run)


def test_the_best_checkpoint_is_the_best_of_those_that_were_kept(here: Path) -> None:
    run = run_folder(here / "v0", lines(falling(300), OVERFIT), checkpoints=(200, 280))
    assert said(run).endswith("; the best checkpoint that was kept is of step 200.")


def test_a_run_whose_held_out_loss_falls_to_the_end_could_go_on(here: Path) -> None:
    run = run_folder(here / "v0", lines(falling(300), BETTER), checkpoints=(240, 280))
    assert "held-out loss fell from 2.52 to 2.04, its lowest; the checkpoint of step 280, the last one, is" in said(run)
    assert warned(run) == "Loss was still falling when the run ended: more epochs may lower it further."


@pytest.mark.parametrize(("scale", "warns"), [(2.0, True), (0.05, False)], ids=["falls on", "is flat"])
def test_without_held_out_rows_the_end_of_the_curve_tells_whether_loss_still_falls(
    here: Path, scale: float, warns: bool
) -> None:
    run = run_folder(here / "v0", lines(falling(300, scale=scale)), mixture={"held_out_rows": 0})
    assert "; no rows were held out; no checkpoint was saved." in said(run)
    assert ("Loss was still falling" in warned(run)) == warns
    assert "No rows were held out" in warned(run)


def test_a_killed_run_says_so_first_and_how_to_go_on(here: Path) -> None:
    run = run_folder(here / "v0", lines(falling(80)), checkpoints=(40,), state="running", ended=None)
    assert said(run).startswith("The run was killed at step 80 of 300: its process is gone without a last word. Loss")
    assert said(run).endswith("; the last checkpoint is of step 40.")
    assert "To go on:" in warned(run) and "runs resume v0" in warned(run)


def test_a_failed_run_has_its_reason_once(here: Path) -> None:
    run = run_folder(here / "v0", state="failed", reason="out of memory", progress=Progress(step=0, steps=300))
    assert said(run) == ("The run failed at step 0 of 300: out of memory. No loss was logged; no checkpoint was saved.")
    assert "no checkpoint can be resumed" in warned(run)


def test_a_stopped_run_and_one_under_way_say_where_they_are(here: Path) -> None:
    stopped = run_folder(here / "v0", lines(falling(50)), state="stopped", reason="after step 50 of 300 by SIGTERM")
    assert said(stopped).startswith("The run was stopped after step 50 of 300 by SIGTERM. Loss fell")
    progress = Progress(step=50, steps=300, seconds_left=250, step_seconds=1e6)
    active = run_folder(
        here / "v1", lines(falling(50)), state="running", progress=progress, ended=None, process=OWN, heartbeat=4e9
    )
    assert said(active).startswith("The run is at step 50 of 300, with about 4:10 left. Loss fell")
    assert said(active).endswith("; there is no checkpoint yet.")
    assert "still falling" not in warned(active)


def test_one_point_none_and_a_flat_or_rising_curve(here: Path) -> None:
    assert said(run_folder(here / "a", lines([2.664]))) == (
        "Loss was 2.66 at step 1, the only one logged; no checkpoint was saved."
    )
    assert said(run_folder(here / "b")) == "No loss was logged; no checkpoint was saved."
    assert said(run_folder(here / "c", lines([2.0] * 30))).startswith("Loss stayed at about 2.00;")
    rising = run_folder(here / "d", lines([1.0 + step / 100 for step in range(50)]))
    assert said(rising).startswith("Loss rose from 1.0")
    assert "the learning rate may be too high" in warned(rising)
    assert said(run_folder(here / "e", lines([0.99999999] * 30))).startswith("Loss stayed at about 1.00;")
    assert said(run_folder(here / "f", lines([0.5] * 30))).startswith("Loss stayed at about 0.500;")


def test_a_few_noisy_points_are_no_trend(here: Path) -> None:
    noisy = [2.3, 3.2, 1.3, 2.2, 1.9, 1.5, 2.6, 1.1, 2.5]
    assert said(run_folder(here / "a", lines(noisy))).startswith(
        "Loss was 2.07 on average, between 1.10 and 3.20, without a trend;"
    )
    steady = [2.3 - step / 10 for step in range(9)]
    assert said(run_folder(here / "b", lines(steady))).startswith("Loss fell from 2.30 to 1.50;")


def test_a_loss_that_is_not_a_number_is_named_with_its_step(here: Path) -> None:
    nan = run_folder(here / "a", lines([2.0, 1.9, math.nan, math.nan], {4: math.nan}))
    assert said(nan) == "Loss fell from 2.00 to 1.90; loss is not a number from step 3 on; no checkpoint was saved."
    assert "Held-out loss is not a number at some steps." in warned(nan)
    assert said(run_folder(here / "b", lines([math.nan]))).startswith("Loss is not a number from step 1 on;")
    checked(run_page.page(contents.read(nan)))


def test_preference_training_says_how_often_the_chosen_reply_wins(here: Path) -> None:
    log = [*lines(falling(30)), {"step": 30, "eval_loss": 0.5, "eval_rewards/accuracies": 0.725}]
    assert "the chosen reply has the higher reward in 72% of held-out pairs" in said(run_folder(here / "a", log))


# --- warnings about rows ----------------------------------------------------------------------------------------------


def test_rows_that_were_dropped_or_cut_are_counted_in_words(here: Path) -> None:
    mixture = {
        "rows": {"a": {"read": 200, "bad": 12}, "b": {"read": 100, "bad": 0}},
        "rules": {"unknown-tool": 8, "bad-call": 4},
        "lengths": {"a": {"kept": 180, "dropped": 7, "cut": 1}, "b": {"kept": 98, "unrendered": 2}},
        "warnings": {"plain-input": {"rows": 3}},
        "total": {"tokens": 1000, "trained_tokens": 40},
        "sample_lengths": {"samples": 279, "trained_ends": 30},
        "held_out_rows": 12,
    }
    found = warned(run_folder(here / "a", lines(falling(30)), mixture=mixture, flags={"max_length": 1024}))
    for line in (
        "12 of 300 rows were dropped for errors (unknown-tool 8, bad-call 4).",
        "7 of 288 samples were dropped, because they are longer than --max_length 1024.",
        "1 of 288 samples was cut, because they are longer than --max_length 1024: the oldest rounds are gone.",
        "2 of 288 samples were dropped, because the template or the tool-call format rejects them.",
        "3 rows have the warning plain-input.",
        "Only 4.0% of the tokens are trained",
        "Only 30 of 279 samples train their stop token",
        "Only 12 rows were held out",
    ):
        assert line in found


# --- pages ------------------------------------------------------------------------------------------------------------

MIXTURE: dict[str, Any] = {
    "sources": {f"/d/{HOSTILE}.jsonl": {"rows": 9, "samples": 9, "tokens": 90, "trained_tokens": 45}},
    "total": {"rows": 9, "samples": 9, "tokens": 90, "trained_tokens": 45},
    "held_out_rows": 3,
    "sample_lengths": {
        "samples": 9, "median": 10, "p95": 12, "longest": 12, "bin": 4, "counts": [0, 1, 5, 3], "trained_ends": 9
    },
    "first_row": [[HOSTILE, 0.0], ["Action: look", 2.0]],
    "findings": [{"file": HOSTILE, "line": 3, "rule": "bad-call", "message": HOSTILE}],
    "left_out": [HOSTILE],
}  # fmt: skip


def test_a_page_has_curves_data_checkpoints_the_command_and_escapes_everything(here: Path) -> None:
    run = run_folder(
        here / "v0",
        lines(falling(300), OVERFIT),
        checkpoints=(120,),
        flags={"learning_rate": 3e-4, "dataset": [HOSTILE], "max_length": 2048},
        mixture=MIXTURE,
        model=HOSTILE,
        command=["sft", "--dataset", HOSTILE],
        reason=HOSTILE,
        environment={"CUDA_VISIBLE_DEVICES": "1"},
    )
    file = run_page.write(run)
    assert file == here / "v0" / "report.html"
    page = file.read_text(encoding="utf-8")
    found = checked(page)
    assert said(run) in found.text
    assert HOSTILE in found.text
    assert "least held-out loss: step 120" in page
    assert '<mark class="more" title="weight 2">Action: look</mark>' in page
    assert "CUDA_VISIBLE_DEVICES=1 swift sft --dataset" in found.text
    assert "infer --ckpt_dir v0/checkpoint-120" in found.text
    assert page.count("<svg") >= 3
    assert "learning_rate" in page and "2048" not in page.split("flags with their defaults")[0].split("Flags</h2>")[1]
    assert len(page) < 100_000


def of_two_sources(train: list[float], first: str, second: str, unit: str = "trained_tokens") -> list[dict[str, Any]]:
    """Log lines of a mixture, whose second data set is missing in every third line."""
    found = []
    for line in lines(train, {30: 2.0}):
        key = "eval_loss" if "eval_loss" in line else "loss"
        more = {f"{key}/{first}": line[key] - 0.5}
        if line["step"] % 3:
            more |= {f"{key}/{second}": line[key] + 0.5}
        counts = {f"{unit}/{name.split('/', 1)[1]}": 100 for name in more if key == "loss"}
        found.append({**line, **more, **counts})
    return found


def test_the_page_of_a_mixture_has_the_loss_of_each_data_set(here: Path) -> None:
    share = {"rows": 9, "samples": 9, "tokens": 90, "trained_tokens": 45}
    first, second = "/one/rows.jsonl", f"/two/{HOSTILE}.jsonl"
    mixture = {"sources": {first: share, second: share}, "total": share}
    run = run_folder(here / "v0", of_two_sources([2.0] * 30, first, second), mixture=mixture)
    page = run_page.page(contents.read(run))
    section = page.split("<h2>Loss by source</h2>")[1].split("</section>")[0]
    assert section.count("<svg") == 2
    for name, figures in (("rows.jsonl", ["3,000", "60.0%", "1.50"]), (Path(second).name, ["2,000", "40.0%", "2.50"])):
        row = next(row for row in section.split("<tr>") if html.escape(name) in row and "<td" in row)
        assert all(figure in row for figure in figures)


def test_the_page_of_a_mixture_of_preferences_counts_rows(here: Path) -> None:
    run = run_folder(here / "v0", of_two_sources([0.6] * 30, "one.jsonl", "two.jsonl", "rows"))
    section = run_page.page(contents.read(run)).split("<h2>Loss by source</h2>")[1].split("</section>")[0]
    assert "rows so far" in section and "3,000" in section and "2,000" in section
    assert "nats" not in section and "trained tokens" not in section


def test_data_sets_whose_files_have_the_same_name_keep_their_folders(here: Path) -> None:
    run = run_folder(here / "v0", of_two_sources([2.0] * 30, "/one/rows.jsonl", "/two/rows.jsonl"))
    page = run_page.page(contents.read(run))
    assert "/one/rows.jsonl" in page and "/two/rows.jsonl" in page


def test_a_run_of_one_data_set_has_no_loss_by_source(here: Path) -> None:
    run = run_folder(here / "v0", lines(falling(30)), mixture=MIXTURE)
    assert "Loss by source" not in run_page.page(contents.read(run))


@pytest.mark.parametrize("name", ["mixture.json", "sft_args.json", "logging.jsonl"])
@pytest.mark.parametrize("content", ["", "[1, 2]", '{"cut', "null"])
def test_a_page_is_written_of_a_folder_with_a_damaged_file(here: Path, name: str, content: str) -> None:
    run = run_folder(here / "v0", lines(falling(30)), flags={"seed": 1}, mixture=MIXTURE)
    (here / "v0" / name).write_text(content)
    checked(run_page.write(run).read_text(encoding="utf-8"))


def results(ckpt_dir: Path) -> dict[str, Any]:
    figure = {"group": "all", "metric": "exact", "guided": False, "mean": 0.66, "low": 0.48, "high": 0.8, "n": 32}
    loss = {**figure, "metric": "loss", "mean": 1.957, "low": 1.9, "high": 2.01}
    metrics = [{"name": "exact", "title": "exact", "share": True}, {"name": "loss", "title": "loss", "share": False}]
    return {
        "date": "2026-11-30T17:00:00",
        "settings": {"ckpt_dir": str(ckpt_dir)},
        "tasks": {"calls": {"metrics": metrics, "figures": [figure, loss]}},
    }


def test_evaluations_of_the_checkpoints_of_a_run_are_on_its_page_with_intervals(here: Path) -> None:
    run = run_folder(here / "output" / "tiny" / "v0", lines(falling(30)), checkpoints=(30,))
    other = run_folder(here / "output" / "tiny" / "v1", lines(falling(30)), checkpoints=(30,))
    for place, text in (
        ("output/eval/tiny-1", json.dumps(results(run.folder / "checkpoint-30"))),
        ("output/eval/x", "{"),
    ):
        (here / place).mkdir(parents=True)
        (here / place / "results.json").write_text(text)
    page = run_page.page(contents.read(run))
    assert "calls: exact" in page and "66% (48% to 80%) of 32" in page and "1.900 to 2.010" in page
    assert "Evaluation</h2>" not in run_page.page(contents.read(other))


# --- several runs -----------------------------------------------------------------------------------------------------


def three(here: Path) -> list[Run]:
    common = {"seed": 42, "dataset": ["a.jsonl"], "output_dir": "output"}
    return [
        run_folder(here / "v0", lines(falling(300), OVERFIT), flags={**common, "learning_rate": 1e-3}),
        run_folder(
            here / "v1", lines(falling(300), BETTER), flags={**common, "learning_rate": 3e-4, "output_dir": "o"}
        ),
        run_folder(
            here / "v2", lines(falling(90)), flags={**common, "learning_rate": 3e-4}, state="running", ended=None
        ),
    ]


def test_a_comparison_has_overlaid_curves_figures_and_the_settings_that_differ(here: Path) -> None:
    runs = run_comparison.named(three(here))
    assert run_comparison.opening(runs) == (
        "Of 3 runs, v0 has the least held-out loss, 2.00 at step 120; v1 follows with 2.04. One run evaluated nothing."
    )
    assert run_comparison.differences(runs) == {"learning_rate": [1e-3, 3e-4, 3e-4]}
    page = run_comparison.page(runs)
    found = checked(page)
    assert "Settings that differ" in page and "output_dir" not in found.text
    training = page.split('<section id="training-loss">')[1].split("</section>")[0]
    assert training.count('class="line') == 3
    assert "killed" in found.text and "Over-fitting" in found.text


def test_a_comparison_warns_of_losses_that_do_not_compare(here: Path) -> None:
    runs = [
        run_folder(here / "a", lines(falling(30)), flags={"dataset": ["a.jsonl"]}),
        run_folder(here / "b", lines(falling(30)), flags={"dataset": ["b.jsonl"]}),
        run_folder(here / "c", lines(falling(30)), flags={"dataset": ["a.jsonl"]}, model="other"),
        run_folder(here / "d", lines(falling(30)), verb="rlhf"),
    ]
    said = [run_comparison.warnings(run_comparison.named([runs[0], other])) for other in runs[1:]]
    assert ["differ in --dataset" in said[0][0], "different models" in said[1][0], "objectives" in said[2][0]] == [
        True
    ] * 3


# --- the command ------------------------------------------------------------------------------------------------------


def test_swift_report_writes_the_page_of_a_run_by_the_end_of_its_path(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(here / "output" / "tiny" / "v0-1", lines(falling(300), OVERFIT), checkpoints=(120, 280))
    assert cli.main(["report", "v0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Loss fell from 2.65 to 1.98; held-out loss stopped falling at step 120 of 300;")
    assert "\nwarning: Over-fitting" in out
    assert out.endswith("report: output/tiny/v0-1/report.html\n")
    checked((here / "output/tiny/v0-1/report.html").read_text(encoding="utf-8"))
    assert cli.main(["report", str(here / "output/tiny/v0-1"), "--out", "page.html"]) == 0
    assert (here / "page.html").is_file()


def test_swift_report_compares_several_and_counts_a_run_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three(here)
    assert cli.main(["report", "v0", "v1", "v0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Of 2 runs, v0 has the least held-out loss") and "report: comparison.html" in out
    assert cli.main(["report", "v0", str(here / "v0")]) == 0
    assert "report: v0/report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["v8-20261130"], "no run 'v8-20261130': there are v0-20261130, v1-20261129"),
        (["v"], "'v' is the name of 2 runs: v0-20261130, v1-20261129"),
        ([], "swift report needs the name of a run; there are v0-20261130, v1-20261129"),
        (["v0", "--folder", "nowhere"], "there is no folder nowhere"),
        (["v0", "--out", "."], "--out .: is a folder: name a file in it, such as report.html"),
        (["v0", "--ot", "x"], "--out"),
    ],
    ids=["unknown", "ambiguous", "none", "no folder", "out is a folder", "misspelt flag"],
)
def test_wrong_input_is_one_line(
    here: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(here / "v0-20261130", started=2.0)
    run_folder(here / "v1-20261129", started=1.0)
    assert cli.main(["report", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
    assert not list(here.rglob("*.html"))


def test_swift_report_without_any_run_says_where_it_looked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report"]) == 2
    assert "none below this folder" in capsys.readouterr().err


def test_the_names_of_runs_complete_in_a_shell(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder(here / "v0-20261130")
    cli.main(["--complete", "report", "v0"])
    assert capsys.readouterr().out == "v0-20261130\n"
    cli.main(["--complete", "report", "--o"])
    assert capsys.readouterr().out == "--out\n"


def test_a_report_imports_no_torch(here: Path) -> None:
    run_folder(here / "v0", lines(falling(30)), flags={"seed": 1})
    code = (
        "import sys\nfrom swift.cli import main\nmain(['report', 'v0'])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr
