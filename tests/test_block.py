"""Blocks and heads in C++ against torch's functions: every family, any rows, reused memory, no compiler."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from levels import SETS
from peft import PeftModel
from test_fused import ALL, FAMILIES, base, lora, trainer
from test_fused import rows as some_rows
from test_trainer import StopAt, adapter, assert_close
from torch.autograd.graph import saved_tensors_hooks

from swift import native
from swift.chat import Sample
from swift.train.batch import pack
from swift.train.loss import output_head, score
from swift.train.micro_batches import ParallelMicroBatches
from swift.train.splitting import split_for_workers
from swift.tuner.cpu import block, fused, head

WIDE = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
}
pytestmark = pytest.mark.skipif(bool(block.why_not(torch.bfloat16)), reason=block.why_not(torch.bfloat16))


@pytest.fixture(params=SETS, autouse=True)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All instruction sets of this processor."""
    monkeypatch.setenv("SWIFT_KERNELS", request.param)


def tuned(family: str, dtype: torch.dtype = torch.bfloat16, dropout: float = 0.0, **more: Any) -> PeftModel:
    changes = more.pop("changes", {})
    return lora(base(family, **{**WIDE, **changes}).to(dtype), dropout=dropout, **more).train()


def whole(model: PeftModel) -> PeftModel:
    assert fused.fuse(model) == ""
    return model


def apart(model: PeftModel) -> PeftModel:
    """On the fast path, by torch's functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "why_not", lambda *dtype: "no compiler")
        assert fused.fuse(model)
    return model


def samples(lengths: Sequence[int]) -> list[Sample]:
    chance = random.Random(3)
    return [
        Sample([chance.randrange(3, 48) for _ in range(n)], [chance.choice([0.0, 1.0]) for _ in range(n)])
        for n in lengths
    ]


def computed(model: PeftModel, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    """Losses, and the gradients of all A and of all B; the same dropout for all models."""
    scores = score(model, output_head(model), {**pack(samples(lengths)), "seed": torch.tensor(3)})
    scores.loss.div(100).backward()
    named = [(name, each.grad) for name, each in model.named_parameters() if each.grad is not None]
    found = {kind: torch.cat([grad.flatten() for name, grad in named if kind in name]) for kind in ("lora_A", "lora_B")}
    return {"nll": scores.nll.detach(), **found}


def assert_as_near(make: Any, lengths: Sequence[int]) -> None:
    """In C++ nearly as near to fp32 as torch's functions in bf16: noise, which a mistake is many times."""
    exact = computed(apart(make(torch.float32)), lengths)
    plain, ours = computed(apart(make(torch.bfloat16)), lengths), computed(whole(make(torch.bfloat16)), lengths)
    for name, right in exact.items():
        assert (ours[name] - right).norm() < 1.3 * (plain[name] - right).norm() + 1e-3 * right.norm(), name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_as_near_to_fp32_as_by_torchs_functions(family: str, dropout: float) -> None:
    assert_as_near(lambda dtype: tuned(family, dtype, dropout), [300, 17, 3, 1, 64, 130])


def needs(dtype: torch.dtype) -> None:
    if reason := block.why_not(dtype):
        pytest.skip(reason)


def round_length(model: PeftModel) -> PeftModel:
    """With frozen weights that bf16 holds, as published ones are."""
    for name, each in model.named_parameters():
        if "lora_" not in name:
            each.data = each.data.bfloat16().to(each.dtype)
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_is_exact_whether_bf16_holds_the_weights_or_not(family: str, published: bool, dropout: float) -> None:
    needs(torch.float32)

    def made() -> PeftModel:
        model = tuned(family, torch.float32, dropout)
        return round_length(model) if published else model

    assert_exact(made, [300, 17, 3, 1, 64, 130])


def assert_exact(make: Callable[[], PeftModel], lengths: Sequence[int]) -> None:
    plain, ours = computed(apart(make()), lengths), computed(whole(make()), lengths)
    for name, right in plain.items():
        assert (ours[name] - right).norm() < 5e-6 * right.norm(), name


