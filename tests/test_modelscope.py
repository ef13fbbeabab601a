"""Models and data sets by their ids: ModelScope's own client fetches them from a stand-in on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Hub, ModelScope, serving
from tiny import tiny_model_folder

from swift.data.mix import DataPlan, load_datasets
from swift.model import load, location
from swift.system.hubs import modelscope_url

ROWS = "".join(json.dumps({"query": f"{number}?", "response": "yes"}) + "\n" for number in range(3)).encode()


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[type[Hub], str]]:
    with serving("any", {}, ModelScope) as served:
        yield served


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modelscope")


@pytest.fixture(autouse=True)
def online(hub: tuple[type[Hub], str], kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client keeps the first address and the first folder that it is told: one of each for all, empty at first."""
    shutil.rmtree(kept, ignore_errors=True)
    for name in ("SWIFT_OFFLINE", "HF_HUB_OFFLINE", "USE_HF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(kept))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub[1])


@pytest.fixture
def models(hub: tuple[type[Hub], str], tmp_path: Path) -> type[Hub]:
    folder = tiny_model_folder(tmp_path / "published")
    hub[0].files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return hub[0]


@pytest.fixture
def datasets(hub: tuple[type[Hub], str]) -> type[Hub]:
    hub[0].files = {"README.md": b"# rows", "train.jsonl": ROWS}
    return hub[0]


def rows(name: str) -> list[str]:
    train, _, _ = load_datasets(DataPlan(dataset=(name,), dataset_test_ratio=0.0), lambda line: None)
    return [row.messages[0].content for row in train]


def test_a_model_is_fetched_whole_and_found_again_without_the_network(
    models: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = location.locate("org/name")
    assert {name: (folder / name).read_bytes() for name in models.files} == models.files
    load.load_model(folder, "fp32", "cpu")
    models.asked.clear()
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    assert location.locate("Org/Name") == folder
    assert models.asked == []


def test_a_file_with_another_byte_than_was_published_is_refused(models: type[Hub]) -> None:
    models.altered.add("model.safetensors")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:\d+: .*1 of 5 file") as caught:
        location.locate("org/name")
    assert "\n" not in str(caught.value)
    models.altered.clear()
    folder = location.locate("org/name")
    assert (folder / "model.safetensors").read_bytes() == models.files["model.safetensors"]


def test_a_data_set_is_fetched_and_found_again_without_the_network(
    datasets: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows("MS::org/name") == ["0?", "1?", "2?"]
    datasets.asked.clear()
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    assert rows("MS::org/name") == ["0?", "1?", "2?"]
    assert datasets.asked == []


def test_a_hub_out_of_reach_is_told_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        location.locate("org/name")
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        rows("MS::org/name")


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, "https://www.modelscope.cn"),
        ({"MODELSCOPE_DOMAIN": "www.modelscope.ai"}, "https://www.modelscope.ai"),
        ({"MODELSCOPE_DOMAIN": "a", "MODELSCOPE_ENDPOINT": "http://b/"}, "http://b"),
    ],
)
def test_the_address_is_the_one_that_the_client_takes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str
) -> None:
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert modelscope_url() == url
