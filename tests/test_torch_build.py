"""`make setup` installs the build of PyTorch that was asked for, with pip or uv, or says what to do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

try:
    metadata.version("pip")  # importing it here would keep setuptools from patching distutils in this process
except metadata.PackageNotFoundError:
    pytest.skip("environments of uv have no pip", allow_module_level=True)
ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "requirements" / "torch_build.py"
spec = importlib.util.spec_from_file_location("torch_build", SCRIPT)
assert spec and spec.loader
torch_build: ModuleType = importlib.util.module_from_spec(spec)
sys.modules["torch_build"] = torch_build
spec.loader.exec_module(torch_build)
VERSION = torch_build.requirement().removeprefix("torch==")
CPU, CUDA = f"{VERSION}+cpu", VERSION


def write_wheel(folder: Path, version: str) -> None:
    """An empty package `torch` that pip can install."""
    folder.mkdir(exist_ok=True)
    record = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("torch/__init__.py", "")
        wheel.writestr(f"{record}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{record}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{record}/RECORD", "")


def setup(
    tmp_path: Path, choice: str, offered: list[str], path: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What `make setup TORCH=CHOICE` installs of torch where pip finds these versions: (outcome, versions).

    pip writes into a folder instead of this environment.
    """
    for version in offered:
        write_wheel(tmp_path / "wheels", version)
    (tmp_path / "wheels").mkdir(exist_ok=True)
    pip = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "wheels")}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
        **{f"PIP_{name}": value for name, value in pip.items()},
        "PIP_TARGET": str(tmp_path / "installed"),
        "PATH": path or str(tmp_path),
    }
    command = [sys.executable, str(SCRIPT), choice, "--index", "", "--log", str(tmp_path / "setup.log")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    records = (tmp_path / "installed").glob("torch-*.dist-info")
    return done, [each.name.removeprefix("torch-").removesuffix(".dist-info") for each in records]


def test_the_cpu_build_is_taken_where_both_are_offered(tmp_path: Path) -> None:
    done, installed = setup(tmp_path, "cpu", [CPU, CUDA])
    assert installed == [CPU], done.stderr
    assert done.returncode == 0


def test_the_cuda_build_is_taken_where_both_are_offered(tmp_path: Path) -> None:
    done, installed = setup(tmp_path, "cuda", [CPU, CUDA])
    assert installed == [CUDA], done.stderr
    assert done.returncode == 0


def test_auto_ends_with_the_cuda_build_where_nothing_else_is_found_and_says_its_size(tmp_path: Path) -> None:
    done, installed = setup(tmp_path, "auto", [CUDA])
    assert installed == [CUDA], done.stderr
    assert "torch: the CUDA build (about 5 GB), by pip" in done.stdout


def test_without_a_cpu_build_cpu_fails_and_names_the_ways_out(tmp_path: Path) -> None:
    done, installed = setup(tmp_path, "cpu", [CUDA])
    assert not installed
    assert done.returncode == 1
    assert f"no build of torch=={VERSION} was found for TORCH=cpu (log: {tmp_path / 'setup.log'})" in done.stderr
    assert "TORCH_INDEX=URL" in done.stderr
    assert "TORCH=cuda" in done.stderr
    assert "No matching distribution" in (tmp_path / "setup.log").read_text()


def test_uv_is_asked_where_pip_finds_no_cpu_build(tmp_path: Path) -> None:
    program = tmp_path / "uv"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    program.chmod(0o755)
    done, _ = setup(tmp_path, "cpu", [CUDA])
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith(f"pip install --python {sys.executable} -c {ROOT / 'constraints.txt'}")
    assert asked.endswith(f"--torch-backend cpu torch=={VERSION}\n")


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"TORCH": "gpu"}, "TORCH=gpu is none of auto, cpu, cuda, or a backend of uv such as cu128, rocm6.4, xpu"),
        ({"TORCH_INDEX": "whl/cpu"}, "TORCH_INDEX=whl/cpu is neither a URL (https://...) nor a folder"),
        ({"TORCH": "cu128", "TORCH_INDEX": "https://127.0.0.1/"}, "TORCH_INDEX does nothing with TORCH=cu128"),
        ({"PYTHON": "pyton3"}, "PYTHON=pyton3: no such program: name an interpreter, e.g. make PYTHON=python3.13 ..."),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, dict) else "",
)
def test_make_setup_refuses_wrong_values_before_it_makes_anything(
    tmp_path: Path, wrong: dict[str, str], line: str
) -> None:
    given = {"VENV": str(tmp_path / "venv"), "PYTHON": sys.executable, **wrong}
    command = ["make", "-C", str(ROOT), "setup", *(f"{name}={value}" for name, value in given.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and line in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_unknown_build_is_refused_with_the_choices(tmp_path: Path) -> None:
    done, installed = setup(tmp_path, "gpu", [CUDA])
    assert done.returncode == 2
    assert done.stderr == "TORCH=gpu is none of auto, cpu, cuda, or a backend of uv such as cu128, rocm6.4, xpu\n"
    assert not installed


@pytest.mark.parametrize(
    ("choice", "nvidia", "asked"),
    [
        ("auto", True, ["--torch-backend auto", f"torch=={VERSION},!={CPU}"]),
        ("auto", False, [f"torch=={CPU}", "--torch-backend cpu", f"torch=={VERSION},!={CPU}"]),
        ("cu128", False, ["--torch-backend cu128"]),
    ],
)
def test_what_is_asked_for_follows_the_driver_and_the_choice(
    choice: str, nvidia: bool, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_build.shutil, "which", lambda name: f"/usr/bin/{name}")
    commands: list[str] = []
    for way in torch_build.attempts(choice, nvidia, lambda command: commands.append(" ".join(command)) or False):
        assert not way.install()
    assert len(commands) == len(asked)
    assert all(part in command for part, command in zip(asked, commands, strict=True)), commands


def test_a_users_index_is_one_more_for_pip() -> None:
    commands: list[list[str]] = []
    torch_build.attempts("cpu", False, lambda command: not commands.append(command), "http://here/cpu")[0].install()
    assert commands[0][-3:] == ["--extra-index-url", "http://here/cpu", f"torch=={CPU}"]


def test_a_full_disk_is_said_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch_build, "installed", lambda: "")
    monkeypatch.setattr(torch_build.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1.5e9))
    monkeypatch.setattr(torch_build.subprocess, "run", lambda *command, **options: pytest.fail(str(command)))
    assert torch_build.main(["cuda"]) == 1
    assert capsys.readouterr().err == f"{sys.prefix}: 1.5 GB are free, and this needs up to 9.0 GB\n"
