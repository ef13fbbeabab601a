"""The decoder families computed in C++, against transformers: skipped where there is no compiler or no AVX2."""

import copy
import ctypes
import re
from pathlib import Path

import pytest
import torch
from levels import SETS
from test_torch_runner import ALL, FAMILIES, adapted, expected, made, prompt

from swift import native
from swift.engine.cpu import native_runner as ours
from swift.engine.cpu.native_runner import NativeRunner, why_not
from swift.engine.cpu.products import in_groups, rounded
from swift.engine.cpu.torch_runner import TorchRunner
from swift.engine.lora import read_lora
from swift.engine.runner import Chunk
from swift.engine.sampling import SamplingParams, argmax
from swift.engine.torch_engine import TorchEngine
from swift.engine.transformers_runner import TransformersRunner
from swift.native import processor

WIDE = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32, "vocab_size": 100}
"""Widths that go into panels; a vocabulary that does not."""


def _missing() -> str:
    try:
        native.load(ours.SOURCE)
    except native.Unavailable as reason:
        return str(reason)
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing() or "there")


@pytest.fixture(params=SETS, autouse=True)
def instructions(request, monkeypatch):
    """All instruction sets of this processor."""
    monkeypatch.setenv("SWIFT_KERNELS", request.param)
    return request.param


def wide(name, **more):
    """A model in bf16, and the same with nothing rounded while it computes."""
    sizes = {key: value for key, value in WIDE.items() if key not in FAMILIES[name][2]}
    model = made(name, **sizes, **more).bfloat16()
    assert why_not(model) == ""
    return model, copy.deepcopy(model).float()


def near(logits, model, exact, *rows, times=2):
    """Logits are as near to the exact ones as those of transformers in bf16: noise, which a mistake is 20 times."""
    wanted, theirs = expected(exact, *rows), expected(model, *rows)
    assert (logits - wanted).norm() <= times * (theirs - wanted).norm()


@pytest.mark.parametrize("name", FAMILIES)
def test_its_logits_err_no_more_than_those_of_transformers(name):
    model, exact = wide(name)
    runner = NativeRunner(model)
    long, short, third = prompt(90, 1), prompt(17, 2), prompt(30, 3)
    one, two = runner.open(), runner.open()
    # a prompt in pieces, beside a whole one, beside single tokens
    near(runner.step([Chunk(one, long[:33], needs_logits=False), Chunk(two, short)]), model, exact, short)
    near(runner.step([Chunk(one, long[33:50], needs_logits=False), Chunk(two, [5])]), model, exact, [*short, 5])
    three = runner.open()
    logits = runner.step([Chunk(three, third), Chunk(two, [6]), Chunk(one, long[50:])])
    near(logits, model, exact, third, [*short, 5, 6], long)
    # single tokens of rows of different length
    logits = runner.step([Chunk(three, [1]), Chunk(two, [2]), Chunk(one, [3])])
    near(logits, model, exact, [*third, 1], [*short, 5, 6, 2], [*long, 3])
    # a row leaves, another takes its place and begins with what was read before
    blocks = [runner.read(one, start, start + 32) for start in range(0, 90, 32) if start + 32 <= 90]
    runner.close(two)
    four = runner.open(blocks, 61)
    near(runner.step([Chunk(four, long[61:]), Chunk(three, [7])]), model, exact, long, [*third, 1, 7])
    # beyond the room and the table of positions that there were at first
    runner.step([Chunk(four, prompt(400, 5), needs_logits=False)])
    near(runner.step([Chunk(four, [9])]), model, exact, [*long, *prompt(400, 5), 9])


def test_what_was_read_is_what_was_computed_wherever_it_is_put():
    model, _ = wide("llama")
    runner = NativeRunner(model)
    state = runner.open()
    runner.step([Chunk(state, prompt(75), needs_logits=False)])
    rest = prompt(75)[70:]
    state.length = 70
    alone = runner.step([Chunk(state, rest)]).clone()
    for size in (75, 32, 7):
        other = runner.open([runner.read(state, start, min(start + size, 75)) for start in range(0, 75, size)], 70)
        assert torch.equal(runner.step([Chunk(other, rest)]), alone)


def test_a_rows_numbers_do_not_depend_on_who_is_beside_it():
    model, _ = wide("qwen3")
    runner = NativeRunner(model)
    alone = runner.step([Chunk(runner.open(), prompt(20))]).clone()
    others = [Chunk(runner.open(), prompt(length, length)) for length in (3, 50, *range(1, 40))]
    assert torch.equal(runner.step([*others, Chunk(runner.open(), prompt(20))])[-1:], alone)


