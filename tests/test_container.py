"""Dockerfile and compose.yaml name files, extras, routes and flags that exist, and agree with each other."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from swift import flags
from swift.commands import deploy
from swift.serve.server import create_app

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]


def instructions() -> list[tuple[str, str]]:
    """(name, arguments) of each instruction of the Dockerfile."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    code = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in code.splitlines() if line)]


def every(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def copied() -> list[str]:
    """The paths of the repository that the image is built of."""
    return [path for rest in every("COPY") if not rest.startswith("--from") for path in rest.split()[:-1]]


def served(words: list[str]) -> dict[str, Any]:
    """The flags of `swift deploy ...`, name -> value. Raises ValueError for a wrong one."""
    assert words[0] == "deploy"
    return flags.values(flags.parse(deploy.Config, words[1:]).config)


def image_command() -> list[str]:
    assert every("ENTRYPOINT") == ['["swift"]'] and "swift" in PROJECT["scripts"]
    return list(json.loads(every("CMD")[-1]))


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied()) == sorted(allowed)
    assert all((ROOT / path).exists() for path in copied())


def test_the_package_is_built_of_what_is_copied() -> None:
    needed = {PROJECT["readme"], "pyproject.toml", "swift"}
    assert needed <= set(copied())


def test_the_python_of_the_image_is_one_that_is_tested() -> None:
    versions = {re.fullmatch(r"python:(3\.\d+)-slim( AS build)?", line) for line in every("FROM")}
    assert len({found and found[1] for found in versions}) == 1
    (version, *_) = (found[1] for found in versions if found)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_extras_of_the_image_are_those_of_the_project() -> None:
    wanted = re.findall(r"'\.\[([\w,-]+)\]'", " ".join(every("RUN")))
    assert wanted
    assert set(",".join(wanted).split(",")) <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("service", [None, *SERVICES])
def test_the_server_listens_where_the_container_is_asked(service: str | None) -> None:
    given = served(SERVICES[service]["command"] if service else image_command())
    assert given["host"] == "0.0.0.0"
    assert [str(given["port"])] == every("EXPOSE")
    probe = " ".join(shlex.split(every("HEALTHCHECK")[0]))
    assert f"http://127.0.0.1:{given['port']}/health" in probe
    if service:
        assert SERVICES[service]["ports"] == [f"127.0.0.1:${{SWIFT_PORT:-8000}}:{given['port']}"]


def test_the_health_check_asks_a_route_that_needs_no_key() -> None:
    from fastapi.testclient import TestClient

    app = create_app(lambda *words, **options: iter(()), "model", api_keys=["secret"])
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize("service", list(SERVICES))
def test_a_service_needs_a_key_and_runs_without_rights(service: str) -> None:
    found = SERVICES[service]
    assert found["environment"][deploy.KEY_VARIABLE].startswith("${SWIFT_API_KEY:?")
    assert found["read_only"] and found["cap_drop"] == ["ALL"]
    assert found["volumes"] == [f"data:{folder}" for folder in every("VOLUME")]
    assert every("USER") == ["1000"] and "useradd --uid 1000" in " ".join(every("RUN"))
    assert set(found["build"]["args"]) == {line.partition("=")[0] for line in every("ARG")}


def test_what_a_server_writes_is_in_the_volume() -> None:
    variables = dict(word.split("=", 1) for rest in every("ENV") for word in shlex.split(rest))
    (volume,) = every("VOLUME")
    for name in ("SWIFT_CACHE", "HF_HOME", "MODELSCOPE_CACHE", "MPLCONFIGDIR"):
        assert Path(variables[name]).is_relative_to(volume), name
