"""The Train and Runs pages in a real browser, with real trainings of a tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from studio_pages import Server, address_of, chromium, needs_browser, opened, served, visit, wait_for
from test_sft import plain_rows
from tiny import tiny_model_folder

from swift.runs import record
from swift.runs.record import Run

pytestmark = needs_browser
SETTINGS = {
    "model_id_or_path": "tiny",
    "dataset": "rows.jsonl",
    "max_steps": "100000",
    "learning_rate": "1e-3",
    "gradient_accumulation_steps": "1",
    "eval_steps": "20",
    "logging_steps": "1",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with a model and rows, whose trainings are killed at the end."""
    tiny_model_folder(tmp_path / "tiny")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain_rows(30)))
    yield tmp_path
    for run in runs(tmp_path):
        if run.is_active:
            with suppress(ProcessLookupError):
                os.kill(run.record.process.pid, signal.SIGKILL)


@pytest.fixture
def server(place: Path) -> Iterator[Server]:
    with served(place) as found:
        yield found


def runs(folder: Path) -> list[Run]:
    return [record.read(file.parent) for file in folder.glob("output/*/*/run.json")]


def fill(page: Any, values: dict[str, str]) -> None:
    for name, text in values.items():
        page.get_by_label(re.compile(f"^{name}:")).first.fill(text)


def state(page: Any) -> str:
    return str(page.get_by_role("region", name="One run").get_by_role("status").inner_text())


def step_of(page: Any) -> int:
    """The step of the last point of the curve of the loss, as it is read aloud; 0 without one."""
    found = page.get_by_role("img", name=re.compile("^(Loss|损失):"))
    label = found.get_attribute("aria-label") if found.count() else ""
    return int(float(re.findall(r"\(([\d.e+]+)\)", label)[0])) if label else 0


def test_a_training_survives_page_and_server_and_its_end_is_said(browser: Any, server: Server, place: Path) -> None:
    with opened(browser, server.address) as page:
        visit(page, f"{server.root}/train?words=sft+--template_type+chatml")
        fill(page, SETTINGS)
        command = page.get_by_role("textbox", name="Command", exact=True)
        wait_for(lambda: "--logging_steps 1" in command.inner_text(), "the command follows the form")
        for name, text in SETTINGS.items():
            assert f"--{name} {text}" in command.inner_text()
        page.get_by_role("button", name="Start training").click()
        page.wait_for_url("**/runs?show=*")
        wait_for(lambda: step_of(page) > 2, "a curve")
        (run,) = runs(place)
        assert f"show={run.folder.name}" in address_of(page)

        visit(page)
        seen = wait_for(lambda: step_of(page), "the curve after a reload")
        wait_for(lambda: step_of(page) > seen, "the curve goes on")

        server.kill()
        before = record.read(run.folder).record.progress.step
        wait_for(lambda: record.read(run.folder).record.progress.step > before, "the training goes on without a server")
        server.start()
        seen = step_of(page)
        wait_for(lambda: step_of(page) > max(seen, before), "the open page finds the new server")

        wait_for(lambda: list(run.folder.glob("checkpoint-*/trainer_state.json")), "a checkpoint")
        os.kill(record.read(run.folder).record.process.pid, signal.SIGKILL)
        page.get_by_role("alert").filter(has_text="without a last word").wait_for()
        assert state(page) == "killed"

        page.get_by_role("button", name="中文").click()
        page.get_by_text("被终止").first.wait_for()
        page.get_by_role("button", name="恢复").click()
        wait_for(lambda: record.read(run.folder).state == "running", "the resumed training")
        page.get_by_role("button", name="停止", exact=True).click()
        page.get_by_role("button", name="保存检查点并停止").click()
        page.get_by_text("已停止").first.wait_for()
        assert record.read(run.folder).state == "stopped"

        page.get_by_role("button", name="复制并修改").click()
        page.wait_for_url("**/train?**")
        assert page.get_by_label(re.compile("^max_steps:")).input_value() == "100000"


def test_a_wrong_value_is_said_at_its_field_and_nothing_starts(browser: Any, server: Server, place: Path) -> None:
    with opened(browser, server.address) as page:
        fill(page, {"learning_rate": "fast"})
        page.get_by_role("alert").filter(has_text="--learning_rate: 'fast' is not a number").wait_for()
        page.locator(".q-field--error").filter(has_text="'fast' is not a number").wait_for()
        assert page.get_by_role("button", name="Start training").is_disabled()
        fill(page, {"learning_rate": ""})
        page.locator(".q-field--error").wait_for(state="detached")
        fill(page, {"model_id_or_path": "tiny", "dataset": "missing.jsonl"})
        page.get_by_role("button", name="Start training", disabled=False).click()
        page.get_by_role("alert").filter(has_text="missing.jsonl").wait_for()  # the job has said so
        assert state(page) == "failed" and not runs(place)
        page.get_by_role("button", name="Clone with changes").click()
        page.wait_for_url("**/train?**")
        page.get_by_role("alert").filter(has_text="missing.jsonl").first.wait_for()
        assert page.get_by_label(re.compile("^dataset:")).input_value() == "missing.jsonl"


def test_search_finds_settings_and_a_reload_keeps_them(browser: Any, server: Server) -> None:
    with opened(browser, f"{server.address}&words=sft+--use_dora+true") as page:
        command = page.get_by_role("textbox", name="Command", exact=True)
        wait_for(lambda: "--use_dora true" in command.inner_text(), "the settings of the address")
        page.get_by_text("Optimizer and learning rate").click()
        page.get_by_label(re.compile("^warmup_steps:")).fill("3")
        wait_for(lambda: "--warmup_steps 3" in command.inner_text(), "a setting of a section that was opened")
        page.get_by_label("Search all settings").fill("neftune")
        page.get_by_label(re.compile("^neftune_noise_alpha:")).fill("5")
        wait_for(lambda: "--neftune_noise_alpha 5" in command.inner_text(), "the setting in the command")
        wait_for(lambda: "neftune" in address_of(page), "the address")
        visit(page)
        wait_for(lambda: "--neftune_noise_alpha 5" in command.inner_text(), "the setting after a reload")
        page.get_by_label("Search all settings").fill("no such thing")
        page.get_by_text("0 settings").wait_for()


def test_an_estimate_measures_without_a_run(browser: Any, server: Server, place: Path) -> None:
    with opened(browser, server.address, locale="zh-CN") as page:
        visit(page, f"{server.root}/train?words=sft+--template_type+chatml")
        fill(page, {**SETTINGS, "max_steps": "200"})
        page.get_by_role("button", name="估算时间和内存").click()
        page.get_by_text(re.compile("^memory: .* GiB")).wait_for()
        page.get_by_text(re.compile("^time: about")).wait_for()
        assert not runs(place)


def test_pages_fit_a_narrow_window_and_work_by_keyboard(browser: Any, server: Server) -> None:
    with opened(browser, server.address, viewport={"width": 360, "height": 700}) as page:
        page.get_by_role("button", name="Start training").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText") == "Skip to the content"
        page.get_by_role("link", name="Runs").focus()
        page.keyboard.press("Enter")
        page.get_by_text("No runs yet").wait_for()
        assert page.get_by_role("link", name="Runs").get_attribute("aria-current") == "page"
        page.get_by_role("button", name="Dark or light").click()
        wait_for(lambda: page.evaluate("document.body.classList.contains('body--dark')"), "the dark page")
