"""The shared parts of the benchmarks: models of published shapes, rows, restrictions of the processor, processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from pathlib import Path

import load_speed
import machine
import processes
import pytest
import rows
import serve_speed
import shapes

from swift.native import processor

VOCABULARY_SIZE = 49_200
"""Rows of the small models' embeddings: somewhat more than the vocabulary of SmolLM2's tokenizer."""


@pytest.fixture(params=["0.5b", "3b"])
def small(request: pytest.FixtureRequest) -> shapes.Shape:
    """A published shape with small dimensions."""
    shape = shapes.SHAPES[request.param]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": VOCABULARY_SIZE}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    return shape._replace(config={**shape.config, **sizes, **heads})


@pytest.mark.model
def test_a_model_with_random_weights_answers_and_never_with_ids_beyond_its_tokenizer(
    small: shapes.Shape, tmp_path: Path
) -> None:
    from swift.engine.sampling import SamplingParams
    from swift.engine.torch_engine import TorchEngine
    from swift.model.load import load_model, load_tokenizer

    shapes.write_folder(small, tmp_path / "small")
    engine = TorchEngine(load_model(tmp_path / "small", "bf16", "cpu"), ())
    steps = list(engine.submit([5, 6, 7], SamplingParams(max_tokens=20, temperature=0)))
    engine.close()
    assert len(steps) == 20
    assert max(step.token for step in steps) < len(load_tokenizer(tmp_path / "small"))


@pytest.mark.model
@pytest.mark.parametrize("kind", ["F16", "Q4_1"])
def test_it_is_written_as_gguf(small: shapes.Shape, tmp_path: Path, kind: str) -> None:
    from swift.model.gguf import read_tokenizer

    shapes.write_folder(small, tmp_path / "small")
    shapes.write_gguf(tmp_path / "small", kind, tmp_path / "small.gguf")
    assert len(read_tokenizer(tmp_path / "small.gguf")) == VOCABULARY_SIZE


def test_weights_in_several_files_are_all_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from safetensors import safe_open

    monkeypatch.setattr(shapes, "SHARD", 100)
    weights = {name: torch.full((5, 5), number) for number, name in enumerate("abc")}
    shapes._write_weights(iter(weights.items()), tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len({*index["weight_map"].values()}) == 3
    for name, tensor in weights.items():
        with safe_open(tmp_path / index["weight_map"][name], "pt") as file:
            assert torch.equal(file.get_tensor(name), tensor)


def test_agent_rows_have_the_declared_lengths_and_share_their_system_prompt() -> None:
    def tokens(text: str) -> int:
        return len(text) // 4

    made = list(rows.agent(12, tokens))
    lengths = [sum(tokens(each["content"]) + rows.MESSAGE_OVERHEAD for each in messages) for messages in made]
    least, most = rows.ROW_TOKENS
    assert all(least <= length <= most for length in lengths), lengths
    assert len({messages[0]["content"] for messages in made}) == 1
    for messages in made:
        assert [each["role"] for each in messages[1:]] == ["user", "assistant"] * (len(messages) // 2)


def test_programs_can_be_restricted_to_every_instruction_set() -> None:
    assert list(machine.RESTRICTIONS) == list(processor.SETS)
    variables = machine.restricted_to("avx2")
    assert variables["SWIFT_KERNELS"] == "avx2"
    assert variables["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert machine.restricted_to(None) == {}


@pytest.mark.parametrize(
    ("kernels", "in_fp32"), [("amx", False), ("avx512_bf16", False), ("avx512", True), ("avx2", True)]
)
def test_openvino_computes_in_fp32_if_restricted_to_a_set_without_bf16(
    kernels: str, in_fp32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWIFT_KERNELS", kernels)
    assert (machine.openvino_properties(2).get("INFERENCE_PRECISION_HINT") == "f32") is in_fp32


def test_a_table_names_the_restriction_of_programs() -> None:
    assert "restricted to avx2" in machine.headline("avx2", 2, {"torch": "2"})
    assert "restricted to" not in machine.headline(None, 2, {"torch": "2"})


def test_json_lines_are_yielded_as_they_are_printed_and_other_lines_skipped() -> None:
    program = "print('loading'); print('{\"value\": 1}')"
    assert list(processes.json_lines([sys.executable, "-c", program], {}, 60)) == [{"value": 1}]


def test_the_error_of_a_program_that_fails_is_its_last_line() -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        list(processes.json_lines([sys.executable, "-c", "raise SystemExit('no such model')"], {}, 60))


def test_a_program_that_hangs_is_killed() -> None:
    with pytest.raises(RuntimeError, match="more than 1 s"):
        list(processes.json_lines([sys.executable, "-c", "import time; time.sleep(60)"], {}, 1))


def test_each_turn_of_a_dialogue_begins_with_the_previous_one() -> None:
    asked: list[list[rows.Message]] = []

    async def ask(messages: list[rows.Message], turn: int) -> load_speed.Answer:
        asked.append([*messages])
        return load_speed.Answer(turn, 0.1, 0.2, 10, 2, f"answer {turn}")

    said = ["tools", "question", "first result", "second result"]
    answers = asyncio.run(load_speed.dialogue(ask, said, pause=0))
    assert [each.turn for each in answers] == [1, 2, 3]
    for before, after in itertools.pairwise(asked):
        assert after[: len(before)] == before
        assert after[len(before)]["role"] == "assistant"


def test_a_load_without_replies_names_the_error() -> None:
    cells = load_speed.cells_of(load_speed.Load(1.0, 2.0, [], ["status 503: busy"]))
    assert cells[-1] == "1: status 503: busy"


def test_goals_are_printed_only_if_both_sides_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    serve_speed.print_goals({"swift bf16": {"1": 90.0, "8": 400.0}, "vllm bf16": {"1": 45.0}})
    printed = capsys.readouterr().out
    assert "| 1 stream, bf16, end to end | 90 | vllm bf16 45 | 2.00 | 1.5 |" in printed
    assert "8 streams" not in printed
