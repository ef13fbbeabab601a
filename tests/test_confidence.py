"""The confidence of tool calls, from the log probabilities of a scripted engine; its calibration, and its file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from test_server_load import running
from tiny import thinking_tokenizer, tiny_model_folder, tiny_tokenizer

import swift
from swift import cli
from swift.agent import TOOL_FORMATS, tool_format
from swift.assembly.calibrated_adapters import CalibratedAdapters
from swift.chat import Delta, Message, Tool, ToolCall
from swift.engine.interface import TokenOutput
from swift.engine.sampling import SamplingParams, sampler
from swift.engine.torch_engine import TorchEngine
from swift.eval import calibration
from swift.guided.grammar import Rules
from swift.infer.calibration_file import NAME, read_calibration, write_calibration
from swift.infer.chat import Reply, collect
from swift.infer.confidence import Calibration
from swift.infer.local_chat import LocalChat
from swift.infer.remote_chat import RemoteChat
from swift.model.load import load_model
from swift.serve.server import create_app
from swift.template import Renderer, template
from swift.tuner import adapter_files, lora

TOKENIZER = tiny_tokenizer()  # a token is a byte
END = "<|im_end|>"
ASK = (Message("user", "Rain?"),)
TOOLS = tuple(
    Tool({"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}})
    for name in ("weather", "clock")
)
RATED = SamplingParams(confidence=True)


class RatedEngine:
    """Replies with pieces of text, each with the probability that its tokens have together."""

    context = None

    def __init__(self, *pieces: tuple[str, float], tokenizer: Any = TOKENIZER, cut: bool = False) -> None:
        self._pieces, self._tokenizer, self._cut = pieces, tokenizer, cut

    def submit(self, tokens: Any, params: SamplingParams, inputs: Any = None) -> Iterator[TokenOutput]:
        for text, probability in self._pieces:
            written = self._tokenizer.encode(text, add_special_tokens=False)
            for token in written:
                logprob = math.log(probability) / len(written)
                yield TokenOutput(token, logprob, "stop" if token == self._tokenizer.eos_token_id else None)
        if self._cut:
            yield TokenOutput(token, logprob, "length")

    def close(self) -> None: ...


def replied(form: str, *pieces: tuple[str, float], params: SamplingParams = RATED, **settings: Any) -> Reply:
    engine = RatedEngine(*pieces, (END, 0.5))
    return collect(LocalChat(engine, Renderer(TOKENIZER, template("qwen"), form), **settings)(ASK, TOOLS, params))


def confidences(reply: Reply) -> list[float | None]:
    return [call.confidence for call in reply.message.tool_calls]


def test_the_confidence_of_a_call_is_the_probability_of_its_opening_its_name_and_its_arguments() -> None:
    reply = replied(
        "hermes",
        ("I look.", 0.01),
        ("\n<tool_call>", 0.9),
        ('\n{"name": "', 1.0),
        ("weather", 0.8),
        ('", "arguments": ', 1.0),
        ('{"city": "厦门"}', 0.5),
        ("}\n</tool_call>", 0.02),
    )
    assert confidences(reply) == [pytest.approx(0.9 * 0.8 * 0.5)]


def test_each_of_several_calls_has_the_probability_of_its_own_tokens() -> None:
    reply = replied(
        "hermes",
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "Xiamen"}', 0.9),
        ("}\n</tool_call>", 0.3),
        ('\n<tool_call>\n{"name": "clock", "arguments": {"city": "weather"}', 0.4),
        ("}\n</tool_call>", 0.3),
    )
    assert confidences(reply) == [pytest.approx(0.9), pytest.approx(0.4)]


def test_thoughts_before_and_between_calls_do_not_count() -> None:
    reply = replied(
        "react_en",
        ("Thought: the weather, then the clock.\n", 0.001),
        ('Action: weather\nAction Input: {"city": "Paris"}', 0.6),
        ("\nThought: and now the clock.\n", 0.001),
        ("Action: clock\nAction Input: {}", 0.7),
        ("\nObservation:", 0.1),
    )
    assert confidences(reply) == [pytest.approx(0.6), pytest.approx(0.7)]


def test_a_call_that_reasoning_drafts_does_not_count() -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {}'
    tokenizer = thinking_tokenizer()
    engine = RatedEngine(
        (f"{call}}} it is.\n</think>\n\n", 0.01), (call, 0.8), ("}\n</tool_call>", 0.2), tokenizer=tokenizer
    )
    reply = collect(LocalChat(engine, Renderer(tokenizer, None, "hermes"))(ASK, TOOLS, RATED))
    assert "it is." in reply.message.reasoning
    assert confidences(reply) == [pytest.approx(0.8)]


@pytest.mark.parametrize("form", TOOL_FORMATS)
def test_every_format_has_the_confidence_of_each_call(form: str) -> None:
    calls = [ToolCall("weather", '{"city": "the weather, (clock)"}'), ToolCall("clock", '{"city": "Paris"}')]
    text = tool_format(form).call("", calls)
    marks = [("weather", 0.8), ("(clock)", 0.5), ("clock", 0.4), ("Paris", 0.25)]
    pieces: list[tuple[str, float]] = []
    for mark, probability in marks:
        before, mark, text = text.partition(mark)
        pieces += [(before, 1.0), (mark, probability)]
    found = confidences(replied(form, *pieces, (text, 1.0)))
    assert found == [pytest.approx(0.8 * 0.5), pytest.approx(0.4 * 0.25)][: len(found)]
    assert len(found) == 2 or form == "harmony", "one call ends the reply in that format"


def test_the_confidence_of_a_streamed_call_comes_with_its_last_part() -> None:
    text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    engine = RatedEngine((text, 0.7), (END, 1.0))
    deltas = list(LocalChat(engine, Renderer(TOKENIZER, template("qwen"), "hermes"))(ASK, TOOLS, RATED))
    parts = [delta.tool_call for delta in deltas if delta.tool_call]
    assert parts[0].name == "weather"
    assert len(parts) > 10, "the arguments stream"
    assert all(part.confidence is None for part in parts[:-1])
    assert parts[-1].confidence is not None
    assert {part.id for part in parts} == {parts[0].id}


def test_a_call_that_is_cut_off_has_no_confidence_but_the_one_before_it_has() -> None:
    first = '<tool_call>\n{"name": "weather", "arguments": {}', 0.7
    second = '}\n</tool_call>\n<tool_call>\n{"name": "clock", "arguments": {"city": "Ro', 0.5
    engine = RatedEngine(first, second, cut=True)
    reply = collect(LocalChat(engine, Renderer(TOKENIZER, template("qwen"), "hermes"))(ASK, TOOLS, RATED))
    assert confidences(reply) == [pytest.approx(0.7), None]


def test_nobody_who_does_not_ask_gets_a_confidence_or_another_delta() -> None:
    pieces = ('<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>', 0.7)
    engine = RatedEngine(pieces, (END, 1.0))
    chat = LocalChat(engine, Renderer(TOKENIZER, template("qwen"), "hermes"))
    plain, rated = (list(chat(ASK, TOOLS, params)) for params in (SamplingParams(), RATED))
    assert len(rated) == len(plain) + 1
    assert all(delta.tool_call is None or delta.tool_call.confidence is None for delta in plain)


def test_an_engine_without_log_probabilities_leaves_the_confidence_open() -> None:
    reply = replied("hermes", ('<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>', math.nan))
    assert confidences(reply) == [None]


def test_a_calibration_divides_the_log_probability_by_its_temperature() -> None:
    text = ('<tool_call>\n{"name": "weather", "arguments": {}', 0.25), ("}\n</tool_call>", 1.0)
    calibrations = {"": Calibration(2.0), "sales": Calibration(0.5)}
    assert confidences(replied("hermes", *text, calibrations=calibrations)) == [pytest.approx(0.5)]
    sales = SamplingParams(confidence=True, adapter="sales")
    assert confidences(replied("hermes", *text, params=sales, calibrations=calibrations)) == [pytest.approx(0.0625)]


def served(*pieces: tuple[str, float]) -> AbstractContextManager[str]:
    """A server whose model replies with `pieces`."""
    chat = LocalChat(RatedEngine(*pieces, (END, 1.0)), Renderer(TOKENIZER, template("qwen"), "hermes"))
    return running(create_app(chat, "rated", defaults=SamplingParams()))


def test_a_remote_chat_reads_the_confidence_from_the_server() -> None:
    with served(('<tool_call>\n{"name": "weather", "arguments": {}', 0.7), ("}\n</tool_call>", 1.0)) as url:
        chat = RemoteChat(f"{url}/v1", "rated")
        assert confidences(collect(chat(ASK, TOOLS, RATED))) == [pytest.approx(0.7)]
        assert confidences(collect(chat(ASK, TOOLS))) == [None]


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_the_field_is_asked_without_it(status: int) -> None:
    bodies: list[dict[str, Any]] = []
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        bodies.append(await request.json())
        if not bodies[-1]["messages"]:
            return JSONResponse({"error": {"message": "messages is empty"}}, status)
        if "x_confidence" in bodies[-1]:
            return JSONResponse({"error": {"message": "Unrecognized request argument supplied: x_confidence"}}, status)
        part = {"index": 0, "id": "1", "function": {"name": "weather", "arguments": "{}"}}
        chunk = {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [part]}, "finish_reason": "tool_calls"}]}
        return Response(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", media_type="text/event-stream")

    with running(app) as url:
        chat = RemoteChat(f"{url}/v1", "other")
        with pytest.raises(OSError, match="messages is empty"):
            collect(chat((), TOOLS, RATED))
        assert len(bodies) == 1, "another error is not a refusal of the field"
        for _ in range(2):
            assert confidences(collect(chat(ASK, TOOLS, RATED))) == [None]
    assert ["x_confidence" in body for body in bodies[1:]] == [True, False, False]


def test_the_server_sends_null_for_a_confidence_that_its_engine_does_not_know() -> None:
    tools: list[Any] = [tool.wrapped for tool in TOOLS]
    body = {"model": "rated", "messages": [{"role": "user", "content": "Rain?"}], "tools": tools, "x_confidence": True}
    with served(('<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>', math.nan)) as url:
        message = httpx.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message["tool_calls"][0]["x_confidence"] is None


class AdapterEngine:
    """Records its adapters."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add_adapter(self, name: str, folder: str) -> None:
        self.names.append(name)

    def remove_adapter(self, name: str) -> None:
        self.names.remove(name)


