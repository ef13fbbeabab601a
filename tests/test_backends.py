"""Which engine answers, and what vLLM is asked for before it is started. No engine is started here."""

import importlib.machinery
import json
import sys
from types import ModuleType

import pytest
import torch

from swift.assembly import backends
from swift.assembly.checkpoints import Choice
from swift.flag_groups import BackendFlags, ModelFlags, QuantFlags, TemplateFlags, VllmFlags


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    return tmp_path


@pytest.fixture
def vllm_on_a_gpu(monkeypatch):
    """A machine with a GPU, and a vLLM that has a class for Llama."""
    module = ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.ModelRegistry = type("Registry", (), {"get_supported_archs": staticmethod(lambda: {"LlamaForCausalLM"})})
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def choice(adapter=None, bits="0"):
    return Choice(ModelFlags(quant=QuantFlags(quantization_bit=bits)), TemplateFlags(), adapter)


def test_auto_takes_vllm_for_whole_weights_that_it_has_a_class_for(folder, vllm_on_a_gpu):
    assert backends.pick(BackendFlags(), choice(), folder) == "vllm"
    assert backends.pick(BackendFlags(), choice(adapter=folder), folder) == "pt"
    assert backends.pick(BackendFlags(), choice(bits="4"), folder) == "pt"
    (folder / "config.json").write_text(json.dumps({"architectures": ["SomethingElse"]}))
    assert backends.pick(BackendFlags(), choice(), folder) == "pt"


def test_without_a_gpu_auto_leaves_vllm_alone_and_asking_for_it_helps(folder, vllm_on_a_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backends.pick(BackendFlags(), choice(), folder) == "pt"
    assert backends.pick(BackendFlags(infer_backend="vllm"), choice(), folder) == "vllm"


def test_a_flag_of_vllm_beside_another_engine_is_an_error(folder):
    flags = BackendFlags(infer_backend="pt", vllm=VllmFlags(max_model_len=512))
    with pytest.raises(ValueError, match="--max_model_len is for vLLM, and the engine is pt"):
        backends.pick(flags, choice(), folder)


@pytest.mark.parametrize(
    "adapter, flags, why",
    [
        ({"peft_type": "LORA", "r": 8}, VllmFlags(), "--vllm_enable_lora true to serve an adapter unmerged"),
        ({"peft_type": "LORA", "r": 32}, VllmFlags(vllm_enable_lora=True), "--vllm_max_lora_rank 16.* has rank 32"),
        ({"peft_type": "LORA", "r": 8, "use_dora": True}, VllmFlags(vllm_enable_lora=True), "only plain LoRA unmerged"),
        ({"peft_type": "VERA", "r": 8}, VllmFlags(vllm_enable_lora=True), "only plain LoRA unmerged"),
    ],
)
def test_an_adapter_that_vllm_cannot_take_is_told_before_it_starts(folder, adapter, flags, why):
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ValueError, match=why):
        backends.vllm(flags, choice(adapter=folder), folder, [2])


def test_vllm_takes_no_rounded_weights(folder):
    with pytest.raises(ValueError, match="leave --quantization_bit out"):
        backends.vllm(VllmFlags(), choice(bits="8"), folder, [2])
