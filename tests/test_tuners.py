"""Every tuner of the table through `swift sft`: it learns, comes back the same, goes on where it stopped, merges."""

from __future__ import annotations

import json
import shutil
import typing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import tiny_model_folder

from swift import cli, flags
from swift import flag_groups as groups
from swift.assembly import checkpoints, fast_path, loading, merging, tuner_setup
from swift.chat import Sample
from swift.commands import infer, sft, tuners
from swift.data.rows import conversation
from swift.model.load import load_model, load_tokenizer
from swift.model.location import locate
from swift.model.quantise import Quantisation
from swift.template import Renderer
from swift.template.template import template
from swift.train.lisa import Lisa
from swift.tuner import adapter_files, apply, lora, merge, registry
from swift.tuner.cpu import compiled
from swift.tuner.cpu.fused_block import FusedBlock
from swift.tuner.longlora import shifted_group_attention

ALL = {"lora_target_modules": ["ALL"]}
FAST: dict[str, Any] = {"learning_rate": 3e-2}
CASES: dict[str, dict[str, Any]] = {
    "lora": {**ALL},
    "full": {"save_only_model": False, "learning_rate": 1e-3},
    "longlora": {**ALL, "longlora_group_size": 16, "learning_rate": 1e-2},
    "adalora": {**ALL, **FAST, "adalora_init_r": 6, "adalora_target_r": 3},
    "ia3": {"learning_rate": 0.1},
    "vera": {"vera_target_modules": ["ALL"], "vera_rank": 16, **FAST},
    "boft": {"boft_target_modules": ["ALL"]},
    "oft": {**ALL, "oft_block_size": 16},
    "fourierft": {**ALL, "fourier_n_frequency": 50, "fourier_scaling": 20, **FAST},
    "loha": {**ALL, "lora_dropout_p": 0.0},
    "lokr": {**ALL, "lora_dropout_p": 0.0},
    "hra": ALL,
    "miss": ALL,
    "randlora": ALL,
    "c3a": ALL,
    "shira": ALL,
    "road": {**ALL, "road_group_size": 16, **FAST},
    "ln": FAST,
    "part": {"lora_target_modules": ["down_proj"]},
    "trainable_tokens": {"trainable_token_ids": [2, 7, 80, 90], **FAST},
    "prompt": {"num_virtual_tokens": 4, "learning_rate": 0.3},
    "prefix": {"num_virtual_tokens": 4, "learning_rate": 0.1},
    "ptuning": {"num_virtual_tokens": 4, **FAST},
    "adapter": {"adapter_length": 8},
    "scetuning": {"adapter_length": 8},
    "reft": FAST,
    "side": {"adapter_length": 16},
    "restuning": {"adapter_length": 8},
    "llamapro": {"llamapro_num_new_blocks": 2, "save_only_model": False},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pictures of a run, which take three quarters of its time."""
    torch.set_num_threads(1)
    monkeypatch.setattr("swift.train.report._picture", lambda *_: b"<svg></svg>")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and eight rows that say the same."""
    place = tmp_path_factory.mktemp("tuners")
    tiny_model_folder(place / "tiny")
    row = {"query": "hi", "response": "hello hello"}
    (place / "rows.jsonl").write_text((json.dumps(row) + "\n") * 8, encoding="utf-8")
    return place


def train(place: Path, output: Path, **changes: Any) -> Path:
    """The last checkpoint of a run of `swift sft`."""
    settings = {
        "model": str(place / "tiny"),
        "dtype": "fp32",
        "template_type": "chatml",
        "dataset": [str(place / "rows.jsonl")],
        "dataset_test_ratio": 0,
        "output_dir": str(output),
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "warmup_ratio": 0,
        "lr_scheduler_type": "constant",
        "save_steps": 2,
        "max_steps": 4,
        "report_to": ["none"],
        "disable_tqdm": True,
        "device": "cpu",
        **changes,
    }
    return Path(sft.main(flags.from_dict(sft.Config, settings))["last_model_checkpoint"])


def test_noise_on_the_embeddings_is_left_to_peft_and_a_run_with_it_can_be_repeated(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [train(place, tmp_path / name, neftune_noise_alpha=5.0) for name in "ab"]
    assert "no fast path for this run, NEFTune's noise depends on the length of each row" in capsys.readouterr().out
    first, second = ((run / "adapter_model.safetensors").read_bytes() for run in runs)
    assert first == second


def test_only_long_runs_compile_and_all_continue_without_a_compiler(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "start", lambda folder: "torch.compile: no g++ here")
    train(place, tmp_path / "short")
    assert "no g++ here" not in capsys.readouterr().out
    monkeypatch.setattr(fast_path, "WORTH_COMPILING", 1)
    train(place, tmp_path / "long")
    assert "are not compiled, so steps are slower: torch.compile: no g++ here" in capsys.readouterr().out


def test_a_run_in_bf16_without_cpp_says_so_and_continues(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FusedBlock, "why_not_native", lambda self: "there is no C++ compiler")
    train(place, tmp_path, dtype="bf16")
    assert "instead of C++, so steps are slower: there is no C++ compiler" in capsys.readouterr().out


def resume(place: Path, last: Path, **changes: Any) -> Path:
    """Makes the last checkpoint of a run again, from the one at half its steps."""
    half = int(last.name.removeprefix("checkpoint-")) // 2
    shutil.rmtree(last)
    return train(place, last.parents[2], **changes, resume_from_checkpoint=str(last.parent / f"checkpoint-{half}"))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(next(checkpoint.glob("*model.safetensors")))


def base(place: Path) -> Any:
    return load_model(place / "tiny", "fp32", "cpu")


def opened(place: Path, checkpoint: Path) -> Any:
    if (checkpoint / "config.json").exists():
        return load_model(checkpoint, "fp32", "cpu")
    return adapter_files.load(base(place), checkpoint)


def logits(model: Any) -> torch.Tensor:
    tokens = torch.tensor([[1, 40, 7, 100, 2, 90, 258, 80]])
    with torch.no_grad():
        found: torch.Tensor = model(tokens, attention_mask=torch.ones_like(tokens)).logits[:, -8:]
    return found


@cache
def first_row(place: Path) -> Sample:
    row = json.loads((place / "rows.jsonl").read_text().splitlines()[0])
    return Renderer(load_tokenizer(place / "tiny"), template("chatml")).encode(conversation(row))


def loss(place: Path, model: Any) -> float:
    """Of the reply, in the prompt that it was trained in."""
    sample = first_row(place)
    tokens = torch.tensor([sample.tokens])
    with torch.no_grad():
        scores = model(tokens, attention_mask=torch.ones_like(tokens)).logits[0, -tokens.shape[1] : -1]
    trained = torch.tensor(sample.weights[1:]) > 0
    return float(torch.nn.functional.cross_entropy(scores[trained], tokens[0, 1:][trained]))


def learns_comes_back_and_merges(
    place: Path, output: Path, monkeypatch: pytest.MonkeyPatch, before: float, **how: Any
) -> Path:
    """The last checkpoint. `before` is the loss of the model untrained."""
    kept: list[Any] = []
    made = tuner_setup.tune
    monkeypatch.setattr(tuner_setup, "tune", lambda *args: kept.append(made(*args)) or kept[-1])
    tuner = registry.TUNERS[how.get("sft_type", "lora")]
    last = train(place, output, **how)
    again = opened(place, last)
    assert loss(place, again) < before - 0.01
    in_memory = logits(kept[-1].eval())
    assert (logits(again) - in_memory).abs().max() < 1e-5 * in_memory.abs().max()
    if tuner.full_model:
        return last
    why = merge.why_unmergeable(again)
    assert bool(why) == (tuner.merges != "yes")
    if why:
        with pytest.raises(ValueError, match="cannot be merged"):
            merging.merge_checkpoint(str(last), groups.ModelFlags(), "chatml", overwrite=True)
    else:
        expected = logits(again)
        merged = merge.merge(again)
        assert not isinstance(merged, PeftModel)
        assert (logits(merged) - expected).abs().max() < 1e-4 * expected.abs().max()
    return last


def goes_on_as_it_would_have(place: Path, last: Path, **how: Any) -> None:
    whole, continued = weights(last), weights(resume(place, last, **how))
    assert whole.keys() == continued.keys()
    assert all(torch.equal(whole[each], continued[each]) for each in whole)


@pytest.mark.parametrize("name", registry.TUNERS)
def test_a_tuner_learns_comes_back_resumes_and_merges(
    place: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"sft_type": name, **CASES[name]}
    last = learns_comes_back_and_merges(place, tmp_path, monkeypatch, loss(place, base(place)), **how)
    goes_on_as_it_would_have(place, last, **how)


def test_the_flag_names_every_tuner() -> None:
    assert typing.get_args(groups.SftType) == tuple(registry.TUNERS)
    assert CASES.keys() == registry.TUNERS.keys()
    known = flags.names(groups.LoraFlags) | flags.names(groups.TunerFlags)
    taken = {flag for tuner in registry.TUNERS.values() for flag in tuner.flags}
    seeing = {"freeze_vit", "freeze_aligner"}  # of image models, whatever the tuner
    assert known == taken | seeing


def test_what_may_be_loaded_is_what_the_table_makes() -> None:
    assert not set(merge.MERGEABLE) & set(merge.UNMERGEABLE)


@pytest.mark.parametrize("name", ["prompt", "prefix", "ptuning", "adapter", "scetuning", "restuning", "ia3"])
def test_decoding_with_an_adapter_equals_one_forward_pass(place: Path, tmp_path: Path, name: str) -> None:
    """The engine, which feeds a prompt and then token by token, against one forward of everything."""
    from swift.engine.sampling import SamplingParams

    last = train(place, tmp_path, sft_type=name, **CASES[name])
    config = flags.from_dict(infer.Config, {"ckpt_dir": str(last), "template_type": "chatml", "device": "cpu"})
    chat = loading.load_chat(config)
    prompt = [1, 40, 7, 100]
    steps = [step.token for step in chat.engine.submit(prompt, SamplingParams(max_tokens=6, temperature=0))]
    tuned = opened(place, last)
    for count, token in enumerate(steps):
        tokens = torch.tensor([[*prompt, *steps[:count]]])
        with torch.no_grad():
            assert int(tuned(tokens, attention_mask=torch.ones_like(tokens)).logits[0, -1].argmax()) == token
    chat.engine.close()


@pytest.mark.parametrize("name", registry.TUNERS)
def test_a_bf16_model_takes_every_tuner(place: Path, name: str) -> None:
    model = load_model(place / "tiny", "bf16", "cpu")
    values = {**flags.values(groups.LoraFlags()), **flags.values(groups.TunerFlags()), **{"trainable_token_ids": (5,)}}
    values |= {flag: value for flag, value in CASES[name].items() if flag in values}
    tuned = apply.tune(model, name, values).train()
    tokens = torch.tensor([[5, 60, 7, 100]])
    tuned(tokens, attention_mask=torch.ones_like(tokens)).logits.float().logsumexp(-1).mean().backward()
    assert all(each.grad is not None for each in tuned.parameters() if each.requires_grad)


# Start values of LoRA


def test_eva_starts_from_the_rows_and_comes_back(place: Path, tmp_path: Path) -> None:
    last = train(place, tmp_path, init_lora_weights="eva", lora_rank=2)
    assert loss(place, opened(place, last)) < loss(place, base(place))


def test_eva_says_that_its_batches_are_too_small(place: Path) -> None:
    batches = [{"input_ids": torch.tensor([row]), "labels": torch.tensor([row])} for row in ([5, 60, 7], [9, 8])]
    with pytest.raises(ValueError, match="needs batches of 16 trained tokens, and none has more than 3: raise --batch"):
        lora.attach(base(place), lora.LoraOptions(targets=("ALL",), init="eva"), batches)


@pytest.mark.parametrize("scaled", [False, True])
def test_lora_ga_starts_along_the_gradient_and_is_saved_as_a_plain_lora(
    place: Path, tmp_path: Path, scaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    made = tuner_setup.tune
    monkeypatch.setattr(tuner_setup, "tune", lambda *args: kept.append(made(*args)) or kept[-1])
    how = {**ALL, "init_lora_weights": "lora_ga", "lora_rank": 2, "use_rslora": scaled}
    last = train(place, tmp_path / "a", **how)
    again = opened(place, last)
    assert loss(place, again) < loss(place, base(place)) - 0.01
    assert torch.allclose(logits(again), logits(kept[-1].eval()), atol=1e-4)
    assert json.loads((last / "adapter_config.json").read_text())["init_lora_weights"] is True
    expected = logits(again)
    assert (logits(merge.merge(again)) - expected).abs().max() < 1e-4 * expected.abs().max()
    goes_on_as_it_would_have(place, last, **how)


def test_lora_ga_resumes_from_its_own_initial_weights_though_other_rows_come_first(place: Path, tmp_path: Path) -> None:
    options = lora.LoraOptions(targets=("ALL",), rank=2, dropout=0.0, init="lora_ga")
    first, others = torch.tensor([[5, 60, 7]]), torch.tensor([[9, 8]])
    rows = ([{"input_ids": tokens, "labels": tokens}] for tokens in (first, others))
    one, other = (lora.attach(base(place), options, batches) for batches in rows)
    assert torch.allclose(logits(one.eval()), logits(base(place)), atol=1e-4)
    adapter_files.save(one, tmp_path)
    adapter_files.restore(other, tmp_path)
    assert torch.allclose(logits(other.eval()), logits(one), atol=1e-4)


def test_lora_ga_says_what_it_cannot_begin(place: Path) -> None:
    for options, problem in (
        (lora.LoraOptions(init="lora_ga", dora=True), "needs unquantised weights and no --use_dora"),
        (
            lora.LoraOptions(init="lora_ga", targets=("ALL", "EMBEDDING")),
            "linear layers only, and .*embed_tokens",
        ),
    ):
        tokens = torch.tensor([[5, 60, 7]])
        with pytest.raises(ValueError, match=problem):
            lora.attach(base(place), options, [{"input_ids": tokens, "labels": tokens}])


def test_loftq_says_what_it_needs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="'loftq' is computed on a GPU"):
        lora.attach(base(place), lora.LoraOptions(init="loftq"))
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"scipy: pip install 'swift-agents\[quant\]'"):
        lora.attach(base(place), lora.LoraOptions(init="loftq"))


# LongLoRA


def test_shifted_sparse_attention_sees_what_the_paper_lets_it_see() -> None:
    torch.manual_seed(0)
    rows, heads, length, width, group = 2, 4, 11, 8, 4
    q, k, v = torch.randn(3, rows, heads, length, width)
    real = torch.ones(rows, length, dtype=torch.bool)
    real[1, 8:] = False
    got = shifted_group_attention(q, k, v, real, group)
    place = torch.arange(length)
    for head in range(heads):
        number = (place if head < heads // 2 else place + group // 2) // group
        seen = (number[:, None] == number) & (place[:, None] >= place)
        for row in range(rows):
            scores = (q[row, head] @ k[row, head].T / width**0.5).masked_fill(~(seen & real[row]), -torch.inf)
            expected = scores.softmax(-1) @ v[row, head]
            assert torch.allclose(got[row, head][real[row]], expected[real[row]], atol=1e-5)


def test_longlora_evaluates_with_full_attention(place: Path) -> None:
    before = logits(base(place))
    values = {**flags.values(groups.LoraFlags()), **flags.values(groups.TunerFlags()), "longlora_group_size": 4}
    tuned = apply.tune(base(place), "longlora", values)
    assert torch.allclose(logits(tuned.eval()), before, atol=1e-6)
    assert not torch.allclose(logits(tuned.train()), before, atol=1e-6)
    trained = {name.split(".")[-2] for name, each in tuned.named_parameters() if each.requires_grad}
    assert trained == {"default"}
    assert any("embed_tokens" in name for name, each in tuned.named_parameters() if each.requires_grad)


# LLaMA Pro


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_new_blocks_change_nothing_at_first_and_keep_the_caches_order(tmp_path: Path, model_type: str) -> None:
    folder = tiny_model_folder(tmp_path / "m", num_hidden_layers=3, model_type=model_type)
    model = load_model(folder, "fp32", "cpu")
    before = logits(model)
    values = {**flags.values(groups.TunerFlags()), "llamapro_num_new_blocks": 2}
    grown = apply.tune(model, "llamapro", values)
    assert torch.equal(logits(grown), before)
    assert grown.config.num_hidden_layers == 5
    new = {name.split(".")[2] for name, each in grown.named_parameters() if each.requires_grad}
    assert new == {"1", "4"}
    grown.save_pretrained(tmp_path / "grown")
    loaded = load_model(tmp_path / "grown", "fp32", "cpu")
    tokens = torch.tensor([[5, 60, 7]])
    how = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    assert torch.equal(loaded.generate(tokens, **how), load_model(folder, "fp32", "cpu").generate(tokens, **how))


# Full, in part


def test_the_first_share_of_the_parameters_is_frozen(place: Path, tmp_path: Path) -> None:
    last = train(
        place,
        tmp_path,
        sft_type="full",
        freeze_parameters=0.7,
        additional_trainable_parameters=["model.layers.0.mlp.up_proj"],
    )
    was, now = base(place).state_dict(), opened(place, last).state_dict()
    moved = {name for name in was if not torch.equal(was[name], now[name])}
    assert "model.layers.0.mlp.up_proj.weight" in moved
    assert "model.layers.1.mlp.down_proj.weight" in moved
    assert "model.embed_tokens.weight" not in moved
    assert "model.layers.0.mlp.down_proj.weight" not in moved


def test_lisa_trains_a_few_blocks_at_a_time_and_resumes_to_the_same_weights(place: Path, tmp_path: Path) -> None:
    lisa = {"sft_type": "full", "lisa_activated_layers": 1, "lisa_step_interval": 1, "save_only_model": False}
    goes_on_as_it_would_have(place, train(place, tmp_path / "a", **lisa), **lisa)
    one = train(place, tmp_path / "c", **lisa, max_steps=1)
    was, now = base(place).state_dict(), opened(place, one).state_dict()
    moved = {name.split(".")[2] for name in was if "layers" in name and not torch.equal(was[name], now[name])}
    assert len(moved) == 1


def test_lisa_draws_every_block_sooner_or_later() -> None:
    class State:
        global_step = 0

    blocks = [torch.nn.Linear(2, 2) for _ in range(4)]
    lisa = Lisa(blocks, 2, 5, seed=1)
    optimizer = torch.optim.AdamW([each for block in blocks for each in block.parameters()])
    drawn = []
    for State.global_step in range(40):
        lisa.on_step_begin(None, State, None, optimizer=optimizer)
        drawn.append(frozenset(i for i, block in enumerate(blocks) if block.weight.requires_grad))
    assert {len(each) for each in drawn} == {2}
    assert all(len(set(drawn[turn : turn + 5])) == 1 for turn in range(0, 40, 5))
    assert frozenset().union(*drawn) == {0, 1, 2, 3}


# AdaLoRA


def test_adalora_takes_ranks_away_until_the_budget_is_met(place: Path, tmp_path: Path) -> None:
    last = train(place, tmp_path, sft_type="adalora", **{**CASES["adalora"], "adalora_tfinal": 2})
    kept = json.loads((last / "adapter_config.json").read_text())["rank_pattern"]
    assert sum(sum(ranks) for ranks in kept.values()) == 3 * len(kept)


# Quantised models


@pytest.mark.parametrize(("method", "package"), [("bnb", "bitsandbytes"), ("torchao", "torchao"), ("hqq", "hqq")])
def test_a_missing_quantiser_is_named_with_its_extra(
    place: Path, method: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swift.model.quantise.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"needs the package {package}: pip install 'swift-agents\[quant\]'"):
        load_model(place / "tiny", "fp32", "cpu", quantisation=Quantisation(4, method))


@pytest.mark.parametrize(("method", "bits"), [("bnb", 4), ("bnb", 8), ("torchao", 8), ("hqq", 4), ("hqq", 8)])
def test_a_quantised_model_is_trained_and_answers(tmp_path: Path, method: str, bits: int) -> None:
    pytest.importorskip({"bnb": "bitsandbytes"}.get(method, method))
    tiny_model_folder(tmp_path / "tiny", hidden_size=64, intermediate_size=128)
    row = {"query": "hi", "response": "hello hello"}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 8, encoding="utf-8")
    last = train(tmp_path, tmp_path / "out", quantization_bit=bits, quant_method=method, **ALL)
    how = Quantisation(bits, method)
    tuned, plain = (load_model(tmp_path / "tiny", "fp32", "cpu", quantisation=how) for _ in range(2))
    tuned = adapter_files.load(tuned, last)
    assert loss(tmp_path, tuned) < loss(tmp_path, plain)
    with pytest.raises(ValueError, match="cannot be merged: the model is quantised"):
        merge.merge(tuned)
    config = flags.from_dict(infer.Config, {"ckpt_dir": str(last), "template_type": "chatml", "device": "cpu"})
    assert checkpoints.choose(config).model.quant.bits == bits
    loading.load_chat(config).engine.close()
    merged = merging.merge_checkpoint(str(last), groups.ModelFlags(), "chatml")
    assert loss(tmp_path, load_model(merged, "fp32", "cpu")) < loss(tmp_path, base(tmp_path))


# GaLore


def test_galore_names_the_package_that_is_missing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner_setup, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package galore_torch: pip install 'swift-agents\[galore\]'"):
        train(place, tmp_path, sft_type="full", use_galore=True)


def test_galore_trains_a_full_model(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("galore_torch")
    pytest.importorskip("bitsandbytes")
    last = train(place, tmp_path, sft_type="full", use_galore=True, galore_rank=4)
    assert loss(place, opened(place, last)) < loss(place, base(place)) - 0.01


# What is refused


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--sft_type ia3 --lora_rank 4", "--sft_type ia3 ignores --lora_rank, which is for lora, longlora,"),
        ("--sft_type full --lora_target_modules ALL", "--sft_type full ignores --lora_target_modules"),
        ("--vera_rank 4", "--sft_type lora ignores --vera_rank, which is for vera"),
        ("--freeze_parameters 0.5", "--sft_type lora ignores --freeze_parameters, which is for full"),
        ("--sft_type ia3 --lora_lr_ratio 16", "--sft_type ia3 ignores --lora_lr_ratio, which is for lora, longlora"),
        ("--sft_type full --galore_rank 4", "--galore_rank does nothing without --use_galore true"),
        ("--sft_type full --lisa_step_interval 4", "--lisa_step_interval does nothing without --lisa_activated_layers"),
        (
            "--sft_type full --quantization_bit 4",
            "--sft_type full needs unquantised weights: leave --quantization_bit 4 out",
        ),
        ("--sft_type adapter --quantization_bit 8", "--sft_type adapter needs unquantised weights"),
        ("--bnb_4bit_quant_type fp4", "--bnb_4bit_quant_type does nothing without --quantization_bit 4 or 8"),
        ("--tuner_backend unsloth", "--tuner_backend unsloth is not supported"),
        ("--sft_type restuning --gradient_checkpointing true", "--gradient_checkpointing true does not work with"),
        ("--sft_type vora", "did you mean"),
        ("--sft_type trainable_tokens", "--trainable_token_ids is empty"),
        ("--sft_type adapter --adapter_act gulu", "--adapter_act gulu is unknown: choose from"),
        ("--sft_type adalora --adalora_init_r 4", "--adalora_init_r 4 must be more than --adalora_target_r 8"),
        ("--sft_type adalora --adalora_tinit 90 --max_steps 9", "leave none of the 9 steps"),
        ("--sft_type llamapro --llamapro_num_new_blocks 3", "--llamapro_num_new_blocks 3"),
        ("--sft_type reft --reft_rank 99", "--reft_rank 99: must be from 1 to 32"),
        ("--use_flash_attn true", "--attn_impl flash_attention_2 needs a GPU"),
        ("--use_flash_attn true --attn_impl sdpa", "--use_flash_attn true contradicts --attn_impl sdpa"),
        ("--use_liger_kernel true", "--use_liger_kernel true needs a GPU and the package liger-kernel"),
        ("--sft_type full --freeze_parameters 1", "nothing would be trained"),
        ("--sft_type full --freeze_parameters 2", "must be from 0 to 1"),
        ("--sft_type full --lisa_activated_layers 9", "must be from 1 to the model's 2 blocks"),
        ("--sft_type longlora --longlora_group_size 5", "--longlora_group_size 5: must be an even number"),
        (
            "--sft_type full --freeze_parameters 0.5 --additional_trainable_parameters lm_haed",
            "no parameter name begins with it",
        ),
    ],
)
def test_wrong_flags_raise_one_line(
    place: Path, tmp_path: Path, words: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", place / "tiny", "--template_type", "chatml", "--dataset", place / "rows.jsonl"]
    common = ["--dataset_test_ratio", 0, "--device", "cpu", "--output_dir", tmp_path]
    assert cli.main(["sft", *map(str, given + common), *words.split()]) == 2
    said = capsys.readouterr().err.splitlines()
    assert problem in said[-1]


def test_both_backends_give_the_same_files(place: Path, tmp_path: Path) -> None:
    ours, plain = (
        load_file(train(place, tmp_path / name, tuner_backend=name, lora_dropout_p=0) / adapter_files.WEIGHTS)
        for name in ("swift", "peft")
    )
    assert ours.keys() == plain.keys()
    assert all(torch.allclose(ours[name], plain[name], atol=1e-4) for name in ours)


# The list


def test_the_list_names_every_tuner_with_what_it_trains(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tuners", "--json", "true", "--model", str(place / "tiny")]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines.keys() == registry.TUNERS.keys() | registry.VARIANTS.keys()
    assert lines["lora"]["trained"] == 2 * 8 * (32 + 32 + 32 + 16)
    assert lines["full"]["trained"] == sum(each.numel() for each in base(place).parameters())
    assert lines["trainable_tokens"]["trained"] == 10 * 32
    assert lines["llamapro"]["trained"] is None  # four new blocks do not fit between two
    assert cli.main(["tuners", "vera", "--model", str(place / "tiny")]) == 0
    assert capsys.readouterr().out.startswith("vera ")


@pytest.mark.model
def test_the_page_of_tuners_is_current() -> None:
    page = Path(__file__).parent.parent / "docs" / "tuners.md"
    lines = tuners.table(tuners.MODEL_TYPE)
    assert page.read_text(encoding="utf-8") == tuners.page(lines, tuners.MODEL_TYPE), "swift tuners --markdown true"


# The bundled model

RATES = {
    1e-4: ("full", "lisa", "llamapro", "part", "olora", "lora+", "lora-ga"),
    1e-2: ("adalora", "ia3", "boft", "loha", "lokr", "shira", "road", "ln", "reft"),
    3e-2: ("trainable_tokens",),
    1e-1: ("vera", "fourierft", "c3a", "prompt", "prefix", "side"),
}
"""Learning rates of those that do not take 1e-3."""
RESUMED = ("lora", "adalora", "trainable_tokens", "ptuning", "reft", "restuning")
"""One of each kind of state that a checkpoint holds, but whole models."""
ELSEWHERE = {"qlora": "below, as it needs another base", "loftq": "on a GPU"}


def on_the_bundled_model(name: str) -> dict[str, Any]:
    """The flags of a tuner or variant, on one linear layer of every block where the tiny model has all."""
    variant = registry.VARIANTS.get(name)
    how = {**CASES[variant.of], **variant.flags} if variant else {"sft_type": name, **CASES[name]}
    how = {flag: ["v_proj"] if value == ["ALL"] else value for flag, value in how.items()}
    rate = next((rate for rate, names in RATES.items() if name in names), 1e-3)
    few = {"batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 2, "learning_rate": rate}
    return {**how, **few, "save_steps": 1 if name in RESUMED else 2, "save_only_model": name not in RESUMED}


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A folder with the bundled model and eight rows, and the loss of the model untrained."""
    place = tmp_path_factory.mktemp("bundled")
    (place / "tiny").symlink_to(locate("smollm2-135m-instruct"))
    row = {"query": "hi", "response": "An agent reads what you ask, picks one of its tools, and says what came back."}
    (place / "rows.jsonl").write_text((json.dumps(row) + "\n") * 8)
    return place, loss(place, base(place))


@pytest.mark.model
@pytest.mark.parametrize("name", [name for name in (*registry.TUNERS, *registry.VARIANTS) if name not in ELSEWHERE])
def test_the_bundled_model_takes_every_tuner(
    bundled: tuple[Path, float], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, before = bundled
    how = on_the_bundled_model(name)
    if how.get("use_galore"):
        pytest.importorskip("galore_torch")
    last = learns_comes_back_and_merges(place, tmp_path, monkeypatch, before, **how)
    if name in RESUMED:
        goes_on_as_it_would_have(place, last, **how)


@pytest.mark.model
def test_the_quantised_bundled_model_is_trained_and_resumed(bundled: tuple[Path, float], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    place, _ = bundled
    how = {**on_the_bundled_model("lora"), **registry.VARIANTS["qlora"].flags}
    last = train(place, tmp_path, **how)
    plain = load_model(place / "tiny", "fp32", "cpu", quantisation=Quantisation(4, "bnb"))
    before = loss(place, plain)
    assert loss(place, adapter_files.load(plain, last)) < before - 0.01
    goes_on_as_it_would_have(place, last, **how)
