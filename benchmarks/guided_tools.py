"""How often are tool calls right with and without a grammar? Trains an adapter for some minutes, then measures.

    python benchmarks/guided_tools.py --agent_template hermes --minutes 2

The questions need tools that are not in the training data. `free` does not constrain the reply, `auto` constrains calls
to the offered tools and their schemas once the reply begins one, `required` forces a call at once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

from jsonschema import Draft202012Validator

from swift import flags
from swift.agent.arguments import json_arguments
from swift.agent.schemas import argument_schema
from swift.assembly.loading import load_chat
from swift.chat import Message, Tool, ToolCall
from swift.commands import infer, sft
from swift.data.demo_rows import agent_rows, evaluation_cases
from swift.data.row_writer import write_jsonl
from swift.engine.sampling import SamplingParams
from swift.flag_groups import BackendFlags
from swift.guided.grammar import Rules
from swift.infer.chat import collect
from swift.infer.local_chat import LocalChat

MODEL = "smollm2-135m-instruct"
CONCURRENT = 8


class Judgement(NamedTuple):
    """Which properties one reply has; each implies the previous one."""

    called: bool
    offered: bool
    matches: bool
    right_tool: bool
    right_arguments: bool


def train(form: str, minutes: float, rows: int) -> str:
    """Trains an adapter for a tool-call format on the tools of the other half of the catalogue; returns its folder."""
    home = Path(mkdtemp(prefix="guided-"))
    write_jsonl(agent_rows(rows, seed=1, style="messages", rounds=(1, 2)), home / "rows.jsonl")
    wanted = {
        **{"model_type": MODEL, "agent_template": form, "max_length": 1024, "dataset": [str(home / "rows.jsonl")]},
        **{"lora_rank": 8, "lora_alpha": 32, "lora_dropout_p": 0.0, "lora_target_modules": ["ALL"]},
        **{"output_dir": str(home / "train"), "batch_size": 2, "gradient_accumulation_steps": 2},
        **{"max_minutes": minutes, "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "max_grad_norm": 1.0},
        "eval_strategy": "no",
    }
    saved = sft.main(flags.from_dict(sft.Config, wanted))
    folder = saved["last_model_checkpoint"]
    print(f"adapter: {folder}")
    return str(folder)


def judge(calls: Sequence[ToolCall], tools: Sequence[Tool], right: ToolCall) -> Judgement:
    written = [json_arguments(call.arguments) for call in calls]
    called = bool(calls) and not any(each.reason for each in written)
    by_name = {tool.name: tool for tool in tools}
    offered = called and all(call.name in by_name for call in calls)
    matches = offered and all(
        Draft202012Validator(argument_schema(by_name[call.name])).is_valid(json.loads(each.text))
        for call, each in zip(calls, written, strict=True)
    )
    tool = offered and calls[0].name == right.name
    same = tool and json.loads(written[0].text) == json.loads(right.arguments)
    return Judgement(called, offered, matches, tool, same)


def ask(chat: LocalChat, cases: Sequence[tuple[object, ToolCall]], mode: str) -> tuple[list[Judgement], float, float]:
    def one(case: tuple[object, ToolCall]) -> tuple[Judgement, int]:
        row, right = case
        messages: tuple[Message, ...] = row.messages  # type: ignore[attr-defined]
        tools: tuple[Tool, ...] = row.tools  # type: ignore[attr-defined]
        params = SamplingParams(temperature=0.0, max_tokens=128)
        if mode != "free":
            params = replace(params, guide=chat.guide(Rules(tools, required=mode == "required")))
        reply = collect(chat(messages, tools, params))
        calls = reply.message.tool_calls if reply.finish == "tool_calls" else ()
        return judge(calls, tools, right), reply.usage.completion_tokens

    began = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENT) as pool:
        results = list(pool.map(one, cases))
    seconds = time.perf_counter() - began
    return [judgement for judgement, _ in results], sum(tokens for _, tokens in results) / seconds, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent_template", default="react_en")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--cases", type=int, default=100, help="number of questions; 0 trains only")
    parser.add_argument("--ckpt_dir", help="an existing adapter; by default one is trained")
    args = parser.parse_args()
    folder = args.ckpt_dir or train(args.agent_template, args.minutes, args.rows)
    if not args.cases:
        return
    chat = load_chat(infer.Config(backend=BackendFlags(ckpt_dir=folder)))
    cases = evaluation_cases(args.cases, seed=7, style="messages")
    print(f"{chat.renderer.format_name}, {len(cases)} cases, greedy\n")
    print("| | a call with JSON | of an offered tool | matches its schema | right tool | all right | tokens/s |")
    print("|---|---|---|---|---|---|---|")
    for mode in ("free", "auto", "required"):
        judgements, speed, _ = ask(chat, cases, mode)
        shares = [f"{sum(column) / len(judgements):.0%}" for column in zip(*judgements, strict=True)]
        print(f"| {mode} | {' | '.join(shares)} | {speed:.0f} |", flush=True)
    chat.engine.close()


if __name__ == "__main__":
    main()
