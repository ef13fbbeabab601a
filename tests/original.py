"""Tiny checkpoints in layouts that other people published, and what every converted one must be able to do."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import PreTrainedModel

from swift.model.load import load_model

SENTENCE = torch.tensor([[5, 17, 3, 40, 22, 9, 31, 12], [8, 8, 44, 2, 19, 30, 6, 27]])


def checkpoint(folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Writes config.json and random weights of these names and shapes; norms are around one. Returns the weights."""
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) * (0.2 if len(shape) > 1 else 0.05) for name, shape in shapes.items()}
    for name in weights:
        if ("norm" in name or ".ln" in name) and name.endswith(".weight"):
            weights[name] += 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


def logits(model: PreTrainedModel, tokens: torch.Tensor = SENTENCE) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits


def trains_and_generates(folder: Path, targets: list[str]) -> None:
    """One step of LoRA lowers the loss, and generation with a cache picks what whole passes pick."""
    model = load_model(folder, device="cpu")
    tokens = SENTENCE[:1]
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        made = model.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0)
        again = tokens
        for _ in range(4):
            again = torch.cat([again, model(again).logits[:, -1:].argmax(-1)], dim=1)
    assert made.tolist() == again.tolist()
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=targets))
    trained = [weight for weight in tuned.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(3):
        loss = tuned(SENTENCE, labels=SENTENCE).loss
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < losses[0], losses


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def frequencies(width: int, base: float = 10000.0) -> torch.Tensor:
    return base ** (-torch.arange(0, width, 2) / width)


def turned_halves(x_BTHD: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Rotary positions as GPT-NeoX lays them: dimension i turns with dimension i + D / 2."""
    angles = torch.arange(x_BTHD.shape[1])[:, None] * frequencies
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x_BTHD.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def causal(q_BTHD: torch.Tensor, k_BTHD: torch.Tensor, v_BTHD: torch.Tensor) -> torch.Tensor:
    """Attention in float, groups of heads sharing keys and values; heads side by side in what comes back."""
    batch, length, heads, width = q_BTHD.shape
    k_BTHD, v_BTHD = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (k_BTHD, v_BTHD))
    scores = torch.einsum("bihd,bjhd->bhij", q_BTHD, k_BTHD) / width**0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v_BTHD).reshape(batch, length, -1)


def sentencepiece_file(file: Path, words: Sequence[str], prefix: bool = True) -> list[str]:
    """A SentencePiece BPE model with byte fallback: <unk>, <s>, </s>, 256 bytes, letters and `words`. Its pieces."""
    letters = sorted({letter for word in words for letter in word} | set("▁abcdefghijklmnopqrstuvwxyz"))
    rows = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    rows += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    merged = sorted(
        {word[:end] for word in words for end in range(2, len(word) + 1)}, key=lambda text: (len(text), text)
    )
    rows += [(text, -float(rank), 1) for rank, text in enumerate([*merged, *letters])]
    pieces = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind]))
        for text, score, kind in rows
    )
    trainer = _field(2, b"\x18\x02" + b"\x98\x02\x01")  # model_type = BPE, byte_fallback = true
    file.write_bytes(pieces + trainer + _field(3, b"\x18" + bytes([prefix]) + b"\x20\x00"))
    return [text for text, _, _ in rows]


def _field(number: int, value: bytes) -> bytes:
    assert len(value) < 16384
    size = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 127 | 128, len(value) >> 7])
    return bytes([number << 3 | 2]) + size + value
