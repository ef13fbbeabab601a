"""The wheel is the whole program: installed into an empty folder, it works without the clone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny import tiny_model_folder

try:
    metadata.version("pip")  # importing it here would keep setuptools from patching distutils in this process
except metadata.PackageNotFoundError:
    pytest.skip("environments of uv have no pip", allow_module_level=True)
ROOT = Path(__file__).parent.parent


class Installed(NamedTuple):
    """A wheel, and the folder into which it was installed."""

    wheel: Path
    folder: Path

    def swift(self, *words: str, cwd: Path) -> str:
        """Standard output of `swift WORDS`, as only the wheel provides it."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        command = [sys.executable, str(self.folder / "bin" / "swift"), *words]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", *words, "-q", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run(command, check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files beside what it builds
    shutil.copytree(ROOT / "swift", source / "swift", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    pip("install", "--target", str(folder / "installed"), str(wheel))
    shutil.rmtree(source)
    return Installed(wheel, folder / "installed")


def test_the_wheel_has_every_file_of_the_package_and_no_other(installed: Installed) -> None:
    files = (path for path in (ROOT / "swift").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    found = {name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name}
    assert found == expected


def test_its_program_is_that_of_the_wheel(installed: Installed, tmp_path: Path) -> None:
    assert "deploy" in installed.swift("--help", cwd=tmp_path)
    code = "import swift; print(swift.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed.folder)}
    where = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(installed.folder)


def test_its_tables_and_rows_are_read(installed: Installed, tmp_path: Path) -> None:
    assert "smollm2-135m-agent" in installed.swift("models", cwd=tmp_path)
    installed.swift("data", "synth", "--output", "made.jsonl", "--rows", "3", cwd=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 3 and all(row["messages"] for row in rows)


def test_it_trains(installed: Installed, tmp_path: Path) -> None:
    model = tiny_model_folder(tmp_path / "tiny")
    rows = [{"query": f"twice {n}?", "response": f"{2 * n}."} for n in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--model", str(model), "--dataset", "rows.jsonl", "--template_type", "chatml", "--device", "cpu"]
    said = installed.swift("sft", *words, "--tuner_backend", "peft", "--dry_run", cwd=tmp_path)
    assert "dry run: nothing is written" in said
