"""What models with published chat templates write is read as what was meant, streamed, and may be forced."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from dialogues import Dialogue, dialogues
from published_templates import templates, tokenizer

from swift.chat import Message, Tool
from swift.engine.interface import TokenOutput
from swift.engine.sampling import SamplingParams
from swift.guided.grammar import Rules
from swift.infer.chat import collect
from swift.infer.local_chat import LocalChat
from swift.template import Renderer

NAMES = (
    "deepseek_r1_distill",
    "deepseekv3",
    "gemma4",
    "glm4moe",
    "gptoss",
    "lfm2_2_5",
    "muse_glimmer",
    "nemotron_3_nano",
    "qwen3",
    "qwen3_5_nothink",
    "qwen3_5_think",
    "qwen3_8",
)
"""Templates that know of thoughts."""


class Writer:
    """An engine that writes `reply`, whatever it is asked, as far as a guide lets it."""

    context = None

    def __init__(self, renderer: Renderer) -> None:
        self._size, self._stops = len(renderer.tokenizer), renderer.stop.tokens
        self.reply: Sequence[int] = ()
        self.prompt: list[int] = []

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Iterator[TokenOutput]:
        self.prompt = list(tokens)
        return self._steps(params.guide.begin() if params.guide else None)

    def _steps(self, constraint: Any) -> Iterator[TokenOutput]:
        for place, token in enumerate(self.reply):
            if constraint:
                assert constraint.mask(torch.zeros(self._size))[token] == 0, (place, token)
                constraint.accept(token)
            yield TokenOutput(token, 0.0, "stop" if token in self._stops else None)

    def close(self) -> None: ...


def asked(renderer: Renderer) -> Iterator[tuple[Dialogue, int, list[int]]]:
    """Dialogues, where the assistant speaks in each, and the tokens that training shows it there."""
    traits = renderer._own.layout.traits  # type: ignore[union-attr]
    for dialogue in dialogues():
        messages, tools = dialogue.conversation.messages, dialogue.conversation.tools
        several = any(len(message.tool_calls) > 1 for message in messages)
        if (tools and not renderer._own.describes_tools) or (several and not traits.parallel):  # type: ignore[union-attr]
            continue
        samples = renderer.samples(dialogue.conversation)
        for number in dialogue.asks:
            prompt, _ = renderer.prompt(messages[:number], tools)
            size = len(prompt)
            found = (each for each in samples if each.tokens[:size] == prompt and any(each.weights[size : size + 1]))
            if sample := next(found, None):
                end = next(at for at in range(size, len(sample.tokens)) if sample.tokens[at] in renderer.stop.tokens)
                yield dialogue, number, sample.tokens[size : end + 1]


def said(message: Message) -> tuple[str, str, list[Any]]:
    calls = [(call.name, json.loads(call.arguments)) for call in message.tool_calls]
    return message.reasoning, message.content.strip(), calls


@pytest.mark.parametrize("name", NAMES)
def test_what_training_shows_is_read_back_from_a_stream(name: str) -> None:
    renderer = Renderer(tokenizer(name), None, template_kwargs={"enable_thinking": True})
    assert renderer.thinking
    engine, read, thoughts = Writer(renderer), 0, 0
    chat = LocalChat(engine, renderer)  # type: ignore[arg-type]
    for dialogue, number, engine.reply in asked(renderer):
        message = dialogue.conversation.messages[number]
        if name == "gptoss" and message.tool_calls and message.content:
            continue  # its template writes words before a call as a thought
        got = collect(chat(dialogue.conversation.messages[:number], dialogue.conversation.tools))
        assert said(got.message) == said(message), (dialogue.name, number)
        assert got.finish == ("tool_calls" if message.tool_calls else "stop")
        text = renderer.decode(engine.reply)
        assert message.tool_calls or renderer.thinking.answer in text, (dialogue.name, number)
        read, thoughts = read + 1, thoughts + bool(message.reasoning)
    assert read >= 15 and thoughts >= 6


@pytest.mark.parametrize("name", ["glm4moe", "gptoss", "nemotron_3_nano", "qwen3", "qwen3_5_think", "qwen3_8"])
def test_calls_that_training_shows_may_be_forced_and_come_behind_their_thoughts(name: str) -> None:
    renderer = Renderer(tokenizer(name), None, template_kwargs={"enable_thinking": True})
    engine, forced = Writer(renderer), 0
    chat = LocalChat(engine, renderer)  # type: ignore[arg-type]
    for dialogue, number, engine.reply in asked(renderer):
        message, tools = dialogue.conversation.messages[number], dialogue.conversation.tools
        if not tools or (message.tool_calls and message.content) or dialogue.conversation.messages[0].role == "system":
            continue
        rules = Rules(tools, required=bool(message.tool_calls))
        params = SamplingParams(guide=chat.guide(rules))
        got = collect(chat(dialogue.conversation.messages[:number], tools, params)).message
        assert said(got) == said(message), (dialogue.name, number)
        forced += bool(message.tool_calls)
    assert forced >= 6


@pytest.mark.parametrize("name", ["deepseekv3", "glm4moe", "gptoss", "qwen3_5_nothink", "qwen3_5_think"])
def test_json_may_be_forced_behind_a_thought(name: str) -> None:
    renderer = Renderer(tokenizer(name), None)
    engine = Writer(renderer)
    chat = LocalChat(engine, renderer)  # type: ignore[arg-type]
    guide = chat.guide(Rules(schema={"type": "object", "properties": {"n": {"type": "integer"}}}))
    thinking = renderer.thinking
    assert thinking
    for variables in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
        ask = (Message("user", "Count."),)
        _, prefill = renderer.prompt(ask, (), variables)
        opening = "" if thinking.open in prefill else thinking.open
        thought = "" if thinking.close in prefill else f"{opening}One.{thinking.close}"
        text = f'{thought}{thinking.answer}{{"n": 1}}'
        stop = renderer.stop.tokens[0]
        engine.reply = [*renderer.tokenizer.encode(text, add_special_tokens=False), stop]
        reply = collect(chat(ask, (), SamplingParams(guide=guide), variables)).message
        assert said(reply) == ("One." if thought else "", '{"n": 1}', [])


@pytest.mark.parametrize("name", sorted(templates()))
def test_tools_of_which_the_name_alone_is_told_are_offered(name: str) -> None:
    renderer = Renderer(tokenizer(name), None)
    for spec in (
        {"name": "tell_time"},
        {"name": "tell_time", "parameters": {}},
        {"name": "tell_time", "parameters": None},
    ):
        tools = (Tool({"type": "function", "function": spec}),)
        assert "tell_time" in renderer.decode(renderer.prompt_tokens((Message("user", "Now?"),), tools))
