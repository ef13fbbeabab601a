"""Rows that begin alike: their common beginning is computed once, and losses and gradients stay those of the rows."""

from __future__ import annotations

import json
import random
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from levels import SETS
from peft import PeftModel
from test_block import WIDE, apart, whole
from test_fused import FAMILIES, base, fast, lora
from test_trainer import (
    SOURCES,
    adapter,
    arguments,
    assert_close,
    assert_lines_have_the_losses_of_sources,
    logged,
    plain_loop,
    settings,
)
from tiny import tiny_model_folder

from swift import cli
from swift.chat import Sample
from swift.train import prefixes
from swift.train.batch import Batch, pack
from swift.train.loss import output_head, score
from swift.train.objective import Likelihood
from swift.train.splitting import split_for_workers
from swift.train.trainer import SftTrainer
from swift.tuner.cpu import block, fused

SHARED = 70
UNWINDOWED = [family for family in FAMILIES if "sliding_window" not in FAMILIES[family][1]]


def rows(*branches: int, shared: int = SHARED, seed: int = 0) -> list[Sample]:
    """Rows of `shared` tokens without weight, the same in all, and then so many others."""
    chance = random.Random(seed)
    beginning = [chance.randrange(3, 48) for _ in range(shared)]
    made = []
    for count in branches:
        tokens = [chance.randrange(3, 48) for _ in range(count)]
        weights = [0.0, 0.0, *(chance.choice([0.0, 1.0, 2.0]) for _ in range(count - 2))]
        made.append(Sample(beginning + tokens, [0.0] * shared + weights))
    return made


def grouped(batch: Batch) -> Batch:
    found = prefixes.find(batch)
    assert any(group.shared for group in found)
    return prefixes.select(batch, found)


