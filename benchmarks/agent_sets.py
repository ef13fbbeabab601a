"""Writes the tool sets as rows for `swift eval --tasks calls --dataset FILE`. Asks no model.

    python benchmarks/agent_sets.py --out output/sets house bank

A set is a folder of `agent_sets/`: `tools.py`, whose public functions are the tools, and `questions.jsonl`, rows
`{"id", "question" or "messages", "expected"}`. Without names, every set is written. The questions of `agent_sets/` are
never read while something is tuned; those of `open_sets/`, which are written where they are named, may be.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.tools.python.source import PythonFile

FOLDER = Path(__file__).parent / "agent_sets"
OPEN = Path(__file__).parent / "open_sets"


def names() -> list[str]:
    """The sets whose questions are not read."""
    return _names(FOLDER)


def open_names() -> list[str]:
    """The sets to develop with."""
    return _names(OPEN)


def _names(folder: Path) -> list[str]:
    return sorted(file.parent.name for file in folder.glob("*/tools.py"))


def tools_file(name: str) -> Path:
    return _folder(name) / "tools.py"


def _folder(name: str) -> Path:
    return (OPEN if name in open_names() else FOLDER) / name


def questions(name: str) -> list[dict[str, Any]]:
    """The questions of a set as `{"id", "messages", "expected"}`. Raises ValueError or OSError with the place."""
    file = _folder(name) / "questions.jsonl"
    return [
        _question(line, f"{file}:{number}")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    ]


def rows(name: str) -> list[dict[str, Any]]:
    """The questions of a set, each with all tools of the set in OpenAI's format. Raises ValueError or OSError."""
    source = PythonFile(tools_file(name))
    try:
        specs = [bound.tool.spec for bound in source.tools]
    finally:
        source.close()
    return [
        {"id": each["id"], "messages": each["messages"], "tools": specs, "expected": each["expected"]}
        for each in questions(name)
    ]


def _question(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None
    if not isinstance(row, dict) or row.keys() not in ({"id", "question", "expected"}, {"id", "messages", "expected"}):
        raise ValueError(f"{place}: a question has exactly 'id', 'question' or 'messages', and 'expected'")
    said = row["messages"] if "messages" in row else [{"role": "user", "content": row["question"]}]
    return {"id": row["id"], "messages": said, "expected": row["expected"]}


def _check_name(name: str) -> None:
    known = [*names(), *open_names()]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"there is no set '{name}'{hint} The sets are: {', '.join(known)}")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the written files, NAME.jsonl each")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"sets: {', '.join(names())}; all of these without a name; and {', '.join(open_names())}",
    )
    chosen = parser.parse_args(words)
    try:
        for name in chosen.names:
            _check_name(name)
        chosen.out.mkdir(parents=True, exist_ok=True)
        for name in chosen.names or names():
            written = rows(name)
            file = chosen.out / f"{name}.jsonl"
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
            file.write_text(text, encoding="utf-8")
            print(f"{file}: {len(written)} questions, {len(written[0]['tools'])} tools")
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
