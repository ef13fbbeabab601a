"""Servers under an agent's load over HTTP: requests/s, time to the first token by turn, time per token.

    python benchmarks/load_speed.py --cache ~/.cache/swift-benchmarks --rates 0.5 1 2

The servers are `swift deploy`, vLLM's, and a minimal one around OpenVINO's continuous batching (openvino_server.py),
because no Python package has a server for OpenVINO. Dialogues arrive at random times (Poisson, the same for each
server) at the offered rate. Each has three turns: a system prompt with 30 tools, which all dialogues share, and a
question, 2,000 tokens in total; then twice a tool result, --pause seconds after the reply, so that the prompt of every
turn begins with the tokens of the previous one. Decoding is greedy and replies are --new tokens long. The client runs
on the same machine, with one connection per request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import environments
import httpx
import machine
import rows
import servers
import shapes

TOOLS = 30
PROMPT = 2000
"""Tokens of a dialogue's first prompt."""
TURNS = 3

Dialogue = list[str]
"""The client's message of each turn; the first text is the system prompt."""


class Answer(NamedTuple):
    """One request: seconds to the first text and from there to the last, tokens as the server counts them."""

    turn: int
    first_s: float
    rest_s: float
    prompt_tokens: int
    tokens: int
    text: str

    @property
    def per_token_s(self) -> float:
        return self.rest_s / max(self.tokens - 1, 1)


class Load(NamedTuple):
    """Results of one server at one rate. `seconds`: from the first request to the end of the last reply."""

    rate: float
    seconds: float
    answers: list[Answer]
    failed: list[str]


def main() -> None:
    args = parse()
    args.cache.mkdir(parents=True, exist_ok=True)
    versions = {**machine.versions("torch", "transformers")}
    loads: dict[str, list[Load]] = {}
    starts: dict[str, str] = {}
    for name in args.contenders:
        contender = servers.CONTENDERS[name]
        try:
            options = servers.Options(args.shape, args.cache, servers.free_port(), args.threads, args.streams)
            with servers.running(contender, options, args.kernels, args.timeout) as server:
                cold, loads[name] = asyncio.run(measure(server.url, args, name))
                starts[name] = f"{server.ready_s:.1f} | {cold.first_s:.2f} | {server.peak_gib:.2f}"
            if contender.peer in environments.RECIPES:
                versions[contender.peer] = environments.version(contender.peer, args.cache)
        except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
            starts[name] = f"not measured: {error} | |"
            print(f"{name}: {error}", file=sys.stderr)
    print("\n" + machine.headline(args.kernels, args.threads, versions))
    print(f"{shapes.title(args.shape)}; answers of {args.new} tokens, {args.pause} s between turns\n")
    print_tables(loads, starts)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    servers.add_flags(parser, list(servers.CONTENDERS))
    parser.add_argument("--rates", nargs="+", type=float, default=[0.5, 1.0, 2.0, 4.0], help="offered requests/s")
    parser.add_argument("--seconds", type=float, default=30, help="time in which the dialogues of a rate begin")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between a reply and the next turn")
    return servers.parse(parser)


# --- the load ------------------------------------------------------------------------------------------------------


async def measure(url: str, args: argparse.Namespace, name: str) -> tuple[Answer, list[Load]]:
    """The first reply after the start, and the load of each rate."""
    dialogues = Dialogues()
    loads = []
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=args.timeout, limits=limits) as client:
        model = (await client.get(f"{url}/models")).json()["data"][0]["id"]

        async def ask(messages: Sequence[rows.Message], turn: int) -> Answer:
            return await answer(client, url, model, messages, turn, args.new)

        (cold, *_) = await dialogue(ask, dialogues.next(), args.pause)
        for rate in args.rates:
            loads.append(await load(ask, dialogues, rate, args))
            print(f"{name}: {rate} requests/s: {', '.join(cells_of(loads[-1]))}", file=sys.stderr)
    return cold, loads


Ask = Callable[[Sequence[rows.Message], int], "asyncio.Future[Answer]"]


async def load(ask: Ask, dialogues: Dialogues, rate: float, args: argparse.Namespace) -> Load:
    """Runs dialogues that begin at random times within --seconds, the same for every server."""
    rng = random.Random(int(rate * 1000))
    count = max(TURNS, round(rate / TURNS * args.seconds))
    moments, at = [], 0.0
    for _ in range(count):
        moments.append(at)
        at += rng.expovariate(rate / TURNS)
    failed: list[str] = []

    async def one(moment: float, texts: Dialogue) -> list[Answer]:
        await asyncio.sleep(moment)
        try:
            return await dialogue(ask, texts, args.pause)
        except (httpx.HTTPError, RuntimeError) as error:
            failed.append(str(error) or type(error).__name__)
            return []

    began = time.monotonic()
    answers = await asyncio.gather(*(one(moment, dialogues.next()) for moment in moments))
    return Load(rate, time.monotonic() - began, [each for dialogue in answers for each in dialogue], failed)


