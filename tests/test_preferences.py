"""Preference training: losses against their papers' formulas, the trainer against a loop by hand, rows, the command."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from test_fused import base, fast, lora
from test_scale import finished, losses, start
from test_trainer import adapter, assert_close, settings
from tiny import thinking_tokenizer, tiny_model_folder, tiny_tokenizer

from swift import cli, flags
from swift.agent import tool_format
from swift.chat import Judged, Preference, Sample
from swift.commands import rlhf
from swift.data import preference_rows
from swift.data.row_values import BadRow, Row
from swift.template import Renderer, judged_samples, template
from swift.train import preference, preference_losses, prefixes, reference
from swift.train.batch import Batch, StepBatches
from swift.train.objective import Objective, Sources
from swift.train.preference_losses import Pairs
from swift.train.sample_cache import CompactSamples
from swift.train.trainer import SftTrainer, arguments

BETA = 0.3
VOCABULARY = 48


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# Losses ---------------------------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pair(chosen: float, rejected: float, of_chosen: float, of_rejected: float, tokens: tuple[int, int]) -> Pairs:
    numbers = (chosen, rejected, of_chosen, of_rejected, *map(float, tokens))
    return Pairs(*(torch.tensor([each], dtype=torch.float64, requires_grad=True) for each in numbers))


def test_the_losses_of_pairs_are_those_of_their_papers() -> None:
    one = pair(-7.0, -9.0, -8.0, -8.5, (4, 6))
    margin = (-7.0 + 8.0) - (-9.0 + 8.5)
    assert preference_losses.dpo(one, BETA).item() == pytest.approx(-math.log(sigmoid(BETA * margin)))
    smooth = -0.8 * math.log(sigmoid(BETA * margin)) - 0.2 * math.log(sigmoid(-BETA * margin))
    assert preference_losses.dpo(one, BETA, 0.2).item() == pytest.approx(smooth)
    assert preference_losses.dpo(one, BETA, kind="hinge").item() == pytest.approx(1 - BETA * margin)
    means = 1.0 / 4 - (-0.5) / 6
    assert preference_losses.dpo(one, BETA, kind="ipo").item() == pytest.approx((means - 1 / (2 * BETA)) ** 2)
    odds = [p / (1 - p) for p in (math.exp(-7.0 / 4), math.exp(-9.0 / 6))]
    expected = -BETA * math.log(sigmoid(math.log(odds[0] / odds[1])))
    assert preference_losses.orpo(one, BETA).item() == pytest.approx(expected)


def test_the_loss_of_a_judged_completion_is_that_of_its_paper() -> None:
    ratios, labels, divergence = torch.tensor([0.7, -0.4]), torch.tensor([True, False]), 0.25
    expected = [2.0 * (1 - sigmoid(BETA * (0.7 - 0.25))), 3.0 * (1 - sigmoid(BETA * (0.25 + 0.4)))]
    found = preference_losses.kto(ratios, labels, divergence, BETA, 2.0, 3.0)
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("chosen", [-1e-6, -0.5, -60.0, -5e4])
def test_the_odds_of_likely_and_of_hopeless_completions_have_a_gradient(chosen: float) -> None:
    one = pair(chosen, -3.0, 0.0, 0.0, (1, 1))
    preference_losses.orpo(one, BETA).sum().backward()
    assert one.chosen.grad is not None
    assert torch.isfinite(one.chosen.grad).all()


# The trainer ----------------------------------------------------------------------------------------------------------


def row(chance: random.Random, longest: int) -> Sample:
    prompt, completion = chance.randint(2, longest), chance.randint(2, longest)
    tokens = [chance.randrange(3, VOCABULARY) for _ in range(prompt + completion)]
    return Sample(tokens, [0.0] * prompt + [1.0] * completion)


def pairs(count: int, longest: int = 30) -> list[Sample]:
    chance = random.Random(0)
    return [Sample.joined([row(chance, longest), row(chance, longest)]) for _ in range(count)]


def pairs_of_prompts(count: int) -> list[Sample]:
    """Pairs whose rows have their prompt in common, but for every third, whose rows have nothing in common."""
    chance = random.Random(1)
    made = []
    for at in range(count):
        first, second = row(chance, 20), row(chance, 20)
        if at % 3 < 2:
            prompt = [chance.randrange(3, VOCABULARY) for _ in range(chance.randint(66, 90))]
            both = (each for each in (first, second))
            first, second = (Sample([*prompt, *each.tokens], [0.0] * len(prompt) + each.weights) for each in both)
        made.append(Sample.joined([first, second]))
    return made


def judged(count: int, longest: int = 30) -> list[Sample]:
    chance = random.Random(0)
    own = [Sample.joined([row(chance, longest)], label=chance.random() < 0.6) for _ in range(count)]
    return list(preference.with_mismatched(own, -1))


def likelihood(model: Any, one: Sample) -> tuple[torch.Tensor, int]:
    """The log-likelihood of a row's completion from whole logits, and its tokens."""
    logits = model(input_ids=torch.tensor([one.tokens])).logits[0, :-1]
    scores = logits.log_softmax(-1)[torch.arange(len(one.tokens) - 1), torch.tensor(one.tokens[1:])]
    return (scores * torch.tensor(one.weights[1:])).sum(), int(sum(one.weights))


