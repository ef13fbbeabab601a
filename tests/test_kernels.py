"""The instruction set that the C++ code is compiled for: the most capable, or SWIFT_KERNELS."""

import json

import pytest
import torch
from test_sft import plain_rows, write
from test_short_runs import train
from test_torch_runner import made
from tiny import tiny_model_folder

from swift import native
from swift.cli import main
from swift.engine.cpu.torch_runner import TorchRunner
from swift.engine.torch_engine import TorchEngine
from swift.native import processor

AMX = "fma avx2 avx512f avx512bw avx512dq avx512vl avx512_bf16 amx_tile amx_bf16"
ZEN4 = "fma avx2 avx512f avx512bw avx512dq avx512vl avx512_bf16"
CASCADE_LAKE = "fma avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni"
ZEN3 = "fma avx2"


@pytest.mark.parametrize(
    "flags, sets",
    [
        (AMX, ("amx", "avx512_bf16", "avx512", "avx2")),
        (ZEN4, ("avx512_bf16", "avx512", "avx2")),
        (CASCADE_LAKE, ("avx512", "avx2")),
        (ZEN3, ("avx2",)),
        ("sse4_2", ()),
    ],
)
def test_a_processor_runs_its_best_set_and_all_lesser_ones(flags, sets, monkeypatch):
    monkeypatch.setattr(processor.platform, "system", lambda: "Linux")
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "flags", lambda: flags)
    assert processor.sets() == sets
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")
    assert processor.sets() == ()


@pytest.mark.parametrize(
    "said, error",
    [
        ("avx1024", "SWIFT_KERNELS=avx1024 is unknown: it is one of amx, avx512_bf16, avx512, avx2, torch"),
        ("amx", "SWIFT_KERNELS=amx: this processor cannot run it; it runs avx2, torch"),
    ],
)
def test_a_set_that_is_unknown_or_not_there_is_refused_in_one_line(said, error, monkeypatch):
    monkeypatch.setattr(processor, "sets", lambda: ("avx2",))
    monkeypatch.setenv("SWIFT_KERNELS", said)
    with pytest.raises(ValueError, match=error):
        native.default()


def test_torch_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("SWIFT_KERNELS", "torch")
    sizes = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 32}
    engine = TorchEngine(made("llama", **sizes).to(torch.bfloat16), ())
    assert type(engine._runner) is TorchRunner
    engine.close()


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A model whose widths the C++ code accepts, and rows."""
    monkeypatch.setattr("swift.train.report._picture", lambda *_: b"<svg></svg>")
    tiny_model_folder(tmp_path / "tiny", hidden_size=64, intermediate_size=96, head_dim=32)
    write(tmp_path / "rows.jsonl", plain_rows(8))
    return tmp_path


def plan(place, name, step):
    return json.loads((place / name / f"checkpoint-{step}" / "plan.json").read_text())


def adapter(place, name, step):
    return (place / name / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()


@pytest.mark.skipif(not processor.sets(), reason="this processor runs none of the instruction sets")
def test_a_run_goes_on_with_the_kernels_that_trained_its_checkpoint(place, monkeypatch, capsys):
    given = {"output_dir": str(place / "parts"), "save_steps": 2, "save_total_limit": -1}
    last = processor.sets()[-1]
    monkeypatch.setenv("SWIFT_KERNELS", last)
    train(place, **given)
    assert plan(place, "parts", 2)["kernels"] == last
    whole = adapter(place, "parts", 4)
    monkeypatch.delenv("SWIFT_KERNELS")
    half = str(place / "parts" / "checkpoint-2")
    capsys.readouterr()
    train(place, **given, resume_from_checkpoint=half)
    assert "kernels" not in capsys.readouterr().out
    assert plan(place, "parts", 4)["kernels"] == last
    assert adapter(place, "parts", 4) == whole


@pytest.mark.skipif(not processor.sets(), reason="this processor runs none of the instruction sets")
def test_a_run_that_cannot_have_its_kernels_again_says_so(place, monkeypatch, capsys):
    given = {"output_dir": str(place / "parts"), "save_steps": 2, "save_total_limit": -1}
    train(place, **given)
    first = processor.sets()[0]
    assert plan(place, "parts", 2)["kernels"] == first
    half = str(place / "parts" / "checkpoint-2")
    monkeypatch.setenv("SWIFT_KERNELS", "torch")
    capsys.readouterr()
    train(place, **given, resume_from_checkpoint=half)
    said = (
        f"resume: {first} kernels trained the checkpoint and torch kernels continue, "
        "so sums differ in their last digits"
    )
    assert f"{said}: SWIFT_KERNELS says so\n" in capsys.readouterr().out
    assert plan(place, "parts", 4)["kernels"] == "torch"
    monkeypatch.delenv("SWIFT_KERNELS")
    recorded = place / "parts" / "checkpoint-2" / "plan.json"
    recorded.write_text(recorded.read_text().replace(f'"{first}"', '"avx1024"'))
    train(place, **given, resume_from_checkpoint=half)
    said = (
        f"resume: avx1024 kernels trained the checkpoint and {first} kernels continue, "
        "so sums differ in their last digits"
    )
    assert f"{said}: this processor cannot run them\n" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["sft", "infer"])
def test_a_wrong_set_is_told_before_anything_is_read(verb, place, monkeypatch, capsys):
    monkeypatch.setenv("SWIFT_KERNELS", "sse")
    monkeypatch.setattr("swift.model.location.locate", lambda *_, **__: pytest.fail("looked for the model"))
    words = ["--dataset", str(place / "rows.jsonl")] if verb == "sft" else []
    assert main([verb, "--model_id_or_path", str(place / "tiny"), *words]) == 2
    assert capsys.readouterr().err == (
        "swift: error: SWIFT_KERNELS=sse is unknown: it is one of amx, avx512_bf16, avx512, avx2, torch\n"
    )