@pytest.mark.parametrize("published", [True, False])
def test_so_it_is_for_widths_of_which_a_part_is_multiplied_at_a_time(published: bool) -> None:
    needs(torch.float32)
    changes = {"hidden_size": 640, "intermediate_size": 3104, "num_hidden_layers": 1}

    def made() -> PeftModel:
        model = tuned("llama", torch.float32, 0.3, changes=changes)
        return round_length(model) if published else model

    assert_exact(made, [300, 41])


def test_weights_take_more_room_than_bf16_only_where_they_need_it() -> None:
    weight = torch.randn(64, 32)
    alone, *published = [block.planes(each) for each in (weight, weight.bfloat16().float(), weight.bfloat16())]
    assert alone > 1
    assert published == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("words", "width", "tokens"), [(100, 96, 77), (32, 32, 1), (1300, 64, 600), (641, 64, 0)])
def test_a_head_gives_likelihoods_gradients_and_hits_as_fp64_does(
    words: int, width: int, tokens: int, bias: bool, dtype: torch.dtype
) -> None:
    needs(dtype)
    torch.manual_seed(4)
    plain = torch.nn.Linear(width, words, bias=bias).requires_grad_(False)
    plain.weight *= 20
    plain = plain.to(dtype)
    x, targets, weights = torch.randn(tokens, width).to(dtype) * 2, torch.randint(words, (tokens,)), torch.rand(tokens)
    assert head.why_not(plain) == ""
    ours = x.clone().requires_grad_()
    nll, hits = head.Head(plain).nll(ours, 0.7, targets, True)
    (nll * weights).sum().backward()
    exact = x.double().requires_grad_()
    logits = plain.double()(exact) * 0.7
    right = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (right * weights).sum().backward()
    assert ours.grad is not None and exact.grad is not None
    assert (nll - right).norm() <= 5e-6 * right.norm(), "logits are not rounded to the dtype"
    assert (ours.grad - exact.grad).norm() <= (1e-5 if dtype == torch.float32 else 5e-3) * exact.grad.norm()
    assert torch.equal(hits, logits.argmax(-1) == targets)


def test_logits_that_grow_along_the_vocabulary_do_not_overflow() -> None:
    needs(torch.float32)
    plain = torch.nn.Linear(32, 4096, bias=False).requires_grad_(False)
    plain.weight[:] = torch.linspace(-30, 30, 4096)[:, None]
    x, targets = torch.ones(40, 32, requires_grad=True), torch.arange(40) * 100
    nll, _ = head.Head(plain).nll(x, 1.0, targets, False)
    nll.sum().backward()
    exact = torch.ones(40, 32, dtype=torch.float64, requires_grad=True)
    right = torch.nn.functional.cross_entropy(exact @ plain.weight.double().T, targets, reduction="none")
    right.sum().backward()
    assert x.grad is not None and exact.grad is not None
    torch.testing.assert_close(nll.double(), right, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("length", [1, 3, 17, 32, 33, 256, 300])
def test_a_row_alone_may_have_any_length(length: int) -> None:
    row = Sample(samples([length])[0].tokens, [1.0] * length)
    if length == 1:  # nothing to predict it from: no gradient, and no failure
        assert computed(whole(tuned("llama")), [length])["lora_B"].abs().max() == 0
        return
    grads = []
    for model in (apart(tuned("llama", torch.float32)), whole(tuned("llama"))):
        score(model, output_head(model), pack([row])).loss.div(length).backward()
        grads.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
    assert (grads[1] - grads[0]).norm() < 0.04 * grads[0].norm()


@pytest.mark.parametrize("window", [None, 20, 300])
def test_rows_longer_than_what_is_scored_at_a_time_and_windows_in_them(window: int | None) -> None:
    changes = {"sliding_window": window}
    assert_as_near(lambda dtype: tuned("mistral", dtype, changes=changes), [700, 290])


@pytest.mark.parametrize("rank", [1, 16, 40])
def test_adapters_of_any_rank(rank: int) -> None:
    assert_as_near(lambda dtype: tuned("qwen3", dtype, 0.3, rank=rank), [90, 41])


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], ["down_proj"], ["k_proj", "up_proj"], ["o_proj", "gate_proj"]]
)
def test_layers_without_an_adapter_stay_as_they_are(targets: list[str]) -> None:
    assert_as_near(lambda dtype: tuned("llama", dtype, 0.3, targets=targets), [90, 41])