def test_each_adapter_of_a_server_has_the_calibration_of_its_folder(tmp_path: Path) -> None:
    chat = LocalChat(RatedEngine(), Renderer(TOKENIZER, template("qwen")))
    engine = AdapterEngine()
    adapters = CalibratedAdapters(engine, chat)
    write_calibration(tmp_path / "a", Calibration(2.0), 100, (0.2, 0.1), "calls")
    for name in ("a", "b"):
        adapters.add_adapter(name, str(tmp_path / name))
    assert chat.calibrations == {"a": Calibration(2.0)} and engine.names == ["a", "b"]
    adapters.remove_adapter("a")
    assert chat.calibrations == {} and engine.names == ["b"]
    (tmp_path / "a" / NAME).write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        adapters.add_adapter("a", str(tmp_path / "a"))
    assert engine.names == ["b"]


class OnlyTokens:
    """A grammar that allows the tokens 1 and 2."""

    text, unenforced = "", ()

    def begin(self) -> OnlyTokens:
        return self

    def after(self, prefill: str) -> OnlyTokens:
        return self

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(0, torch.tensor([0, 3]), -torch.inf)

    def accept(self, token: int) -> None: ...


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_a_token_has_its_probability_among_those_that_the_grammar_allows_whatever_the_temperature(
    temperature: float,
) -> None:
    probabilities = torch.tensor([0.9, 0.06, 0.03, 0.01])
    params = SamplingParams(temperature=temperature, seed=1, top_k=1, guide=OnlyTokens(), confidence=True)
    sampled = sampler(params)(probabilities.log(), ())
    assert sampled.token == 1
    assert math.exp(sampled.logprob) == pytest.approx(0.06)
    assert math.exp(sampled.guided or 0) == pytest.approx(0.06 / 0.09)
    assert sampler(replace(params, confidence=False))(probabilities.log(), ()).guided is None
    assert sampler(replace(params, guide=None))(probabilities.log(), ()).guided is None