def of_pairs(model: Any, samples: list[Sample], loss: Callable[[Pairs], torch.Tensor], sft: float) -> torch.Tensor:
    losses, nll, counted = [], torch.zeros(()), 0
    for sample in samples:
        (chosen, of_chosen), (rejected, of_rejected) = (likelihood(model, each) for each in sample.rows)
        with model.disable_adapter(), torch.no_grad():
            before = [likelihood(model, each)[0] for each in sample.rows]
        numbers = [chosen, rejected, *before, torch.tensor(float(of_chosen)), torch.tensor(float(of_rejected))]
        losses.append(loss(Pairs(*numbers)))
        nll, counted = nll - chosen, counted + of_chosen
    return torch.stack(losses).mean() + sft * nll / counted


def of_judged(model: Any, samples: list[Sample]) -> torch.Tensor:
    ratios, mismatched = [], []
    for sample in samples:
        own, other = (likelihood(model, each)[0] for each in sample.rows)
        with model.disable_adapter(), torch.no_grad():
            own_before, other_before = (likelihood(model, each)[0] for each in sample.rows)
        ratios.append(own - own_before)
        mismatched.append((other - other_before).detach())
    divergence = torch.stack(mismatched).mean().clamp(min=0)
    labels = torch.tensor([bool(sample.judged and sample.judged.label) for sample in samples])
    return preference_losses.kto(torch.stack(ratios), labels, divergence, BETA, 1.0, 1.5).mean()


OBJECTIVES: dict[str, tuple[Objective, Callable[..., torch.Tensor]]] = {
    "dpo": (
        preference.dpo(BETA, 0.1),
        lambda model, rows: of_pairs(model, rows, lambda each: preference_losses.dpo(each, BETA, 0.1), 0.0),
    ),
    "ipo": (
        preference.dpo(BETA, kind="ipo"),
        lambda model, rows: of_pairs(model, rows, lambda each: preference_losses.dpo(each, BETA, kind="ipo"), 0.0),
    ),
    "hinge with likelihood": (
        preference.dpo(BETA, kind="hinge", likelihood=0.5),
        lambda model, rows: of_pairs(model, rows, lambda each: preference_losses.dpo(each, BETA, kind="hinge"), 0.5),
    ),
    "orpo": (
        preference.orpo(BETA),
        lambda model, rows: of_pairs(model, rows, lambda each: preference_losses.orpo(each, BETA), 1.0),
    ),
    "kto": (preference.Kto(BETA, 1.0, 1.5), of_judged),
}


def by_hand(model: PeftModel, samples: list[Sample], loss: Callable[..., torch.Tensor], steps: int) -> list[float]:
    """A step on four samples at a time, from whole logits."""
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    batches = StepBatches([len(each.tokens) for each in samples], 4, seed=7)
    order = [step for epoch in range(9) for step in (batches.set_epoch(epoch), batches.steps())[1]]
    losses = []
    for step in range(steps):
        found = loss(model, [samples[at] for at in order[step]])
        found.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(found.item())
    return losses