def test_adapters_that_are_switched_off_add_nothing() -> None:
    ours, frozen = whole(tuned("llama")), apart(tuned("llama"))
    batch = pack(samples([50, 20]))
    with torch.no_grad(), ours.disable_adapter(), frozen.disable_adapter():
        one, other = (score(model, output_head(model), batch).nll for model in (ours, frozen))
    assert (one - other).norm() < 0.01 * other.norm()
    with torch.no_grad():
        assert not torch.equal(score(ours, output_head(ours), batch).nll, one)


def test_a_batch_without_a_trained_token_gives_gradients_of_zero() -> None:
    model = whole(tuned("llama"))
    score(model, output_head(model), pack([Sample([5, 6, 7], [1.0, 0.0, 0.0])])).loss.backward()
    assert all(each.grad is None or not each.grad.any() for each in model.parameters())


def test_the_same_batch_gives_the_same_bits_and_more_threads_the_same_up_to_rounding() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 1, 2, 2, 3, 3, 4, 4, 8, 8):
            torch.set_num_threads(threads)
            found.append(computed(whole(tuned("llama", dropout=0.3)), [300, 200, 150]))
    finally:
        torch.set_num_threads(before)
    for at in range(0, len(found), 2):
        assert all(torch.equal(found[at][name], found[at + 1][name]) for name in found[at])
        for name, one in found[0].items():
            assert (found[at][name] - one).norm() < 1e-2 * one.norm()


@pytest.mark.parametrize("threads", [2, 3, 4, 8])
def test_workers_share_memory_without_meeting_in_it(threads: int) -> None:
    model = whole(tuned("llama", dropout=0.3))
    head, trained = output_head(model), [each for each in model.parameters() if each.requires_grad]
    several = split_for_workers(pack(some_rows(24)), 2, threads=threads)[1]
    assert len(several) > 1 and all(several)
    jobs = [
        [partial(lambda batch, _: score(model, head, batch).loss, {**each, "seed": torch.tensor(7)}) for each in worker]
        for worker in several
    ]
    before = torch.get_num_threads()
    found = []
    torch.set_flush_denormal(True)  # as in the workers
    try:
        for number in (1, threads, threads):
            model.zero_grad()
            torch.set_num_threads(number)
            with closing(ParallelMicroBatches()) as many:
                many.add_gradients([], jobs, trained)
            found.append(torch.cat([each.grad.flatten() for each in trained if each.grad is not None]))
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)
    assert torch.equal(found[1], found[2])
    # one thread adds worker after worker, fp32 rounded in another order; more threads add bf16 in another order too
    assert (found[0] - found[1]).norm() <= (1e-5 if len(several) == threads else 1e-2) * found[0].norm()


def test_a_model_too_large_to_lay_out_is_computed_by_torchs_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tuned("llama")
    needed = output_head(model).weight.nbytes  # the others are moved
    monkeypatch.setattr(block, "free_memory", lambda: needed)
    assert "GiB, and 0.0 are free" in fused.fuse(model)
    computed(model, [30, 20])
    monkeypatch.setattr(block, "free_memory", lambda: 10 * needed)
    assert fused.fuse(tuned("llama")) == ""


def linears(model: PeftModel) -> dict[str, torch.nn.Linear]:
    """The frozen layers of the blocks."""
    found = model.get_base_model().get_decoder().named_modules()
    return {name: each for name, each in found if isinstance(each, torch.nn.Linear) and "lora_" not in name}


@pytest.mark.parametrize(
    ("dtype", "published"), [(torch.bfloat16, True), (torch.float32, True), (torch.float32, False)]
)
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_weight_that_is_kept_for_the_products_alone_is_there_again_when_it_is_read(
    family: str, dtype: torch.dtype, published: bool
) -> None:
    needs(dtype)
    model = tuned(family, dtype, targets=["qkv_proj", "down_proj"] if family == "phi3" else ["q_proj", "down_proj"])
    model = round_length(model) if published else model
    before = {name: each.weight.clone() for name, each in linears(model).items()}
    sizes = sum(each.numel() for each in model.parameters())
    whole(model)
    assert sum(each.numel() for each in model.parameters()) == sizes
    held = [each for name, each in model.get_base_model().model.layers.named_parameters() if "proj" in name]
    assert all(each.is_meta for each in held if not each.requires_grad), "nothing is held twice"
    model.to("cpu")
    assert all(each.is_meta for each in held if not each.requires_grad), "nor is it where nothing has to move"
    for name, each in linears(model).items():
        assert torch.equal(each.weight, before[name]), name
        assert each.weight is each.weight, "what is written to it stays"
    computed(model, [30, 20])