def test_a_call_that_a_grammar_forces_on_a_model_has_the_probability_that_the_grammar_leaves(tmp_path: Path) -> None:
    engine = TorchEngine(load_model(tiny_model_folder(tmp_path), device="cpu"), [2])
    chat = LocalChat(engine, Renderer(TOKENIZER, template("qwen"), "hermes"))
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Xiamen"]}}, "required": ["city"]}
    tools = (Tool({"name": "weather", "parameters": schema}),)
    guide = chat.guide(Rules(tools, required=True, parallel=False))
    deltas = list(chat(ASK, tools, SamplingParams(seed=1, guide=guide, logprobs=True, confidence=True)))
    engine.close()
    (call,) = collect(iter(deltas)).message.tool_calls
    assert call.confidence and 1e-9 < call.confidence < 0.5, "the choice of a city and of white space"
    assert sum(token.logprob for delta in deltas for token in delta.logprobs) < -100, (
        "log probabilities are the model's"
    )


def test_the_python_api_returns_the_confidence_of_calls() -> None:
    engine = RatedEngine(
        ('<tool_call>\n{"name": "weather", "arguments": {}', 0.7), ("}\n</tool_call>", 1.0), (END, 1.0)
    )
    message = swift.generate(LocalChat(engine, Renderer(TOKENIZER, template("qwen"), "hermes")), "Rain?", TOOLS)
    assert [call.confidence for call in message.tool_calls] == [pytest.approx(0.7)]


