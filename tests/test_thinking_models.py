"""Models that think, from training to a served dialogue: tiny checkpoints with their published chat templates."""

from __future__ import annotations

import copy
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from dialogues import dialogues
from fastapi.testclient import TestClient
from published_templates import tokenizer as published_tokenizer
from tiny_published import FAMILIES, published_folder
from transformers import AutoTokenizer

from swift import cli
from swift.chat import Message, Sample
from swift.commands import deploy
from swift.engine.interface import TokenOutput
from swift.engine.torch_engine import TorchEngine
from swift.infer.local_chat import LocalChat
from swift.serve.server import create_app
from swift.template import Renderer
from swift.train import sample_cache as kept_tokens

Wire = dict[str, Any]
Checkpoint = Callable[[str], Path]
TRAINED_ON = date(2025, 1, 1)
"""The date that chat templates see in training, and when what was trained is served."""
WITHOUT_TOOLS = ("DeepSeek V3", "DeepSeek R1")
"""Families whose templates do not tell of tools: these are offered by ReAct."""
OUR_OWN = ("Qwen3.5", "GLM-4.5", "gpt-oss", "Nemotron 3", *WITHOUT_TOOLS)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "sky",
            "description": "The sky.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALL = {"id": "call00001", "type": "function", "function": {"name": "sky", "arguments": '{"city": "Rome"}'}}
ROME: Wire = {"role": "user", "content": "Rome?"}
LOOKS: Wire = {"role": "assistant", "content": "", "reasoning_content": "I look.", "tool_calls": [CALL]}
BLUE: Wire = {"role": "tool", "tool_call_id": "call00001", "name": "sky", "content": "blue"}
TELLS: Wire = {"role": "assistant", "content": "It is blue.", "reasoning_content": "Blue it is."}
THANKS: Wire = {"role": "user", "content": "Thanks! Really?"}
SURE: Wire = {"role": "assistant", "content": "Yes.", "reasoning_content": "They doubt."}
SUMS: list[Wire] = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2", "reasoning_content": "One and one."},
    {"role": "user", "content": "And 1?"},
    {"role": "assistant", "content": "3", "reasoning_content": "Two and one."},
]
WEATHER = [ROME, LOOKS, BLUE, TELLS, THANKS, SURE]
ROWS: list[Wire] = [{"messages": WEATHER, "tools": TOOLS}, {"messages": SUMS}]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("swift.train.report._picture", lambda *_: b"<svg></svg>")


def swift(verb: str, *words: object) -> None:
    assert cli.main([verb, *map(str, words), "--device", "cpu"]) == 0


