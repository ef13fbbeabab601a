"""ChatGLM2, ChatGLM3, CodeGeeX2 and the first GLM-4 layout through the front door, against the published equations."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import torch
from original import SENTENCE, causal, checkpoint, logits, rms_norm, sentencepiece_file, trains_and_generates
from torch.nn.functional import linear, silu

from swift.chat import Message
from swift.model.load import load_model, load_tokenizer, targets
from swift.template import Renderer
from swift.template.template import template

CONFIG: dict[str, Any] = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 48,
    "hidden_size": 32,
    "kv_channels": 8,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_layers": 2,
    "original_rope": True,
    "padded_vocab_size": 64,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 128,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def chatglm(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    config = {**CONFIG, **changes}
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (64, 32),
        "transformer.rotary_pos_emb.inv_freq": (2,),
        "transformer.encoder.final_layernorm.weight": (32,),
        "transformer.output_layer.weight": (64, 32),
    }
    for layer in range(config["num_layers"]):
        prefix = f"transformer.encoder.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (32,),
            f"{prefix}self_attention.query_key_value.weight": (32 + 2 * 16, 32),
            f"{prefix}self_attention.query_key_value.bias": (32 + 2 * 16,),
            f"{prefix}self_attention.dense.weight": (32, 32),
            f"{prefix}post_attention_layernorm.weight": (32,),
            f"{prefix}mlp.dense_h_to_4h.weight": (96, 32),
            f"{prefix}mlp.dense_4h_to_h.weight": (32, 48),
        }
    return checkpoint(folder, config, shapes)


def turned_pairs(x_BTHD: torch.Tensor, base: float, divisor: float) -> torch.Tensor:
    """Complex numbers of neighbours in the first half of each head, times e^(i position frequency)."""
    half = x_BTHD.shape[-1] // 2
    pairs = torch.view_as_complex(x_BTHD[..., :half].unflatten(-1, (-1, 2)).contiguous())
    positions = torch.arange(x_BTHD.shape[1]) / divisor
    angles = positions[:, None] / base ** (torch.arange(0, half, 2) / half)
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)
    return torch.cat([turned, x_BTHD[..., half:]], dim=-1)


def expected(weights: dict[str, torch.Tensor], base: float = 10000.0, divisor: float = 1.0) -> torch.Tensor:
    x = weights["transformer.embedding.word_embeddings.weight"][SENTENCE]
    for layer in range(2):
        own = {name.partition(f".layers.{layer}.")[2]: tensor for name, tensor in weights.items()}
        h = rms_norm(x, own["input_layernorm.weight"], 1e-5)
        mixed = linear(h, own["self_attention.query_key_value.weight"], own["self_attention.query_key_value.bias"])
        q, k, v = (part.unflatten(-1, (-1, 8)) for part in mixed.split([32, 16, 16], dim=-1))
        heads = causal(turned_pairs(q, base, divisor), turned_pairs(k, base, divisor), v)
        x = x + linear(heads, own["self_attention.dense.weight"])
        h = rms_norm(x, own["post_attention_layernorm.weight"], 1e-5)
        gate, up = linear(h, own["mlp.dense_h_to_4h.weight"]).chunk(2, dim=-1)
        x = x + linear(silu(gate) * up, own["mlp.dense_4h_to_h.weight"])
    x = rms_norm(x, weights["transformer.encoder.final_layernorm.weight"], 1e-5)
    return linear(x, weights["transformer.output_layer.weight"])


def test_the_logits_are_those_of_the_published_equations(tmp_path: Path) -> None:
    weights = chatglm(tmp_path)
    torch.testing.assert_close(logits(load_model(tmp_path, device="cpu")), expected(weights), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["THUDM/chatglm3-6b-32k", "THUDM/codegeex4-all-9b", ""])
def test_a_rope_ratio_widens_the_base(tmp_path: Path, name: str) -> None:
    weights = chatglm(tmp_path, rope_ratio=50, _name_or_path=name)
    made = logits(load_model(tmp_path, device="cpu"))
    torch.testing.assert_close(made, expected(weights, base=500000.0), rtol=1e-4, atol=1e-4)


def test_chatglm2_32k_divides_the_positions_instead(tmp_path: Path) -> None:
    weights = chatglm(tmp_path, rope_ratio=50, _name_or_path="THUDM/chatglm2-6b-32k")
    made = logits(load_model(tmp_path, device="cpu"))
    torch.testing.assert_close(made, expected(weights, divisor=50.0), rtol=1e-4, atol=1e-4)


def test_it_trains_and_generates(tmp_path: Path) -> None:
    chatglm(tmp_path)
    trains_and_generates(tmp_path, ["q_proj", "v_proj", "down_proj"])


def test_the_published_target_of_lora_is_known_under_its_new_names(tmp_path: Path) -> None:
    chatglm(tmp_path)
    assert targets(tmp_path, ["query_key_value"]) == ("q_proj", "k_proj", "v_proj")
    trains_and_generates(tmp_path, list(targets(tmp_path, ["query_key_value", "dense_h_to_4h"])))


def test_what_is_saved_loads_without_conversion_to_the_same_logits(tmp_path: Path) -> None:
    chatglm(tmp_path / "a", rope_ratio=50)
    model = load_model(tmp_path / "a", device="cpu")
    model.save_pretrained(tmp_path / "b")
    again = load_model(tmp_path / "b", device="cpu")
    assert type(again).__name__ == "GlmForCausalLM"
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("change", [{"quantization_bit": 4}, {"rmsnorm": False}, {"pre_seq_len": 128}])
def test_a_setting_that_glm_cannot_express_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    chatglm(tmp_path, **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        load_model(tmp_path, device="cpu")


def test_the_chat_marks_have_the_ids_after_the_vocabulary(tmp_path: Path) -> None:
    chatglm(tmp_path)
    size = len(sentencepiece_file(tmp_path / "tokenizer.model", ["▁hello", "▁sop"]))
    tokenizer = load_tokenizer(tmp_path)
    marks = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>"]
    assert tokenizer.convert_tokens_to_ids([*marks, "<|observation|>"]) == list(range(size, size + 9))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)


def test_the_template_s_texts_become_the_marks_and_a_typed_sop_stays_text(tmp_path: Path) -> None:
    chatglm(tmp_path)
    pieces = sentencepiece_file(tmp_path / "tokenizer.model", ["▁hello", "▁sop"])
    tokenizer = load_tokenizer(tmp_path)
    prompt = Renderer(tokenizer, template("chatglm3")).prompt_tokens([Message("user", "hello")])
    assert prompt[:2] == [len(pieces) + 1, len(pieces) + 3]
    assert tokenizer("sop hello").input_ids == [pieces.index("▁sop"), pieces.index("▁hello")]
    assert tokenizer.decode(tokenizer("sop hello").input_ids) == "sop hello"


def test_glm_4_s_own_vocabulary_is_read(tmp_path: Path) -> None:
    chatglm(tmp_path)
    tokens = [*(bytes([byte]) for byte in range(256)), b"he", b"ll", b"hell", b"hello", b" hello"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (tmp_path / "tokenizer.model").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("hello hello1234").input_ids == [259, 260, *b"1234"]
    marks = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>"]
    assert tokenizer.convert_tokens_to_ids(marks) == list(range(261, 269))
    assert tokenizer.decode(tokenizer("你好 hello").input_ids) == "你好 hello"
