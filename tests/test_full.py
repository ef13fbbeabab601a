"""Full fine-tuning on the fast path against plain transformers: same losses, same weights, same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_fused import FAMILIES, base, lora, rows, trainer
from test_trainer import StopAt, adapter, assert_close, logged, plain_loop
from transformers import AutoModelForCausalLM, PreTrainedModel

from swift.train.batch import collate, pack
from swift.train.loss import output_head, score
from swift.train.trainer import SftTrainer
from swift.tuner.cpu import fused, trainable_head


def whole(family: str = "llama", **changes: Any) -> PreTrainedModel:
    return base(family, **changes).requires_grad_(True)


def fast(model: Any, dtype: torch.dtype | None = None) -> Any:
    assert fused.why_not(model) == ""
    fused.fuse(model, dtype=dtype)
    return model


def gradients(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    score(model, output_head(model), batch).loss.div(300).backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps_equal_plain_transformers_one_row_at_a_time(tmp_path: Path, family: str, tied: bool) -> None:
    samples = rows(12)
    ours, theirs = (whole(family, tie_word_embeddings=tied) for _ in range(2))
    one = trainer(tmp_path, fast(ours), samples, max_steps=20)
    one.train()
    losses = plain_loop(theirs, samples, steps=20, rows_per_step=4, rate=1e-3)
    assert logged(one) == pytest.approx(losses, rel=1e-5)
    assert_close(adapter(ours), adapter(theirs), tolerance=1e-4)


@pytest.mark.parametrize("logits", [1, 2**20])
def test_every_gradient_equals_that_of_plain_transformers(monkeypatch: pytest.MonkeyPatch, logits: int) -> None:
    monkeypatch.setattr(trainable_head, "LOGITS", logits)
    monkeypatch.setattr(trainable_head, "FEWEST", 7)  # several stretches of the 48 words
    samples = rows(4)
    ours, theirs = whole("granite", tie_word_embeddings=True), whole("granite", tie_word_embeddings=True)
    assert_close(gradients(fast(ours), pack(samples)), gradients(theirs, collate(samples)), tolerance=1e-4)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_losses_and_first_choices_equal_those_of_all_logits(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    monkeypatch.setattr(trainable_head, "LOGITS", 1)
    monkeypatch.setattr(trainable_head, "FEWEST", 7)
    samples = rows(3)
    ours, theirs = whole(), whole()
    for model in (ours, theirs):
        model.lm_head.weight.data *= scale
    found, expected = (
        score(model, output_head(model), batch, hits=True)
        for model, batch in ((fast(ours), pack(samples)), (theirs, collate(samples)))
    )
    torch.testing.assert_close(found.nll, expected.nll, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.hit, expected.hit)


def names_of(model: Any, words: list[str]) -> None:
    for name, each in model.named_parameters():
        each.requires_grad_(any(word in name for word in words))


@pytest.mark.parametrize(
    "words",
    [
        ["layers.1", "layers.2", "norm", "lm_head"],
        ["q_proj", "down_proj.weight"],
        ["k_proj.bias", "q_norm", "up_proj"],
        ["embed_tokens"],
        ["layers.2.mlp.gate_proj"],
    ],
)
def test_what_is_frozen_stays_and_the_rest_gets_the_gradient_of_plain_transformers(words: list[str]) -> None:
    samples = rows(3)
    for family in ("qwen2", "qwen3"):
        ours, theirs = whole(family), whole(family)
        names_of(ours, words), names_of(theirs, words)
        found, expected = gradients(fast(ours), pack(samples)), gradients(theirs, collate(samples))
        assert set(found) == {name for name, each in theirs.named_parameters() if each.requires_grad}
        assert_close(found, expected, tolerance=1e-4)


def test_blocks_that_are_frozen_and_trained_in_turns_get_the_gradients_of_their_turn() -> None:
    samples = rows(3)
    ours, theirs = fast(whole()), whole()
    for words in (["layers.0"], ["layers.1", "lm_head"], ["layers.0", "embed_tokens"]):
        names_of(ours, words), names_of(theirs, words)
        assert_close(gradients(ours, pack(samples)), gradients(theirs, collate(samples)), tolerance=1e-4)


@pytest.mark.parametrize(
    "more",
    [
        {"bias": "all"},
        {"bias": "lora_only", "targets": ["q_proj", "v_proj", "down_proj"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "lm_head"], "targets": ["q_proj", "up_proj"]},
    ],
)
def test_lora_with_other_trained_weights_equals_plain_peft(more: dict[str, Any]) -> None:
    samples = rows(3)
    ours, theirs = lora(base("qwen2"), **more), lora(base("qwen2"), **more)
    assert_close(gradients(fast(ours), pack(samples)), gradients(theirs, collate(samples)), tolerance=1e-4)


def test_mixed_precision_is_nearer_to_fp32_than_a_model_in_bf16() -> None:
    samples = rows(6)

    def all_of(found: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([each.float().flatten() for each in found.values()])

    exact = all_of(gradients(whole(), collate(samples)))
    plain = all_of(gradients(whole().bfloat16(), collate(samples)))
    mixed = gradients(fast(whole(), torch.bfloat16), pack(samples))
    assert {each.dtype for each in mixed.values()} == {torch.float32}
    assert (all_of(mixed) - exact).norm() < 1.2 * (plain - exact).norm()


def test_mixed_precision_keeps_steps_that_bf16_would_lose(tmp_path: Path) -> None:
    model = whole()
    one = trainer(
        tmp_path,
        fast(model, torch.bfloat16),
        rows(8),
        max_steps=4,
        learning_rate=1e-6,
        refresh=lambda: fused.refresh(model),
    )
    before = adapter(model)
    one.train()
    moved = [(each.detach() - before[name]).abs().max().item() for name, each in model.named_parameters()]
    assert all(0 < each < 1e-5 for each in moved)


def test_products_use_the_weights_of_the_last_step_after_a_refresh() -> None:
    samples, model = rows(3), fast(whole(), torch.bfloat16)
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(1.5)
    fused.refresh(model)
    again = whole()
    with torch.no_grad():
        for each in again.parameters():
            each.mul_(1.5)
    found, expected = (
        score(each, output_head(each), pack(samples)).nll for each in (model, fast(again, torch.bfloat16))
    )
    assert torch.equal(found, expected)


def test_a_checkpoint_loads_in_plain_transformers_and_has_the_same_logits(tmp_path: Path) -> None:
    samples = rows(8)
    model = fast(whole("qwen3", tie_word_embeddings=True))
    trainer(tmp_path, model, samples, save_strategy="steps", save_steps=4).train()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-4", attn_implementation="eager")
    tokens = torch.tensor([samples[0].tokens])
    assert_close({"": plain(tokens).logits}, {"": model.eval()(tokens).logits}, tolerance=1e-5)
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_continued_ends_with_the_same_bytes(tmp_path: Path, dtype: torch.dtype) -> None:
    def run(folder: Path, **changes: Any) -> SftTrainer:
        model = fast(whole(), dtype)
        saves = {"save_strategy": "steps", "save_steps": 1, "optim": "adamw_torch_fused"}
        return trainer(folder, model, rows(12), keep=None, refresh=lambda: fused.refresh(model), **saves, **changes)

    run(tmp_path / "whole").train()
    run(tmp_path / "parts", callbacks=[StopAt(2)]).train()
    torch.rand(17)
    run(tmp_path / "parts").train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    done, parts = (tmp_path / name / "checkpoint-4" / "model.safetensors" for name in ("whole", "parts"))
    assert done.read_bytes() == parts.read_bytes()


def test_gradient_checkpointing_changes_no_number(tmp_path: Path) -> None:
    plain, saving = fast(whole()), fast(whole())
    trainer(tmp_path / "1", plain, rows(8)).train()
    trainer(tmp_path / "2", saving, rows(8), gradient_checkpointing=True).train()
    assert_close(adapter(plain), adapter(saving), tolerance=0)


def test_evaluation_equals_plain_transformers(tmp_path: Path) -> None:
    samples = rows(5)
    metrics = trainer(tmp_path, fast(whole()), rows(4), held_out=samples).evaluate()
    losses = plain_loop(whole(), samples, steps=1, rows_per_step=5, rate=0.0)
    assert metrics["eval_loss"] == pytest.approx(losses[0], rel=1e-5)


def test_a_parameter_that_was_given_other_memory_is_computed_with_all_the_same() -> None:
    samples, ours, theirs = rows(3), fast(whole()), whole()
    for model in (ours, theirs):
        weight = model.model.layers[0].self_attn.q_proj.weight
        weight.data = weight.data * 2
    fused.refresh(ours)
    assert_close(gradients(ours, pack(samples)), gradients(theirs, collate(samples)), tolerance=1e-4)
