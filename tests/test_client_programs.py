"""Programs that people have talk to a server whose model follows a script: docs/clients.md as written, and more."""

from __future__ import annotations

import asyncio
import io
import json
import re
import runpy
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from scripted_model import KEY, MODEL, ScriptedModel, serving

PAGE = Path(__file__).parent.parent / "docs" / "clients.md"
ANSWER = "The tools say: sunny in Oslo."
QUESTION = "What is the weather in Oslo?"
MISSING = "pip install -e '.[test-clients]'"
NO_LITELLM = "pip install --no-deps litellm==1.110.2"


class Trip(BaseModel):
    city: str
    days: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[ScriptedModel, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network
        patch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
        patch.setenv("LANGSMITH_TRACING", "false")
        with serving() as served:
            yield served


@pytest.fixture
def url(server: tuple[ScriptedModel, str]) -> str:
    return server[1]


def blocks() -> dict[str, list[str]]:
    """The Python blocks of the page by the heading they are under."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        found[heading] = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return found


def need(*modules: str, install: str = MISSING) -> None:
    for module in modules:
        pytest.importorskip(module, reason=f"{module} is not installed: {install}")


NEEDED = {
    "OpenAI": "openai",
    "Anthropic": "anthropic",
    "OpenAI Agents SDK": "agents",
    "Pydantic AI": "pydantic_ai",
    "LangChain and LangGraph": "langchain",
    "LiteLLM": "litellm",
    "smolagents": "smolagents",
    "Qwen-Agent": "qwen_agent",
    "llm": "llm",
    "MCP servers": "agents",
}


def test_every_section_of_the_page_is_run() -> None:
    assert blocks().keys() == NEEDED.keys() and all(blocks().values())


@pytest.mark.parametrize("heading", NEEDED)
def test_the_page_shows_programs_that_work(
    heading: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    need(NEEDED[heading], install=NO_LITELLM if heading == "LiteLLM" else MISSING)
    if heading == "llm":
        monkeypatch.setattr("llm.plugins.LLM_LOAD_PLUGINS", "")  # what else is installed is no matter
    page = PAGE.read_text(encoding="utf-8").replace("http://127.0.0.1:8000", url)
    (settings,) = re.findall(r"^```yaml\n(- model_id.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "extra-openai-models.yaml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    programs = [code.replace("http://127.0.0.1:8000", url) for code in blocks()[heading]]
    if heading == "MCP servers":
        (tmp_path / "weather_server.py").write_text(programs.pop())
    for number, code in enumerate(programs):
        program = tmp_path / f"program_{number}.py"  # a file, because smolagents reads the source of tools
        program.write_text(code)
        said = io.StringIO()
        with redirect_stdout(said):
            runpy.run_path(str(program), run_name="__main__")
        assert said.getvalue().strip().endswith(ANSWER)  # llm joins the texts of all replies


# What the page says works, beside its programs -----------------------------------------------------------------------


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_the_agents_sdk_streams_parses_and_understands_errors(api: str, url: str) -> None:
    need("agents")
    import agents
    import openai

    tool = agents.function_tool(weather)
    shape: Any = agents.OpenAIChatCompletionsModel if api == "chat" else agents.OpenAIResponsesModel

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            model = shape(model=MODEL, openai_client=client)
            streamed = agents.Runner.run_streamed(agents.Agent(name="a", model=model, tools=[tool]), QUESTION)
            events = [event async for event in streamed.stream_events() if event.type == "raw_response_event"]
            assert streamed.final_output == ANSWER
            kinds = {event.data.type for event in events}
            assert {"response.output_text.delta", "response.function_call_arguments.delta"} <= kinds
            trip = agents.Agent(name="a", model=model, output_type=Trip)
            assert (await agents.Runner.run(trip, "Extract the trip.")).final_output == Trip(city="Oslo", days=2)
            nowhere = agents.Agent(name="a", model=shape(model="nowhere", openai_client=client))
            with pytest.raises(openai.NotFoundError, match="nowhere"):
                await agents.Runner.run(nowhere, QUESTION)

    asyncio.run(run())


@pytest.mark.parametrize("api", ["chat", "responses", "anthropic"])
def test_pydantic_ai_streams_parses_and_understands_errors(api: str, url: str) -> None:
    need("pydantic_ai")
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.exceptions import ModelHTTPError, UserError
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    def model(name: str = MODEL, key: str = KEY) -> Any:
        if api == "anthropic":
            return AnthropicModel(name, provider=AnthropicProvider(base_url=url, api_key=key))
        shape: Any = OpenAIChatModel if api == "chat" else OpenAIResponsesModel
        return shape(name, provider=OpenAIProvider(base_url=f"{url}/v1", api_key=key))

    async def run() -> None:
        served, kinds, output = model(), set(), ""
        async with Agent(served, tools=[weather]).run_stream_events(QUESTION) as events:
            async for event in events:
                kinds.add(event.event_kind)
                output = event.result.output if event.event_kind == "agent_run_result" else output
        assert output == ANSWER and {"part_start", "part_delta", "function_tool_result"} <= kinds
        trip = Trip(city="Oslo", days=2)
        assert (await Agent(served, output_type=Trip).run("Extract the trip.")).output == trip
        native = Agent(served, output_type=NativeOutput(Trip))
        if api == "anthropic":
            with pytest.raises(UserError, match="not supported"):
                await native.run("Extract the trip.")
        else:
            assert (await native.run("Extract the trip.")).output == trip
        for refused, status in ((model(name="nowhere"), 404), (model(key="wrong"), 401)):
            with pytest.raises(ModelHTTPError) as caught:
                await Agent(refused).run(QUESTION)
            assert caught.value.status_code == status

    asyncio.run(run())


@pytest.mark.parametrize("api", ["chat", "responses", "anthropic"])
def test_a_graph_of_langgraph_streams_parses_and_understands_errors(api: str, url: str) -> None:
    need("langchain", "langchain_openai", "langchain_anthropic")
    import anthropic
    import openai
    from langchain.agents import create_agent
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI

    def model(key: str = KEY) -> Any:
        if api == "anthropic":
            return ChatAnthropic(model=MODEL, base_url=url, api_key=key, max_retries=0)
        options: Any = {"use_responses_api": True} if api == "responses" else {}
        return ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key=key, max_retries=0, **options)

    asked = {"messages": [("user", QUESTION)]}
    parts = [part for part, _ in create_agent(model(), [weather]).stream(asked, stream_mode="messages")]
    said = [part.text for part in parts if part.type == "AIMessageChunk"]
    assert "".join(said) == f"I look.{ANSWER}" and len(said) > 9
    for method in ("json_schema", "function_calling"):
        parsed = model().with_structured_output(Trip, method=method).invoke("Extract the trip.")
        assert parsed == Trip(city="Oslo", days=2)
    with pytest.raises((openai.AuthenticationError, anthropic.AuthenticationError)):
        model(key="wrong").invoke("hi")


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "anthropic"])
def test_litellm_streams_parses_translates_and_understands_errors(provider: str, url: str) -> None:
    need("litellm", install=NO_LITELLM)
    import litellm

    address = url if provider == "anthropic" else f"{url}/v1"
    options: dict[str, Any] = {"model": f"{provider}/{MODEL}", "api_base": address, "api_key": KEY, "num_retries": 0}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
    question = [{"role": "user", "content": QUESTION}]
    chunks = list(litellm.completion(messages=question, tools=tools, stream=True, **options))
    message = litellm.stream_chunk_builder(chunks).choices[0].message
    (call,) = message.tool_calls
    assert message.content == "I look." and json.loads(call.function.arguments) == {"city": "Oslo"}
    extract = [{"role": "user", "content": "Extract the trip."}]
    text = litellm.completion(messages=extract, response_format=Trip, **options).choices[0].message.content
    assert Trip.model_validate_json(text) == Trip(city="Oslo", days=2)
    wrong: list[tuple[Any, dict[str, str]]] = [
        (litellm.AuthenticationError, {"api_key": "wrong"}),
        (litellm.NotFoundError, {"model": f"{provider}/nowhere"}),
    ]
    for error, changed in wrong:
        with pytest.raises(error):
            litellm.completion(messages=question, **{**options, **changed})

    # Anthropic's format in, whatever the server is asked in, and OpenAI's responses.
    described = {"name": "weather", "input_schema": PARAMETERS}
    created = litellm.anthropic.messages.acreate(messages=question, tools=[described], max_tokens=99, **options)
    reply: Any = asyncio.run(created)
    assert reply["stop_reason"] == "tool_use" and reply["content"][-1]["input"] == {"city": "Oslo"}
    answered = litellm.responses(input="hi", **options)
    assert "Nothing to look up." in answered.output[0].content[0].text


def test_smolagents_stream_and_understand_errors(url: str) -> None:
    need("smolagents")
    from smolagents import OpenAIModel, ToolCallingAgent, tool
    from smolagents.utils import AgentGenerationError

    @tool
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: The city.
        """
        return f"sunny in {city}"

    def agent(name: str) -> Any:
        model = OpenAIModel(model_id=name, api_base=f"{url}/v1", api_key=KEY, retry=False)
        return ToolCallingAgent(tools=[weather], model=model, verbosity_level=0, stream_outputs=True)

    assert agent(MODEL).run(QUESTION) == ANSWER
    with pytest.raises(AgentGenerationError, match="nowhere"):
        agent("nowhere").run(QUESTION)


def test_qwen_agent_has_a_format_of_calls_of_its_own_and_understands_errors(url: str) -> None:
    need("qwen_agent", "soundfile")
    from qwen_agent.agents import Assistant
    from qwen_agent.llm.base import ModelServiceError
    from qwen_agent.tools.base import BaseTool

    class Weather(BaseTool):  # type: ignore[misc, unused-ignore]
        name, description, parameters = "weather", "The weather of a city.", PARAMETERS

        def call(self, params: str, **_: Any) -> str:
            return weather(**json.loads(params))

    def run(name: str) -> list[Any]:
        llm = {"model": name, "model_server": f"{url}/v1", "api_key": KEY, "generate_cfg": {"max_retries": 0}}
        return list(Assistant(llm=llm, function_list=[Weather()]).run([{"role": "user", "content": QUESTION}]))

    streamed = run(MODEL)
    assert len(streamed) > 5 and streamed[-1][-1]["content"] == ANSWER
    with pytest.raises(ModelServiceError, match="nowhere"):
        run("nowhere")


def test_openai_and_anthropic_parse_stream_and_run_two_calls_at_once(url: str) -> None:
    need("anthropic")
    import anthropic
    import openai

    both = "What is the weather in Oslo and in Rome?"
    trip = Trip(city="Oslo", days=2)
    question: list[Any] = [{"role": "user", "content": both}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as api:
        assert api.responses.parse(model=MODEL, input="Extract it.", text_format=Trip).output_parsed == trip
        described: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS}
        with api.responses.stream(model=MODEL, input=both, tools=[described]) as stream:
            kinds = {event.type for event in stream}
            output = stream.get_final_response().output
        assert "response.function_call_arguments.delta" in kinds
        assert [json.loads(call.arguments)["city"] for call in output if call.type == "function_call"] == [
            "Oslo",
            "Rome",
        ]
        wrapped: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
        message = api.chat.completions.create(model=MODEL, messages=question, tools=[wrapped]).choices[0].message
        results: list[Any] = [
            {"role": "tool", "tool_call_id": call.id, "content": call.function.arguments}  # type: ignore[union-attr]
            for call in reversed(message.tool_calls or ())
        ]
        answered = api.chat.completions.create(model=MODEL, messages=[*question, message, *results], tools=[wrapped])
        said = answered.choices[0].message.content or ""
        assert said.index("Oslo") < said.index("Rome"), "results are in the order of the calls"
        with pytest.raises(openai.AuthenticationError):
            api.with_options(api_key="wrong").responses.create(model=MODEL, input="hi")

    tool: Any = {"name": "weather", "input_schema": PARAMETERS}
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0) as claude:
        extract: list[Any] = [{"role": "user", "content": "Extract it."}]
        parsed = claude.messages.parse(model=MODEL, max_tokens=99, messages=extract, output_format=Trip)
        assert parsed.parsed_output == trip
        with claude.messages.stream(model=MODEL, max_tokens=999, messages=question, tools=[tool]) as stream:
            blocks = stream.get_final_message().content
        assert [block.input["city"] for block in blocks if block.type == "tool_use"] == ["Oslo", "Rome"]
