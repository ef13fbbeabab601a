"""The loss of one batch, against transformers' own and against one row at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from swift.chat import Sample
from swift.train.batch import collate
from swift.train.loss import output_head, score

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
ROWS = [
    Sample([3, 9, 4, 1, 7], [1.0, 0.0, 1.0, 1.0, 1.0]),
    Sample([5, 2, 8], [0.0, 1.0, 1.0]),
    Sample([6, 11, 12, 13], [0.0, 0.0, 0.0, 1.0]),
]


def build(kind: str = "llama", **changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**SIZES, **changes})).eval()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "granite", "glm"])
def test_the_loss_is_that_of_transformers_where_all_weights_are_one(kind: str) -> None:
    model = build(kind)  # gemma2 and granite do more to the logits after the head
    batch = collate(ROWS)
    labels = batch["input_ids"].masked_fill(batch["weights"] == 0, -100)
    expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    scores = score(model, output_head(model), batch)
    assert len(scores.nll) == 6  # the first token of a row is never predicted, whatever its weight
    torch.testing.assert_close(scores.loss / len(scores.nll), expected)


def test_padding_changes_nothing() -> None:
    model = build()
    together = score(model, output_head(model), collate(ROWS)).loss
    alone = sum(score(model, output_head(model), collate([row])).loss for row in ROWS)
    torch.testing.assert_close(together, alone)


def test_weights_multiply_the_loss_of_their_tokens() -> None:
    model = build()
    tokens = [3, 9, 4, 1]

    def loss(*weights: float) -> float:
        return score(model, output_head(model), collate([Sample(tokens, [0.0, *weights])])).loss.item()

    assert loss(2, 0.5, 0) == pytest.approx(2 * loss(1, 0, 0) + 0.5 * loss(0, 1, 0), rel=1e-5)


def test_the_loss_of_a_bf16_model_is_taken_in_fp32() -> None:
    model = build().to(torch.bfloat16)
    scores = score(model, output_head(model), collate(ROWS))
    assert scores.nll.dtype == torch.float32
    assert len(set(scores.nll.tolist())) == len(scores.nll)


def test_a_batch_without_trained_tokens_has_a_zero_loss_that_can_be_differentiated() -> None:
    model = build()
    loss = score(model, output_head(model), collate([])).loss
    loss.backward()
    assert loss.item() == 0
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_a_hit_is_a_token_the_model_would_have_chosen() -> None:
    model = build()
    choice = model(torch.tensor([[3, 9]])).logits[0].argmax(-1).tolist()
    right = score(model, output_head(model), collate([Sample([3, 9, choice[1]], [0, 0, 1])]), hits=True)
    wrong = score(model, output_head(model), collate([Sample([3, 9, (choice[1] + 1) % 40], [0, 0, 1])]), hits=True)
    assert right.hit.tolist() == [True]
    assert wrong.hit.tolist() == [False]


def test_the_head_is_left_as_it_was_even_after_an_error() -> None:
    model = build()
    head = output_head(model)
    with pytest.raises(IndexError):
        score(model, head, {**collate(ROWS), "input_ids": torch.full((3, 5), 99)})
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 40)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="LlamaModel has no language-model head"):
        output_head(LlamaModel(LlamaConfig(**SIZES)))
    assert output_head(LlamaForCausalLM(LlamaConfig(**SIZES)))
