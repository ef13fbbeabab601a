"""Which instruction set C++ of ours is compiled for: the most able, or what SWIFT_KERNELS says."""

import pytest
import torch
from test_engine_decoder import made

from swift import native
from swift.infer.decoder import Decoder
from swift.infer.engine import TorchEngine
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
    assert type(engine._runner) is Decoder
    engine.close()
