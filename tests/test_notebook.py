"""The notebook of the Python API runs from its first cell to its last, and is stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model_folder

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "notebook" / "first_agent.ipynb"


def cells() -> list[dict[str, Any]]:
    return list(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"])


def test_it_is_stored_as_if_it_had_never_run() -> None:
    for cell in cells():
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert set(cell["metadata"]) <= {"tags"}


def test_its_links_lead_somewhere() -> None:
    texts = "".join("".join(cell["source"]) for cell in cells() if cell["cell_type"] == "markdown")
    links = [part.partition(")")[0] for part in texts.split("](")[1:]]
    assert links
    assert all((NOTEBOOK.parent / link).exists() for link in links), links


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    model = tiny_model_folder(tmp_path / "tiny", max_position_embeddings=8192)
    smaller = {"MODEL": str(model), "TEMPLATE": "chatml", "ROWS": 6, "QUESTIONS": 2, "IDENTITY_ROWS": 2}
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells():
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert set(smaller) <= set(names)
            names.update(smaller)
    said = capsys.readouterr().out
    assert names["before"].cases == names["after"].cases >= 2
    assert "arguments_correct: " in said
    assert names["trace"].end
    assert f"swift deploy --ckpt_dir {names['checkpoint']}" in said
    assert Path(names["checkpoint"]).is_relative_to(Path(names["run"]["output_dir"]))