def with_references(model: Any, samples: list[Sample], packed: bool, share: bool = False) -> CompactSamples:
    compact = CompactSamples.in_memory(samples)
    found = reference.of_samples(model, compact, packed=packed, share_prefixes=share)
    return compact.with_references(found.tolist())


def trained(
    folder: Path,
    model: Any,
    samples: list[Sample],
    objective: Objective,
    packed: bool,
    held_out: Any = (),
    share: bool = False,
) -> SftTrainer:
    """After six steps."""
    args = arguments(folder, **settings(learning_rate=1e-3, max_steps=6))
    known = with_references(model, samples, packed, share)
    options = {"packed": packed, "share_prefixes": share, "objective": objective}
    one = SftTrainer(model, folder, args, known, held_out, **options)
    one.train()
    return one


@pytest.mark.parametrize("packed", [True, False], ids=["the fast path", "padded batches"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_steps_equal_a_loop_written_by_hand(tmp_path: Path, name: str, packed: bool) -> None:
    objective, loss = OBJECTIVES[name]
    samples = judged(12) if name == "kto" else pairs(12)
    ours, theirs = lora(base("llama")), lora(base("llama"))
    one = trained(tmp_path, fast(ours) if packed else ours, samples, objective, packed)
    losses = by_hand(theirs, samples, loss, steps=6)
    assert [line["loss"] for line in one.state.log_history if "loss" in line] == pytest.approx(losses, rel=1e-5)
    assert_close(adapter(ours), adapter(theirs), tolerance=1e-4)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "kto"])
def test_steps_whose_pairs_have_prompts_in_common_equal_a_loop_written_by_hand(tmp_path: Path, name: str) -> None:
    objective, loss = OBJECTIVES[name]
    samples = pairs_of_prompts(12)
    ours, theirs = lora(base("llama")), lora(base("llama"))
    computed = []
    with pytest.MonkeyPatch.context() as patched:
        select = prefixes.select

        def counted_select(batch: Batch, groups: list[prefixes.Group], *more: Any) -> Batch:
            computed.extend(len(group.rows) for group in groups)
            return select(batch, groups, *more)

        patched.setattr(prefixes, "select", counted_select)
        one = trained(tmp_path, fast(ours), samples, objective, True, share=True)
    assert set(computed) == {1, 2}
    losses = by_hand(theirs, samples, loss, steps=6)
    assert [line["loss"] for line in one.state.log_history if "loss" in line] == pytest.approx(losses, rel=1e-5)
    assert_close(adapter(ours), adapter(theirs), tolerance=1e-4)


def test_the_gradient_of_a_pair_is_that_of_whole_logits() -> None:
    sample = pairs(1)[0]
    ours, theirs = fast(lora(base("qwen2"))), lora(base("qwen2"))
    objective = preference.dpo(BETA)
    known = with_references(ours, [sample], packed=True)
    batch = objective.pack(known[:1])
    totals = objective.totals([batch], lambda batch: torch.empty(0))
    loss, _ = objective.loss(ours, ours.get_output_embeddings(), batch, totals)
    loss.backward()
    expected = of_pairs(theirs, [sample], lambda each: preference_losses.dpo(each, BETA), 0.0)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    grads = [
        {name: each.grad for name, each in model.named_parameters() if each.requires_grad} for model in (ours, theirs)
    ]
    assert_close(*grads, tolerance=1e-5)


def test_how_a_step_is_divided_changes_nothing(tmp_path: Path) -> None:
    samples = judged(9)
    found = []
    for batch, accumulation in ((4, 1), (1, 4)):
        model = lora(base("llama"))
        args = arguments(
            tmp_path / str(batch),
            **settings(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation),
        )
        known = with_references(model, samples, packed=False)
        SftTrainer(model, tmp_path / str(batch), args, known, objective=preference.Kto(BETA)).train()
        found.append(adapter(model))
    assert_close(*found)


def test_the_reference_is_the_model_without_its_adapter_and_what_is_trained_stays_so() -> None:
    model = fast(lora(base("llama"), bias="none"))
    before = [name for name, each in model.named_parameters() if each.requires_grad]
    found = reference.of_samples(model, CompactSamples.in_memory(pairs(3)), packed=True)
    assert [name for name, each in model.named_parameters() if each.requires_grad] == before
    plain = base("llama")
    expected = [[likelihood(plain, each)[0].item() for each in sample.rows] for sample in pairs(3)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["dpo", "rpo", "orpo", "kto"])
