"""The fast path against plain PEFT and transformers: same losses, same adapters, same files."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from functools import partial
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from test_trainer import StopAt, adapter, assert_close, logged, plain_loop, settings
from torch._dynamo.utils import counters
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from swift.chat import Sample
from swift.system.cache import cache_root
from swift.train.batch import StepBatches, collate, pack, round_length
from swift.train.loss import output_head, score
from swift.train.micro_batches import ParallelMicroBatches, Sums
from swift.train.splitting import split_for_workers, worker_count
from swift.train.trainer import SftTrainer, arguments
from swift.tuner.cpu import attention_function, compiled, fused
from swift.tuner.cpu.dropout_masks import DropoutMasks

SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": 40}),
    "qwen2": ("qwen2", {}),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 150, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "phi3": ("phi3", {"partial_rotary_factor": 0.5}),
    "granite": ("granite", {"residual_multiplier": 0.3, "attention_multiplier": 0.4, "logits_scaling": 2.0}),
}


def base(family: str, **changes: Any) -> PreTrainedModel:
    kind, more = FAMILIES[family]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**{**SIZES, **more, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for name, each in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(each, 1.0, 0.2)
    return model


def lora(model: PreTrainedModel, dropout: float = 0.0, targets: Any = ALL, rank: int = 4, **more: Any) -> PeftModel:
    if model.config.model_type == "phi3" and targets is ALL:
        targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    torch.manual_seed(1)
    config = LoraConfig(r=rank, lora_alpha=8, lora_dropout=dropout, target_modules=targets, **more)
    tuned = get_peft_model(model, config)
    for name, each in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each, 0, 0.05)
    return tuned


def fast(tuned: PeftModel) -> PeftModel:
    assert fused.why_not(tuned) == ""
    fused.fuse(tuned)
    return tuned


def rows(count: int, longest: int = 300) -> list[Sample]:
    chance = random.Random(0)
    made = []
    for _ in range(count):
        length = chance.randint(3, longest)
        weights = [chance.choice([0.0, 0.0, 1.0, 2.0]) for _ in range(length - 1)]
        made.append(Sample([chance.randrange(3, 48) for _ in range(length)], [*weights, 1.0]))
    return made


def trainer(folder: Path, model: Any, samples: list[Sample], **changes: Any) -> SftTrainer:
    ours = {name: changes.pop(name) for name in ("keep", "callbacks", "refresh") if name in changes}
    held_out = changes.pop("held_out", ())
    args = arguments(folder, **settings(**{"learning_rate": 1e-3, **changes}))
    return SftTrainer(model, folder, args, samples, held_out, packed=True, **ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps_equal_plain_peft_one_row_at_a_time(tmp_path: Path, family: str) -> None:
    samples = rows(12)
    ours, theirs = fast(lora(base(family))), lora(base(family))
    one = trainer(tmp_path, ours, samples, max_steps=20)
    one.train()
    losses = plain_loop(theirs, samples, steps=20, rows_per_step=4, rate=1e-3)
    assert logged(one) == pytest.approx(losses, rel=1e-5)
    assert_close(adapter(ours), adapter(theirs), tolerance=1e-4)


@pytest.mark.parametrize(("block", "kept"), [(1, 1024), (7, 30), (7, 0), (1000, 1024)])
def test_neither_blocks_of_attention_nor_what_is_kept_of_it_change_anything(
    monkeypatch: pytest.MonkeyPatch, block: int, kept: int
) -> None:
    batch = pack(rows(4, longest=60))
    found = []
    for size, length in ((attention_function.BLOCK, attention_function.KEPT), (block, kept)):
        monkeypatch.setattr(attention_function, "BLOCK", size)
        monkeypatch.setattr(attention_function, "KEPT", length)
        model = fast(lora(base("mistral", sliding_window=20)))
        score(model, output_head(model), batch).loss.backward()
        found.append({name: each.grad for name, each in model.named_parameters() if each.requires_grad})
    assert_close(*found, tolerance=1e-4)


class _Sizes(TorchDispatchMode):
    """Elements of the largest tensor that is made within."""

    largest = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = op(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, torch.Tensor):
                self.largest = max(self.largest, each.numel())
        return made


def test_no_tensor_of_tokens_x_tokens_is_made_and_what_is_kept_grows_with_the_row() -> None:
    model = fast(lora(base("llama")))
    kept = []
    for length in (2048, 4096):
        held: dict[int, int] = {}

        def hold(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        row = Sample([3 + at % 40 for at in range(length)], [1.0] * length)
        with _Sizes() as sizes, saved_tensors_hooks(hold, lambda tensor: tensor):
            score(model, output_head(model), pack([row])).loss.backward()
        assert sizes.largest < length * length
        kept.append(sum(held.values()))
    assert kept[1] < 2.1 * kept[0]


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["down_proj"], ["k_proj", "up_proj", "lm_head"]])
def test_layers_without_an_adapter_stay_as_they_are(targets: list[str]) -> None:
    samples = rows(3)
    ours, theirs = fast(lora(base("llama"), targets=targets)), lora(base("llama"), targets=targets)
    for model, batch in ((ours, pack(samples)), (theirs, collate(samples))):
        score(model, output_head(model), batch).loss.div(300).backward()
    gradients = [{n: p.grad for n, p in model.named_parameters() if p.requires_grad} for model in (ours, theirs)]
    assert_close(*gradients, tolerance=1e-4)


@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (1, 8), (3, 3)])
def test_how_a_step_is_cut_changes_nothing(tmp_path: Path, batch: int, accumulation: int) -> None:
    samples = rows(21)
    size = batch * accumulation
    whole, parts = fast(lora(base("llama"))), fast(lora(base("llama")))
    one = trainer(tmp_path / "1", whole, samples, per_device_train_batch_size=size, gradient_accumulation_steps=1)
    one.train()
    divided = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    other = trainer(tmp_path / "2", parts, samples, **divided)
    other.train()
    assert logged(one) == pytest.approx(logged(other), rel=1e-5)
    assert_close(adapter(whole), adapter(parts), tolerance=1e-4)


@pytest.mark.parametrize("world", [1, 2])
def test_rows_are_cut_by_tokens_and_none_is_lost(world: int) -> None:
    chance = random.Random(0)
    lengths = [chance.randint(30, 900) for _ in range(100)]
    for rank in range(world):
        cut = list(StepBatches(lengths, 1, 8, packed=True, rank=rank, world=world))
        plain = list(StepBatches(lengths, 1, 8, rank=rank, world=world))
        assert len(cut) == len(plain)
        for at in range(0, len(cut), 8):
            assert sorted(row for each in cut[at : at + 8] for row in each) == sorted(
                row for each in plain[at : at + 8] for row in each
            )
        assert sum(map(bool, cut)) < sum(map(bool, plain))
        assert world == 1 or max(sum(lengths[row] for row in each) for each in cut) <= 1024


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("largest", [1, 3])
@pytest.mark.parametrize("longest", [40, 300, 900, 1800, 5000])
def test_what_is_computed_at_a_time_fits_where_the_users_own_batches_do(
    longest: int, largest: int, threads: int
) -> None:
    samples = rows(9, longest)
    whole = pack(samples)
    serial, parallel = split_for_workers(whole, largest, threads=threads)
    assert threads <= 2 or threads % len(parallel) == 0
    most = max(4096, 1024 * len(parallel), sum(sorted(len(sample.tokens) for sample in samples)[-largest:]))
    sizes = [max((batch["input_ids"].numel() for batch in worker), default=0) for worker in (serial, *parallel)]
    assert max(sizes[0], sum(sizes[1:])) <= 1.05 * most
    assert all(parallel) or longest > 1800 or len(parallel) == 1
    found = []
    for batch in chain(serial, *parallel):
        for start, stop in pairwise([0, *accumulate(batch["rows"].tolist())]):
            weights = batch["weights"][0, start:stop]
            end = int(weights.nonzero().max()) + 1  # each row's last token is trained, what is added never
            found.append((batch["input_ids"][0, start : start + end].tolist(), weights[:end].tolist()))
    assert sorted(found) == sorted((sample.tokens, [0.0, *sample.weights[1:]]) for sample in samples)


@pytest.mark.parametrize("count", [2, 3, 8, 9, 40])
def test_workers_have_as_many_tokens_each_up_to_a_row(count: int) -> None:
    whole = pack(rows(count))
    serial, parallel = split_for_workers(whole, 2, int)
    tokens = [sum(batch["input_ids"].numel() for batch in worker) for worker in parallel]
    assert not serial
    assert sum(tokens) == whole["input_ids"].numel()
    assert max(tokens) - min(tokens) <= int(whole["rows"].max())
    assert count < 8 or max(tokens) <= 1.03 * sum(tokens) / 2


def test_lengths_are_rounded_up_to_few_and_by_little() -> None:
    lengths = {length: round_length(length) for length in range(1, 4097)}
    assert all(length <= to <= length * 1.07 for length, to in lengths.items())
    assert sum(lengths.values()) < 1.03 * sum(lengths)
    assert len(set(lengths.values())) < 150


def test_two_workers_add_up_to_the_gradient_of_one_batch_the_same_at_each_run() -> None:
    whole = pack(rows(9))
    model = fast(lora(base("llama"), dropout=0.3))
    head, trained = output_head(model), [each for each in model.parameters() if each.requires_grad]

    def gradients(serial: list[Any], parallel: list[Any], dropout: bool) -> dict[str, torch.Tensor]:
        model.train(dropout)
        model.zero_grad()
        threads, many = torch.get_num_threads(), ParallelMicroBatches()
        jobs = [
            [
                partial(
                    lambda batch, sums: score(model, head, {**batch, "sums": sums}).loss,
                    {**batch, "seed": torch.tensor(7)},
                )
                for batch in part
            ]
            for part in (serial, *parallel)
        ]
        many.add_gradients(jobs[0], jobs[1:], trained)
        many.close()
        assert torch.get_num_threads() == threads
        return {str(at): each.grad for at, each in enumerate(trained) if each.grad is not None}

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert all(split_for_workers(whole, 2)[1])
        assert_close(gradients([whole], [], False), gradients(*split_for_workers(whole, 2), False), tolerance=1e-4)
        assert_close(
            gradients(*split_for_workers(whole, 2), True), gradients(*split_for_workers(whole, 2), True), tolerance=0
        )
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("threads", "number"), [(2, 2), (3, 3), (4, 2), (4, 4), (8, 2), (8, 8)])
def test_each_worker_has_its_part_of_the_threads(threads: int, number: int) -> None:
    parameter, seen = torch.ones(1, requires_grad=True), []

    def job(_: Sums) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return parameter.sum()

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    many = ParallelMicroBatches()
    try:
        many.add_gradients([job], [[job]] * number, [parameter])
        assert seen == [threads] + [threads // number] * number
    finally:
        many.close()
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("lengths", "threads", "number"),
    [([500] * 8, 4, 4), ([500] * 8, 8, 8), ([500] * 9, 3, 3), ([500] * 4, 16, 4), ([4000], 8, 1), ([500] * 3, 4, 1)],
)
def test_workers_are_as_many_as_rows_fill_evenly(lengths: list[int], threads: int, number: int) -> None:
    assert worker_count(lengths, threads) == number


def test_two_jobs_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=60)
    parameter = torch.ones(1, requires_grad=True)

    def job(_: Sums) -> torch.Tensor:
        both.wait()  # breaks where one waits for the end of the other
        return (parameter * 3).sum()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    many = ParallelMicroBatches()
    try:
        assert many.add_gradients([], [[job], [job]], [parameter]).item() == 6
    finally:
        many.close()
        torch.set_num_threads(before)
    assert parameter.grad is not None and parameter.grad.item() == 6


def test_a_machine_without_a_compiler_says_so_in_one_line(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from swift.tuner.cpu import compiled\n"
        "reason = compiled.start(Path(sys.argv[1]))\n"
        "assert reason and len(reason.splitlines()) == 1, reason\n"
        "print(reason, compiled.kernel(abs)(-3))"
    )
    bare = {**os.environ, "PATH": str(tmp_path), "CXX": "no-such-compiler", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=bare)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch.compile: ") and done.stdout.endswith(" 3\n")
    assert not done.stderr


def test_an_error_in_a_worker_is_the_steps_error() -> None:
    def broken(_: Sums) -> torch.Tensor:
        raise ValueError("no such row")

    many = ParallelMicroBatches()
    with pytest.raises(ValueError, match="no such row"):
        many.add_gradients([], [[broken], [broken]], [torch.zeros(1)])
    many.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_give_the_same(dtype: torch.dtype) -> None:
    batch = {**pack(rows(3)), "seed": torch.tensor(3)}

    def computed() -> dict[str, torch.Tensor]:
        model = fast(lora(base("granite").to(dtype), dropout=0.3))
        scores = score(model, output_head(model), batch)
        scores.loss.div(300).backward()
        gradients = [each.grad.flatten() for each in model.parameters() if each.grad is not None]
        return {"nll": scores.nll.detach(), "": torch.cat(gradients)}

    other = computed()
    if reason := compiled.start(cache_root() / "kernels"):
        pytest.skip(reason)
    graphs = counters["stats"]["unique_graphs"]
    try:
        one = computed()
    finally:
        compiled.stop()
    assert counters["stats"]["unique_graphs"] >= graphs + 7, "each kernel is one"
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for name in one:
        assert (one[name] - other[name]).norm() < tolerance * other[name].norm()


def test_saved_adapters_load_in_plain_peft_and_have_the_same_logits(tmp_path: Path) -> None:
    samples = rows(8)
    model = fast(lora(base("qwen3")))
    trainer(tmp_path, model, samples, save_strategy="steps", save_steps=4).train()
    plain = PeftModel.from_pretrained(base("qwen3"), tmp_path / "checkpoint-4").eval()
    tokens = torch.tensor([samples[0].tokens])
    assert_close({"": plain(tokens).logits}, {"": model.eval()(tokens).logits}, tolerance=1e-5)
    merged = plain.merge_and_unload()
    assert_close({"": merged(tokens).logits}, {"": model(tokens).logits}, tolerance=1e-4)


def test_a_call_without_rows_is_answered_as_before() -> None:
    ours, theirs = fast(lora(base("llama"))), lora(base("llama"))
    tokens = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    assert torch.equal(ours(tokens, attention_mask=mask).logits, theirs(tokens, attention_mask=mask).logits)
    assert torch.equal(ours.generate(tokens[1:], max_new_tokens=4), theirs.generate(tokens[1:], max_new_tokens=4))


def test_evaluation_leaves_dropout_out_and_equals_plain_peft(tmp_path: Path) -> None:
    samples = rows(5)
    model = fast(lora(base("llama"), dropout=0.5))
    metrics = trainer(tmp_path, model, rows(4), held_out=samples).evaluate()
    losses = plain_loop(lora(base("llama")), samples, steps=1, rows_per_step=5, rate=0.0)
    assert metrics["eval_loss"] == pytest.approx(losses[0], rel=1e-5)


def test_gradient_checkpointing_changes_no_number_even_with_dropout(tmp_path: Path) -> None:
    plain, saving = (fast(lora(base("llama"), dropout=0.3)) for _ in range(2))
    trainer(tmp_path / "1", plain, rows(8)).train()
    trainer(tmp_path / "2", saving, rows(8), gradient_checkpointing=True).train()
    assert_close(adapter(plain), adapter(saving), tolerance=0)


def test_a_run_continued_ends_with_the_same_bytes(tmp_path: Path) -> None:
    def run(folder: Path, **changes: Any) -> SftTrainer:
        model = fast(lora(base("llama"), dropout=0.3))
        return trainer(folder, model, rows(12), keep=None, save_strategy="steps", save_steps=1, **changes)

    run(tmp_path / "whole").train()
    run(tmp_path / "parts", callbacks=[StopAt(2)]).train()
    torch.rand(17)
    run(tmp_path / "parts").train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    whole, parts = (tmp_path / name / "checkpoint-4" / "adapter_model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_dropout_hits_its_share_keeps_the_mean_and_is_drawn_anew() -> None:
    def draw(seed: int) -> list[torch.Tensor]:
        masks = DropoutMasks(400, 100, 0.05, torch.float32, seed)
        return [masks.take(number, 100) for number in range(2)]

    one, other = draw(5)
    assert (one == 0).float().mean().item() == pytest.approx(0.05, abs=0.005)
    assert one.mean().item() == pytest.approx(1, abs=0.005)
    assert not torch.equal(one, other)
    assert not torch.equal(one, draw(6)[0])
    assert torch.equal(one, draw(5)[0])


def test_dropout_changes_the_gradient_by_as_much_as_pefts_own() -> None:
    """The gradient with dropout minus that without, over many draws: its mean and its size."""
    samples = rows(3, longest=40)

    def shifts(make: Any, together: Any) -> tuple[float, float]:
        exact, noisy = make(0.0), make(0.4)
        torch.manual_seed(5)

        def gradient(model: Any) -> torch.Tensor:
            model.zero_grad()
            score(model.train(), output_head(model), together(samples)).loss.backward()
            return torch.cat([each.grad.flatten() for n, each in model.named_parameters() if "lora_B" in n])

        reference = gradient(exact)
        draws = torch.stack([gradient(noisy) - reference for _ in range(80)])
        return (draws.mean(0).norm() / reference.norm()).item(), (draws.norm(dim=1).mean() / reference.norm()).item()

    ours = shifts(lambda p: fast(lora(base("llama"), dropout=p)), pack)
    theirs = shifts(lambda p: lora(base("llama"), dropout=p), collate)
    assert ours[1] == pytest.approx(theirs[1], rel=0.2)
    assert ours[0] == pytest.approx(theirs[0], abs=0.1)


def test_bf16_is_as_near_to_fp32_as_plain_bf16_is(tmp_path: Path) -> None:
    samples = rows(6)

    def gradient(model: Any, batch: Any) -> torch.Tensor:
        score(model, output_head(model), batch).loss.div(500).backward()
        return torch.cat([each.grad.flatten() for _, each in model.named_parameters() if each.requires_grad])

    exact = gradient(lora(base("llama")), collate(samples))
    plain = gradient(lora(base("llama").bfloat16()), collate(samples))
    ours = gradient(fast(lora(base("llama").bfloat16())), pack(samples))
    assert (ours - exact).norm() < 1.5 * (plain - exact).norm() + 1e-3 * exact.norm()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (
            lambda: get_peft_model(base("llama"), IA3Config(target_modules=["k_proj"], feedforward_modules=[])),
            "it is for LoRA",
        ),
        (lambda: lora(base("llama"), use_dora=True), "variant of LoRA"),
        (lambda: lora(base("llama"), modules_to_save=["input_layernorm"]), "is trained as a copy"),
        (lambda: lora(base("llama", hidden_act="gelu")), "the activation is gelu"),
        (lambda: lora(base("llama", attention_dropout=0.1)), "the model itself has dropout"),
        (lambda: lora(gemma()), "it has no layers of model type gemma2"),
    ],
)
def test_what_it_does_not_know_is_left_to_peft_with_the_reason(build: Any, reason: str) -> None:
    assert reason in fused.why_not(build())


def gemma() -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING["gemma2"](**SIZES))


@pytest.mark.model
def test_twenty_steps_of_the_real_model_equal_plain_peft(tmp_path: Path) -> None:
    from swift.model.load import load_model
    from swift.model.location import locate

    def build() -> Any:
        return lora(load_model(locate("smollm2-135m-instruct"), "fp32", "cpu", attn_implementation="eager"))

    samples = rows(12, longest=40)
    ours, theirs = fast(build()), build()
    one = trainer(tmp_path, ours, samples, max_steps=20, save_strategy="steps", save_steps=20)
    one.train()
    losses = plain_loop(theirs, samples, steps=20, rows_per_step=4, rate=1e-3)
    assert logged(one) == pytest.approx(losses, rel=1e-5)
    # as a whole: AdamW makes a step of its own size out of an element whose gradient is next to nothing
    found, expected = (torch.cat([each.flatten() for each in adapter(model).values()]) for model in (ours, theirs))
    assert (found - expected).norm() < 1e-4 * expected.norm()
    saved = load_file(tmp_path / "checkpoint-20" / "adapter_model.safetensors")
    assert len(saved) == 2 * 7 * 30
