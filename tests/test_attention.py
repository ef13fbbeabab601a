"""The CPU attention equals transformers' own."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_model_folder

from swift.model import grouped_attention
from swift.model.load import load_model


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_logits_and_gradients_are_those_of_eager_attention(tmp_path: Path, kind: str) -> None:
    tiny_model_folder(tmp_path / "m", model_type=kind, num_attention_heads=4, num_key_value_heads=2)
    ours, theirs = load_model(tmp_path / "m", device="cpu"), load_model(tmp_path / "m", "AUTO", "cpu", False, "eager")
    assert ours.config._attn_implementation == grouped_attention.NAME
    tokens = torch.randint(0, 200, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, 12:] = 0
    for model in (ours, theirs):
        model.train()
        logits = model(input_ids=tokens, attention_mask=mask).logits[mask.bool()]
        logits.square().mean().backward()
        model.seen = logits.detach()
    assert torch.allclose(ours.seen, theirs.seen, atol=1e-5)
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-5), name


def test_a_cached_step_equals_the_full_sequence(tmp_path: Path) -> None:
    tiny_model_folder(tmp_path / "m", num_attention_heads=4, num_key_value_heads=2)
    model = load_model(tmp_path / "m", device="cpu")
    tokens = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = model(input_ids=tokens).logits[:, -1]
        past = model(input_ids=tokens[:, :-1], use_cache=True).past_key_values
        step = model(input_ids=tokens[:, -1:], past_key_values=past).logits[:, -1]
    assert torch.allclose(whole, step, atol=1e-5)