def test_nor_do_those_of_wide_rows_few_or_many():
    sizes = WIDE | {"hidden_size": 640, "intermediate_size": 896}
    model = made("llama", **sizes).bfloat16()
    runner = NativeRunner(model)
    alone = runner.step([Chunk(runner.open(), prompt(5))]).clone()
    near(alone, model, copy.deepcopy(model).float(), prompt(5))
    beside = runner.step([Chunk(runner.open(), prompt(300, 1)), Chunk(runner.open(), prompt(5))])
    assert torch.equal(beside[-1:], alone)


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_its_numbers_do_not_depend_on_how_many_threads_compute_them(bits, monkeypatch):
    sizes = WIDE | {"hidden_size": 160, "intermediate_size": 416}
    model = made("llama", **sizes).bfloat16()
    runner = NativeRunner(model, bits)
    found = []
    for threads in (1, 2, 3, 4, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        states = [runner.open() for _ in range(15)]
        prompts = runner.step([Chunk(state, prompt(length, length)) for length, state in enumerate(states, 1)]).clone()
        found.append((prompts, runner.step([Chunk(state, [3]) for state in states]).clone()))
        for state in states:
            runner.close(state)
    for prompts, tokens in found[1:]:
        assert torch.equal(prompts, found[0][0])
        assert torch.equal(tokens, found[0][1])


def test_only_rows_that_are_wanted_have_logits():
    model, exact = wide("llama")
    runner = NativeRunner(model)
    one, two = runner.open(), runner.open()
    assert len(runner.step([Chunk(one, prompt(9), needs_logits=False)])) == 0
    near(runner.step([Chunk(one, [4], needs_logits=False), Chunk(two, prompt(12))]), model, exact, prompt(12))


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3", "qwen3"])
def test_adapters_in_one_step_count_as_if_each_were_merged(name, tmp_path):
    model, exact = wide(name)
    modules = ["qkv_proj", "o_proj", "gate_up_proj"] if name == "phi3" else [*ALL[:4], "up_proj", "down_proj"]
    runner = NativeRunner(model)
    merged = {"": exact}
    for seed, rank in ((1, 4), (2, 7)):
        merged[f"a{seed}"] = adapted(exact, tmp_path / f"a{seed}", seed, r=rank, target_modules=modules)
        runner.add_lora(f"a{seed}", read_lora(tmp_path / f"a{seed}"))
    asked = [(each, prompt(length, length)) for length in (12, 40) for each in merged]
    logits = runner.step([Chunk(runner.open(), row, adapter=each) for each, row in asked]).clone()
    plain = runner.step([Chunk(runner.open(), row) for _, row in asked[:3]])
    for (each, row), got in zip(asked, logits, strict=True):
        wanted = expected(merged[each], row)[0]
        assert (got - wanted).norm() < 0.06 * wanted.norm(), each
    assert (plain[1] - logits[1]).norm() > 0.1 * plain[1].norm(), "an adapter that says nothing tests nothing"
    runner.remove_lora("a1")
    with pytest.raises(KeyError):
        runner.step([Chunk(runner.open(), [1], adapter="a1")])


def test_the_engine_takes_it_for_bf16_and_answers_as_transformers_would_but_for_near_ties():
    model, exact = wide("llama with tied embeddings")
    engine = TorchEngine(copy.deepcopy(model), (), keep_weights=False)
    assert isinstance(engine._runner, NativeRunner)
    rows = [prompt(length, length) for length in (150, 12, 40)]
    replies = [engine.submit(row, SamplingParams(max_tokens=40, temperature=0)) for row in rows]
    for row, reply in zip(rows, replies, strict=True):
        said = [step.token for step in reply]
        with torch.inference_mode():
            scores = exact(torch.tensor([[*row, *said]])).logits[0, len(row) - 1 : -1]
        best = scores.max(-1).values
        assert ((best - scores[range(40), said]) < 0.3 * scores.std()).all()
    engine.close()


def test_the_likeliest_tokens_and_their_log_probabilities_are_those_of_torch():
    model, _ = wide("llama")
    runner = NativeRunner(model)
    logits = torch.randn(7, 128)[:, :100] * 5
    logits[1, 40], logits[1, 90], logits[2, 99] = 50, 50, 60
    logits[3] = torch.randint(3, (100,)).float()
    logits[4] = -1000 - logits[4]
    for got, wanted in zip(runner.argmax(logits), argmax(logits), strict=True):
        assert got.token == wanted.token
        assert got.logprob == pytest.approx(wanted.logprob, abs=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["llama with biases and stretched positions", "phi3"])
def test_with_rounded_weights_its_logits_are_those_of_a_model_that_has_them(bits, name, instructions):
    model, exact = wide(name)
    for key, part in exact.named_modules():
        if isinstance(part, torch.nn.Linear):
            weight = part.weight.data
            if bits == 4 and key != "lm_head":
                levels, scale, low = in_groups(weight)
                scale, low = (each.bfloat16().float()[..., None] for each in (scale, low))
                weight = (levels.float().unflatten(1, (-1, 32)) * scale + low).flatten(1)
            else:
                whole, scale = rounded(weight)
                weight = whole * scale[:, None]
            part.weight.data = weight
    near_it = copy.deepcopy(exact).bfloat16()
    runner = NativeRunner(model, bits, keep_weights=False)
    state = runner.open()
    runner.step([Chunk(state, prompt(70), needs_logits=False)])
    logits = runner.step([Chunk(state, [5]), Chunk(runner.open(), prompt(40))])
    # without tiles, a weight of 4 bits meets 8 of each 32 numbers
    times = 4 if bits == 4 and instructions != "amx" else 2
    near(logits, near_it, exact, [*prompt(70), 5], prompt(40), times=times)
    assert runner._weights.nbytes < sum(each.weight.nbytes for each in _linears(exact)) * (bits + 4) / 32


def _linears(model):
    return [part for part in model.modules() if isinstance(part, torch.nn.Linear)]


def test_memory_holds_its_weights_once():
    model, exact = wide("qwen2")
    runner = NativeRunner(model, keep_weights=False)
    logits = runner.step([Chunk(runner.open(), prompt(20))])
    wanted = expected(exact, prompt(20))
    assert (logits - wanted).norm() < 0.06 * wanted.norm()
    assert model.model.layers[0].mlp.down_proj.weight.is_meta
    assert model.lm_head.weight.is_meta


def test_models_that_do_not_fit_into_panels_are_computed_by_torch():
    assert "float32 on cpu" in why_not(made("llama"))
    assert "not all multiples of 32" in why_not(made("llama").bfloat16())
    assert "activation is gelu" in why_not(made("llama", **WIDE, hidden_act="gelu").bfloat16())
    for model, kind in (
        (made("llama"), TorchRunner),
        (wide("llama")[0], NativeRunner),
    ):
        engine = TorchEngine(model, ())
        assert type(engine._runner) is kind
        engine.close()
    engine = TorchEngine(wide("llama")[0], (), fast=False)
    assert type(engine._runner) is TransformersRunner
    engine.close()


@pytest.mark.parametrize(
    "break_it, reason",
    [
        (lambda patch: patch.setattr(native.shutil, "which", lambda _: None), r"no C\+\+ compiler"),
        (
            lambda patch: patch.setattr(native, "FLAGS", ("-no-such-flag",)),
            "does not compile native_runner.cpp: .*no-such-flag",
        ),
        (lambda patch: patch.setattr(processor, "flags", lambda: "sse2"), "has no AVX2"),
    ],
)
def test_a_machine_that_cannot_compile_answers_all_the_same(break_it, reason, monkeypatch):
    model, _ = wide("llama")
    monkeypatch.delenv("SWIFT_KERNELS")
    break_it(monkeypatch)
    native._load.cache_clear()
    with pytest.raises(native.Unavailable, match=reason):
        native.load(ours.SOURCE)
    engine = TorchEngine(model, ())
    assert type(engine._runner) is TorchRunner
    assert re.search(reason, engine.fast_path_missing)
    reply = [step.token for step in engine.submit(prompt(30), SamplingParams(max_tokens=5, temperature=0))]
    assert len(reply) == 5
    engine.close()
    monkeypatch.undo()
    native._load.cache_clear()


def test_what_is_compiled_is_kept_for_the_next_process_and_half_a_file_never(monkeypatch, tmp_path):
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path))
    source = tmp_path / "sum.cpp"
    source.write_text('extern "C" int sum(int a, int b) { return a + b; }')
    library = native.load(source)
    assert isinstance(library, ctypes.CDLL)
    assert library.sum(2, 3) == 5
    built = list((tmp_path / "native").iterdir())
    assert [Path(each).suffix for each in built] == [".so"]
    made_at = built[0].stat().st_mtime_ns
    native._load.cache_clear()
    assert native.load(source).sum(1, 1) == 2
    assert built[0].stat().st_mtime_ns == made_at
    source.write_text('extern "C" int sum(int a, int b) { return a + b + 1; }')
    native._load.cache_clear()
    assert native.load(source).sum(1, 1) == 3