def test_a_model_is_merged_and_answers_as_if_it_had_not_been_trained_in_another_layout() -> None:
    needs(torch.float32)
    tokens = torch.tensor([samples([40])[0].tokens])
    plain, ours = tuned("qwen2", torch.float32), whole(tuned("qwen2", torch.float32))
    computed(ours, [30, 20])
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=tokens).logits, plain(input_ids=tokens).logits)
        found = [model.merge_and_unload()(input_ids=tokens).logits for model in (plain, ours)]
    torch.testing.assert_close(*found)


def test_gradient_checkpointing_changes_no_bit_even_with_dropout(tmp_path: Path) -> None:
    plain, saving = (whole(tuned("llama", dropout=0.3)) for _ in range(2))
    trainer(tmp_path / "1", plain, some_rows(8)).train()
    trainer(tmp_path / "2", saving, some_rows(8), gradient_checkpointing=True).train()
    assert_close(adapter(plain), adapter(saving), tolerance=0)


def test_a_run_continued_ends_with_the_same_bytes(tmp_path: Path) -> None:
    def run(folder: Path, **changes: Any) -> Any:
        model = whole(tuned("llama", dropout=0.3))
        return trainer(folder, model, some_rows(12), keep=None, save_strategy="steps", save_steps=1, **changes)

    run(tmp_path / "whole").train()
    run(tmp_path / "parts", callbacks=[StopAt(2)]).train()
    torch.rand(17)
    run(tmp_path / "parts").train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    one, other = (tmp_path / name / "checkpoint-4" / "adapter_model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


def test_what_is_kept_grows_with_the_row() -> None:
    kept = []
    for length in (2048, 4096):
        model = whole(tuned("llama", changes={"max_position_embeddings": 4096}))
        held: dict[int, int] = {}

        def hold(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(hold, lambda tensor: tensor):
            score(model, output_head(model), pack(samples([length]))).loss.backward()
        kept.append(sum(held.values()))
    assert kept[1] < 2.1 * kept[0]


def test_memory_comes_back_when_its_tensor_is_gone_and_only_then() -> None:
    memory = block.Memory()
    one, other = memory.take(100), memory.take(90)
    assert one.data_ptr() != other.data_ptr() and one.numel() >= 100
    place, view = one.data_ptr(), one[10:20]
    del one
    assert memory.take(100).data_ptr() != place, "a view still needs it"
    del view
    assert place in {memory.take(80).data_ptr()}
    larger = memory.take(3 << 20)
    del other
    assert memory.take(10).numel() == larger.numel(), "all pieces are as large as the largest"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: tuned("llama", torch.float16), "it is for bf16 or fp32"),
        (lambda: tuned("llama", changes={"head_dim": 8}), "multiples of 32"),
    ],
)
def test_what_it_does_not_know_is_computed_by_torchs_functions_with_the_reason(model: Any, reason: str) -> None:
    assert reason in fused.fuse(model())


def test_a_machine_without_a_compiler_has_the_reason_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = native.load

    def missing(source: Path, kernels: str, structures: Any, **defined: int) -> Any:
        raise native.Unavailable("there is no C++ compiler (g++ or clang++)")

    monkeypatch.setattr(native, "load", missing)
    block._library.cache_clear()
    try:
        model = tuned("llama")
        assert fused.fuse(model) == "there is no C++ compiler (g++ or clang++)"
        found = computed(model, [40, 20])
    finally:
        block._library.cache_clear()
    monkeypatch.setattr(native, "load", loads)
    for name, other in computed(whole(tuned("llama")), [40, 20]).items():
        assert (found[name] - other).norm() < 0.03 * other.norm()


def test_all_layers_get_gradients() -> None:
    model = whole(tuned("llama"))
    computed(model, [30])
    for name, each in model.named_parameters():
        if each.requires_grad:
            assert any(part in name for part in ALL) and each.grad is not None and each.grad.any(), name
