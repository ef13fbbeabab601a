"""docs/coming_from.md: each flag on our side exists in the command that its row is about, and takes the value there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from swift import cli, flags

PAGE = (Path(__file__).parent.parent / "docs" / "coming_from.md").read_text(encoding="utf-8")
TABLES = PAGE.partition("\n## ms-swift\n")[2]
ROWS = [line for line in TABLES.splitlines() if line.startswith("| ") and not line.endswith("| here | |")]


def test_every_program_has_a_table() -> None:
    assert len(ROWS) > 70
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == ["Data", "ms-swift", "LLaMA-Factory", "TRL", "Unsloth"]


@pytest.mark.parametrize("row", ROWS)
def test_our_flags_exist_and_take_the_values_that_the_row_has(row: str) -> None:
    _, theirs, ours, note, _ = row.split("|")
    assert "--" not in theirs and theirs.strip()
    if ours.strip() == "none":
        assert note.strip(), "what to do instead"
        return
    named = re.findall(r"of `swift (\w+)`", note)
    configs = [cli.configs(verb)[verb] for verb in named or ("sft", "infer", "deploy", "export", "rlhf")]
    found = re.findall(r"`(--\w+)(?: ([^`]+))?`", ours + note)
    assert found or "swift " in ours
    for flag, value in found:
        owners = [config for config in configs if flag[2:] in spoken(config)]
        assert owners, flag
        if value:
            flags.parse(owners[0], [flag, *shlex.split(value)])


def spoken(config: type) -> set[str]:
    return {name for item in flags.walk(config) for name in (item.name, *item.spec.alias)} | flags.names(flags.Common)