def test_two_calls_are_equal_whatever_their_confidence() -> None:
    assert ToolCall("weather", "{}", "", 0.3) == ToolCall("weather", "{}")


def test_the_confidence_of_a_reply_is_the_product_over_its_calls() -> None:
    both = Message("assistant", "", (ToolCall("a", confidence=0.5), ToolCall("b", confidence=0.5)))
    assert calibration.reply_confidence(both) == 0.25
    assert (
        calibration.reply_confidence(Message("assistant", "", (ToolCall("a"), ToolCall("b", confidence=0.5)))) is None
    )
    assert calibration.reply_confidence(Message("assistant", "no call")) is None


def test_the_expected_calibration_error_is_that_of_the_paper() -> None:
    # bins (0.5, 0.6] and (0.9, 1.0]: 4 / 6 * |0.5 - 0.6| + 2 / 6 * |1 - 0.95|
    found = calibration.expected_calibration_error([0.6] * 4 + [0.95] * 2, [True, False] * 2 + [True] * 2)
    assert found == pytest.approx(4 / 6 * 0.1 + 2 / 6 * 0.05)
    assert calibration.expected_calibration_error([1.0, 0.0], [True, False]) == 0


def test_auroc_counts_pairs_in_the_right_order() -> None:
    assert calibration.auroc([0.9, 0.8, 0.1], [True, True, False]) == 1
    assert calibration.auroc([0.9, 0.5, 0.5, 0.1], [False, True, False, True]) == pytest.approx((0 + 0.5 + 0 + 0) / 4)
    assert math.isnan(calibration.auroc([0.9], [True]))


