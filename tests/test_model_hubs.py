"""A model by its hub id: fetched from a stand-in for Hugging Face on this machine, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import enable_progress_bars
from loopback import Hub, serving
from tiny import tiny_model_folder

from swift import cli
from swift.model import load, location

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tiny_model_folder(tmp_path_factory.mktemp("published"))
    return {file.name: file.read_bytes() for file in folder.iterdir()} | {"pytorch_model.bin": b"the same again"}


@pytest.fixture
def hub(published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    for name in ("SWIFT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept of a file cut short; else 10 MB
    with serving("models", published) as (hub, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)  # the program of the hub reads HF_ENDPOINT once
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield hub


def fetched(hub: type[Hub]) -> set[str]:
    return {line.split()[1] for line in hub.asked if line.startswith("GET")}


def test_a_hub_id_is_downloaded_without_other_formats_and_then_found(
    hub: type[Hub], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enable_progress_bars()  # a model that was loaded before has switched them off
    folder = location.locate("org/name", use_hf=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: body for name, body in hub.files.items() if name != "pytorch_model.bin"
    }
    assert "pytorch_model.bin" not in fetched(hub)
    said = capfd.readouterr().err
    assert "fetching org/name from http://127.0.0.1" in said and "100%" in said
    load.load_model(folder, "fp32", "cpu")
    hub.asked.clear()
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    assert location.locate("org/name") == folder
    assert hub.asked == []


def test_a_download_that_breaks_off_goes_on_where_it_was(hub: type[Hub]) -> None:
    hub.cut.add(WEIGHTS)
    folder = location.locate("org/name", use_hf=True)
    assert f"GET {WEIGHTS} again" in hub.asked
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_download_that_was_given_up_is_no_model_and_fetches_later_what_is_missing(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    hub.cut.add(WEIGHTS)
    with monkeypatch.context() as context:
        client = SimpleNamespace(sleep=interrupted)  # only the hub's client: other threads may sleep
        context.setattr("huggingface_hub.file_download.time", client)
        with pytest.raises(KeyboardInterrupt):
            location.locate("org/name", use_hf=True)
        context.setenv("SWIFT_OFFLINE", "1")
        with pytest.raises(ValueError, match="half-written: there are no weights"):
            location.locate("org/name", use_hf=True)
    hub.asked.clear()
    folder = location.locate("org/name", use_hf=True)
    assert fetched(hub) == {WEIGHTS}
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_file_with_another_byte_than_was_published_is_refused_and_fetched_anew(hub: type[Hub]) -> None:
    hub.altered.add(WEIGHTS)
    with pytest.raises(ValueError, match=rf"{WEIGHTS} arrived damaged"):
        location.locate("org/name", use_hf=True)
    hub.altered.clear()
    folder = location.locate("org/name", use_hf=True)
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


@pytest.mark.parametrize("problem", ["404", "HF_HUB_OFFLINE is set", "cannot be reached", "disconnected"])
def test_what_the_hub_refuses_raises_one_line(
    hub: type[Hub], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.mute = problem == "disconnected"
    if "OFFLINE" in problem:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "reached" in problem:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    name = "org/other" if problem == "404" else "org/name"
    assert cli.main(["infer", "--model", name, "--use_hf", "true"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"model '{name}' was not found" in said and problem in said
    assert hub.asked == []