def computed(model: PeftModel, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss = score(model, output_head(model), batch).loss
    loss.backward()
    return {"loss": loss.detach(), **{name: each.grad for name, each in model.named_parameters() if each.requires_grad}}


@pytest.mark.parametrize("family", UNWINDOWED)
def test_gradients_are_those_of_the_rows_apart_by_torchs_functions(family: str) -> None:
    batch = pack(rows(40, 9, 130, 33) + rows(12, 20, seed=1) + rows(50, shared=5, seed=2))
    model = fast(lora(base(family)))
    assert fused.takes_branches(model)
    assert_close(computed(model, grouped(batch)), computed(model, batch), tolerance=1e-5)


@pytest.mark.parametrize(
    ("family", "kernels"), [*((family, "") for family in UNWINDOWED), *(("llama", kernels) for kernels in SETS)]
)
@pytest.mark.skipif(bool(block.why_not(torch.float32)), reason=block.why_not(torch.float32))
def test_gradients_are_those_of_the_rows_apart_in_cpp(
    family: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels:
        monkeypatch.setenv("SWIFT_KERNELS", kernels)
    batch = pack(rows(40, 9, 130, 33) + rows(290, 20, shared=200, seed=1) + rows(50, shared=5, seed=2))
    made = [whole(lora(base(family, **WIDE))), apart(lora(base(family, **WIDE)))]
    ours, plain = computed(made[0], grouped(batch)), computed(made[1], batch)
    for kind in ("loss", "lora_A", "lora_B"):
        mine, right = (
            torch.cat([each.flatten() for name, each in found.items() if kind in name]) for found in (ours, plain)
        )
        assert (mine - right).norm() < 5e-6 * right.norm(), kind


def test_training_with_shared_prefixes_equals_plain_peft_one_row_at_a_time(tmp_path: Path) -> None:
    samples = rows(30, 8, 25, 40, 7, 19, 22, 33) + rows(20, 24, shared=90, seed=4)
    ours, theirs = fast(lora(base("llama"))), lora(base("llama"))
    args = arguments(tmp_path, **settings(learning_rate=1e-3, max_steps=10))
    one = SftTrainer(ours, tmp_path, args, samples, packed=True, share_prefixes=True)
    one.train()
    losses = plain_loop(theirs, samples, steps=10, rows_per_step=4, rate=1e-3)
    assert logged(one) == pytest.approx(losses, rel=1e-5)
    assert_close(adapter(ours), adapter(theirs), tolerance=1e-4)


def test_losses_of_sources_with_shared_prefixes_are_those_of_the_rows_apart(tmp_path: Path) -> None:
    samples = rows(30, 8, 25, 40, 7, 19, 22, 33) + rows(20, 24, shared=90, seed=4)
    samples = [each._replace(source=SOURCES[at % 3 == 0]) for at, each in enumerate(samples)]
    args = arguments(tmp_path, **settings(learning_rate=0.0, logging_steps=2, logging_first_step=True))
    options = {"packed": True, "share_prefixes": True, "objective": Likelihood(SOURCES)}
    one = SftTrainer(fast(lora(base("llama"))), tmp_path, args, samples, **options)
    one.train()
    assert_lines_have_the_losses_of_sources(one, lora(base("llama")), samples, 4)


def test_a_sliding_window_takes_no_branches() -> None:
    assert not fused.takes_branches(fast(lora(base("mistral", sliding_window=20))))


# Groups ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_each_row_is_the_shared_tokens_and_its_branch(seed: int) -> None:
    chance = random.Random(seed)
    samples = [
        each
        for number in range(3)
        for each in rows(
            *(chance.randint(3, 60) for _ in range(chance.randint(1, 4))),
            shared=chance.choice([10, 64, 65, 200]),
            seed=10 * seed + number,
        )
    ]
    samples += samples[:1]  # the same row twice
    chance.shuffle(samples)
    batch = pack(samples)
    groups = prefixes.find(batch)
    assert sorted(row for group in groups for row in group.rows) == list(range(len(samples)))
    made = prefixes.select(batch, groups)
    ends = list(accumulate(made["rows"].tolist()))
    for group, start, end in zip(groups, [0, *ends[:-1]], ends, strict=True):
        part = {name: made[name][0, start:end] for name in ("input_ids", "weights", "position_ids", "branches")}
        seen = [rows_of(part, mark) for mark in dict.fromkeys(part["branches"].tolist()) if mark or not group.shared]
        assert len(seen) == len(group.rows)
        for (tokens, weights, positions), row in zip(seen, group.rows, strict=True):
            assert tokens == samples[row].tokens and positions == list(range(len(tokens)))
            assert weights[1:] == list(samples[row].weights[1:])
        assert not group.shared or group.shared >= prefixes.LEAST
        assert not any(part["weights"][: group.shared + 1].tolist())


def rows_of(part: dict[str, Any], mark: int) -> tuple[list[int], list[float], list[int]]:
    kept = (part["branches"] == 0) | (part["branches"] == mark)
    return tuple(part[name][kept].tolist() for name in ("input_ids", "weights", "position_ids"))  # type: ignore[return-value]


def test_trained_tokens_are_never_shared() -> None:
    one, other = rows(20, 20)
    trained = [0.0] * 66 + [1.0] * 4
    batch = pack([Sample(each.tokens, [*trained, *each.weights[SHARED:]]) for each in (one, other)])
    assert [group.shared for group in prefixes.find(batch)] == [65]
    early = [0.0] * 20 + [1.0] + [0.0] * (SHARED - 21)
    batch = pack([Sample(each.tokens, [*early, *each.weights[SHARED:]]) for each in (one, other)])
    assert [group.shared for group in prefixes.find(batch)] == [0, 0]


def test_what_more_tokens_share_wins_over_what_more_rows_share() -> None:
    long = rows(10, 11, 12, shared=300)
    short = [Sample([*long[0].tokens[:80], *range(40)], [0.0] * 119 + [1.0]) for _ in range(1)]
    groups = prefixes.find(pack(short + long))
    assert sorted((len(group.rows), group.shared) for group in groups) == [(1, 0), (3, 300)]


# Micro-batches --------------------------------------------------------------------------------------------------------


def split(samples: list[Sample], largest: int = 1, share: bool = True) -> tuple[list[Batch], list[list[Batch]]]:
    return split_for_workers(pack(samples), largest, int, 2, share)


def counted(batches: list[Batch]) -> int:
    return sum(batch["input_ids"].numel() for batch in batches)


def test_rows_with_the_same_beginning_are_one_micro_batch_on_all_threads() -> None:
    serial, parallel = split(rows(*[50] * 8, shared=500))
    assert [counted(serial), counted([each for part in parallel for each in part])] == [900, 0]


def test_two_kinds_of_rows_go_to_two_workers() -> None:
    serial, parallel = split(rows(*[50] * 4, shared=500) + rows(*[50] * 4, shared=500, seed=1))
    assert serial == [] and [counted(part) for part in parallel] == [700, 700]


@pytest.mark.parametrize("largest", [1, 8])
def test_groups_stay_within_the_tokens_of_a_micro_batch(largest: int) -> None:
    samples = rows(*[600] * 16, shared=400)
    serial, parallel = split(samples, largest)
    capacity = max(4096, largest * 1000)
    assert max(counted([each]) for each in serial) <= capacity
    trained = sum(bool(weight) for each in samples for weight in each.weights)
    batches = [*serial, *(each for part in parallel for each in part)]
    assert sum(int((each["weights"] != 0).sum()) for each in batches) == trained
    assert counted(batches) < (11_500 if largest == 1 else 10_500) < sum(len(each.tokens) for each in samples)


def test_rows_that_share_nothing_are_split_as_before() -> None:
    samples = rows(40, shared=30) + rows(50, 60, shared=20, seed=3)
    for with_sharing, without in zip(split(samples), split(samples, share=False), strict=True):
        assert str(with_sharing) == str(without)


def test_rows_that_have_most_of_their_untrained_beginning_in_common_are_one_cluster() -> None:
    alike, others = rows(40, 50, 60, shared=100), rows(30, 30, shared=100, seed=5)
    short, alone = rows(20, 20, shared=prefixes.LEAST - 10, seed=6), rows(70, shared=5, seed=7)
    found = prefixes.clusters([alike[0], others[0], alike[1], short[0], alone[0], others[1], alike[2], short[1]])
    assert len({found[0], found[2], found[6]}) == 1
    assert found[1] == found[5]
    assert len({found[0], found[1], found[3], found[4], found[7]}) == 5


# The command ----------------------------------------------------------------------------------------------------------


def test_swift_sft_computes_the_system_prompt_of_a_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model_folder(tmp_path / "tiny")
    row = {"system": "You know the tools of a house. " * 4, "query": "Light?", "response": "It is on."}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 4, encoding="utf-8")
    sizes: list[tuple[int, int]] = []
    select = prefixes.select

    def counted_select(batch: Batch, groups: list[prefixes.Group], *more: Any) -> Batch:
        made = select(batch, groups, *more)
        sizes.append((batch["input_ids"].numel(), made["input_ids"].numel()))
        return made

    monkeypatch.setattr(prefixes, "select", counted_select)
    words = [
        "sft",
        "--model",
        str(tmp_path / "tiny"),
        "--template_type",
        "chatml",
        "--dataset",
        str(tmp_path / "rows.jsonl"),
    ]
    words += ["--dataset_test_ratio", "0", "--max_steps", "1", "--gradient_accumulation_steps", "4", "--device", "cpu"]
    assert cli.main([*words, "--output_dir", str(tmp_path / "out")]) == 0
    assert sizes and all(after < before / 2 for before, after in sizes)


def test_swift_sft_puts_rows_with_the_same_tools_into_the_same_step(tmp_path: Path, capsys: Any) -> None:
    """Two system prompts in turns, and steps of four rows: two and two have more in common than rows as they come."""
    tiny_model_folder(tmp_path / "tiny")
    systems = [f"You know the {number} tools of a {number} house and of {number} gardens. " * 6 for number in range(12)]
    lines = [
        json.dumps({"system": systems[at % 12], "query": f"Light {at}?", "response": "It is on."}) for at in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = ["sft", "--model", str(tmp_path / "tiny"), "--template_type", "chatml", "--device", "cpu"]
    words += ["--dataset", str(tmp_path / "rows.jsonl"), "--dataset_test_ratio", "0", "--num_train_epochs", "1"]
    words += ["--batch_size", "2", "--gradient_accumulation_steps", "2", "--output_dir", str(tmp_path / "out")]
    sizes: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patched:
        select = prefixes.select

        def counted_select(batch: Batch, groups: list[prefixes.Group], *more: Any) -> Batch:
            sizes.extend((len(group.rows), group.shared) for group in groups)
            return select(batch, groups, *more)

        patched.setattr(prefixes, "select", counted_select)
        assert cli.main([*words, "--group_by_prefix", "true"]) == 0
    assert sum(count for count, shared in sizes if shared) == 24

    for other, said in (("--lazy_tokenize", "does not know"), ("--use_dora", "has no effect here")):
        capsys.readouterr()
        assert cli.main([*words, "--group_by_prefix", "true", other, "true"]) != 0
        assert said in capsys.readouterr().err