def drawn(power: float, count: int = 2000) -> list[calibration.Rated]:
    """Calls of which exactly `p ** power` are right at each probability p."""
    rows = []
    for index in range(count):
        p = 0.05 + 0.9 * (index % 20) / 19
        rows.append(calibration.Rated(math.log(p), (index // 20) / (count / 20) < p**power))
    return rows


@pytest.mark.parametrize("power", [0.25, 1.0, 4.0])
def test_a_fitted_temperature_undoes_a_power_of_the_probability(power: float) -> None:
    rows = drawn(power)
    fitted = calibration.fit_temperature([row.log_confidence for row in rows], [row.correct for row in rows])
    assert fitted.temperature == pytest.approx(1 / power, rel=0.1)
    assert calibration.report(rows, fitted).ece < 0.03
    assert power == 1 or calibration.report(rows).ece > 0.1


def test_no_temperature_is_fitted_to_few_calls_or_to_calls_that_are_all_right() -> None:
    few = calibration.report(drawn(1.0)[:20])
    assert few.fitted is None and few.reason == "20 calls are too few: it takes 40"
    right = calibration.report([calibration.Rated(-0.1, True)] * 50)
    assert right.fitted is None and right.reason.startswith("50 of 50 calls are right")
    assert "no temperature is fitted" in right.text
    with pytest.raises(ValueError, match="no reply has a call"):
        calibration.report([])


def test_certain_and_impossible_calls_do_not_break_the_fit() -> None:
    rows = [calibration.Rated(0.0, index % 3 > 0) for index in range(60)]
    rows += [calibration.Rated(-5000.0, index % 3 > 0) for index in range(60)]
    found = calibration.report(rows)
    assert found.fitted is not None and math.isfinite(found.fitted_ece)


def test_a_calibrated_confidence_is_rated_by_the_probability_that_it_came_from() -> None:
    message = Message("assistant", "", (ToolCall("weather", confidence=0.5),))
    found = calibration.rated(message, True, Calibration(2.0))
    assert found == (pytest.approx(2 * math.log(0.5)), True, False)
    impossible = Message("assistant", "", (ToolCall("a", confidence=0.0),))
    assert calibration.rated(impossible, False) == (-700.0, False, False)
    assert calibration.rated(Message("assistant", "hello"), True) is None


def test_the_table_and_the_diagram_have_every_bin() -> None:
    found = calibration.report(drawn(1.0, 400))
    assert found.text.count(" to ") == 10
    assert sum(each.replies for each in found.bins) == 400
    pair = [("before", found), ("after", found)]
    assert calibration.plot(pair).startswith(b"<?xml")
    assert calibration.plot(pair, "png").startswith(b"\x89PNG")


def test_a_calibration_is_kept_beside_its_checkpoint(tmp_path: Any) -> None:
    assert read_calibration(tmp_path) is None
    write_calibration(tmp_path, Calibration(1.5), 200, (0.2, 0.05), "calls")
    assert read_calibration(tmp_path) == Calibration(1.5)
    record = json.loads((tmp_path / NAME).read_text())
    assert record["rows"] == 200 and record["ece_after"] == 0.05


def test_a_loaded_chat_applies_the_calibration_of_its_checkpoint_and_merging_keeps_it(tmp_path: Path) -> None:
    base = tiny_model_folder(tmp_path / "base")
    tuned = lora.attach(load_model(base, device="cpu"), lora.LoraOptions())
    checkpoint = tmp_path / "run" / "checkpoint-10"
    adapter_files.save(tuned, checkpoint)
    record = {"template_type": "qwen", "sft_type": "lora", "model_id_or_path": str(base)}
    (checkpoint / "sft_args.json").write_text(json.dumps(record))
    write_calibration(checkpoint, Calibration(1.5), 200, (0.2, 0.05), "calls")
    assert cli.main(["merge-lora", "--ckpt_dir", str(checkpoint), "--device", "cpu"]) == 0
    for folder in (checkpoint, Path(f"{checkpoint}-merged")):
        chat = swift.load_chat(folder, device="cpu")
        chat.engine.close()
        assert chat.calibrations == {"": Calibration(1.5)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "temperature must be a number above 0, not null"),
        ('{"temperature": 0}', "temperature must be a number above 0, not 0"),
        ('{"temperature": "hot"}', 'not "hot"'),
        ('{"temperature": 1, "formula": "p"}', "the formula must be"),
    ],
)
def test_a_damaged_calibration_names_the_file_and_the_reason(tmp_path: Any, text: str, reason: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_calibration(tmp_path)


def test_joining_deltas_keeps_the_confidence() -> None:
    parts = [ToolCall("a", "", "1"), ToolCall("", "{}", "1"), ToolCall("", "", "1", 0.5), ToolCall("b", "{}", "2", 0.1)]
    reply = collect(iter([*(Delta(tool_call=part) for part in parts), Delta(finish="tool_calls")]))
    assert confidences(reply) == [0.5, 0.1]