def test_each_data_set_of_a_mixture_has_the_loss_of_its_own_rows(tmp_path: Path, name: str) -> None:
    both = ("one", "two")
    objective = {
        "dpo": preference.dpo(BETA, sources=both),
        "rpo": preference.dpo(BETA, likelihood=0.5, sources=both),
        "orpo": preference.orpo(BETA, both),
        "kto": preference.Kto(BETA, sources=Sources(both)),
    }[name]
    samples = [
        each._replace(source=both[at % 3 > 0]) for at, each in enumerate((judged if name == "kto" else pairs)(9))
    ]
    model = fast(lora(base("llama")))
    one = trained(tmp_path, model, samples, objective, True, with_references(model, samples, packed=True))
    rows = Counter[str]()
    for line in one.state.log_history:
        rows.update({name: value for name, value in line.items() if name.startswith("rows/")})
    assert rows["rows/two"] > rows["rows/one"] > 0
    measured = one.evaluate()
    assert not any(name.startswith("eval_rows/") for name in measured)
    whole = measured["eval_loss"]
    if name in ("dpo", "kto"):
        assert (3 * measured["eval_loss/one"] + 6 * measured["eval_loss/two"]) / 9 == pytest.approx(whole, rel=1e-4)
    else:
        found = [measured["eval_loss/one"], measured["eval_loss/two"]]
        assert min(found) < whole < max(found)


def test_log_lines_and_evaluations_have_the_names_of_trl(tmp_path: Path) -> None:
    samples = pairs(8)
    model = fast(lora(base("llama")))
    held_out = with_references(model, pairs(3), packed=True)
    one = trained(tmp_path, model, samples, preference.dpo(BETA, likelihood=0.5), True, held_out)
    names = {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"}
    assert names | {"logps/rejected", "nll_loss", "loss"} <= one.state.log_history[0].keys()
    measured = one.evaluate()
    assert {f"eval_{name}" for name in names} <= measured.keys()
    loss = of_pairs(model, pairs(3), lambda each: preference_losses.dpo(each, BETA), 0.5)
    assert measured["eval_loss"] == pytest.approx(loss.item(), rel=1e-4)
    margin = measured["eval_rewards/chosen"] - measured["eval_rewards/rejected"]
    assert measured["eval_rewards/margins"] == pytest.approx(margin, rel=1e-4)


def test_the_divergence_of_kto_is_estimated_over_all_held_out_rows(tmp_path: Path) -> None:
    model = fast(lora(base("llama")))
    held_out = with_references(model, judged(7), packed=True)
    one = trained(tmp_path, model, judged(8), preference.Kto(BETA, 1.0, 1.5), True, held_out)
    measured = one.evaluate()
    assert measured["eval_loss"] == pytest.approx(of_judged(model, judged(7)).item(), rel=1e-4)
    assert {"eval_kl", "eval_rewards/chosen", "eval_rewards/rejected", "eval_rewards/margins"} <= measured.keys()


def test_a_mismatched_row_has_the_prompt_of_its_own_and_the_completion_of_the_row_before() -> None:
    own = [Sample.joined([Sample([at, at + 1, at + 2], [0.0, 1.0, 1.0])]) for at in (10, 20, 30)]
    mixed = [sample.rows[1].tokens for sample in preference.with_mismatched(own, -1)]
    assert mixed == [[10, 31, 32], [20, 11, 12], [30, 21, 22]]
    assert [sample.rows[1].tokens for sample in preference.with_mismatched(own, 2)] == [[10, 31], [20, 11], [30, 21]]


# Rows -----------------------------------------------------------------------------------------------------------------

ASKED = [{"role": "user", "content": "q"}]
GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]}
RESULT = {"role": "tool", "content": "rain"}


def ignore(what: str, key: str) -> None:
    raise AssertionError((what, key))