def write(path: Path, rows: list[Wire]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def train(model: Path, rows: Path, run: Path, *more: object) -> Path:
    """The folder of a run of steps of two samples on all rows."""
    where = ("--model", model, "--dataset", rows, "--output_dir", run, "--add_output_dir_suffix", "false")
    steps = ("--batch_size", 2, "--gradient_accumulation_steps", 1, "--logging_steps", 1, "--report_to", "none")
    swift("sft", *where, *steps, *(() if "--dataset_test_ratio" in more else ("--dataset_test_ratio", 0)), *more)
    return run


def wanted(tokenizer: Any, messages: Sequence[Wire], tools: Sequence[Wire] = ()) -> list[int]:
    """The prompt of `apply_chat_template`, which reads arguments as objects, and thoughts under its own name."""
    told = copy.deepcopy(list(messages))
    for message in told:
        if "message.thinking" in tokenizer.chat_template and "reasoning_content" in message:
            message["thinking"] = message.pop("reasoning_content")
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    given: Wire = {"add_generation_prompt": True, "return_dict": False, "strftime_now": TRAINED_ON.strftime}
    return list(tokenizer.apply_chat_template(told, tools=list(tools) or None, **given))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A family's name -> the checkpoint of its one step, beside the `model`, the `rows.jsonl` and the `tokens`."""

    @cache
    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp("family")
        model = published_folder(folder / "model", FAMILIES[name])
        rows = write(folder / "rows.jsonl", ROWS)
        return train(model, rows, folder, "--max_steps", 1, "--token_cache", folder / "tokens") / "checkpoint-1"

    return made


def kept_samples(run: Path) -> Sequence[Sample]:
    """What a run was trained on."""
    (kept,) = (run / "tokens").iterdir()
    found = kept_tokens.read(kept)
    assert found
    return found[0]["train"]


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What the engine is asked with, in order."""
    seen: list[list[int]] = []
    submit = TorchEngine.submit

    def submitted(self: TorchEngine, tokens: Any, *rest: Any, **more: Any) -> Any:
        seen.append(list(tokens))
        return submit(self, tokens, *rest, **more)

    monkeypatch.setattr(TorchEngine, "submit", submitted)
    return seen


@pytest.mark.parametrize("name", OUR_OWN)
def test_a_step_is_taken_on_samples_behind_the_prompts_of_the_template(name: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(name).parent
    mixture = json.loads((folder / "mixture.json").read_text())
    (share,) = mixture["sources"].values()
    assert (share["rows"], share["samples"], mixture["steps"]) == (2, 4, 1)
    assert "samples" in (folder / "report.html").read_text()
    first, *_ = map(json.loads, (folder / "logging.jsonl").read_text().splitlines())
    assert math.isfinite(first["loss"]) and first["grad_norm"] > 0

    samples = kept_samples(folder)
    assert sum(len(sample.tokens) for sample in samples) == share["tokens"]
    asked: list[tuple[list[Wire], list[Wire]]] = [(SUMS[:1], []), (SUMS[:3], [])]
    if name not in WITHOUT_TOOLS:
        asked += [(WEATHER[:at], TOOLS) for at in (1, 3, 5)]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for messages, tools in asked:
        prompt = wanted(tokenizer, messages, tools)
        (trained,) = [s for s in samples if s.tokens[: len(prompt)] == prompt and s.weights[len(prompt)]]
        assert trained.weights[len(prompt) - 1] == 0


@pytest.mark.parametrize("name", OUR_OWN)
def test_a_dialogue_is_served_round_for_round_with_the_prompts_of_the_template(
    name: str, checkpoint: Checkpoint, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(name)
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "model")
    (letter,) = tokenizer.encode("a", add_special_tokens=False)

    def talk(app: Any, *_: Any) -> None:
        http = TestClient(app)

        def ask(messages: list[Wire], tools: Sequence[Wire] = (), **more: Any) -> Wire:
            body = {"model": "m", "messages": messages, "max_tokens": 12, "temperature": 1, "seed": 1, **more}
            answer = http.post("/v1/chat/completions", json={**body, **({"tools": tools} if tools else {})})
            assert answer.status_code == 200, answer.text
            if name not in WITHOUT_TOOLS or not tools:
                assert prompts[-1] == wanted(tokenizer, messages, tools)
            message: Wire = {} if "stream" in more else answer.json()["choices"][0]["message"]
            return message

        for rounds in (1, 3, 5):
            ask(WEATHER[:rounds], TOOLS)
            ask(WEATHER[:rounds], TOOLS, stream=True)
        said = ask(SUMS[:1], logit_bias={str(letter): 100})  # random weights say anything
        said = {"role": "assistant", **{key: said.get(key) or "" for key in ("content", "reasoning_content")}}
        assert set(said["reasoning_content"] + said["content"]) == {"a"}
        ask([SUMS[0], said, SUMS[2]])

    monkeypatch.setattr(deploy, "serve", talk)
    swift("deploy", "--ckpt_dir", folder, "--port", 0, "--served_model_name", "m")
    assert len(prompts) == 8


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Has engines say to each prompt what the samples of a run train behind it, as a model that learned them would."""

    def learn(run: Path) -> None:
        samples = kept_samples(run)

        def says(self: TorchEngine, tokens: list[int], *_: Any, **__: Any) -> Iterator[TokenOutput]:
            size = len(tokens)
            (sample,) = [s for s in samples if s.tokens[:size] == list(tokens) and s.weights[size]]
            for token, weight in zip(sample.tokens[size:], sample.weights[size:], strict=True):
                assert weight, "what is trained ends with what ends a reply"
                ends = token in self._stop_tokens
                yield TokenOutput(token, 0.0, "stop" if ends else None)
                if ends:
                    return

        monkeypatch.setattr(TorchEngine, "submit", says)

    return learn


@pytest.mark.parametrize("name", OUR_OWN)
def test_a_model_that_learned_a_dialogue_serves_its_replies(
    name: str, checkpoint: Checkpoint, learned: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(name)
    learned(folder.parent)

    def talk(app: Any, *_: Any) -> None:
        http = TestClient(app)
        for messages, tools in ((WEATHER, TOOLS), (SUMS, [])):
            for at in (number for number, message in enumerate(messages) if message["role"] == "assistant"):
                body = {"model": "m", "messages": messages[:at], **({"tools": tools} if tools else {})}
                answer = http.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                (choice,) = answer.json()["choices"]
                assert choice["finish_reason"] == ("tool_calls" if "tool_calls" in messages[at] else "stop")
                assert bare(choice["message"]) == bare(messages[at])
                streamed = http.post("/v1/chat/completions", json={**body, "stream": True})
                assert bare(joined(streamed.text)) == bare(messages[at])

    monkeypatch.setattr(deploy, "serve", talk)
    swift("deploy", "--ckpt_dir", folder, "--port", 0, "--served_model_name", "m")


def bare(message: Wire) -> tuple[str, str, list[tuple[str, Wire]]]:
    """Content, thought and calls."""
    calls = [call["function"] for call in message.get("tool_calls") or []]
    said = [(call["name"], json.loads(call["arguments"])) for call in calls]
    return message.get("content") or "", message.get("reasoning_content") or "", said


def joined(text: str) -> Wire:
    """The message that a stream of events gives, of at most one call."""
    whole: Wire = {"content": "", "reasoning_content": ""}
    for line in text.split("\n\n"):
        if not line.startswith("data: {"):
            continue
        delta = json.loads(line[6:])["choices"][0]["delta"]
        for key in ("content", "reasoning_content"):
            whole[key] += delta.get(key) or ""
        for call in delta.get("tool_calls") or []:
            own = whole.setdefault("tool_calls", [{"function": {"name": "", "arguments": ""}}])[0]["function"]
            for key in ("name", "arguments"):
                own[key] += call["function"].get(key) or ""
    return whole


@pytest.mark.parametrize("name", OUR_OWN)
def test_a_model_that_learned_a_dialogue_talks_it_in_the_terminal(
    name: str,
    checkpoint: Checkpoint,
    learned: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What its call gives is typed in."""
    folder = checkpoint(name)
    learned(folder.parent)
    (tmp_path / "described.json").write_text(json.dumps(TOOLS))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ROME['content']}\nblue\n{THANKS['content']}\nexit\n"))
    where = ("--ckpt_dir", folder, "--tools", tmp_path / "described.json", "--result_dir", tmp_path / "results")
    swift("infer", *where)
    shown = capsys.readouterr().out
    for text in ("I look.", "sky", "Rome", "Blue it is.", "It is blue.", "They doubt.", "Yes."):
        assert text in shown
    (results,) = (tmp_path / "results").iterdir()
    saved = [json.loads(line) for line in results.read_text().splitlines()]
    assert [record["history"][0][0] for record in saved if record["history"]][-1] == ROME["content"]
    assert saved[-1]["query"] == THANKS["content"]
    assert saved[-1]["response"].index("They doubt.") < saved[-1]["response"].index("Yes.")


class Learned:
    """An engine that says to a prompt what samples train behind it."""

    context = None

    def __init__(self, samples: Sequence[Sample], stops: Sequence[int]) -> None:
        self.samples, self.stops = samples, stops
        self.prompt: list[int] = []

    def submit(self, tokens: Sequence[int], *_: Any) -> Iterator[TokenOutput]:
        self.prompt, size = list(tokens), len(tokens)
        (sample,) = [s for s in self.samples if s.tokens[:size] == self.prompt and s.weights[size]]
        for token, weight in zip(sample.tokens[size:], sample.weights[size:], strict=True):
            assert weight, "what is trained ends with what ends a reply"
            yield TokenOutput(token, 0.0, "stop" if token in self.stops else None)

    def close(self) -> None: ...


@pytest.mark.parametrize("template", ["qwen3_5_think", "glm4moe", "gptoss", "deepseekv3"])
def test_each_reply_of_each_dialogue_comes_back_from_the_server_as_it_was_trained(template: str) -> None:
    tokenizer = published_tokenizer(template)
    renderer = Renderer(tokenizer, None, today=TRAINED_ON)
    for dialogue in dialogues():
        messages, tools = dialogue.conversation.messages, dialogue.tools
        if any(words_are_thoughts(template, message) for message in messages):
            continue
        engine = Learned(renderer.samples(dialogue.conversation), renderer.stop.tokens)
        http = TestClient(create_app(LocalChat(engine, renderer), "m"))
        wire = [with_texts(message) for message in dialogue.wire]
        for at in dialogue.asks:
            body = {"model": "m", "messages": wire[:at], **({"tools": tools} if tools else {})}
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, (dialogue.name, at, answer.text)
            if not tools or template != "deepseekv3":
                assert engine.prompt == wanted(tokenizer, wire[:at], tools), (dialogue.name, at)
            assert bare(answer.json()["choices"][0]["message"]) == bare(wire[at]), (dialogue.name, at)


def words_are_thoughts(template: str, message: Message) -> bool:
    """Whether the template, or ReAct, tells words before a call as a thought, or knows one call at a time alone."""
    spoken = bool(message.tool_calls and message.content)
    return template in ("gptoss", "deepseekv3") and (spoken or (template == "gptoss" and len(message.tool_calls) > 1))


def with_texts(message: Wire) -> Wire:
    """A message whose calls have their arguments as text, as clients send them."""
    told = copy.deepcopy(message)
    for call in told.get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return told


@pytest.mark.parametrize("name", OUR_OWN)
def test_rows_are_answered_behind_the_prompts_of_the_template(
    name: str, checkpoint: Checkpoint, prompts: list[list[int]], tmp_path: Path
) -> None:
    folder = checkpoint(name)
    rows: list[Wire] = [{"messages": SUMS}, {"messages": [ROME, TELLS, THANKS, SURE]}]
    if name not in WITHOUT_TOOLS:
        rows += [{"messages": WEATHER[:end], "tools": TOOLS} for end in (2, 4, 6)]
    file = write(tmp_path / "asked.jsonl", rows)
    where = ("--ckpt_dir", folder, "--val_dataset", file, "--result_dir", tmp_path / "results")
    swift("infer", *where, "--show_dataset_sample", -1, "--max_new_tokens", 8, "--stream", "true")
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "model")
    asked = [wanted(tokenizer, row["messages"][:-1], row.get("tools", ())) for row in rows]
    assert sorted(prompts) == sorted(asked)
    (results,) = (tmp_path / "results").iterdir()
    assert not any("error" in json.loads(line) for line in results.read_text().splitlines())


# How samples of dialogues that take several reach training, on a model that the fast path trains


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `model` whose template rewrites earlier rounds and `rows.jsonl`: 8 rows, 12 samples."""
    folder = tmp_path_factory.mktemp("work")
    published_folder(folder / "model", FAMILIES["Llama"])
    short = [{"messages": [{"role": "user", "content": "?" * n}, SURE]} for n in range(1, 5)]
    write(folder / "rows.jsonl", [*ROWS, *short, *ROWS])
    return folder


class Trained(NamedTuple):
    """The losses of a run's steps, its last adapter and its mixture."""

    losses: list[float]
    adapter: bytes
    mixture: Wire


def steps(work: Path, name: str, *more: object) -> Trained:
    given = () if "--max_steps" in more else ("--num_train_epochs", 1)
    folder = train(work / "model", work / "rows.jsonl", work / name, "--learning_rate", 1e-2, *given, *more)
    logged = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    last = max(folder.glob("checkpoint-*"), key=lambda each: int(each.name.rpartition("-")[2]))
    mixture = json.loads((folder / "mixture.json").read_text())
    losses = [line["loss"] for line in logged if "loss" in line]
    return Trained(losses, (last / "adapter_model.safetensors").read_bytes(), mixture)


def test_rows_and_samples_are_both_told(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = steps(work, "told")
    said = capsys.readouterr().out
    assert len(found.losses) == found.mixture["steps"] == 6
    whole = found.mixture["total"]
    assert (whole["rows"], whole["samples"]) == (8, 12)
    assert f"mixture: 8 rows (12 samples), {whole['tokens']:,} tokens" in said
    assert "steps: 6 of 2 x 1 x 1 samples (batch x accumulation x processes); held out: 0 rows" in said
    held = steps(work, "held out", "--dataset_test_ratio", 0.5, "--max_steps", 1).mixture
    assert (held["held_out_rows"], held["total"]["rows"]) == (4, 4)
    assert held["total"]["samples"] + held["held_out_samples"] == 12
    assert f"held out: 4 rows ({held['held_out_samples']} samples)" in capsys.readouterr().out


def test_the_token_cache_gives_the_same_samples(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--max_steps", 2, "--token_cache", work / "kept")
    plain, first = steps(work, "plain", "--max_steps", 2), steps(work, "first", *given)
    assert "tokens: kept in" in capsys.readouterr().out
    again = steps(work, "again", *given)
    said = capsys.readouterr().out
    assert "tokens: taken from" in said and "(12 samples of 8 rows)" in said
    assert plain == first == again
    steps(work, "silent", *given, "--enable_thinking", "false")
    assert "tokens: kept in" in capsys.readouterr().out


def test_a_run_that_is_continued_ends_the_same(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--max_steps", 3, "--save_steps", 1, "--save_total_limit", -1)
    whole = steps(work, "parts", *given)
    for later in (2, 3):
        shutil.rmtree(work / "parts" / f"checkpoint-{later}")
    capsys.readouterr()
    resumed = steps(work, "parts", *given, "--resume_from_checkpoint", work / "parts" / "checkpoint-1")
    said = capsys.readouterr().out
    assert "resume: 1 of 3 steps are done" in said and "resume: the order of rows differs" not in said
    assert resumed == whole


def test_packed_samples_have_the_losses_of_padded_ones(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--max_steps", 2, "--lora_dropout_p", 0)
    packed = steps(work, "packed", *given)
    assert "PEFT's own layers" not in capsys.readouterr().out
    padded = steps(work, "padded", *given, "--tuner_backend", "peft")
    assert packed.losses == pytest.approx(padded.losses, rel=1e-3)


@pytest.mark.parametrize("way", [("--lazy_tokenize", "true"), ("--streaming", "true", "--shuffle_buffer_size", 4)])
def test_samples_that_are_made_late_are_those_that_are_made_at_once(work: Path, way: tuple[object, ...]) -> None:
    early, late = (steps(work, "late", "--max_steps", 2, *more).mixture for more in ((), way))
    assert late["sources"] == early["sources"]


def test_a_run_is_filed_under_the_whole_name_of_its_model_and_experts_want_no_dropout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, rows = published_folder(tmp_path / "GLM-4.5-Tiny", FAMILIES["GLM-4.5"]), write(tmp_path / "rows.jsonl", ROWS)
    words = ["sft", "--model", model, "--dataset", rows, "--output_dir", tmp_path / "runs", "--max_steps", 1]
    words += ["--lora_target_modules", "ALL", "--device", "cpu", "--dataset_test_ratio", 0]
    assert cli.main(list(map(str, words))) == 2
    assert "add --lora_dropout_p 0 to --lora_target_modules ALL" in capsys.readouterr().err
    assert cli.main([*map(str, words), "--lora_dropout_p", "0", "--report_to", "none"]) == 0
    assert list((tmp_path / "runs" / "GLM-4.5-Tiny").glob("v*-*/checkpoint-1"))
