"""Agent conversations of chosen lengths: training rows and dialogues for serving."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from swift.data.demo_rows import agent_rows, system_text
from swift.data.demo_tools import CatalogueTool, catalogue, fill

Message = dict[str, str]
Count = Callable[[str], int]
"""Returns the number of tokens of a text."""

MESSAGE_OVERHEAD = 5
"""Tokens that ChatML adds to a message."""
ROW_TOKENS = (1500, 4000)
"""Minimum and maximum tokens of a row of shape "agent"."""
RECORDS = 12
"""Maximum records of a long tool result."""


def short(count: int) -> Iterator[list[Message]]:
    """Rows as the demo generates them: two to four tools each, some hundred tokens."""
    for row in agent_rows(count, seed=0):
        yield [{"role": message.role, "content": message.content} for message in row.messages]


def agent(count: int, tokens: Count, tools: int = 20) -> Iterator[list[Message]]:
    """Rows of ROW_TOKENS tokens that share one system prompt with many tools, with long tool results."""
    rng = random.Random(0)
    offered = sample_tools(tools)
    system = {"role": "system", "content": system_text(offered)}
    rounds = _rounds(offered, rng)
    for _ in range(count):
        messages, target = [system], rng.randint(*ROW_TOKENS)
        length = tokens(system["content"]) + MESSAGE_OVERHEAD
        while True:
            turns = next(rounds)
            more = sum(tokens(each["content"]) + MESSAGE_OVERHEAD for each in turns)
            if (length + more > target and length >= ROW_TOKENS[0]) or length + more > ROW_TOKENS[1]:
                break
            messages += turns
            length += more
        yield messages


def sample_tools(tools: int) -> list[CatalogueTool]:
    """A fixed sample of the catalogue's tools."""
    return random.Random(0).sample(catalogue(), tools)


def records(entry: CatalogueTool, rng: random.Random) -> str:
    """A tool result: a JSON list of one to RECORDS records of the tool's kind."""
    found: list[dict[str, Any]] = [
        {key: fill(rng.choice(values), rng) for key, values in entry.result.items()}
        for _ in range(rng.randint(1, RECORDS))
    ]
    return json.dumps(found)


def _rounds(offered: list[CatalogueTool], rng: random.Random) -> Iterator[list[Message]]:
    """Questions and replies that use only these tools, with long observations."""
    by_name = {entry.name: entry for entry in offered}

    def longer(call: re.Match[str]) -> str:
        return f"{call[1]}Observation: {records(by_name[call[2]], rng)}\n"

    for seed in range(1, 1 << 30):
        for held_out in (False, True):
            for row in agent_rows(200, seed, held_out=held_out, rounds=(1, 1)):
                _, question, answer = row.messages
                called = re.findall(r"^Action: (\w+)$", answer.content, re.MULTILINE)
                if called and set(called) <= set(by_name):
                    text = re.sub(r"(Action: (\w+)\nAction Input: .*\n)Observation:\s*.*\n", longer, answer.content)
                    yield [{"role": "user", "content": question.content}, {"role": "assistant", "content": text}]


def question(entry: CatalogueTool, rng: random.Random) -> str:
    """A question for a tool, in English."""
    template = rng.choice(entry.ask)
    return template.format(**{name: fill(rng.choice(param.values), rng) for name, param in entry.params.items()})