def read(given: Row, judged: bool = False) -> Preference:
    shape = preference_rows.read_judged if judged else preference_rows.read_pair
    return shape(given, {}, ignore)


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": ASKED, "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "q", "chosen": GOOD, "rejected": BAD},
        {"chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {"prompt": "q", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
        {"messages": [*ASKED, GOOD], "rejected_response": "bad"},
        {"messages": [*ASKED, GOOD], "rejected_response": [BAD]},
        {"messages": [*ASKED, GOOD], "rejected_messages": [*ASKED, BAD]},
        {"messages": json.dumps([*ASKED, GOOD]), "rejected_messages": json.dumps([*ASKED, BAD])},
        {"messages": ASKED, "chosen": "good", "rejected": "bad"},
        {
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}],
            "rejected_response": "bad",
        },
        {"query": "q", "response": "good", "rejected_response": "bad"},
        {"instruction": "q", "output": "good", "rejected_response": "bad"},
    ],
    ids=lambda given: " ".join(given),
)
def test_every_shape_of_a_pair_is_read(given: Row) -> None:
    found = read(given)
    assert [message.content for message in found.messages] == ["q", "good"]
    assert (found.prompt, [message.content for message in found.rejected]) == (1, ["bad"])
    assert found.other
    assert [message.content for message in found.other.messages] == ["q", "bad"]


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "q", "completion": "good", "label": True},
        {"prompt": ASKED, "completion": [GOOD], "label": 1},
        {"prompt": ASKED, "completion": "good", "label": "true"},
        {"messages": [*ASKED, GOOD], "label": True},
        {"query": "q", "response": "good", "label": "1"},
    ],
    ids=lambda given: " ".join(given),
)
def test_every_shape_of_a_judged_completion_is_read(given: Row) -> None:
    found = read(given, judged=True)
    assert [message.content for message in found.messages] == ["q", "good"]
    assert (found.prompt, found.rejected, found.label) == (1, (), True)
    assert not read({**given, "label": False}, judged=True).label


def test_the_rows_of_the_documentation_are_read() -> None:
    page = (Path(__file__).parent.parent / "docs" / "preferences.md").read_text(encoding="utf-8")
    rows = [
        json.loads(line) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL) for line in block.splitlines()
    ]
    assert len(rows) == 9
    found = [read(each, judged="label" in each) for each in rows]
    assert all(preference_rows.validate_preference(each) == [] for each in found)


def test_a_system_prompt_a_history_and_tools_belong_to_both_dialogues() -> None:
    found = read(
        {"system": "s", "history": [["a", "b"]], "prompt": "q", "chosen": "good", "rejected": "bad", "tools": [WEATHER]}
    )
    assert found.other
    for each in (found, found.other):
        assert [message.content for message in each.messages[:-1]] == ["s", "a", "b", "q"]
        assert [tool.name for tool in each.tools] == ["weather"]
    assert found.messages[2].weight == 0


def test_completions_may_go_on_for_several_messages_and_share_a_beginning() -> None:
    given = {"messages": [*ASKED, CALL, RESULT, GOOD], "rejected_messages": [*ASKED, BAD], "tools": [WEATHER]}
    assert (read(given).prompt, len(read(given).messages)) == (1, 4)
    shared = {"messages": [*ASKED, CALL, RESULT, GOOD], "rejected_messages": [*ASKED, CALL, RESULT, BAD]}
    assert read({**shared, "tools": [WEATHER]}).prompt == 3


def test_an_explicit_prompt_decides_where_the_completion_begins() -> None:
    given = {"prompt": ASKED, "chosen": [CALL, RESULT, GOOD], "rejected": [CALL, RESULT, BAD], "tools": [WEATHER]}
    found = read(given)
    assert (found.prompt, len(found.rejected)) == (1, 3)


