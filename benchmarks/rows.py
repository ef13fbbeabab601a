"""Rows for training and dialogues for serving: agent conversations of the shapes that the benchmarks name."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from swift.data.synth import Entry, agent_rows, catalogue, fill, system_text

Message = dict[str, str]
Count = Callable[[str], int]
"""Tokens of a text."""

AROUND = 5
"""Tokens that ChatML puts around a message."""
LENGTHS = (1500, 4000)
"""The least and the most tokens of a row of shape "agent"."""
RECORDS = 12
"""The most records that a tool gives back where observations are long."""


def short(count: int) -> Iterator[list[Message]]:
    """Rows as the project makes them for its tutorial: two to four tools each, some hundred tokens."""
    for row in agent_rows(count, seed=0):
        yield [{"role": message.role, "content": message.content} for message in row.messages]


def agent(count: int, tokens: Count, tools: int = 20) -> Iterator[list[Message]]:
    """Rows of LENGTHS tokens that share one system prompt with many tools, and whose tools give back many records."""
    draw = random.Random(0)
    offered = offer(tools)
    system = {"role": "system", "content": system_text(offered)}
    rounds = _rounds(offered, draw)
    for _ in range(count):
        messages, target = [system], draw.randint(*LENGTHS)
        length = tokens(system["content"]) + AROUND
        while True:
            turns = next(rounds)
            more = sum(tokens(each["content"]) + AROUND for each in turns)
            if (length + more > target and length >= LENGTHS[0]) or length + more > LENGTHS[1]:
                break
            messages += turns
            length += more
        yield messages


def offer(tools: int) -> list[Entry]:
    """So many tools of the catalogue, the same ones each time."""
    return random.Random(0).sample(catalogue(), tools)


def records(entry: Entry, draw: random.Random) -> str:
    """What a tool gives back: a JSON list of one to RECORDS results of its kind."""
    found: list[dict[str, Any]] = [
        {key: fill(draw.choice(values), draw) for key, values in entry.result.items()}
        for _ in range(draw.randint(1, RECORDS))
    ]
    return json.dumps(found)


def _rounds(offered: list[Entry], draw: random.Random) -> Iterator[list[Message]]:
    """Questions and answers that use these tools alone, with long observations."""
    by_name = {entry.name: entry for entry in offered}

    def longer(call: re.Match[str]) -> str:
        return f"{call[1]}Observation: {records(by_name[call[2]], draw)}\n"

    for seed in range(1, 1 << 30):
        for held_out in (False, True):
            for row in agent_rows(200, seed, held_out=held_out, rounds=(1, 1)):
                _, question, answer = row.messages
                called = re.findall(r"^Action: (\w+)$", answer.content, re.MULTILINE)
                if called and set(called) <= set(by_name):
                    text = re.sub(r"(Action: (\w+)\nAction Input: .*\n)Observation:\s*.*\n", longer, answer.content)
                    yield [{"role": "user", "content": question.content}, {"role": "assistant", "content": text}]


def question(entry: Entry, draw: random.Random) -> str:
    """A question for a tool, in English."""
    template = draw.choice(entry.ask)
    return template.format(**{name: fill(draw.choice(param.values), draw) for name, param in entry.params.items()})
