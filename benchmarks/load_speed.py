"""Servers under an agent's load, through HTTP: requests/s, time to the first token by turn, latency of a token.

    python benchmarks/load_speed.py --cache ~/.cache/swift-benchmarks --rates 0.5 1 2

`swift deploy`, vLLM's server and, since OpenVINO has no server among Python's packages, the least one around its
continuous batching (openvino_server.py). Dialogues begin at random moments (Poisson, the same ones for each server), as
many as offer so many requests a second. Each has three turns: a system prompt with 30 tools, which all dialogues share,
and a question, 2,000 tokens together; then twice what the server said and what a tool gave back, each --pause seconds
after the answer, so that every turn begins with the tokens of the one before. Answers are greedy and --new tokens long.
The client runs on the same machine, with a connection for each request.
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
"""What the client says in each turn; the first text is the system prompt."""


class Answer(NamedTuple):
    """Of one request: seconds to the first text and from there to the last, tokens as the server counts them."""

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
    """What one server made of one rate. `seconds`: from the first request to the end of the last answer."""

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
            asked = servers.Asked(args.shape, args.cache, servers.free_port(), args.threads, args.streams)
            with servers.running(contender, asked, args.kernels, args.timeout) as server:
                cold, loads[name] = asyncio.run(measured(server.url, args, name))
                starts[name] = f"{server.ready_s:.1f} | {cold.first_s:.2f} | {server.peak_gib:.2f}"
            if contender.peer in environments.RECIPES:
                versions[contender.peer] = environments.version(contender.peer, args.cache)
        except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
            starts[name] = f"not measured: {error} | |"
            print(f"{name}: {error}", file=sys.stderr)
    print("\n" + machine.headline(args.kernels, args.threads, versions))
    print(f"{shapes.title(args.shape)}; answers of {args.new} tokens, {args.pause} s between turns\n")
    tell(loads, starts)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_flags(parser)
    parser.add_argument("--shape", choices=shapes.CHOICES, default=shapes.BUNDLED)
    parser.add_argument("--contenders", nargs="+", choices=list(servers.CONTENDERS), default=list(servers.CONTENDERS))
    parser.add_argument("--rates", nargs="+", type=float, default=[0.5, 1.0, 2.0, 4.0], help="requests/s offered")
    parser.add_argument("--seconds", type=float, default=30, help="during which dialogues of a rate begin")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds that a tool takes")
    parser.add_argument("--streams", type=int, default=32, help="the most requests that a server answers together")
    parser.add_argument("--threads", type=int, default=machine.default_threads())
    parser.add_argument("--timeout", type=float, default=600, help="seconds that a start or an answer may take")
    args = parser.parse_args()
    machine.check(parser, args.kernels)
    args.cache = args.cache.expanduser()
    return args


# --- the load ------------------------------------------------------------------------------------------------------


async def measured(url: str, args: argparse.Namespace, name: str) -> tuple[Answer, list[Load]]:
    """The first answer after the start, and what became of each rate."""
    talks = Talks()
    loads = []
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=args.timeout, limits=limits) as client:
        model = (await client.get(f"{url}/models")).json()["data"][0]["id"]

        async def ask(messages: Sequence[rows.Message], turn: int) -> Answer:
            return await answer(client, url, model, messages, turn, args.new)

        (cold, *_) = await dialogue(ask, talks.next(), args.pause)
        for rate in args.rates:
            loads.append(await load(ask, talks, rate, args))
            print(f"{name}: {rate} requests/s: {', '.join(cells_of(loads[-1]))}", file=sys.stderr)
    return cold, loads


Ask = Callable[[Sequence[rows.Message], int], "asyncio.Future[Answer]"]


async def load(ask: Ask, talks: Talks, rate: float, args: argparse.Namespace) -> Load:
    """Dialogues that begin at random moments of --seconds, the same moments for every server."""
    draw = random.Random(int(rate * 1000))
    count = max(TURNS, round(rate / TURNS * args.seconds))
    moments, at = [], 0.0
    for _ in range(count):
        moments.append(at)
        at += draw.expovariate(rate / TURNS)
    failed: list[str] = []

    async def one(moment: float, said: Dialogue) -> list[Answer]:
        await asyncio.sleep(moment)
        try:
            return await dialogue(ask, said, args.pause)
        except (httpx.HTTPError, RuntimeError) as error:
            failed.append(str(error) or type(error).__name__)
            return []

    began = time.monotonic()
    answers = await asyncio.gather(*(one(moment, talks.next()) for moment in moments))
    return Load(rate, time.monotonic() - began, [each for dialogue in answers for each in dialogue], failed)


async def dialogue(ask: Ask, said: Dialogue, pause: float) -> list[Answer]:
    messages = [{"role": "system", "content": said[0]}]
    answers = []
    for turn, text in enumerate(said[1:], 1):
        messages.append({"role": "user", "content": text})
        answers.append(await ask(messages, turn))
        messages.append({"role": "assistant", "content": answers[-1].text})
        if turn < len(said) - 1:
            await asyncio.sleep(pause)
    return answers


async def answer(
    client: httpx.AsyncClient, url: str, model: str, messages: Sequence[rows.Message], turn: int, new: int
) -> Answer:
    """One request, streamed. Raises RuntimeError for a refusal or a stream without its count of tokens."""
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


class Talks:
    """The dialogues, one after the other the same for every server."""

    def __init__(self) -> None:
        from transformers import AutoTokenizer

        from swift.model import bundled

        self._tokenizer = AutoTokenizer.from_pretrained(bundled.unpack())
        self._tools = rows.offer(TOOLS)
        self._system = rows.system_text(self._tools)
        self._draw = random.Random(0)

    def next(self) -> Dialogue:
        """A system prompt, a question with as much context as makes PROMPT tokens, and what tools give back."""
        question = rows.question(self._draw.choice(self._tools), self._draw)
        while self._tokens(self._system) + self._tokens(question) < PROMPT - 4 * rows.AROUND:
            question = f"{rows.records(self._draw.choice(self._tools), self._draw)}\n{question}"
        results = [rows.records(self._draw.choice(self._tools), self._draw) for _ in range(TURNS - 1)]
        return [self._system, question, *(f"Observation: {result}" for result in results)]

    def _tokens(self, text: str) -> int:
        return len(self._tokenizer(text)["input_ids"])


# --- telling -------------------------------------------------------------------------------------------------------


def tell(loads: dict[str, list[Load]], starts: dict[str, str]) -> None:
    print("| | start to ready, s | first token of the first prompt, s | peak GiB |\n|---|---:|---:|---:|")
    for name, start in starts.items():
        print(f"| {name} | {start} |")
    turns = [f"first token, turn {turn}, s" for turn in range(1, TURNS + 1)]
    heads = ["requests/s offered", "served", "tokens/s", *turns, "ms a token", "tokens of prompts", "failed"]
    print(f"\n| | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name, of_rates in loads.items():
        for each in of_rates:
            print(f"| {name} | {each.rate:g} | {' | '.join(cells_of(each))} |")
    print("\nTwo figures: the median and the 95th percentile.")


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
