"""Time to the first token of a coding agent's third turn, over /v1/messages and /v1/chat/completions of a server.

    swift deploy --model smollm2-135m-agent --port 8000
    python benchmarks/coding_agent.py --url http://127.0.0.1:8000 --model smollm2-135m-agent --system_words 2000

The requests have the shape of a coding agent's: a long system prompt, thirty tools, and a dialogue that is sent again
with each turn and in which the agent calls two tools at a time. The dialogue is fixed, so that all models get the same;
the first token is whatever the model says. Each run begins with a system prompt of its own, which no cache has. The
prefix cache should leave the new messages alone to compute in the second and the third turn.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx

APIS = ("messages", "chat completions")
TOOLS = 30
RULES = (
    "Read a file before you change it. Keep lines below 120 characters. Run the tests after each change and report "
    "what failed. Never remove a test to make it pass. Prefer small functions and plain names. "
)


class Turn(NamedTuple):
    """`prompt`: its tokens, of which the prefix cache had `cached`. `first`: seconds to the first token."""

    prompt: int
    cached: int
    first: float


def parameters(index: int) -> dict[str, Any]:
    path = {"type": "string", "description": f"A path in the repository, for operation {index}."}
    return {"type": "object", "properties": {"path": path, "line": {"type": "integer"}}, "required": ["path"]}


def system_prompt(words: int, session: str) -> str:
    """About so many words. `session` comes first: prompts of two sessions share no prefix."""
    rules = RULES.split()
    return f"Session {session}. You edit code. " + " ".join((rules * (words // len(rules) + 1))[:words])


class Step(NamedTuple):
    """A question of the user, and the paths of the two files that the agent then reads at once, with their text."""

    question: str
    files: tuple[tuple[str, str], tuple[str, str]]


STEPS = (
    Step("Why does parse() fail?", (("parse.py", "def parse(text): return int(text)"), ("test.py", "parse('1.5')"))),
    Step("Do others call it?", (("main.py", "from parse import parse"), ("cli.py", "import main"))),
    Step("Then change it to float.", (("parse.py", ""), ("test.py", ""))),
)


def messages_body(turn: int, system: str) -> dict[str, Any]:
    """The request of a turn (0, 1, 2) in Anthropic's format."""
    said: list[dict[str, Any]] = []
    for number, step in enumerate(STEPS[: turn + 1]):
        said.append({"role": "user", "content": [{"type": "text", "text": step.question}]})
        if number < turn:
            calls, results = [], []
            for place, (path, text) in enumerate(step.files):
                call = f"call_{number}_{place}"
                calls.append({"type": "tool_use", "id": call, "name": "tool_0", "input": {"path": path}})
                results.append({"type": "tool_result", "tool_use_id": call, "content": text})
            said += [{"role": "assistant", "content": calls}, {"role": "user", "content": results}]
            said.append({"role": "assistant", "content": [{"type": "text", "text": f"That was step {number}."}]})
    tools = [
        {"name": f"tool_{index}", "description": f"Operation {index} on a file.", "input_schema": parameters(index)}
        for index in range(TOOLS)
    ]
    cached = {"cache_control": {"type": "ephemeral"}}  # as coding agents send it
    return {"system": [{"type": "text", "text": system, **cached}], "messages": said, "tools": tools}


def chat_body(turn: int, system: str) -> dict[str, Any]:
    """The same request in OpenAI's format."""
    said: list[dict[str, Any]] = [{"role": "system", "content": system}]
    for number, step in enumerate(STEPS[: turn + 1]):
        said.append({"role": "user", "content": step.question})
        if number < turn:
            calls, results = [], []
            for place, (path, text) in enumerate(step.files):
                call = f"call_{number}_{place}"
                function = {"name": "tool_0", "arguments": json.dumps({"path": path})}
                calls.append({"type": "function", "id": call, "function": function})
                results.append({"role": "tool", "tool_call_id": call, "content": text})
            said += [{"role": "assistant", "content": None, "tool_calls": calls}, *results]
            said.append({"role": "assistant", "content": f"That was step {number}."})
    tools = []
    for index in range(TOOLS):
        described = {"name": f"tool_{index}", "description": f"Operation {index} on a file."}
        tools.append({"type": "function", "function": {**described, "parameters": parameters(index)}})
    return {"messages": said, "tools": tools, "stream_options": {"include_usage": True}}


def ask(url: str, api: str, model: str, body: dict[str, Any], key: str) -> Turn:
    """Streams one reply. Raises httpx.HTTPStatusError for an error of the server."""
    path = "messages" if api == "messages" else "chat/completions"
    request = {"model": model, "max_tokens": 4, "stream": True, **body}
    start, first = time.monotonic(), 0.0
    usage: dict[str, Any] = {}
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.stream("POST", f"{url}/v1/{path}", json=request, headers=headers, timeout=600) as response:
        if response.is_error:
            response.read()
            raise httpx.HTTPStatusError(response.text, request=response.request, response=response)
        for event in _events(response):
            if not first and (event.get("type") == "content_block_start" or _has_text(event)):
                first = time.monotonic() - start
            usage = event.get("usage") or usage
    first = first or time.monotonic() - start  # the reply was empty
    if api == "messages":
        cached = usage.get("cache_read_input_tokens") or 0
        return Turn(usage["input_tokens"] + cached + (usage.get("cache_creation_input_tokens") or 0), cached, first)
    return Turn(usage["prompt_tokens"], (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0, first)


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        data = line.removeprefix("data: ")
        if data != line and data != "[DONE]":
            yield json.loads(data)


def _has_text(event: dict[str, Any]) -> bool:
    deltas = [choice["delta"] for choice in event.get("choices") or ()]
    return any(delta.get("content") or delta.get("tool_calls") or delta.get("reasoning_content") for delta in deltas)


def turns(url: str, api: str, model: str, words: int, session: str, key: str = "-") -> list[Turn]:
    """The three turns of one dialogue."""
    body = messages_body if api == "messages" else chat_body
    return [ask(url, api, model, body(turn, system_prompt(words, session)), key) for turn in range(len(STEPS))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server's address, without /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--api_key", default="-")
    parser.add_argument("--system_words", type=int, default=7000, help="words of the system prompt")
    arguments = parser.parse_args()
    print("| API | turn | tokens of the prompt | in the prefix cache | first token, s |\n|---|---|---|---|---|")
    for api in APIS:
        session = uuid.uuid4().hex
        found = turns(arguments.url, api, arguments.model, arguments.system_words, session, arguments.api_key)
        for number, turn in enumerate(found, 1):
            print(f"| {api} | {number} | {turn.prompt} | {turn.cached} | {turn.first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
