"""Baichuan and Baichuan2, 7B and 13B, through the front door, against the published equations."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from original import (
    SENTENCE,
    causal,
    checkpoint,
    logits,
    rms_norm,
    sentencepiece_file,
    trains_and_generates,
    turned_halves,
)
from torch.nn.functional import linear, silu
from transformers import AutoModelForCausalLM

from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.model.load import load_model, load_tokenizer, targets

CONFIG: dict[str, Any] = {
    "architectures": ["BaichuanForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"},
    "model_type": "baichuan",
    "hidden_act": "silu",
    "hidden_size": 48,
    "intermediate_size": 40,
    "model_max_length": 256,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "vocab_size": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "7b": {"architectures": ["BaiChuanForCausalLM"], "max_position_embeddings": 256},
    "2-7b": {"max_position_embeddings": 256, "z_loss_weight": 0},
    "13b": {},
    "2-13b": {"z_loss_weight": 0},
}
SLOPES_OF_SIX = [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
"""Four heads have 2^-2, 2^-4, 2^-6, 2^-8; two more take the first and third of eight heads' 2^-1, 2^-2, 2^-3, ..."""


def baichuan(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (64, 48),
        "model.norm.weight": (48,),
        "lm_head.weight": (64, 48),
    }
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (48,),
            f"{prefix}self_attn.W_pack.weight": (144, 48),
            f"{prefix}self_attn.o_proj.weight": (48, 48),
            f"{prefix}post_attention_layernorm.weight": (48,),
            f"{prefix}mlp.gate_proj.weight": (40, 48),
            f"{prefix}mlp.up_proj.weight": (40, 48),
            f"{prefix}mlp.down_proj.weight": (48, 40),
        }
        if "7b" in kind:
            shapes[f"{prefix}self_attn.rotary_emb.inv_freq"] = (4,)
    return checkpoint(folder, {**CONFIG, **KINDS[kind]}, shapes)


def with_alibi(q_BTHD: torch.Tensor, k_BTHD: torch.Tensor, v_BTHD: torch.Tensor) -> torch.Tensor:
    """Attention whose scores lose, for each step back, the slope of the head."""
    places = torch.arange(q_BTHD.shape[1])
    steps_back = places[:, None] - places
    scores = torch.einsum("bihd,bjhd->bhij", q_BTHD, k_BTHD) / q_BTHD.shape[-1] ** 0.5
    scores = scores - torch.tensor(SLOPES_OF_SIX)[:, None, None] * steps_back
    scores = scores.masked_fill(steps_back < 0, float("-inf"))
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v_BTHD).flatten(-2)


def expected(weights: dict[str, torch.Tensor], kind: str) -> torch.Tensor:
    frequencies = 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    x = weights["model.embed_tokens.weight"][SENTENCE]
    for layer in range(2):
        own = {name.partition(f".layers.{layer}.")[2]: tensor for name, tensor in weights.items()}
        h = rms_norm(x, own["input_layernorm.weight"], 1e-6)
        q, k, v = (part.unflatten(-1, (6, 8)) for part in linear(h, own["self_attn.W_pack.weight"]).split(48, dim=-1))
        if "7b" in kind:
            heads = causal(turned_halves(q, frequencies), turned_halves(k, frequencies), v)
        else:
            heads = with_alibi(q, k, v)
        x = x + linear(heads, own["self_attn.o_proj.weight"])
        h = rms_norm(x, own["post_attention_layernorm.weight"], 1e-6)
        gated = silu(linear(h, own["mlp.gate_proj.weight"])) * linear(h, own["mlp.up_proj.weight"])
        x = x + linear(gated, own["mlp.down_proj.weight"])
    head = weights["lm_head.weight"]
    if kind.startswith("2-"):
        head = head / (head * head).sum(-1, keepdim=True) ** 0.5
    return linear(rms_norm(x, weights["model.norm.weight"], 1e-6), head)


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_those_of_the_published_equations(tmp_path: Path, kind: str) -> None:
    weights = baichuan(tmp_path, kind)
    made = logits(load_model(tmp_path, device="cpu"))
    torch.testing.assert_close(made, expected(weights, kind), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_alibi_is_the_same_in_every_kernel_and_with_padding_on_the_left(tmp_path: Path, attention: str) -> None:
    weights = baichuan(tmp_path, "13b")
    model = load_model(tmp_path, device="cpu", attn_implementation=attention)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), SENTENCE], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :3] = 0
    with torch.no_grad():
        made = model(padded, attention_mask=mask).logits[:, 3:]
    torch.testing.assert_close(made, expected(weights, "13b"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["2-7b", "13b"])
def test_it_trains_and_generates(tmp_path: Path, kind: str) -> None:
    baichuan(tmp_path, kind)
    renamed = list(targets(tmp_path, ["W_pack"]))
    assert renamed == (["W_pack"] if kind == "13b" else ["q_proj", "k_proj", "v_proj"])
    trains_and_generates(tmp_path, renamed)


def test_the_engine_serves_two_prompts_of_a_13b_at_once(tmp_path: Path) -> None:
    baichuan(tmp_path, "2-13b")
    model = load_model(tmp_path, device="cpu")
    engine = TorchEngine(model, stop_tokens=[])
    prompts = [[5, 17, 3], [8, 8, 44, 2, 19, 30, 6]]
    params = SamplingParams(max_tokens=5, temperature=0.0)
    under_way = [engine.submit(prompt, params) for prompt in prompts]
    made = [[step.token for step in steps] for steps in under_way]
    engine.close()
    for prompt, tokens in zip(prompts, made, strict=True):
        for end in range(5):
            assert logits(model, torch.tensor([prompt + tokens[:end]]))[0, -1].argmax() == tokens[end]


def test_a_7b_is_saved_as_a_llama_that_transformers_reads(tmp_path: Path) -> None:
    weights = baichuan(tmp_path / "a", "2-7b")
    load_model(tmp_path / "a", device="cpu").save_pretrained(tmp_path / "b")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert type(again).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(again), expected(weights, "2-7b"), rtol=1e-4, atol=1e-4)


