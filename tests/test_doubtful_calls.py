"""Calls that a model hardly believes in: it answers in words instead. A scripted engine, every tool-call format."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from test_server_load import running
from tiny import thinking_tokenizer, tiny_tokenizer

from swift import cli
from swift.agent import TOOL_FORMATS, tool_format
from swift.chat import Message, Tool, ToolCall
from swift.engine.interface import Busy, TokenOutput
from swift.engine.sampling import SamplingParams
from swift.eval import calibration
from swift.infer.calibration_file import NAME, read_calibration, write_calibration
from swift.infer.chat import collect
from swift.infer.confidence import UNCALIBRATED, Calibration
from swift.infer.local_chat import LocalChat
from swift.infer.repl import Repl
from swift.serve.server import create_app
from swift.template import Renderer, template
from swift.tools.bound_tool import from_schema

TOKENIZER = tiny_tokenizer()  # a token is a byte
ASK = (Message("user", "Rain?"),)
TOOLS = tuple(
    Tool({"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}})
    for name in ("weather", "clock")
)
CAREFUL = SamplingParams(min_confidence=0.5, temperature=0)
WORDS = "No tool of mine knows that."
Piece = tuple[str, float]


class Stream:
    """The tokens of a reply, which ends when it is closed."""

    def __init__(self, tokens: Iterator[TokenOutput]) -> None:
        self._tokens, self.closed = tokens, False

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> TokenOutput:
        if self.closed:
            raise StopIteration
        return next(self._tokens)

    def close(self) -> None:
        self.closed = True


class Attempts:
    """An engine whose n-th request is answered with the n-th list of pieces, each with the probability of its tokens
    together. `asked`: prompt and parameters of each request. `room`: requests that it takes."""

    context = None

    def __init__(self, *attempts: Sequence[Piece], tokenizer: Any = TOKENIZER, room: int = 9) -> None:
        self._attempts, self._tokenizer, self._room = list(attempts), tokenizer, room
        self.asked: list[tuple[list[int], SamplingParams]] = []
        self.streams: list[Stream] = []

    def submit(self, tokens: Any, params: SamplingParams, inputs: Any = None) -> Any:
        if len(self.asked) == self._room:
            raise Busy("full")
        self.asked.append((list(tokens), params))
        self.streams.append(Stream(self._said(self._attempts[min(len(self.asked), len(self._attempts)) - 1])))
        return self.streams[-1]

    def _said(self, pieces: Sequence[Piece]) -> Iterator[TokenOutput]:
        for text, probability in pieces:
            written = self._tokenizer.encode(text, add_special_tokens=False)
            for token in written:
                yield TokenOutput(token, math.log(probability) / len(written))
        yield TokenOutput(self._tokenizer.eos_token_id, 0.0, "stop")

    def close(self) -> None: ...


def chat(engine: Attempts, form: str = "hermes", **settings: Any) -> LocalChat:
    return LocalChat(engine, Renderer(TOKENIZER, template("qwen"), form), **settings)


def hermes(name: str, probability: float) -> list[Piece]:
    return [(f'<tool_call>\n{{"name": "{name}", "arguments": {{}}', probability), ("}\n</tool_call>", 1.0)]


@pytest.mark.parametrize("form", TOOL_FORMATS)
def test_a_doubtful_call_of_any_format_gives_way_to_words(form: str) -> None:
    call = tool_format(form).call("", [ToolCall("weather", '{"city": "Oslo"}')])
    engine = Attempts([(call, 0.1)], [(WORDS, 1.0)])
    reply = collect(chat(engine, form)(ASK, TOOLS, CAREFUL))
    assert (reply.message.content.strip(), reply.message.tool_calls, reply.finish) == (WORDS, (), "stop")
    (prompt, _), (again, params) = engine.asked
    assert again[: len(prompt)] == prompt
    # the second attempt cannot begin the call where the first one did
    begun = again[len(prompt) :]
    assert params.logit_bias == {TOKENIZER.encode(call.lstrip(), add_special_tokens=False)[0]: -100}
    assert call.startswith(TOKENIZER.decode(begun)) and not TOKENIZER.decode(begun).strip()


def test_a_call_that_the_model_believes_in_is_made_and_asked_for_once() -> None:
    engine = Attempts(hermes("weather", 0.6))
    reply = collect(chat(engine)(ASK, TOOLS, CAREFUL))
    assert [call.name for call in reply.message.tool_calls] == ["weather"] and reply.finish == "tool_calls"
    assert reply.message.tool_calls[0].confidence is None, "nobody asked for it"
    assert len(engine.asked) == 1


def test_the_confidence_of_several_calls_is_their_product() -> None:
    both = [*hermes("weather", 0.6), ("\n", 1.0), *hermes("clock", 0.6)]
    assert not collect(chat(Attempts(both, [(WORDS, 1.0)]))(ASK, TOOLS, CAREFUL)).message.tool_calls
    surer = [*hermes("weather", 0.8), ("\n", 1.0), *hermes("clock", 0.8)]
    assert len(collect(chat(Attempts(surer))(ASK, TOOLS, CAREFUL)).message.tool_calls) == 2


def test_text_before_the_call_stays_and_goes_on() -> None:
    engine = Attempts([("Let me see.", 1.0), ("\n", 1.0), *hermes("weather", 0.1)], [(" No, I cannot.", 1.0)])
    reply = collect(chat(engine)(ASK, TOOLS, CAREFUL))
    assert reply.message.content == "Let me see. No, I cannot."
    (prompt, _), (again, _) = engine.asked
    assert TOKENIZER.decode(again[len(prompt) :]) == "Let me see."


def test_reasoning_is_shown_once_and_the_second_attempt_goes_on_after_it() -> None:
    tokenizer = thinking_tokenizer()
    first = [("Hm.\n</think>\n\n", 1.0), *hermes("weather", 0.1)]
    engine = Attempts(first, [(WORDS, 1.0)], tokenizer=tokenizer)
    reply = collect(LocalChat(engine, Renderer(tokenizer, None, "hermes"))(ASK, TOOLS, CAREFUL))
    assert (reply.message.reasoning.strip(), reply.message.content) == ("Hm.", WORDS)
    (prompt, _), (again, _) = engine.asked
    assert tokenizer.decode(again[len(prompt) :]).rstrip().endswith("</think>")


@pytest.mark.parametrize("before", [[], [("Let me see.\n", 1.0)]])
@pytest.mark.parametrize("second", [[], [(" \n", 1.0)], hermes("clock", 0.9)])
def test_a_model_that_has_nothing_else_to_say_makes_its_calls(second: list[Piece], before: list[Piece]) -> None:
    reply = collect(chat(Attempts([*before, *hermes("weather", 0.1)], second))(ASK, TOOLS, CAREFUL))
    assert [call.name for call in reply.message.tool_calls] == ["weather"] and reply.finish == "tool_calls"


def test_a_call_whose_confidence_is_unknown_is_made() -> None:
    engine = Attempts(hermes("weather", math.nan), [(WORDS, 1.0)])
    assert collect(chat(engine)(ASK, TOOLS, CAREFUL)).message.tool_calls and len(engine.asked) == 1


def test_the_calibration_of_a_checkpoint_decides_unless_the_request_does() -> None:
    def calls(params: SamplingParams, **calibrations: Calibration) -> int:
        engine = Attempts(hermes("weather", 0.16), [(WORDS, 1.0)])
        return len(collect(chat(engine, calibrations=calibrations)(ASK, TOOLS, params)).message.tool_calls)

    plain, tuned = SamplingParams(), SamplingParams(adapter="tuned")
    assert calls(plain) == 1
    assert calls(tuned, tuned=Calibration(2.0, 0.5)) == 0  # 0.16 ** (1 / 2) is 0.4
    assert calls(tuned, tuned=Calibration(2.0, 0.3)) == 1
    assert calls(plain, tuned=Calibration(2.0, 0.5)) == 1
    assert calls(SamplingParams(adapter="tuned", min_confidence=0.0), tuned=Calibration(2.0, 0.5)) == 1


def test_both_attempts_count_and_share_the_limit_of_tokens() -> None:
    call = hermes("weather", 0.1)
    engine = Attempts([("Hm. ", 1.0), *call], [(WORDS, 1.0)])
    reply = collect(chat(engine)(ASK, TOOLS, SamplingParams(min_confidence=0.5, max_tokens=200)))
    first = sum(len(TOKENIZER.encode(text, add_special_tokens=False)) for text, _ in [("Hm. ", 1.0), *call]) + 1
    assert reply.usage.prompt_tokens == len(engine.asked[0][0])
    assert reply.usage.completion_tokens == first + len(WORDS) + 1
    assert engine.asked[1][1].max_tokens == 200 - len("Hm.")


def test_closing_a_reply_ends_the_attempt_that_is_running() -> None:
    engine = Attempts([("Hm. ", 1.0), *hermes("weather", 0.1)], [(WORDS, 1.0)])
    deltas = chat(engine)(ASK, TOOLS, CAREFUL)
    assert next(deltas).text
    deltas.close()
    assert [stream.closed for stream in engine.streams] == [True]
    assert not any(delta.tool_call or delta.finish == "tool_calls" for delta in deltas) and len(engine.asked) == 1
    engine = Attempts(hermes("weather", 0.1), [(WORDS, 1.0)])
    deltas = chat(engine)(ASK, TOOLS, CAREFUL)
    assert next(deltas).text == WORDS[0]
    deltas.close()
    assert engine.streams[1].closed
    assert len("".join(delta.text for delta in deltas)) < len(WORDS) - 1


def test_calls_are_made_where_the_queue_has_no_room_for_a_second_attempt() -> None:
    reply = collect(chat(Attempts(hermes("weather", 0.1), [(WORDS, 1.0)], room=1))(ASK, TOOLS, CAREFUL))
    assert [call.name for call in reply.message.tool_calls] == ["weather"] and reply.finish == "tool_calls"


def served(engine: Attempts, **body: Any) -> dict[str, Any]:
    """The message with which a server replies that calls from 0.5 on."""
    tools = [{"type": "function", "function": tool.spec.get("function", tool.spec)} for tool in TOOLS]
    sent = {"model": "m", "messages": [{"role": "user", "content": "Rain?"}], "tools": tools, **body}
    model = chat(engine, calibrations={"": Calibration(1.0, 0.5)})
    with running(create_app(model, "m", guide=model.guide, defaults=SamplingParams())) as url:
        response = httpx.post(f"{url}/v1/chat/completions", json=sent)
    message: dict[str, Any] = response.json()["choices"][0]["message"]
    return message


def test_a_server_calls_no_tool_in_doubt_but_one_that_the_client_requires() -> None:
    assert served(Attempts(hermes("weather", 0.1), [(WORDS, 1.0)]))["content"] == WORDS
    required = Attempts(hermes("weather", 0.1), [(WORDS, 1.0)])
    message = served(required, tool_choice="required")
    assert message["tool_calls"][0]["function"]["name"] == "weather" and len(required.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_asks_for_confidences_sees_the_calls_that_were_not_made(stream: bool) -> None:
    def said(**body: Any) -> list[Any]:
        engine = Attempts(hermes("weather", 0.1), [(WORDS, 1.0)])
        model = chat(engine, calibrations={"": Calibration(1.0, 0.5)})
        tools = [{"type": "function", "function": tool.spec.get("function", tool.spec)} for tool in TOOLS]
        messages = [{"role": "user", "content": "Rain?"}]
        with (
            running(create_app(model, "m", defaults=SamplingParams())) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client,
        ):
            asked: Any = {"model": "m", "messages": messages, "tools": tools, "extra_body": body}
            if not stream:
                return [client.chat.completions.create(**asked).choices[0].message.model_dump()]
            return [each.choices[0].delta.model_dump() for each in client.chat.completions.create(**asked, stream=True)]

    [[declined]] = [each["x_declined_calls"] for each in said(x_confidence=True) if "x_declined_calls" in each]
    assert declined["function"] == {"name": "weather", "arguments": "{}"}
    assert declined["x_confidence"] == pytest.approx(0.1)
    assert not any("x_declined_calls" in each for each in said())


def test_the_dialogue_says_which_call_was_not_made() -> None:
    out = io.StringIO()
    model = chat(Attempts(hermes("weather", 0.1), [(WORDS, 1.0)]))
    offered = [from_schema(tool.wrapped, lambda arguments, seconds: "wet") for tool in TOOLS]
    Repl(model, CAREFUL, tool_format("hermes"), out, tools=offered).feed("Rain?")
    assert f"{WORDS}\n[not called: weather: 0.10]\n" in out.getvalue()


def test_the_limit_is_the_lowest_with_the_most_right_replies() -> None:
    needless = [calibration.Rated(math.log(p), False, True) for p in (0.01, 0.02, 0.03, 0.04, 0.06, 0.3)]
    needed = [calibration.Rated(math.log(p), True) for p in (0.055, 0.25, 0.28, 0.4, 0.9)]
    wrong = [calibration.Rated(math.log(p), False) for p in (0.02, 0.05)]  # wrong in words as well
    found = calibration.fit_min_confidence(2 * [*needed, *needless, *wrong], UNCALIBRATED)
    assert (found.right, found.needless) == (0, 8)
    assert 0.04 < found.confidence < 0.05
    sure = [calibration.Rated(math.log(p), False, True) for p in (0.2, 0.3, 0.4, 0.5)]
    assert calibration.fit_min_confidence(3 * sure, UNCALIBRATED).confidence == 0, "no limit is above a tenth"
    assert calibration.fit_min_confidence(needed, UNCALIBRATED).confidence == 0
    few = [*needed, *needless, *wrong]
    assert calibration.fit_min_confidence(few, UNCALIBRATED).confidence == 0, "too few calls where none is right"


def test_the_limit_is_kept_with_the_calibration(tmp_path: Path) -> None:
    write_calibration(tmp_path, Calibration(1.5, 0.2), 200, (0.2, 0.05), "calls")
    assert read_calibration(tmp_path) == Calibration(1.5, 0.2)
    (tmp_path / NAME).write_text(json.dumps({"temperature": 1.5}))
    assert read_calibration(tmp_path) == Calibration(1.5)  # a file of an earlier version
    (tmp_path / NAME).write_text(json.dumps({"temperature": 1.5, "min_confidence": 2}))
    with pytest.raises(ValueError, match="min_confidence must be a number from 0 to 1, not 2"):
        read_calibration(tmp_path)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["infer", "--min_confidence", "1.5"], "--min_confidence 1.5: must be a probability from 0 to 1"),
        (
            ["infer", "--infer_backend", "openvino", "--min_confidence", "0.2"],
            "--min_confidence does not work with --infer_backend openvino: use pt or vllm",
        ),
        (
            ["infer", "--endpoint", "http://127.0.0.1:9/v1", "--min_confidence", "0.2"],
            "--min_confidence has no effect with --endpoint",
        ),
    ],
)
def test_a_limit_without_effect_is_refused(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert reason in capsys.readouterr().err
