"""How often is the right tool offered, and called, where there are many? Selects tools as `--max_tools` does.

    python benchmarks/many_tools.py --ckpt_dir output/demo/train/.../checkpoint-N --cases 60

The questions are of the tool catalogue's half that is not trained on. Each comes with two to four tools, mostly of one
subject, and others at random from the catalogue and, where the package bfcl-eval is installed, from BFCL. Without
--ckpt_dir and --base only the selection is measured, which needs no model.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from swift.assembly.loading import load_chat
from swift.chat import Message, Tool, ToolCall
from swift.commands import infer
from swift.data.demo_rows import evaluation_cases
from swift.data.demo_tools import catalogue
from swift.eval.tool_calls import Case, Scores, judge_all, scores
from swift.flag_groups import BackendFlags, ModelFlags
from swift.infer.local_chat import LocalChat
from swift.tools.bound_tool import BoundTool
from swift.tools.retrieval import Retriever

MODEL = "smollm2-135m-instruct"
SIZES = (5, 20, 60, 200)
SELECTIONS = (16, 8, 5)
ANYTHING = Draft202012Validator({})
JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


class Question(NamedTuple):
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    expected: ToolCall


def pool() -> list[Tool]:
    """Distractors with distinct names."""
    found = {entry.name: entry.spec for entry in catalogue()}
    package = find_spec("bfcl_eval")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "data"
        for file in sorted(folder.glob("BFCL_v4_*multiple.json")):
            for line in file.read_text(encoding="utf-8").splitlines():
                for function in json.loads(line).get("function", []):
                    found.setdefault(function["name"], _json_schema(function))
    return [Tool(spec if "function" in spec else {"type": "function", "function": spec}) for spec in found.values()]


def _json_schema(value: Any) -> Any:
    """BFCL's functions have Python's names of types."""
    if isinstance(value, list):
        return [_json_schema(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: JSON_TYPES.get(part, part) if key == "type" and isinstance(part, str) else _json_schema(part)
        for key, part in value.items()
    }


def questions(count: int, size: int, others: Sequence[Tool], chinese: float) -> list[Question]:
    """Questions with `size` tools each, in random order."""
    rng = random.Random(size)
    made = []
    for row, call in evaluation_cases(count, seed=7, chinese=chinese, style="messages"):
        own = {tool.name: tool for tool in row.tools}
        more = rng.sample([tool for tool in others if tool.name not in own], max(0, size - len(own)))
        made.append(Question(row.messages, tuple(rng.sample([*own.values(), *more], size)), call))
    return made


def selected(question: Question, most: int) -> tuple[Tool, ...]:
    bound = [BoundTool(tool, lambda arguments, seconds: "", ANYTHING) for tool in question.tools]
    return tuple(each.tool for each in Retriever(bound, most).offer(question.messages))


def recall(found: Sequence[Question], most: int) -> float:
    """Share of the questions whose right tool is among those selected."""
    names = [{tool.name for tool in selected(each, most)} for each in found]
    return sum(each.expected.name in own for each, own in zip(found, names, strict=True)) / len(found)


def measured(chat: LocalChat, found: Sequence[Question], most: int) -> Scores | None:
    """Scores with `most` of the tools offered, 0 for all; None if a prompt does not fit."""
    cases = [Case(each.messages, selected(each, most) if most else each.tools, each.expected) for each in found]
    longest = max(len(chat.renderer.prompt_tokens(case.messages, case.tools)) for case in cases)
    if chat.engine.context is not None and longest + 96 > chat.engine.context:
        return None
    return scores(judge_all(chat, cases))


def print_recall(count: int, others: Sequence[Tool]) -> None:
    print(f"\n| tools | language | {' | '.join(f'right tool among {most}' for most in SELECTIONS)} |")
    print(f"|---|---|{'---|' * len(SELECTIONS)}", flush=True)
    for size in SIZES:
        for language, chinese in (("English", 0.0), ("Chinese", 1.0)):
            found = questions(count, size, others, chinese)
            print(f"| {size} | {language} | {' | '.join(f'{recall(found, most):.0%}' for most in SELECTIONS)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=60, help="questions for a model")
    parser.add_argument("--recall_cases", type=int, default=200, help="questions for the selection; 0 leaves it out")
    parser.add_argument("--ckpt_dir", help="a checkpoint of `swift demo` or another one")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of tools for a model")
    parser.add_argument("--offered", type=int, nargs="+", default=(0, *SELECTIONS), help="tools to offer; 0 is all")
    parser.add_argument("--base", action="store_true", help="measure the base model too")
    args = parser.parse_args()
    others = pool()
    print(f"{len(others)} tools")
    if args.recall_cases:
        print_recall(args.recall_cases, others)
    for folder in [None] * args.base + [args.ckpt_dir] * bool(args.ckpt_dir):
        loaded = BackendFlags(ckpt_dir=folder)
        model = ModelFlags() if folder else ModelFlags(model_id_or_path=MODEL)
        chat = load_chat(infer.Config(model=model, backend=loaded))
        print(f"\n{folder or MODEL}: {args.cases} English questions, greedy; right tool, right arguments too\n")
        print(f"| tools | {' | '.join(f'{most} selected' if most else 'all offered' for most in args.offered)} |")
        print(f"|---|{'---|' * len(args.offered)}", flush=True)
        for size in args.sizes:
            found = questions(args.cases, size, others, 0.0)
            cells = []
            for most in args.offered:
                if most >= size:
                    cells.append("the same")
                    continue
                each = measured(chat, found, most)
                cells.append(f"{each.tool_correct:.0%}, {each.arguments_correct:.0%}" if each else "does not fit")
            print(f"| {size} | {' | '.join(cells)} |", flush=True)
        chat.engine.close()


if __name__ == "__main__":
    main()
