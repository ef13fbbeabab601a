"""Programs that people have talk to the server: the official client, LangChain, llm. A tiny model of noise answers.

What the model says is noise, so whatever is right in an answer is the server's doing: calls and JSON fit their schemas.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
import torch
from pydantic import BaseModel, Field
from test_server_load import running
from tiny import tiny_model_folder
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.infer.local_chat import LocalChat
from swift.serve.server import create_app
from swift.template import Renderer, template


class City(BaseModel):
    """Where, and for how long."""

    name: Literal["Xiamen", "北京", "Oslo"]
    days: int = Field(ge=1, le=7)
    tags: list[Literal["sea", "snow"]] = Field(max_length=2)


def weather(city: str, days: int) -> str:
    """The weather of a city."""
    return f"{city}: sunny for {days} days"


SPEC: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Oslo", "北京"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
        },
    },
}
ASK: list[Any] = [{"role": "user", "content": "Rain?"}]
MUST: dict[str, Any] = {"tools": [SPEC], "tool_choice": "required", "parallel_tool_calls": False}


@pytest.fixture(scope="module", params=["hermes", "react_en"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    threads = torch.get_num_threads()
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), max_position_embeddings=8192)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    torch.set_num_threads(1)  # more only wait for each other over so small a model
    engine = TorchEngine(LlamaForCausalLM.from_pretrained(folder), [2])
    chat = LocalChat(engine, Renderer(tokenizer, template("chatml"), request.param))
    defaults = SamplingParams(max_tokens=900, clip=True, seed=1)
    with running(create_app(chat, "tiny", complete=chat.complete, guide=chat.guide, defaults=defaults)) as url:
        yield f"{url}/v1"
    engine.close()
    torch.set_num_threads(threads)


@pytest.fixture
def api(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="-", base_url=url) as client:
        yield client


def check(arguments: str) -> dict[str, Any]:
    given: dict[str, Any] = json.loads(arguments)
    assert given["city"] in ("Oslo", "北京") and 1 <= given["days"] <= 7
    return given


def test_a_tool_is_called_and_its_result_goes_back(api: openai.OpenAI) -> None:
    messages = list(ASK)
    for _ in range(2):
        choice = api.chat.completions.create(model="tiny", messages=messages, **MUST).choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or ()
        assert call.type == "function" and call.function.name == "weather"
        result = weather(**check(call.function.arguments))
        messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": result}]
    assert api.chat.completions.create(model="tiny", messages=messages, tools=[SPEC], max_tokens=5).usage


def test_a_named_tool_is_called(api: openai.OpenAI) -> None:
    other = {"type": "function", "function": {"name": "clock"}}
    for name in ("clock", "weather"):
        named: Any = {"type": "function", "function": {"name": name}}
        reply = api.chat.completions.create(model="tiny", messages=ASK, tools=[SPEC, other], tool_choice=named)  # type: ignore[list-item]
        assert [call.function.name for call in reply.choices[0].message.tool_calls or ()] == [name]  # type: ignore[union-attr]


def test_calls_are_streamed_name_first_and_never_as_text(api: openai.OpenAI) -> None:
    parts: list[Any] = []
    content = ""
    finish = None
    with api.chat.completions.create(model="tiny", messages=ASK, stream=True, **MUST) as stream:
        for chunk in stream:
            content += chunk.choices[0].delta.content or ""
            parts += chunk.choices[0].delta.tool_calls or ()
            finish = chunk.choices[0].finish_reason or finish
    assert finish == "tool_calls"
    assert not any(mark in content for mark in ("Action", "weather", "tool_call", "{"))
    assert (parts[0].function.name, parts[0].function.arguments) == ("weather", "")
    assert parts[0].id and not any(part.id or part.function.name for part in parts[1:])
    assert len(parts) > 5
    check("".join(part.function.arguments for part in parts))


def test_the_streaming_helper_reports_arguments_as_they_come(api: openai.OpenAI) -> None:
    with api.chat.completions.stream(model="tiny", messages=ASK, **MUST) as stream:
        kinds = {event.type for event in stream}
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    check(call.function.arguments)


def test_the_streaming_helper_reports_content(api: openai.OpenAI) -> None:
    said: Any = {"type": "json_schema", "json_schema": {"name": "said", "schema": {"enum": ["so", "no"]}}}
    options: dict[str, Any] = {"response_format": said, "logprobs": True, "top_logprobs": 2}
    with api.chat.completions.stream(model="tiny", messages=ASK, **options) as stream:
        kinds = [event.type for event in stream]
        choice = stream.get_final_completion().choices[0]
    assert "content.delta" in kinds and "logprobs.content.delta" in kinds
    assert choice.logprobs and all(len(each.top_logprobs) == 2 for each in choice.logprobs.content or ())


def test_replies_are_parsed_into_classes(api: openai.OpenAI) -> None:
    reply = api.chat.completions.parse(model="tiny", messages=ASK, response_format=City)
    assert isinstance(reply.choices[0].message.parsed, City)
    reply = api.beta.chat.completions.parse(model="tiny", messages=ASK, response_format=City, seed=3)
    assert isinstance(reply.choices[0].message.parsed, City)
    tool = openai.pydantic_function_tool(City)
    called = api.chat.completions.parse(model="tiny", messages=ASK, tools=[tool], tool_choice="required")
    assert all(isinstance(call.function.parsed_arguments, City) for call in called.choices[0].message.tool_calls or ())
    with api.chat.completions.stream(model="tiny", messages=ASK, response_format=City) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)


def test_responses_are_parsed_called_and_continued(api: openai.OpenAI) -> None:
    parsed = api.responses.parse(model="tiny", input="Where?", text_format=City)
    assert isinstance(parsed.output_parsed, City)
    flat: Any = {"type": "function", **SPEC["function"]}
    must: dict[str, Any] = {"tools": [flat], "tool_choice": "required", "parallel_tool_calls": False}
    with api.responses.stream(model="tiny", input="Rain?", **must) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.function_call_arguments.delta")
        reply = stream.get_final_response()
    call = reply.output[-1]
    assert call.type == "function_call" and call.arguments == text
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": weather(**check(call.arguments))}
    reply = api.responses.create(model="tiny", input=[result], previous_response_id=reply.id, **must)
    assert reply.output[-1].type == "function_call"
    tool: Any = openai.pydantic_function_tool(City)
    called = api.responses.parse(
        model="tiny",
        input="Where?",
        tools=[{"type": "function", **tool["function"]}],
        tool_choice={"type": "function", "name": "City"},
    )
    assert [item.type for item in called.output if item.type != "reasoning"] == ["function_call"]


def test_usage_has_the_tokens_that_the_prefix_cache_held(api: openai.OpenAI) -> None:
    question = "Once upon a time there was a small model. " * 8
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(2):
        first = api.chat.completions.create(model="tiny", messages=messages, max_tokens=2).usage
        second = api.responses.create(model="tiny", input=question, max_output_tokens=2).usage
        assert first and second and first.prompt_tokens == second.input_tokens
        assert second.input_tokens_details.cached_tokens % 32 == 0
        assert 0 < second.input_tokens_details.cached_tokens < second.input_tokens
    assert first.prompt_tokens_details
    assert first.prompt_tokens_details.cached_tokens == second.input_tokens_details.cached_tokens


def test_any_json_object_can_be_required(api: openai.OpenAI) -> None:
    wanted: Any = {"type": "json_object"}
    choice = api.chat.completions.create(model="tiny", messages=ASK, response_format=wanted, temperature=0.3).choices[0]
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content or ""), dict)


def test_choices_differ_and_a_seed_repeats_them(api: openai.OpenAI) -> None:
    def texts() -> list[str | None]:
        reply = api.chat.completions.create(model="tiny", messages=ASK, n=3, seed=5, max_tokens=8)
        assert reply.usage and reply.usage.completion_tokens <= 24
        return [choice.message.content for choice in reply.choices]

    assert len(set(texts())) == 3
    assert texts() == texts()


def test_several_texts_are_continued(api: openai.OpenAI) -> None:
    reply = api.completions.create(model="tiny", prompt=["Once", "Twice"], n=2, max_tokens=4, logprobs=1, temperature=0)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    logprobs = reply.choices[0].logprobs
    assert logprobs and logprobs.tokens and "".join(logprobs.tokens) == reply.choices[0].text
    chunks = list(api.completions.create(model="tiny", prompt="Once", max_tokens=4, stream=True))
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")


def test_errors_are_those_of_openai(api: openai.OpenAI) -> None:
    nowhere = {"type": "function", "function": {"name": "nowhere"}}
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(model="tiny", messages=ASK, tools=[SPEC], tool_choice=nowhere)  # type: ignore[call-overload]
    assert caught.value.param == "tool_choice"
    with pytest.raises(openai.NotFoundError, match="not offered"):
        api.embeddings.create(model="tiny", input="x")


def test_the_asynchronous_client_sends_concurrent_requests(url: str) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(api_key="-", base_url=url) as api:

            async def streamed() -> str:
                stream = await api.chat.completions.create(model="tiny", messages=ASK, stream=True, **MUST)
                parts = [part async for chunk in stream for part in chunk.choices[0].delta.tool_calls or ()]
                return "".join(part.function.arguments for part in parts)

            return await asyncio.gather(*(streamed() for _ in range(8)))

    for arguments in asyncio.run(ask()):
        check(arguments)


def test_langchain_calls_tools_streams_and_reads_structured_output(url: str) -> None:
    langchain = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(model="tiny", base_url=url, api_key="-", max_tokens=900)
    bound = model.bind_tools([SPEC], tool_choice="any", parallel_tool_calls=False)
    reply = bound.invoke("Rain?")
    assert [call["name"] for call in reply.tool_calls] == ["weather"]
    whole = None
    for chunk in bound.stream("Rain?"):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and [call["name"] for call in whole.tool_calls] == ["weather"]
    check(json.dumps(whole.tool_calls[0]["args"]))
    for method in ("json_schema", "function_calling"):
        assert isinstance(model.with_structured_output(City, method=method).invoke("Where?"), City)


def test_langchain_calls_tools_through_responses(url: str) -> None:
    langchain, core = pytest.importorskip("langchain_openai"), pytest.importorskip("langchain_core.messages")
    model = langchain.ChatOpenAI(model="tiny", base_url=url, api_key="-", max_tokens=900, use_responses_api=True)
    bound = model.bind_tools([SPEC], tool_choice="any", parallel_tool_calls=False)
    reply = bound.invoke("Rain?")
    (call,) = reply.tool_calls
    check(json.dumps(call["args"]))
    result = core.ToolMessage("dry", tool_call_id=call["id"])
    assert bound.invoke([core.HumanMessage("Rain?"), reply, result]).tool_calls
    whole = None
    for chunk in bound.stream("Rain?"):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and [each["name"] for each in whole.tool_calls] == ["weather"]
    assert isinstance(model.with_structured_output(City).invoke("Where?"), City)


def test_llm_prompts_streams_and_follows_a_schema(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    plugin = pytest.importorskip("llm.default_plugins.openai_models")
    model = plugin.Chat("tiny", model_name="tiny", api_base=url, supports_schema=True, supports_tools=True)
    model.key = "-"
    assert isinstance(model.prompt("Hi", max_tokens=5).text(), str)
    assert City.model_validate_json(model.prompt("Where?", schema=City).text())
    assert "".join(model.prompt("Hi", max_tokens=5, stream=True))


def test_each_call_has_its_confidence_where_the_request_asks_for_it(api: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": "tiny", "messages": ASK, "seed": 3, **MUST}
    asked: dict[str, Any] = {**request, "extra_body": {"x_confidence": True}}
    (call,) = api.chat.completions.create(**asked).choices[0].message.tool_calls or ()
    confidence = call.model_dump()["x_confidence"]
    assert 0 < confidence < 1
    (plain,) = api.chat.completions.create(**request).choices[0].message.tool_calls or ()
    assert plain.model_dump() == {**call.model_dump(exclude={"x_confidence"}), "id": plain.id}

    def parts(fields: dict[str, Any]) -> list[dict[str, Any]]:
        deltas = [chunk.choices[0].delta for chunk in api.chat.completions.create(stream=True, **fields)]
        return [part.model_dump(exclude_unset=True) for delta in deltas for part in delta.tool_calls or ()]

    *earlier, last = parts(asked)
    assert all("x_confidence" not in part for part in earlier)
    assert last == {"index": 0, "function": {"arguments": ""}, "x_confidence": pytest.approx(confidence, rel=1e-3)}
    assert all("x_confidence" not in part for part in parts(request))


def test_a_call_with_its_confidence_is_sent_back_as_it_came(
    api: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    message = (
        api.chat.completions.create(model="tiny", messages=ASK, extra_body={"x_confidence": True}, **MUST)
        .choices[0]
        .message
    )
    (call,) = message.tool_calls or ()
    messages: list[Any] = [*ASK, message, {"role": "tool", "tool_call_id": call.id, "content": "dry"}]
    with caplog.at_level(logging.WARNING, "swift.serve"):
        assert api.chat.completions.create(model="tiny", messages=messages, tools=[SPEC], max_tokens=5).usage
    assert "x_confidence" not in caplog.text
