"""Tokens are drawn with the probabilities of softmax, from one random number each, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch
from transformers import TopPLogitsWarper

from swift.engine.drawing import PART, draw, logprobs
from swift.engine.sampling import SamplingParams, sampler, uniforms
from swift.engine.sampling import draw as draw_at_temperatures

GRID = [(number + 0.5) / 4000 for number in range(4000)]


@pytest.mark.parametrize("vocabulary", [3, PART, PART + 1, 3 * PART + 17])
def test_evenly_spread_numbers_give_each_token_its_probability(vocabulary: int) -> None:
    logits_V = torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 3
    tokens = torch.cat([draw(logits_V.expand(len(part), -1), part) for part in (GRID[:2000], GRID[2000:])])
    assert bool((tokens.diff() >= 0).all())
    drawn_V = torch.bincount(tokens, minlength=vocabulary) / len(GRID)
    assert float((drawn_V - logits_V.softmax(-1)).abs().max()) <= 1 / len(GRID)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53, 0.5])
def test_a_masked_token_is_never_drawn_not_even_at_the_ends(number: int) -> None:
    logits_NV = torch.full((4, 3 * PART), -torch.inf)
    for row, token in enumerate((1, PART - 1, PART, 2 * PART + 5)):
        logits_NV[row, token] = 1e-3 * row
    assert draw(logits_NV, [number] * 4).tolist() == [1, PART - 1, PART, 2 * PART + 5]


def test_a_row_draws_the_same_in_every_batch() -> None:
    logits_NV = torch.randn(33, 3000, generator=torch.Generator().manual_seed(1)) * 4
    numbers = torch.rand(33, generator=torch.Generator().manual_seed(2)).tolist()
    alone = [draw_at_temperatures(logits_NV[row, None], [0.7], [numbers[row]])[0] for row in range(33)]
    together = draw_at_temperatures(logits_NV, [0.7] * 33, numbers)
    assert [each.token for each in together] == [each.token for each in alone]
    expected_N = logits_NV.log_softmax(-1)[range(33), [each.token for each in together]]
    assert [each.logprob for each in together] == pytest.approx(expected_N.tolist(), abs=1e-5)
    assert logprobs(logits_NV, torch.tensor([each.token for each in alone])).tolist() == pytest.approx(
        expected_N.tolist(), abs=1e-5
    )


def test_each_row_has_its_own_temperature() -> None:
    logits_NV = torch.tensor([[0.0, 1.0]] * 2)
    below, above = 1 / (1 + torch.e ** (1 / 0.5)), 1 / (1 + torch.e ** (1 / 2))
    tokens = draw_at_temperatures(logits_NV, [0.5, 2.0], [(below + above) / 2] * 2)
    assert [each.token for each in tokens] == [1, 0]


def test_a_request_alone_and_in_a_batch_draws_the_same_tokens() -> None:
    params = SamplingParams(temperature=0.9, seed=5)
    logits_TV = torch.randn(20, 700, generator=torch.Generator().manual_seed(3)) * 2
    one_by_one, numbers = sampler(params), uniforms(params)
    alone = [one_by_one(logits_V, ()).token for logits_V in logits_TV]
    batch = draw_at_temperatures(logits_TV, [0.9] * 20, [numbers() for _ in range(20)])
    assert [each.token for each in batch] == alone


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_give_no_distribution_are_an_error(bad: float) -> None:
    logits_NV = torch.zeros(2, 10)
    logits_NV[1] = bad
    with pytest.raises(ValueError, match="not finite"):
        draw(logits_NV, [0.5, 0.5])


@pytest.mark.parametrize("scale", [4.0, 0.01])
def test_top_p_keeps_the_tokens_of_transformers_in_flat_and_in_steep_distributions(scale: float) -> None:
    logits_V = torch.randn(1000, generator=torch.Generator().manual_seed(7)) * scale
    expected_V = TopPLogitsWarper(0.9)(torch.zeros(1, 1, dtype=torch.long), logits_V[None].clone())[0].isfinite()
    one = sampler(SamplingParams(top_p=0.9, seed=1))
    drawn = {one(logits_V, ()).token for _ in range(6000)}
    assert drawn <= set(expected_V.nonzero().flatten().tolist())
    assert len(drawn) > 0.9 * int(expected_V.sum())