def test_a_rejected_call_may_be_invalid_but_a_chosen_one_may_not() -> None:
    wrong = {**CALL, "tool_calls": [{"function": {"name": "nothing", "arguments": "{}"}}]}
    fine = {"messages": [*ASKED, CALL], "rejected_response": wrong, "tools": [WEATHER]}
    assert preference_rows.validate_preference(read(fine)) == []
    with pytest.raises(BadRow, match="nothing"):
        preference_rows.validate_preference(
            read({"messages": [*ASKED, wrong], "rejected_response": CALL, "tools": [WEATHER]})
        )


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"prompt": "q", "chosen": "good"}, "no-rejected"),
        ({"prompt": "q", "rejected": "bad"}, "no-chosen"),
        ({"chosen": "good", "rejected": "bad"}, "no-query"),
        ({"prompt": "q", "chosen": "same", "rejected": "same"}, "same-completion"),
        ({"prompt": "q", "chosen": "good", "rejected": [BAD]}, "wrong-type"),
        ({"prompt": "q", "chosen": "good", "rejected": "bad", "rejected_response": "bad"}, "two-rejected"),
        ({"messages": [*ASKED, GOOD], "rejected_response": 3}, "wrong-type"),
        ({"chosen": [*ASKED, GOOD], "rejected": [{"role": "user", "content": "other"}, BAD]}, "no-query"),
        (
            {"chosen": [*ASKED, GOOD, *ASKED, GOOD], "rejected": [*ASKED, GOOD, {"role": "user", "content": "o"}, BAD]},
            "different-prompts",
        ),
        ({"prompt": "other", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]}, "two-prompts"),
        ({"prompt": [*ASKED, GOOD], "chosen": [GOOD], "rejected": [BAD]}, "reply-in-prompt"),
        ({"messages": [*ASKED, {**GOOD, "loss": False}], "rejected_response": "bad"}, "untrained-completion"),
        (
            {"messages": [*ASKED, {**GOOD, "loss": True}, *ASKED, GOOD], "rejected_response": "bad"},
            "weight-on-prompt",
        ),
        ({"messages": [*ASKED, GOOD], "rejected_response": "bad", "images": ["a.png"]}, "not-text"),
        ([1], "not-an-object"),
    ],
)
def test_a_bad_pair_breaks_a_rule_with_a_name(given: Any, rule: str) -> None:
    with pytest.raises(BadRow) as caught:
        preference_rows.read_pair(given, {}, lambda what, key: None)
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"prompt": "q", "completion": "good"}, "no-label"),
        ({"prompt": "q", "completion": "good", "label": "perhaps"}, "no-label"),
        ({"prompt": "q", "chosen": "good", "rejected": "bad", "label": True}, "not-judged"),
        ({"completion": "good", "label": True}, "no-query"),
    ],
)
def test_a_bad_judged_row_breaks_a_rule_with_a_name(given: Any, rule: str) -> None:
    with pytest.raises(BadRow) as caught:
        preference_rows.read_judged(given, {}, lambda what, key: None)
    assert caught.value.rule == rule


# Tokens ---------------------------------------------------------------------------------------------------------------


def renderer(own: bool = False) -> Renderer:
    if own:
        return Renderer(thinking_tokenizer(), None, scale="default")
    return Renderer(tiny_tokenizer(), template("chatml"), scale="default")


@pytest.mark.parametrize("own", [False, True], ids=["a built-in template", "the tokenizer's own"])
def test_only_completions_have_a_weight_and_the_prompt_is_the_one_that_is_served(own: bool) -> None:
    given = {"messages": [*ASKED, GOOD, {"role": "user", "content": "and"}, GOOD], "rejected_response": "bad"}
    made, found = renderer(own), read(given)
    (fitted,) = judged_samples.truncate(made, found, -1, "delete")
    assert fitted.sample
    chosen, rejected = fitted.sample.rows
    for one, said in ((chosen, "good"), (rejected, "bad")):
        start = one.weights.index(1.0)
        assert one.tokens[:start] == made.prompt_tokens(found.messages[:3])
        assert set(one.weights[start:]) == {1.0} if not own else 1.0 in one.weights[start:]
        assert said in made.decode(one.tokens[start:])
    plain = made.encode(found.with_messages(found.messages))
    assert chosen.tokens == plain.tokens


