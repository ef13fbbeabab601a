"""Kernels are selected by timing them, here with a clock that only the works move."""

import json

import pytest
import torch
from test_torch_runner import made
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from swift.cli import main
from swift.engine.cpu import kernels
from swift.engine.cpu.native_runner import NativeRunner
from swift.engine.cpu.torch_runner import TorchRunner
from swift.engine.torch_engine import TorchEngine
from swift.native import processor, selection
from swift.native.selection import select
from swift.tuner.cpu import kernels as training


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SWIFT_CACHE", str(tmp_path))
    return tmp_path / "native"


class Clock:
    """Seconds that pass when a candidate works; what was done, in order."""

    def __init__(self, monkeypatch, **seconds):
        self.now, self.seconds, self.done = 0.0, seconds, []
        monkeypatch.setattr(selection.time, "perf_counter", lambda: self.now)

    def works(self, name):
        if name not in self.seconds:
            raise RuntimeError(f"{name} does not run here")

        def work(kind):
            self.done.append((name, kind))
            self.now += self.seconds[name][kind]

        return {kind: lambda kind=kind: work(kind) for kind in self.seconds[name]}


ABOUT = {"model": "tiny"}


def test_the_quickest_over_all_kinds_of_work_is_taken_and_remembered(monkeypatch, cache):
    clock = Clock(monkeypatch, wide={"one": 0.02, "many": 0.03}, narrow={"one": 0.01, "many": 0.04})
    found = select(ABOUT, ("wide", "narrow"), clock.works)
    assert found.kernels == "narrow"
    assert found.seconds["narrow"] == {"one": pytest.approx(0.01), "many": pytest.approx(0.04)}
    clock.done.clear()
    assert select(ABOUT, ("wide", "narrow"), clock.works) == found
    assert clock.done == []
    (kept,) = cache.glob("selection-*.json")
    assert json.loads(kept.read_text())["about"] == ABOUT


def test_the_processors_order_holds_within_noise(monkeypatch):
    clock = Clock(monkeypatch, wide={"one": 0.0102}, narrow={"one": 0.01})
    assert select(ABOUT, ("wide", "narrow"), clock.works).kernels == "wide"


def test_another_model_other_candidates_or_a_broken_file_are_measured_anew(monkeypatch, cache):
    clock = Clock(monkeypatch, a={"one": 0.02}, b={"one": 0.01})
    select(ABOUT, ("a", "b"), clock.works)
    for about, candidates in (({"model": "other"}, ("a", "b")), (ABOUT, ("b", "a"))):
        clock.done.clear()
        select(about, candidates, clock.works)
        assert clock.done
    for kept in cache.glob("selection-*.json"):
        kept.write_text("{")
    clock.done.clear()
    assert select(ABOUT, ("a", "b"), clock.works).kernels == "b"
    assert clock.done
    clock.seconds["a"]["one"] = 0.001
    assert select(ABOUT, ("a", "b"), clock.works).kernels == "b"
    assert select(ABOUT, ("a", "b"), clock.works, again=True).kernels == "a"


def test_measuring_takes_turns_and_about_a_second(monkeypatch):
    clock = Clock(monkeypatch, a={"one": 0.05, "two": 0.06}, b={"one": 0.05, "two": 0.055}, c={"one": 3, "two": 3})
    select(ABOUT, ("a", "b", "c"), clock.works)
    ones = [name for name, kind in clock.done if kind == "one"]
    assert ones.count("c") == 2  # hopeless
    assert ones[6:] == ["a", "b"] * (len(ones[6:]) // 2)
    assert clock.now - 12 < 2 * selection.BUDGET


def test_a_candidate_that_does_not_run_is_none(monkeypatch):
    clock = Clock(monkeypatch, b={"one": 0.01})
    assert select(ABOUT, ("a", "b"), clock.works).kernels == "b"
    clock.seconds.clear()
    assert select({"model": "none runs"}, ("a", "b"), clock.works).kernels == "a"


def model():
    """As small as can be, in widths that C++ of ours takes."""
    sizes = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32}
    return made("llama", **sizes).to(torch.bfloat16)