def test_a_13b_is_saved_with_the_names_and_shapes_it_came_with(tmp_path: Path) -> None:
    weights = baichuan(tmp_path / "a", "2-13b")
    sentencepiece_file(tmp_path / "a" / "tokenizer.model", ["▁hello"])
    model, tokenizer = load_model(tmp_path / "a", device="cpu"), load_tokenizer(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    tokenizer.save_pretrained(tmp_path / "b")
    again = load_model(tmp_path / "b", device="cpu")
    torch.testing.assert_close(logits(again), expected(weights, "2-13b"), rtol=1e-4, atol=1e-4)
    assert load_tokenizer(tmp_path / "b")("hello there").input_ids == tokenizer("hello there").input_ids
    saved = json.loads((tmp_path / "b" / "config.json").read_text())
    assert saved["architectures"] == ["BaichuanForCausalLM"] and saved["z_loss_weight"] == 0
    names = {name: tensor.shape for name, tensor in again.state_dict().items()}
    assert names == {name: tensor.shape for name, tensor in weights.items()}


@pytest.mark.parametrize("zipped", [True, False])
def test_shards_in_torch_s_format_are_read_too(tmp_path: Path, zipped: bool) -> None:
    weights = baichuan(tmp_path, "7b")
    (tmp_path / "model.safetensors").unlink()
    shards = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(sorted(weights))}
    for file, names in itertools.groupby(sorted(shards, key=lambda name: shards[name]), key=lambda name: shards[name]):
        torch.save({name: weights[name] for name in names}, tmp_path / file, _use_new_zipfile_serialization=zipped)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    made = logits(load_model(tmp_path, device="cpu"))
    torch.testing.assert_close(made, expected(weights, "7b"), rtol=1e-4, atol=1e-4)
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"pytorch_model-00001-of-00002\.bin"):
        load_model(tmp_path, device="cpu")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    baichuan(tmp_path, "7b")
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Path("anything")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        load_model(tmp_path, device="cpu")


SENTENCES = ["the cat sat on the mat", "the hat is on the cat", "你好，世界", "numbers 12 and 345", "a  b   c"] * 20


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("own", [[], ["<eoh>", "▁▁▁▁"]])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_text_has_the_ids_of_sentencepiece(tmp_path: Path, prefix: bool, own: list[str], rule: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    if own and prefix and rule != "identity":
        own = own[:1]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        user_defined_symbols=own,
        normalization_rule_name=rule,
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    baichuan(tmp_path, "13b")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = load_tokenizer(tmp_path)
    texts = [
        "the cat on the hat",
        " two  spaces ",
        "tab\tline\n\n 好",
        "<eoh>hi<eoh> cat",
        "    x = 1",
        "ｆｕｌｌ 😀",
        "",
    ]
    for text in [*SENTENCES[:5], *texts]:
        assert tokenizer(text).input_ids == reference.encode(text), text
        assert tokenizer.decode(reference.encode(text)) == reference.decode(reference.encode(text))
