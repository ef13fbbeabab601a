"""LoRA on a model and off it: which modules, which dtype, and that save, load and merge change no number."""

import json

import pytest
import torch
from peft import PeftModel
from tiny import tiny_model_folder
from torch import nn

from swift.model.load import load_model
from swift.tuner.adapter_files import check, load, save
from swift.tuner.lora import LoraOptions, attach
from swift.tuner.merge import merge
from swift.tuner.methods import apply_full
from swift.tuner.peft_models import trained_and_all

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tied(tmp_path):
    return tiny_model_folder(tmp_path / "tied")


@pytest.fixture
def untied(tmp_path):
    return tiny_model_folder(tmp_path / "untied", tie=False, model_type="qwen2")


def open_model(folder, dtype="fp32"):
    return load_model(folder, dtype, "cpu")


def trained(folder, options, dtype="fp32"):
    """A model whose adapter has learned something: noise."""
    tuned = attach(open_model(folder, dtype), options)
    torch.manual_seed(1)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    return tuned.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[5, 60, 7, 100, 258]])).logits.float()


def targets(tuned):
    return set(tuned.peft_config["default"].target_modules)


def adapted(tuned):
    """The names of the modules that carry LoRA."""
    return {
        name.split(".lora_")[0].removeprefix("base_model.model.") for name in tuned.state_dict() if ".lora_" in name
    }


# Which modules


@pytest.mark.parametrize(
    ("words", "default", "expected"),
    [
        (("ALL",), (), LINEAR),
        (("all-linear",), (), LINEAR),
        (("EMBEDDING",), (), {"embed_tokens"}),
        (("ALL", "EMBEDDING"), (), LINEAR | {"embed_tokens"}),
        (("DEFAULT",), ("q_proj", "k_proj", "v_proj"), {"q_proj", "k_proj", "v_proj"}),
        (("AUTO",), ("q_proj",), {"q_proj"}),
        (("DEFAULT",), (), {"q_proj", "v_proj"}),
        (("DEFAULT", "o_proj"), ("q_proj",), {"q_proj", "o_proj"}),
        (("q_proj,up_proj",), (), {"q_proj", "up_proj"}),
        (("0.self_attn.q_proj",), (), {"0.self_attn.q_proj"}),
        (("lm_head", "q_proj"), (), {"lm_head", "q_proj"}),
    ],
)
def test_target_words_mean_modules(tied, words, default, expected):
    assert targets(attach(open_model(tied), LoraOptions(targets=words, default_targets=default))) == expected


def test_all_is_every_linear_layer_but_the_head(untied):
    model = open_model(untied)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    assert adapted(attach(model, LoraOptions(targets=("ALL",)))) == linear


def test_all_spares_the_head_even_where_a_layer_shares_its_name(untied):
    model = open_model(untied)
    model.model.layers[0].mlp.lm_head = nn.Linear(4, 4)
    tuned = attach(model, LoraOptions(targets=("ALL",)))
    assert "lm_head" not in adapted(tuned)
    assert "model.layers.0.mlp.lm_head" in adapted(tuned)


def test_quantised_layers_that_are_no_linear_of_torch_count_as_linear(untied):
    from swift.tuner.targets import lora_targets

    class WQLinear_GEMM(nn.Module):
        pass

    model = open_model(untied)
    model.model.layers[0].mlp.up_proj = WQLinear_GEMM()
    model.model.layers[1].mlp.up_proj = WQLinear_GEMM()
    assert "up_proj" in lora_targets(model, ("ALL",))


