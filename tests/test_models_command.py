"""`swift models`: what is listed, how each model loads, and the page made of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from swift.cli import main
from swift.model import catalog, convert
from swift.model.loading_methods import loading_method

PAGE = Path(__file__).parents[1] / "docs" / "models.md"


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["models", *words, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_the_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8"), "swift models --markdown > docs/models.md"


def test_a_line_says_name_way_template_class_what_is_verified_and_ids(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "qwen-7b-chat"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("qwen-7b-chat "))
    assert line.split() == [
        "qwen-7b-chat",
        "converted",
        "qwen",
        "QWenLMHeadModel",
        "weights",
        "MS::qwen/Qwen-7B-Chat",
        "HF::Qwen/Qwen-7B-Chat",
    ]


def test_every_word_must_be_found(capsys: pytest.CaptureFixture[str]) -> None:
    names = {row["model_type"] for row in listed(capsys, "CHATGLM", "32k")}
    assert names == {"chatglm2-6b-32k", "chatglm3-6b-32k"}
    assert {row["loads"] for row in listed(capsys, "converted")} == {"converted"}


def test_an_unknown_word_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "qwen-7b-chta"]) == 2
    assert "did you mean qwen-7b-chat?" in capsys.readouterr().err


def test_each_model_says_how_it_loads_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["model_type"]: row for row in listed(capsys)}
    assert set(rows) == set(catalog.table())
    assert all(row["why"] for row in rows.values())
    expected = {
        "llama3_1-8b-instruct": "native",
        "deepseek-moe-16b-chat": "converted",
        "qwen1half-7b-chat-int4": "needs a package",
        "qwen-7b-chat-int4": "needs a package",
        "baichuan2-7b-chat-int4": "remote code",
        "yuan2-2b-instruct": "remote code",
    }
    assert {name: rows[name]["loads"] for name in expected} == expected


def test_few_text_models_that_are_not_quantised_need_their_own_code() -> None:
    kinds = Counter(
        loading_method(spec).kind for spec in catalog.table().values() if spec.modality == "text" and not spec.quant
    )
    assert kinds["remote code"] < 15 < 300 < kinds["native"] + kinds["converted"]


def test_the_converters_of_the_table_exist_and_each_is_used_or_tells_by_itself() -> None:
    used = {spec.convert for spec in catalog.table().values()} - {""}
    assert used <= set(convert.families())
    for name in used:
        archs = {spec.arch for spec in catalog.table().values() if spec.convert == name}
        found = {convert.find({**HINTS.get(name, {}), "architectures": [arch]}) for arch in archs}
        assert found == {convert.families()[name]}


HINTS: dict[str, dict[str, Any]] = {
    "baichuan": {"max_position_embeddings": 4096},
    "chatglm": {"model_type": "chatglm", "multi_query_group_num": 2},
}
"""What tells a family apart where the class does not."""
