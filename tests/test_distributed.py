"""--fsdp, --deepspeed, --device_map: what they become, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model_folder

from swift import flags
from swift.assembly import parallelism, tuner_setup
from swift.commands import sft
from swift.model import load, quantise
from swift.train import distributed
from swift.train.trainer import arguments


def config(**given: Any) -> sft.Config:
    return flags.from_dict(sft.Config, given)


def test_the_words_of_fsdp_become_fsdp2_as_accelerate_takes_it(tmp_path: Path) -> None:
    args = arguments(tmp_path, use_cpu=True, **distributed.fsdp("shard_grad_op auto_wrap offload", None))
    plugin = args.fsdp_plugin_args
    assert (plugin["fsdp_version"], plugin["reshard_after_forward"], plugin["cpu_offload"]) == (2, False, True)
    assert (plugin["auto_wrap_policy"], plugin["state_dict_type"]) == ("TRANSFORMER_BASED_WRAP", "FULL_STATE_DICT")
    file = tmp_path / "fsdp.json"
    file.write_text('{"fsdp_transformer_layer_cls_to_wrap": ["Block"], "fsdp_reshard_after_forward": false}')
    args = arguments(tmp_path, use_cpu=True, **distributed.fsdp("full_shard auto_wrap", str(file)))
    assert args.fsdp_plugin_args["transformer_cls_names_to_wrap"] == "Block"
    assert args.fsdp_plugin_args["reshard_after_forward"] is False


@pytest.mark.parametrize("name", ["default-zero2", "default-zero3", "zero2_offload", "zero3-offload"])
def test_every_name_of_deepspeed_is_a_complete_configuration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "find_spec", lambda package: package)
    made = distributed.deepspeed(name)["deepspeed"]
    assert made["zero_optimization"]["stage"] == int(name.removeprefix("default-")[4])
    assert ("offload_optimizer" in made["zero_optimization"]) == ("offload" in name)
    assert made["train_batch_size"] == made["gradient_accumulation_steps"] == made["gradient_clipping"] == "auto"
    assert distributed.deepspeed(json.dumps(made)) == {"deepspeed": made}


def test_a_missing_deepspeed_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"needs the package deepspeed: pip install 'swift-agents\[deepspeed\]'"):
        distributed.deepspeed("default-zero2")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fsdp": "full_shard auto_wrp"}, r"no 'auto_wrp'.*did you mean auto_wrap\?"),
        ({"fsdp": "hybrid_shard"}, "FSDP2 has no 'hybrid_shard'"),
        ({"fsdp_config": "{}"}, "--fsdp_config does nothing without --fsdp"),
        ({"fsdp": "full_shard", "fsdp_config": '{"version": 1}'}, "version 1 is FSDP1"),
        ({"fsdp": "full_shard", "fsdp_config": '{"backward_prefetch": 1}'}, "unknown 'backward_prefetch'"),
        ({"fsdp": "full_shard", "fsdp_config": '{"activation_checkpointing": true}'}, "use --gradient_checkpointing"),
        ({"fsdp": "full_shard", "fsdp_config": "nowhere.json"}, "neither a file"),
        ({"deepspeed": "default-zer3"}, r"did you mean zero3\?"),
        ({"deepspeed": '{"zero_optimization": {"stage": 7}}'}, "stage must be 0, 1, 2 or 3"),
        ({"deepspeed": "[1]"}, "neither a file nor a JSON object"),
        ({"deepspeed": "default-zero3", "device_map": "auto"}, "--deepspeed and --device_map exclude each other"),
        ({"fsdp": "full_shard", "device_map": "auto"}, "--fsdp and --device_map exclude each other"),
        ({"fsdp": "full_shard", "sft_type": "ia3"}, "works with --sft_type lora and full, not with ia3"),
        ({"fsdp": "full_shard", "sft_type": "full", "lisa_activated_layers": 2}, "lisa_activated_layers need"),
        ({"fsdp": "full_shard", "quantization_bit": 8}, "only of --quant_method bnb --quantization_bit 4"),
        ({"fsdp": "full_shard"}, "NPROC_PER_NODE=8 swift sft"),
        ({"device_map": '{"model": "disk"}'}, "training needs its weights in memory"),
        ({"device_map": "autos"}, r"did you mean auto\?"),
    ],
)
def test_what_cannot_work_or_would_be_ignored_is_refused(
    given: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "find_spec", lambda package: package)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match=said):
        parallelism.check(config(**given))


def test_engines_and_devices_that_do_not_go_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "find_spec", lambda package: package)
    monkeypatch.setenv("LOCAL_RANK", "0")
    spread = parallelism.check(config(deepspeed="default-zero3"))
    assert (spread.engine, spread.shards) == ("deepspeed", True)
    with pytest.raises(ValueError, match="--deepspeed needs GPUs"):
        parallelism.check_device(spread, torch.device("cpu"))
    assert not parallelism.check(config(deepspeed="default-zero2")).shards
    with pytest.raises(ValueError, match="--device_map needs a single process"):
        parallelism.check(config(device_map="auto"))


def test_weights_of_4_bits_that_are_sharded_are_stored_as_numbers_of_the_models_dtype() -> None:
    pytest.importorskip("bitsandbytes")
    how = tuner_setup.quantisation(config(quantization_bit=4).model, "fsdp")
    assert how
    made = quantise.config(how, torch.bfloat16, torch.device("cpu"))
    assert made.bnb_4bit_quant_storage == torch.bfloat16


def test_a_device_map_puts_layers_where_it_says(tmp_path: Path) -> None:
    path = tiny_model_folder(tmp_path / "tiny")
    tokens = torch.arange(3, 12)[None]
    whole = load.load_model(path, "fp32", "cpu", attn_implementation="eager")
    names = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")
    where = {**dict.fromkeys(names, "cpu"), "model.layers.1": "disk"}
    spread = load.load_model(path, "fp32", "cpu", attn_implementation="eager", device_map=where)
    assert spread.hf_device_map == where
    assert {each.device.type for each in spread.model.layers[1].parameters()} == {"meta"}  # until they are needed
    torch.testing.assert_close(spread(tokens).logits, whole(tokens).logits)