def test_both_dialogues_of_a_long_row_lose_the_same_oldest_rounds() -> None:
    history = [message for at in range(4) for message in ({"role": "user", "content": f"old {at} " * 9}, GOOD)]
    found = read({"messages": [*history, *ASKED, GOOD], "rejected_response": "bad " * 8})
    made = renderer()
    whole = judged_samples.truncate(made, found, -1, "delete")[0].sample
    assert whole and whole.judged
    assert judged_samples.truncate(made, found, 150, "delete")[0].status == "dropped"
    (cut,) = judged_samples.truncate(made, found, 150, "truncation_left")
    assert cut.sample and cut.sample.judged and cut.status == "cut"
    texts = [made.decode(one.tokens) for one in cut.sample.rows]
    assert max(cut.sample.judged.rows) <= 150
    prompts = {text.rpartition("assistant\n")[0] for text in texts}
    assert len(prompts) == 1 and "q" in prompts.pop()
    with pytest.raises(ValueError, match="more than --max_length 150"):
        judged_samples.truncate(made, found, 150, "error")


def test_samples_keep_what_is_known_of_them_in_memory_and_on_disk() -> None:
    samples = [
        each._replace(judged=Judged(each.judged.rows, at % 2 == 0)) for at, each in enumerate(pairs(3)) if each.judged
    ]
    for kept in (CompactSamples.in_memory(samples), CompactSamples.on_disk(samples)):
        known = kept.with_references([[1.0, 2.0]] * 3)
        assert [sample.judged for sample in known] == [
            Judged(each.judged.rows, each.judged.label, (1.0, 2.0)) for each in samples if each.judged
        ]
        assert [sample.tokens for sample in known] == [sample.tokens for sample in samples]


# The command ----------------------------------------------------------------------------------------------------------


def pair_rows(count: int) -> list[Row]:
    return [{"prompt": f"twice {at}?", "chosen": f"It is {2 * at}.", "rejected": f"No {at}."} for at in range(count)]


def label_rows(count: int) -> list[Row]:
    return [{"prompt": f"twice {at}?", "completion": f"It is {2 * at}.", "label": at % 3 != 0} for at in range(count)]


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def given(tmp_path: Path, data: Path, **changes: Any) -> dict[str, Any]:
    folder = tmp_path / "tiny"
    return {
        "model": str(folder if folder.exists() else tiny_model_folder(folder)),
        "template_type": "chatml",
        "dataset": [str(data)],
        "output_dir": str(tmp_path / "output"),
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "eval_steps": 2,
        "logging_steps": 1,
        "max_steps": 4,
        "device": "cpu",
        "report_to": "none",
        **changes,
    }


def run(tmp_path: Path, data: Path, **changes: Any) -> dict[str, Any]:
    return rlhf.main(flags.from_dict(rlhf.Config, given(tmp_path, data, **changes)))


@pytest.mark.parametrize("kind", ["dpo", "kto", "orpo"])
def test_a_run_leaves_its_files_and_names_bad_rows(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = label_rows(20) if kind == "kto" else pair_rows(20)
    data = write(tmp_path / "rows.jsonl", [*rows, {"prompt": "lonely"}])
    result = run(tmp_path, data, rlhf_type=kind)
    folder = Path(result["output_dir"])
    said = capsys.readouterr()
    assert re.search(rf"{data}:21: no-(rejected|label): the row has", said.out)
    assert ("reference: log-likelihoods of 20 rows" in said.out) == (kind != "orpo")
    assert "step 4/4  loss" in said.err
    lines = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in measured] == [2, 4]
    assert result["best_metric"] == min(line["eval_loss"] for line in measured)
    assert "rewards/margins" in lines[0] or kind == "kto"
    assert (folder / "images" / "reward_margin.png").exists()
    checkpoint = Path(result["last_model_checkpoint"])
    assert (checkpoint / "adapter_model.safetensors").exists()
    assert json.loads((checkpoint / "sft_args.json").read_text())["rlhf_type"] == kind
    page = (folder / "report.html").read_text()
    assert "rejected" in page