async def dialogue(ask: Ask, texts: Dialogue, pause: float) -> list[Answer]:
    messages = [{"role": "system", "content": texts[0]}]
    answers = []
    for turn, text in enumerate(texts[1:], 1):
        messages.append({"role": "user", "content": text})
        answers.append(await ask(messages, turn))
        messages.append({"role": "assistant", "content": answers[-1].text})
        if turn < len(texts) - 1:
            await asyncio.sleep(pause)
    return answers


async def answer(
    client: httpx.AsyncClient, url: str, model: str, messages: Sequence[rows.Message], turn: int, new: int
) -> Answer:
    """One streamed request. Raises RuntimeError for an error status or a stream without usage."""
    body = {
        **{"model": model, "messages": messages, "max_tokens": new, "temperature": 0, "ignore_eos": True},
        **{"stream": True, "stream_options": {"include_usage": True}},
    }
    began = time.monotonic()
    first = last = 0.0
    text, usage = "", {}
    async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"status {response.status_code}: {(await response.aread()).decode()[:150]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[len("data: ") :])
            usage = event.get("usage") or usage
            if piece := "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ())):
                text, last = text + piece, time.monotonic()
                first = first or last
    if not usage:
        raise RuntimeError("a stream ended without usage")
    return Answer(turn, first - began, last - first, usage["prompt_tokens"], usage["completion_tokens"], text)


class Dialogues:
    """A sequence of dialogues, the same for every server."""

    def __init__(self) -> None:
        from transformers import AutoTokenizer

        from swift.model import bundled

        self._tokenizer = AutoTokenizer.from_pretrained(bundled.unpack())
        self._tools = rows.sample_tools(TOOLS)
        self._system = rows.system_text(self._tools)
        self._rng = random.Random(0)

    def next(self) -> Dialogue:
        """A system prompt, a question padded to PROMPT tokens with records, and tool results."""
        question = rows.question(self._rng.choice(self._tools), self._rng)
        while self._tokens(self._system) + self._tokens(question) < PROMPT - 4 * rows.MESSAGE_OVERHEAD:
            question = f"{rows.records(self._rng.choice(self._tools), self._rng)}\n{question}"
        results = [rows.records(self._rng.choice(self._tools), self._rng) for _ in range(TURNS - 1)]
        return [self._system, question, *(f"Observation: {result}" for result in results)]

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer(text)["input_ids"])


# --- tables --------------------------------------------------------------------------------------------------------


def print_tables(loads: dict[str, list[Load]], starts: dict[str, str]) -> None:
    print("| | start to ready, s | first token of the first prompt, s | peak GiB |\n|---|---:|---:|---:|")
    for name, start in starts.items():
        print(f"| {name} | {start} |")
    turns = [f"first token, turn {turn}, s" for turn in range(1, TURNS + 1)]
    heads = ["requests/s offered", "served", "tokens/s", *turns, "ms a token", "tokens of prompts", "failed"]
    print(f"\n| | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name, of_rates in loads.items():
        for each in of_rates:
            print(f"| {name} | {each.rate:g} | {' | '.join(cells_of(each))} |")
    print("\nPairs of figures are the median and the 95th percentile.")


def cells_of(load: Load) -> list[str]:
    answers = load.answers
    if not answers:
        return [*[""] * (TURNS + 4), f"{len(load.failed)}: {load.failed[0][:100]}"]
    turns = [[each for each in answers if each.turn == turn] for turn in range(1, TURNS + 1)]
    prompts = [f"{statistics.mean(each.prompt_tokens for each in turn):,.0f}" for turn in turns if turn]
    return [
        f"{len(answers) / load.seconds:.2f}",
        f"{sum(each.tokens for each in answers) / load.seconds:,.0f}",
        *(spread([each.first_s for each in turn], ".2f") for turn in turns),
        spread([each.per_token_s * 1000 for each in answers], ".0f"),
        " ".join(prompts),
        str(len(load.failed)),
    ]


def spread(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    late = sorted(values)[min(round(0.95 * len(values)), len(values) - 1)]
    return f"{statistics.median(values):{form}} {late:{form}}"


if __name__ == "__main__":
    main()
