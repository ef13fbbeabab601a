"""Clients of all chat routes at once, streamed and whole: no reply is lost or mixed up, and memory stays flat.

    python benchmarks/mixed_routes.py --clients 20 --minutes 0.5                        # a random model of two layers
    python benchmarks/mixed_routes.py --clients 64 --minutes 10 --model smollm2-135m-instruct

Each client asks one question after another, on routes in turns: chat completions, completions, Responses, Messages.
Every third reply is asked for whole, the others are streamed. Each question has a number, and is asked alone first:
decoding is greedy, so the reply under load must be the same. A reply is lost if it is an error or its stream ends
without the last event of its format, mixed up if it is that of another question, and different if it is neither; float
rounding, which depends on the batch, can cause the last. Exits with 1 if a reply is lost or mixed up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

ROOT = Path(__file__).resolve().parent.parent


class Route(NamedTuple):
    """`last`: what the last event contains. `delta`, `whole`: the path of the text in an event, and in a response."""

    path: str
    last: str
    delta: tuple[str | int, ...]
    whole: tuple[str | int, ...]

    def body(self, model: str, question: str, tokens: int, stream: bool = True) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model, "stream": stream, "temperature": 0}
        if self.path.endswith("/responses"):
            return {**body, "input": question, "max_output_tokens": tokens, "store": False}
        if self.path.endswith("/completions") and "chat" not in self.path:
            return {**body, "prompt": question, "max_tokens": tokens}
        return {**body, "messages": [{"role": "user", "content": question}], "max_tokens": tokens}


def text_at(path: tuple[str | int, ...], data: str) -> str:
    """The text at a path of JSON, "" if there is none."""
    value: Any = json.loads(data)
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return ""
    return value if isinstance(value, str) else ""


ROUTES = (
    Route("/v1/chat/completions", "[DONE]", ("choices", 0, "delta", "content"), ("choices", 0, "message", "content")),
    Route("/v1/completions", "[DONE]", ("choices", 0, "text"), ("choices", 0, "text")),
    Route("/v1/responses", '"type":"response.', ("delta",), ("output", -1, "content", 0, "text")),
    Route("/v1/messages", '"message_stop"', ("delta", "text"), ("content", 0, "text")),
)


class Reply(NamedTuple):
    text: str
    complete: bool
    first: float  # seconds
    error: str = ""


async def ask(http: httpx.AsyncClient, route: Route, body: dict[str, Any]) -> Reply:
    began, first, said, last = time.perf_counter(), 0.0, "", ""
    try:
        async with http.stream("POST", route.path, json=body) as answer:
            if answer.status_code != 200:
                return Reply("", False, 0.0, f"{answer.status_code}: {(await answer.aread()).decode()[:200]}")
            if not body["stream"]:
                said = text_at(route.whole, (await answer.aread()).decode())
                return Reply(said, True, time.perf_counter() - began)
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    last = line[6:]
                    text = "" if last == "[DONE]" else text_at(route.delta, last)
                    first = first or (time.perf_counter() - began if text else 0.0)
                    said += text
    except httpx.HTTPError as error:
        return Reply(said, False, first, f"{type(error).__name__}: {error}")
    return Reply(said, route.last in last.replace(": ", ":"), first)


async def load(url: str, process: int, options: argparse.Namespace) -> int:
    """Returns the exit code."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        routes = [route for route in ROUTES if await offered(http, route, model)]
        questions = [
            f"Question {number}: what is {number * 7} and {number * 13 % 100}?" for number in range(options.questions)
        ]
        alone: dict[tuple[str, str], str] = {}
        for route in routes:
            for question in questions:
                reply = await ask(http, route, route.body(model, question, options.tokens))
                if not reply.complete:
                    print(f"{route.path} alone: no complete reply: {reply.error or reply.text!r}")
                    return 1
                alone[route.path, question] = reply.text
        print(f"{len(set(alone.values()))} different replies to {len(alone)} questions asked alone")
        found: Counter[str] = Counter()
        firsts: list[float] = []  # of streams
        memory = [resident(process)]
        end = time.monotonic() + options.minutes * 60

        async def client(number: int) -> None:
            turn = number
            while time.monotonic() < end:
                route, question = routes[turn % len(routes)], questions[turn * 7 % len(questions)]
                stream = turn % 3 != 2
                turn += 1
                reply = await ask(http, route, route.body(model, question, options.tokens, stream))
                found[outcome(reply, route, question, alone)] += 1
                found[route.path] += 1
                found["streamed" if stream else "whole"] += 1
                firsts.extend([reply.first] if stream else [])

        async def watch() -> None:
            while time.monotonic() < end:
                await asyncio.sleep(min(5.0, options.minutes * 12))
                memory.append(resident(process))

        await asyncio.gather(watch(), *(client(number) for number in range(options.clients)))
    print(f"{options.clients} clients, {options.minutes:g} min, {options.tokens} tokens each:")
    print("  ".join(f"{name} {found[name]}" for name in ("streamed", "whole", *(route.path for route in routes))))
    print("  ".join(f"{name} {found[name]}" for name in ("right", "different", "mixed up", "lost")))
    print(f"first text after {statistics.median(firsts):.3f} s (median), {max(firsts):.3f} s (longest)")
    print(f"memory {' '.join(f'{each >> 20}' for each in memory)} MB")
    return int(bool(found["lost"] or found["mixed up"]))


async def offered(http: httpx.AsyncClient, route: Route, model: str) -> bool:
    return (await http.post(route.path, json=route.body(model, "x", 1))).status_code == 200


def outcome(reply: Reply, route: Route, question: str, alone: dict[tuple[str, str], str]) -> str:
    if not reply.complete:
        print(f"lost: {route.path}: {reply.error or reply.text!r}")
        return "lost"
    if reply.text == alone[route.path, question]:
        return "right"
    return "mixed up" if reply.text in alone.values() else "different"


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def served(model: str | None) -> Iterator[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        named = ["--model_type", model] if model else ["--model_id_or_path", str(random_model(Path(folder)))]
        command = [sys.executable, "-m", "swift.cli", "deploy", *named, "--port", "0", "--dtype", "fp32"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout
            ready = next((line for line in process.stdout if "ready at" in line), "")
            if not ready:
                sys.exit(f"the server did not start: {' '.join(command)}")
            yield ready.split("ready at ")[1].strip().removesuffix("/v1"), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def random_model(folder: Path) -> Path:
    """The model of two layers that the tests use, with a chat template and with weights so large that replies depend on
    the question. No reply ends early."""
    sys.path.insert(0, str(ROOT / "tests"))
    import tiny
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny.tiny_model_folder(folder, initializer_range=0.2))
    end = tiny.tiny_tokenizer().eos_token_id
    with torch.no_grad():
        model.get_output_embeddings().weight[end] = 0  # a logit of 0 is never the largest
    model.save_pretrained(folder)
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = tiny.CHATML
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--tokens", type=int, default=24, help="the longest reply")
    parser.add_argument("--questions", type=int, default=20, help="different questions, each asked alone on each route")
    parser.add_argument("--model", help="a model_type; none: a random model of two layers")
    options = parser.parse_args()
    with served(options.model) as (url, process):
        code = asyncio.run(load(url, process, options))
    sys.exit(code)


if __name__ == "__main__":
    main()