@pytest.mark.parametrize(
    "changes",
    [{"lora_target_modules": ["ALL"]}, {"init_lora_weights": "pissa", "dtype": "fp32"}, {"sft_type": "full"}],
    ids=["LoRA", "LoRA that changes the base weights", "full"],
)
def test_a_run_begins_at_the_reference_and_the_margin_of_rewards_grows(
    tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    data = write(tmp_path / "rows.jsonl", pair_rows(12))
    history = run(tmp_path, data, max_steps=8, eval_strategy="no", **changes)["log_history"]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    margins = [line["rewards/margins"] for line in history if "rewards/margins" in line]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > 0.01


def test_an_adapter_that_is_trained_further_is_its_own_reference(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", pair_rows(12))
    first = run(tmp_path, data, rlhf_type="orpo", learning_rate=1e-2, eval_strategy="no")["last_model_checkpoint"]
    history = run(tmp_path, data, init_adapter=first, eval_strategy="no")["log_history"]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    plain = run(tmp_path, data, eval_strategy="no", max_steps=1)["log_history"]
    assert history[0]["logps/chosen"] > plain[0]["logps/chosen"] + 0.2


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", label_rows(14))
    whole = run(tmp_path, data, rlhf_type="kto", save_steps=2)
    half = Path(whole["output_dir"]) / "checkpoint-2"
    last = Path(whole["last_model_checkpoint"]) / "adapter_model.safetensors"
    before = last.read_bytes()
    resumed = run(tmp_path, data, rlhf_type="kto", save_steps=2, resume_from_checkpoint=str(half))
    assert (Path(resumed["last_model_checkpoint"]) / "adapter_model.safetensors").read_bytes() == before


def test_two_processes_train_as_one_and_share_the_estimate_of_the_divergence(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", label_rows(13))
    of = {name: {"output_dir": str(tmp_path / name), "add_output_dir_suffix": False} for name in ("one", "two")}
    options = {"rlhf_type": "kto", "beta": 2.0, "max_steps": 3}
    one = run(tmp_path, data, gradient_accumulation_steps=4, **options, **of["one"])
    finished(start(given(tmp_path, data, **options, **of["two"]), "rlhf", NPROC_PER_NODE="2"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "two" / "logging.jsonl").read_text().splitlines()]
    found, expected = ([line["kl"] for line in each if "kl" in line] for each in (lines, one["log_history"]))
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(expected) > 1e-3


def test_a_run_that_its_time_limit_stops_names_the_command_that_resumes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", pair_rows(14))
    run(tmp_path, data, beta=0.2, max_minutes=1e-6)
    said = capsys.readouterr().out
    assert re.search(r"to resume: swift rlhf --beta 0\.2 .*--resume_from_checkpoint", said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta": 0}, "--beta 0: must be more than 0"),
        ({"rlhf_type": "kto", "rpo_alpha": 1}, "--rpo_alpha is for --rlhf_type dpo and does nothing for kto"),
        ({"desirable_weight": 2}, "--desirable_weight is for --rlhf_type kto"),
        ({"label_smoothing": 0.6}, "below 0.5"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, "not for ipo"),
        ({"rpo_alpha": -1}, "--rpo_alpha -1"),
        ({"streaming": True}, "--streaming does not work with swift rlhf"),
        ({"fsdp": "full_shard"}, "--fsdp does not work with swift rlhf yet"),
        ({"self_cognition_sample": 5}, "dialogues without preferences"),
        ({"dataset": ["self-cognition#5"]}, "dialogues without preferences"),
    ],
)
def test_a_flag_that_is_wrong_or_would_be_ignored_is_refused_in_one_line(
    tmp_path: Path, changes: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        run(tmp_path, write(tmp_path / "rows.jsonl", pair_rows(4)), **changes)


def test_rows_of_the_other_kind_say_which_method_they_are_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", label_rows(4))
    words = [f"--{name}={value}" for name, value in given(tmp_path, data, dataset=str(data)).items()]
    assert cli.main(["rlhf", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("swift: error: no rows of")
    assert "--rlhf_type kto" in error


def test_calls_are_rendered_in_the_format_of_the_model(tmp_path: Path) -> None:
    found = read({"messages": [*ASKED, CALL], "rejected_response": "bad", "tools": [WEATHER]})
    made = Renderer(tiny_tokenizer(), template("chatml"), "hermes", scale="default")
    (fitted,) = judged_samples.truncate(made, found, -1, "delete")
    assert fitted.sample
    text = made.decode(fitted.sample.rows[0].tokens)
    assert tool_format("hermes").call("", found.messages[-1].tool_calls) in text
