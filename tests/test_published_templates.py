"""Every prompt is what the model's published chat template gives, and what is trained is that prompt and the reply."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from dialogues import Dialogue, dialogues
from published_templates import templates, tokenizer

from swift.template import Renderer

NAMES = sorted(templates())
NO_TOOLS = {
    "cohere", "cohere2", "gemma", "gemma3", "idefics3", "lfm2", "llama3", "llava_next", "phi3", "phi3_5",
    "qwen2_5_vl", "smolvlm", "deepseek_r1_distill", "deepseekv3",
}  # fmt: skip
"""Templates that do not tell of tools: ReAct offers their models tools."""


def expected(tok: Any, renderer: Renderer, wire: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[int] | None:
    """The tokens of `apply_chat_template`; None where the template refuses the messages."""
    traits = renderer.layout.traits
    told = copy.deepcopy(wire)
    for message in told:
        thought = message.pop("reasoning_content", "")
        if thought and traits.reasoning_key:
            message[traits.reasoning_key] = thought
        if message.get("tool_calls") and not message["content"]:
            if traits.convention.empty == "absent":
                del message["content"]
            else:
                message["content"] = traits.convention.empty
        if isinstance(message.get("content"), str) and renderer.layout._parts:
            message["content"] = [{"type": "text", "text": message["content"]}]
    try:
        return list(tok.apply_chat_template(told, tools=tools or None, add_generation_prompt=True, return_dict=False))
    except Exception:
        return None


@pytest.mark.parametrize("name", NAMES)
def test_every_served_prompt_is_what_the_template_gives(name: str) -> None:
    tok = tokenizer(name)
    renderer = Renderer(tok, None)
    compared = 0
    for dialogue in _taken(renderer, name):
        for number in dialogue.asks:
            wanted = expected(tok, renderer, dialogue.wire[:number], dialogue.tools)
            if wanted is not None:
                got = renderer.prompt_tokens(dialogue.conversation.messages[:number], dialogue.conversation.tools)
                assert tok.decode(got) == tok.decode(wanted), (dialogue.name, number)
                assert got == wanted, (dialogue.name, number)
                compared += 1
    assert compared >= 19


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "deepseekv3"])
def test_calls_and_results_are_the_templates_own_where_the_form_tells_of_the_tools(name: str) -> None:
    tok = tokenizer(name)
    renderer = Renderer(tok, None, "deepseek_v3")
    compared = 0
    for dialogue in dialogues():
        if not dialogue.tools or any(len(message.tool_calls) > 1 for message in dialogue.conversation.messages):
            continue  # the distilled models' template leaves a second call open
        system = next((each["content"] for each in dialogue.wire if each["role"] == "system"), "")
        offer = {"role": "system", "content": renderer.tool_format.system(dialogue.conversation.tools, system)}
        for number in dialogue.asks:
            told = [offer, *(each for each in copy.deepcopy(dialogue.wire[:number]) if each["role"] != "system")]
            for call in (call for each in told for call in each.get("tool_calls", ())):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            got = renderer.prompt_tokens(dialogue.conversation.messages[:number], dialogue.conversation.tools)
            assert tok.decode(got) == tok.decode(expected(tok, renderer, told, []) or []), (dialogue.name, number)
            compared += 1
    assert compared > 20


# diffusion_gemma writes no text from left to right; its template opens the turn behind a result within the reply
@pytest.mark.parametrize("name", [name for name in NAMES if name != "diffusion_gemma"])
def test_each_reply_is_trained_once_behind_the_prompt_that_is_served(name: str) -> None:
    tok = tokenizer(name)
    renderer = Renderer(tok, None, template_kwargs={"enable_thinking": True})
    for dialogue in _taken(renderer, name):
        samples = renderer.samples(dialogue.conversation)
        trained = 0
        for number in dialogue.asks:
            message, tools = dialogue.conversation.messages[number], dialogue.conversation.tools
            prompt, prefill = renderer.prompt(dialogue.conversation.messages[:number], tools)
            size = len(prompt)
            [sample] = [
                each
                for each in samples
                if each.tokens[:size] == prompt and len(each.tokens) > size and each.weights[size]
            ]  # exactly one sample trains it
            end = next(at for at in range(size, len(sample.tokens)) if sample.tokens[at] in renderer.stop.tokens)
            assert all(sample.weights[size : end + 1]), (dialogue.name, number)
            trained += end + 1 - size
            said = renderer.parse(tok.decode(sample.tokens[size:end]), tools, prefill)
            if name == "gptoss" and message.tool_calls:  # which has words before a call as a thought
                thought = "\n".join(filter(None, [message.reasoning, message.content]))
                message = replace(message, reasoning=thought, content="")
            assert said.content.strip() == message.content.strip(), (dialogue.name, number)
            assert said.reasoning == message.reasoning, (dialogue.name, number)
            assert [(call.name, json.loads(call.arguments)) for call in said.tool_calls] == [
                (call.name, json.loads(call.arguments)) for call in message.tool_calls
            ], (dialogue.name, number)
        assert trained == sum(sample.trained for sample in samples), dialogue.name


@pytest.mark.parametrize("name", ["glm4moe", "gptoss", "qwen3_5_think", "llama3_1"])
def test_dialogues_met_before_change_no_sample(name: str) -> None:
    tok = tokenizer(name)
    renderer = Renderer(tok, None)
    taken = list(_taken(renderer, name))
    for dialogue in taken:
        renderer.samples(dialogue.conversation)
    for dialogue in taken[::4]:
        alone = Renderer(tok, None).samples(dialogue.conversation)
        assert renderer.samples(dialogue.conversation) == alone, dialogue.name


def _taken(renderer: Renderer, name: str) -> Iterator[Dialogue]:
    for dialogue in dialogues():
        if dialogue.tools and name in NO_TOOLS:
            continue
        if not renderer.layout.traits.parallel and any(len(m.tool_calls) > 1 for m in dialogue.conversation.messages):
            continue
        yield dialogue
