"""A model that follows a script, behind the real template, tool-call format and server. Knows no client.

It calls every tool that a question names by a word, answers with the results it then sees, and fills in what a schema
or a tool for structured replies asks for. `asked` records the requests as the chat gets them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from test_server_load import running
from tiny import tiny_tokenizer

from swift.agent import tool_format
from swift.chat import Message, Tool, ToolCall
from swift.engine.interface import TokenOutput
from swift.engine.sampling import SamplingParams
from swift.infer.chat import Deltas
from swift.infer.local_chat import LocalChat
from swift.serve.server import create_app
from swift.template import Renderer, template

MODEL = "smollm2-135m-agent"
KEY = "SECRET"
TOKENIZER = tiny_tokenizer()
RENDERER = Renderer(TOKENIZER, template("chatml"), "hermes")
TRIP = {"city": "Oslo", "days": 2}
"""The arguments of calls and the fields of structured replies, as far as their schema has them."""
CITIES = ("Oslo", "Rome")
ENDS = "final_answer"
"""The tool with which smolagents' agents answer."""
IN_PROMPT = re.compile(r'"function": \{"name": "(\w+)"')
IN_TEXT = re.compile(r"(?:<tool_response>|Observation:)\s*(.*?)\s*(?:</tool_response>|$)", re.DOTALL)
"""Tools and results in the text of a client that has a tool-call format of its own."""


class Speaker:
    """An engine that says a text, a token a byte."""

    def __init__(self, said: str) -> None:
        self._tokens = [*TOKENIZER.encode(said, add_special_tokens=False), 2]

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Any:
        for number, token in enumerate(self._tokens, 1):
            last = "stop" if token == 2 else "length" if number == params.max_tokens else None
            yield TokenOutput(token, 0.0, last)  # type: ignore[arg-type]
            if last:
                return

    def close(self) -> None: ...


class ScriptedModel:
    """A chat; `asked` has the messages and tools of each request."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[Message, ...], tuple[Tool, ...]]] = []

    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        params: SamplingParams = SamplingParams(),  # noqa: B008
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Deltas:
        self.asked.append((tuple(messages), tuple(tools)))
        chat = LocalChat(Speaker(reply(messages, tools)), RENDERER)
        return chat(messages, tools, params, template_kwargs)


def reply(messages: Sequence[Message], tools: Sequence[Tool]) -> str:
    """The text of the reply, calls in the model's format."""
    question = next(message.content for message in messages if message.role == "user")
    names = [tool.name for tool in tools] or IN_PROMPT.findall(messages[0].content)
    if results := list(_results(messages)):
        answer = f"The tools say: {'; '.join(results)}."
        return written("", [ToolCall(ENDS, json.dumps({"answer": answer}))]) if ENDS in names else answer
    if "Extract" in question:
        return written("", [ToolCall(names[0], json.dumps(TRIP))]) if names else json.dumps(TRIP)
    calls = [ToolCall(name, json.dumps({"city": city})) for name in names for city in CITIES if city in question]
    calls = [call for call in calls if call.name in question]
    return written("I look.", calls) if calls else "Nothing to look up."


def _results(messages: Sequence[Message]) -> Iterator[str]:
    """The results after the last reply: messages of tools, or of users where a client keeps its own format of calls."""
    last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=len(messages))
    for message in messages[last + 1 :]:
        if message.role == "tool":
            yield message.content
        elif found := IN_TEXT.search(message.content):
            yield found[1]


def written(content: str, calls: Sequence[ToolCall]) -> str:
    return tool_format("hermes").call(content, calls)


@contextlib.contextmanager
def serving() -> Iterator[tuple[ScriptedModel, str]]:
    """The model behind a server on a free port of the loopback, and the server's address."""
    model = ScriptedModel()
    guides = LocalChat(Speaker(""), RENDERER)
    app = create_app(
        model, MODEL, guide=guides.guide, count_tokens=guides.count_tokens, api_keys=[KEY], owned_by="test"
    )
    with running(app) as url:
        yield model, url