def test_default_on_an_unknown_architecture_is_its_attention(tied):
    model = open_model(tied)
    model.config.model_type = "homemade"
    assert targets(attach(model, LoraOptions())) == {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize(
    ("word", "near"), [("qproj", "q_proj"), ("c_attn", "embed_tokens"), ("self_attn", "no layer that LoRA can adapt")]
)
def test_a_module_that_is_not_there_is_named_with_the_nearest(tied, word, near):
    with pytest.raises(ValueError, match=rf"target module '{word}' .*{near}"):
        attach(open_model(tied), LoraOptions(targets=(word,)))


def test_no_target_at_all_is_an_error(tied):
    with pytest.raises(ValueError, match="no target modules"):
        attach(open_model(tied), LoraOptions(targets=(",",)))


def test_modules_to_save_are_trained_in_full(tied):
    tuned = attach(open_model(tied), LoraOptions(modules_to_save=("EMBEDDING", "LN")))
    whole = {name for name, p in tuned.named_parameters() if p.requires_grad and "modules_to_save" in name}
    assert sum("norm" in name for name in whole) == 5
    assert sum("embed_tokens" in name for name in whole) == 1
    assert len(whole) == 6


def test_a_wrong_module_to_save_is_named_with_the_nearest(tied):
    with pytest.raises(ValueError, match=r"'lm_haed' is no module of this model: lm_head"):
        attach(open_model(tied), LoraOptions(modules_to_save=("lm_haed",)))


# What is trained


def test_new_adapters_change_nothing_and_are_all_that_is_trained(tied):
    before = logits(open_model(tied))
    tuned = attach(open_model(tied), LoraOptions(targets=("q_proj",), rank=4))
    assert torch.equal(logits(tuned.eval()), before)
    assert {name for name, p in tuned.named_parameters() if p.requires_grad} == {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{matrix}.default.weight"
        for layer in (0, 1)
        for matrix in "AB"
    }
    assert trained_and_all(tuned)[0] == 2 * 4 * (32 + 32)


@pytest.mark.parametrize("base", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("asked", "expected"), [("AUTO", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_adapters_have_the_chosen_dtype_and_fp32_by_default(tied, base, asked, expected):
    tuned = attach(open_model(tied, base), LoraOptions(dtype=asked))
    assert {p.dtype for p in tuned.parameters() if p.requires_grad} == {expected}
    assert tuned.get_base_model().dtype == (torch.bfloat16 if base == "bf16" else torch.float32)
    assert logits(tuned).isfinite().all()


def test_full_training_trains_every_parameter(tied):
    model = open_model(tied).requires_grad_(False)
    tuned = apply_full(model, {})
    assert tuned is model
    assert trained_and_all(tuned) == (model.num_parameters(), model.num_parameters())


def test_full_training_in_fp16_is_refused(tied):
    with pytest.raises(ValueError, match="does not work in fp16"):
        apply_full(open_model(tied).to(torch.float16), {})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (LoraOptions(dropout=1.0), "dropout"),
        (LoraOptions(rank=0), "positive"),
        (LoraOptions(dtype="int8"), "unknown LoRA dtype"),
        (LoraOptions(init="zeros"), "unknown initialisation"),
        (LoraOptions(init="pissa_niter_4"), "random"),
    ],
)
def test_a_wrong_option_is_refused(tied, options, problem):
    with pytest.raises(ValueError, match=problem):
        attach(open_model(tied), options)


# Save, load, merge

KINDS = {
    "all": LoraOptions(targets=("ALL",)),
    "embedding": LoraOptions(targets=("ALL", "EMBEDDING")),
    "head": LoraOptions(targets=("lm_head", "q_proj")),
    "whole embedding": LoraOptions(modules_to_save=("EMBEDDING",)),
    "whole head and norms": LoraOptions(modules_to_save=("lm_head", "LN")),
    "rslora": LoraOptions(rslora=True, init="gaussian"),
    "dora": LoraOptions(dora=True, targets=("ALL", "EMBEDDING")),
    "pissa": LoraOptions(init="pissa"),
    "olora": LoraOptions(init="olora"),
    "bias": LoraOptions(bias="all"),
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("folder", ["tied", "untied"])
def test_saving_loading_and_merging_keep_what_the_model_computes(tmp_path, request, folder, options):
    base = request.getfixturevalue(folder)
    tuned = trained(base, options)
    expected = logits(tuned)
    assert (expected - logits(open_model(base))).abs().max() > 0.01
    save(tuned, tmp_path / "adapter")
    loaded = load(open_model(base), tmp_path / "adapter")
    assert torch.allclose(logits(loaded), expected, atol=1e-5)
    merged = merge(loaded)
    assert not isinstance(merged, PeftModel)
    assert torch.allclose(logits(merged), expected, atol=1e-5)
    save(merged, tmp_path / "merged")
    assert torch.equal(logits(open_model(tmp_path / "merged")), logits(merged))


def test_embeddings_stay_tied_unless_the_adapter_changes_one_side(tied):
    assert merge(trained(tied, KINDS["all"])).config.tie_word_embeddings
    assert not merge(trained(tied, KINDS["embedding"])).config.tie_word_embeddings


def test_an_adapter_keeps_its_dtype(tmp_path, tied):
    tuned = trained(tied, LoraOptions(dtype="bf16"), "bf16")
    save(tuned, tmp_path / "adapter")
    loaded = load(open_model(tied, "bf16"), tmp_path / "adapter", trainable=True)
    assert {p.dtype for p in loaded.parameters() if p.requires_grad} == {torch.bfloat16}
    assert trained_and_all(loaded) == trained_and_all(tuned)
    assert torch.equal(logits(loaded.eval()), logits(tuned))


def test_a_loaded_adapter_is_frozen_unless_it_shall_be_trained(tmp_path, tied):
    save(trained(tied, KINDS["all"]), tmp_path)
    assert trained_and_all(load(open_model(tied), tmp_path))[0] == 0


def test_the_checkpoint_holds_no_base_weights(tmp_path, tied):
    from safetensors import safe_open

    save(trained(tied, KINDS["embedding"]), tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as tensors:
        assert all("lora_" in name for name in tensors.keys())  # noqa: SIM118


# Checkpoints that are not whole or do not fit


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: (path / "adapter_config.json").unlink(), r"adapter_config\.json is missing"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), r"adapter_model\.safetensors is missing"),
        (lambda path: (path / "adapter_config.json").write_text('{"peft'), "half-written or damaged"),
        (lambda path: (path / "adapter_config.json").write_text("{}"), "half-written or damaged"),
        (lambda path: (path / "adapter_model.safetensors").write_bytes(b""), "half-written or damaged"),
        (
            lambda path: (path / "adapter_model.safetensors").write_bytes(
                (path / "adapter_model.safetensors").read_bytes()[:-10]
            ),
            "half-written or damaged",
        ),
        (lambda path: (path / "adapter_config.json").write_text('{"peft_type": "XLORA"}'), "of type XLORA"),
    ],
)
def test_a_half_written_checkpoint_raises_one_line(tmp_path, tied, damage, problem):
    save(trained(tied, KINDS["all"]), tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=problem) as error:
        check(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_checkpoint_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        check(tmp_path / "checkpoint-7")


@pytest.mark.parametrize("other", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
def test_an_adapter_of_another_model_is_refused(tmp_path, tied, other):
    save(trained(tied, KINDS["all"]), tmp_path / "adapter")
    with pytest.raises(ValueError, match="does not fit this model") as error:
        load(open_model(tiny_model_folder(tmp_path / "other", **other)), tmp_path / "adapter")
    assert "\n" not in str(error.value)


def test_an_adapter_with_weights_missing_is_refused(tmp_path, tied):
    save(trained(tied, LoraOptions(targets=("q_proj",))), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "v_proj"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit this model: 4 weights"):
        load(open_model(tied), tmp_path)