needs_ours = pytest.mark.skipif(not processor.sets(), reason="there is no C++ of ours for this processor")


@needs_ours
@pytest.mark.parametrize("bits", [0, 8, 4])
def test_a_model_is_served_by_what_was_measured_for_it(bits, monkeypatch):
    monkeypatch.delenv("SWIFT_KERNELS", raising=False)
    monkeypatch.setattr(selection, "SMALL", 0)
    seen = {}

    def measured(about, candidates, works, again=False):
        seen.update(about=about, candidates=candidates)
        for name in candidates:
            for work in works(name).values():
                work()  # every candidate does every work
        return selection.Selection(candidates[-1], "measured", {})

    monkeypatch.setattr(kernels, "select", measured)
    served, before = model(), torch.random.get_rng_state()
    engine = TorchEngine(served, (), bits=bits)
    assert torch.equal(torch.random.get_rng_state(), before)
    last = seen["candidates"][-1]
    assert type(engine._runner) is (TorchRunner if last == "torch" else NativeRunner)
    assert not engine.fast_path_missing
    assert seen["about"]["bits"] == bits
    assert seen["about"]["model"]["hidden_size"] == 96
    engine.close()


@needs_ours
def test_nothing_is_measured_for_a_small_model_or_where_the_user_says_which(monkeypatch):
    monkeypatch.delenv("SWIFT_KERNELS", raising=False)
    monkeypatch.setattr(kernels, "select", lambda *_: pytest.fail("measured"))
    assert kernels.selection(model().config) == (processor.sets()[0], "the model is small", {})
    monkeypatch.setattr(selection, "SMALL", 0)
    monkeypatch.setenv("SWIFT_KERNELS", processor.sets()[-1])
    assert kernels.selection(model().config) == (processor.sets()[-1], "SWIFT_KERNELS says so", {})


LORA_SHAPE = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 100},
    **{"num_attention_heads": 2, "num_key_value_heads": 1},
}


@needs_ours
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_lora_is_measured_with_every_candidate(dtype, monkeypatch):
    monkeypatch.delenv("SWIFT_KERNELS", raising=False)
    config = LlamaConfig(**LORA_SHAPE)
    assert training.selection(config, dtype).how == "the model is small"
    monkeypatch.setattr(selection, "SMALL", 0)
    before = torch.random.get_rng_state()
    found = training.selection(config, dtype)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert set(found.seconds) >= set(processor.sets()[:2])
    assert found == training.selection(config, dtype)


def test_the_doctor_tells_the_machine_and_the_choices(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("SWIFT_KERNELS", raising=False)
    LlamaConfig(**LORA_SHAPE, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    assert main(["doctor", "--model_id_or_path", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for word in ("processor", "instruction sets", "caches", "memory", "compiler", "torch ", "not set"):
        assert word in out
    assert main(["doctor", "--model_id_or_path", str(tmp_path), "--json", "true"]) == 0
    told = json.loads(capsys.readouterr().out)["kernels"]
    if processor.sets():
        assert told["serving, bf16"]["how"] == told["LoRA, fp32"]["how"] == "the model is small"
    monkeypatch.setenv("SWIFT_KERNELS", "mmx")
    assert main(["doctor", "--measure", "false"]) == 0
    assert "SWIFT_KERNELS=mmx is unknown: it is one of amx" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["gemma2", "gpt2"])
def test_the_doctor_says_why_a_model_goes_another_way(kind, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("SWIFT_KERNELS", raising=False)
    config = AutoConfig.for_model(kind)
    config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
    config.save_pretrained(tmp_path)
    assert main(["doctor", "--model_id_or_path", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"serving torch ({config.architectures[0]} is not one of LlamaForCausalLM, " in out
    assert f"LoRA PEFT's own layers (the fast path does not know {kind})" in out


def test_the_doctor_refuses_a_folder_without_a_configuration(capsys, tmp_path):
    (tmp_path / "notes.txt").touch()
    assert main(["doctor", "--model_id_or_path", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
