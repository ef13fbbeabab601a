"""Checkpoints whose weights are quantised already: read by the quantiser's own library, or told what is missing.

The packages are large, and no part of the development environment: with them installed the tests compare with the
same weights written out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from original import SENTENCE, checkpoint, logits
from safetensors.torch import load_file, save_file
from tiny import tiny_model_folder

from swift.model import quantise
from swift.model.load import load_model
from swift.tuner import lora

Tensors = dict[str, torch.Tensor]
Quantised = tuple[torch.Tensor, Tensors]
GROUP = 32
SIDE = 128
CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {"bits": 4, "group_size": GROUP, "desc_act": False, "sym": False, "true_sequential": True},
    "awq": {"bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True, "modules_to_not_convert": None},
    "aqlm": {"in_group_size": 8, "out_group_size": 1, "num_codebooks": 1, "nbits_per_codebook": 16},
}


def words(numbers: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Eight neighbouring columns of 4-bit numbers as one of int32, the column order[i] at bit 4i."""
    packed = sum(numbers[:, column::8].long() << (4 * place) for place, column in enumerate(order))
    return ((packed + 2**31) % 2**32 - 2**31).to(torch.int32)


def rounded(weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(weights as 4 bits have them, the numbers 0 to 15, zero points, scales) by groups of inputs."""
    grouped = weight_OI.float().unflatten(1, (-1, GROUP))
    scale = ((grouped.amax(-1) - grouped.amin(-1)) / 15).half()
    zero = (-grouped.amin(-1) / scale.float()).round().clamp(1, 15)
    number = ((grouped / scale.float()[..., None]).round() + zero[..., None]).clamp(0, 15)
    return ((number - zero[..., None]) * scale.float()[..., None]).flatten(1), number.flatten(1), zero, scale


def gptq(weight_OI: torch.Tensor) -> Quantised:
    """AutoGPTQ's layout: zero points less one, inputs along the words, and a bias of zeros in every layer."""
    whole, number, zero, scale = rounded(weight_OI)
    straight = tuple(range(8))
    return whole, {
        "qweight": words(number, straight).T.contiguous(),
        "qzeros": words(zero.T - 1, straight),
        "scales": scale.T.contiguous(),
        "g_idx": torch.arange(weight_OI.shape[1], dtype=torch.int32) // GROUP,
        "bias": torch.zeros(weight_OI.shape[0]).half(),
    }


def awq(weight_OI: torch.Tensor) -> Quantised:
    whole, number, zero, scale = rounded(weight_OI)
    mixed = (0, 2, 4, 6, 1, 3, 5, 7)
    return whole, {
        "qweight": words(number.T, mixed),
        "qzeros": words(zero.T, mixed),
        "scales": scale.T.contiguous(),
    }


def aqlm(weight_OI: torch.Tensor) -> Quantised:
    """Additive quantisation with one codebook (arXiv 2401.06118)."""
    rows, columns = weight_OI.shape
    book = (torch.randn(1, 2**16, 1, 8) * 0.05).half()
    codes = torch.randint(-(2**15), 2**15, (rows, columns // 8, 1), dtype=torch.int16)
    scales = (torch.rand(rows, 1, 1, 1) + 0.5).half()
    whole = (book.float()[0, codes[..., 0].long() & 0xFFFF, 0] * scales.float()[:, 0]).flatten(1)
    return whole, {"codebooks": book, "codes": codes, "scales": scales}


def save(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: each.contiguous() for name, each in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def pair(place: Path, source: Path, method: str, rounds: Callable[[torch.Tensor], Quantised]) -> tuple[Path, Path]:
    """Two folders of the same model: with rounded weights written out, and quantised as published."""
    config = json.loads((source / "config.json").read_text())
    written, packed = load_file(source / "model.safetensors"), {}
    for name, tensor in list(written.items()):
        if any(part in name for part in ("_proj.", "c_attn.weight", ".w1.", ".w2.")):
            written[name], parts = rounds(tensor)
            named = {f"{name.removesuffix('weight')}{part}": each for part, each in parts.items()}
            packed |= {part: each for part, each in named.items() if part not in written}  # c_attn has a bias
        else:
            packed[name] = tensor.half()
    how = {"quant_method": method, **CONFIGS[method]}
    if method == "aqlm":
        how["linear_weights_not_to_quantize"] = [name for name in packed if name.endswith(".weight")]
    whole = save(place / "whole", config, written)
    return whole, save(place / "packed", {**config, "quantization_config": how}, packed)


def qwen(folder: Path) -> Path:
    """The first Qwen, in its own layout."""
    config = {
        **{"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "vocab_size": 64, "hidden_size": SIDE},
        **{"intermediate_size": 2 * SIDE, "num_hidden_layers": 2, "num_attention_heads": 4, "kv_channels": SIDE // 4},
        **{"seq_length": 64, "no_bias": True, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000},
    }
    shapes: dict[str, tuple[int, ...]] = {"transformer.ln_f.weight": (SIDE,)}
    shapes |= dict.fromkeys(("transformer.wte.weight", "lm_head.weight"), (64, SIDE))
    for layer in ("transformer.h.0.", "transformer.h.1."):
        shapes |= {f"{layer}ln_1.weight": (SIDE,), f"{layer}ln_2.weight": (SIDE,)}
        shapes |= {f"{layer}attn.c_attn.weight": (3 * SIDE, SIDE), f"{layer}attn.c_attn.bias": (3 * SIDE,)}
        shapes |= dict.fromkeys(
            [f"{layer}{inner}.weight" for inner in ("attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj")], (SIDE, SIDE)
        )
    checkpoint(folder, config, shapes)
    return folder


def llama(folder: Path) -> Path:
    return tiny_model_folder(folder, tie=False, hidden_size=SIDE, intermediate_size=SIDE)


@pytest.mark.parametrize(
    ("method", "rounds", "make"),
    [("gptq", gptq, qwen), ("gptq", gptq, llama), ("awq", awq, llama), ("aqlm", aqlm, llama)],
)
def test_quantised_weights_compute_the_dequantised_ones_and_lora_trains_on_them(
    tmp_path: Path, method: str, rounds: Callable[[torch.Tensor], Quantised], make: Callable[[Path], Path]
) -> None:
    for package in quantise.READERS[method]:
        pytest.importorskip(package)
    torch.manual_seed(0)
    whole, packed = pair(tmp_path, make(tmp_path / "source"), method, rounds)
    expected = logits(load_model(whole, "fp32", "cpu"))
    model = load_model(packed, "fp32", "cpu")
    assert (logits(model) - expected).abs().max() < 0.01 * expected.abs().max()
    tuned = lora.attach(model, lora.LoraOptions(targets=("q_proj", "v_proj"), dropout=0)).train()
    optimiser = torch.optim.AdamW([each for each in tuned.parameters() if each.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = tuned(input_ids=SENTENCE, labels=SENTENCE).loss
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < losses[0], losses


@pytest.mark.parametrize(
    ("method", "needs"),
    [
        ("gptq", "its GPTQ weights are read by gptqmodel and optimum: pip install gptqmodel optimum"),
        ("awq", "its AWQ weights are read by gptqmodel: pip install gptqmodel"),
        ("aqlm", "its AQLM weights are read by aqlm: pip install aqlm"),
    ],
)
@pytest.mark.parametrize("make", [qwen, llama])
def test_a_missing_package_for_quantised_weights_raises_one_line(
    tmp_path: Path, method: str, needs: str, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantise, "find_spec", lambda name: None)
    folder = make(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    how = {"quant_method": method, **CONFIGS[method]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": how}))
    with pytest.raises(ValueError, match=f"m: the model cannot be loaded: {needs}$"):
        load_model(folder, "fp32", "cpu")
