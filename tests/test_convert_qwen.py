"""The first Qwen through the front door: model, adapters and tokenizer, against the published equations."""

from __future__ import annotations

import base64
import itertools
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from original import SENTENCE, causal, checkpoint, logits, rms_norm, trains_and_generates, turned_halves
from torch.nn.functional import linear, silu
from transformers import AutoModelForCausalLM

from swift.model import catalog, convert
from swift.model.load import load_model, load_tokenizer, targets
from swift.tuner import adapter_files, lora

CONFIG: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {
        "AutoConfig": "configuration_qwen.QWenConfig",
        "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
    },
    "model_type": "qwen",
    "hidden_size": 32,
    "intermediate_size": 96,
    "kv_channels": 8,
    "layer_norm_epsilon": 1e-6,
    "max_position_embeddings": 8192,
    "no_bias": True,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 128,
    "tie_word_embeddings": False,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "vocab_size": 64,
}


def qwen(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (64, 32),
        "transformer.ln_f.weight": (32,),
        "lm_head.weight": (64, 32),
    }
    for layer in range(2):
        prefix = f"transformer.h.{layer}."
        shapes |= {
            f"{prefix}ln_1.weight": (32,),
            f"{prefix}attn.c_attn.weight": (96, 32),
            f"{prefix}attn.c_attn.bias": (96,),
            f"{prefix}attn.c_proj.weight": (32, 32),
            f"{prefix}ln_2.weight": (32,),
            f"{prefix}mlp.w1.weight": (48, 32),
            f"{prefix}mlp.w2.weight": (48, 32),
            f"{prefix}mlp.c_proj.weight": (32, 48),
        }
    return checkpoint(folder, {**CONFIG, **changes}, shapes)


def expected(weights: dict[str, torch.Tensor], base: float = 10000.0) -> torch.Tensor:
    frequencies = base ** (-torch.arange(0, 8, 2) / 8)
    x = weights["transformer.wte.weight"][SENTENCE]
    for layer in range(2):
        own = {name.partition(f".h.{layer}.")[2]: tensor for name, tensor in weights.items()}
        h = rms_norm(x, own["ln_1.weight"], 1e-6)
        fused = linear(h, own["attn.c_attn.weight"], own["attn.c_attn.bias"])
        q, k, v = (part.unflatten(-1, (4, 8)) for part in fused.split(32, dim=-1))
        heads = causal(turned_halves(q, frequencies), turned_halves(k, frequencies), v)
        x = x + linear(heads, own["attn.c_proj.weight"])
        h = rms_norm(x, own["ln_2.weight"], 1e-6)
        gated = linear(h, own["mlp.w1.weight"]) * silu(linear(h, own["mlp.w2.weight"]))
        x = x + linear(gated, own["mlp.c_proj.weight"])
    return linear(rms_norm(x, weights["transformer.ln_f.weight"], 1e-6), weights["lm_head.weight"])


@pytest.mark.parametrize("base", [10000, 1000000])
def test_the_logits_are_those_of_the_published_equations(tmp_path: Path, base: int) -> None:
    weights = qwen(tmp_path, rotary_emb_base=base)
    model = load_model(tmp_path, device="cpu")
    assert model.config.max_position_embeddings == 128
    torch.testing.assert_close(logits(model), expected(weights, base), rtol=1e-4, atol=1e-4)


def test_it_trains_and_generates(tmp_path: Path) -> None:
    qwen(tmp_path)
    trains_and_generates(tmp_path, list(targets(tmp_path, ["c_attn"])))


def test_the_table_s_targets_mean_the_modules_that_c_attn_became(tmp_path: Path) -> None:
    qwen(tmp_path)
    spec = catalog.table()["qwen-7b-chat"]
    default = targets(tmp_path, spec.lora_targets)
    tuned = lora.attach(load_model(tmp_path, device="cpu"), lora.LoraOptions(default_targets=default))
    adapted = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in tuned.named_parameters() if "lora_A" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj"}
    assert targets(tmp_path, ("attn.c_proj", "DEFAULT")) == ("o_proj", "DEFAULT")
    adapter_files.save(tuned, tmp_path / "adapter")
    noted = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert noted["base_model_name_or_path"] == str(tmp_path)
    again = adapter_files.load(load_model(tmp_path, device="cpu"), tmp_path / "adapter")
    torch.testing.assert_close(logits(again), logits(tuned), rtol=0, atol=0)


def test_what_is_saved_is_a_qwen2_that_transformers_reads(tmp_path: Path) -> None:
    weights = qwen(tmp_path / "a")
    ranks_file(tmp_path / "a")
    load_model(tmp_path / "a", device="cpu").save_pretrained(tmp_path / "b")
    load_tokenizer(tmp_path / "a").save_pretrained(tmp_path / "b")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert type(again).__name__ == "Qwen2ForCausalLM"
    torch.testing.assert_close(logits(again), expected(weights), rtol=1e-4, atol=1e-4)
    texts = (load_tokenizer(folder)("hello there").input_ids for folder in (tmp_path / "a", tmp_path / "b"))
    assert next(texts) == next(texts)


@pytest.mark.parametrize("change", [{"no_bias": False}, {"rotary_pct": 0.25}])
def test_a_setting_that_qwen2_cannot_express_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    qwen(tmp_path, **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        load_model(tmp_path, device="cpu")


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    qwen(tmp_path, num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"missing weights, such as model\.layers\.2\.input_layernorm\.weight"):
        load_model(tmp_path, device="cpu")


def test_qwen_vl_is_not_taken_for_qwen(tmp_path: Path) -> None:
    qwen(tmp_path, visual={"layers": 2})
    with pytest.raises(ValueError, match="its own Python code"):
        load_model(tmp_path, device="cpu")


def test_gptq_weights_of_c_attn_are_cut_by_their_outputs(tmp_path: Path) -> None:
    """4-bit GPTQ: eight inputs in a word of `qweight`, eight outputs in one of `qzeros`; a row of scales a group."""

    def whole(parts: dict[str, torch.Tensor]) -> torch.Tensor:
        shifts = torch.arange(0, 32, 4)
        values_IO = (parts["qweight"][:, None, :] >> shifts[:, None] & 15).flatten(0, 1)
        zeros_GO = (parts["qzeros"][:, :, None] >> shifts & 15).flatten(1) + 1
        groups_I = parts["g_idx"]
        return (values_IO - zeros_GO[groups_I]) * parts["scales"][groups_I]

    torch.manual_seed(0)
    fused = {
        "qweight": torch.randint(-(2**31), 2**31 - 1, (32 // 8, 96), dtype=torch.int32),
        "qzeros": torch.randint(-(2**31), 2**31 - 1, (2, 96 // 8), dtype=torch.int32),
        "scales": torch.rand(2, 96),
        "g_idx": torch.arange(32) // 16,
    }
    family = convert.families()["qwen"]
    parts: dict[str, torch.Tensor] = {}
    for kind, tensor in fused.items():
        parts |= family.weights(f"transformer.h.1.attn.c_attn.{kind}", tensor, CONFIG)
    made = [whole({kind: parts[f"model.layers.1.self_attn.{name}_proj.{kind}"] for kind in fused}) for name in "qkv"]
    torch.testing.assert_close(torch.cat(made, dim=1), whole(fused))


# The tokenizer ----------------------------------------------------------------------------------------------------

MERGED = [
    "he",
    "ll",
    "hell",
    "hello",
    " t",
    "er",
    "ere",
    " th",
    " there",
    "12",
    " 1",
    "你",
    "好",
    "你好",
    "  ",
    "\n\n",
    "é",
]


def ranks_file(folder: Path) -> dict[bytes, int]:
    """All 256 bytes, then every token of MERGED with the halves it needs, as `BASE64 RANK` lines."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for word in MERGED:
        for end in range(2, len(word.encode()) + 1):
            ranks.setdefault(word.encode()[:end], len(ranks))
    lines = [base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items()]
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines))
    return ranks


def encoded(text: str, ranks: dict[bytes, int]) -> list[int]:
    """Byte-pair encoding as tiktoken's readme teaches it: cut into words, then merge the pair of lowest rank."""
    # ASCII letters and Chinese are all the letters of these texts
    words = re.findall(
        r"'(?:[sdmt]|ll|ve|re)|[^\r\na-zA-Z0-9é\u4e00-\u9fff]?[a-zA-Zé\u4e00-\u9fff]+|[0-9]"
        r"| ?[^\sa-zA-Z0-9é\u4e00-\u9fff]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        unicodedata.normalize("NFC", text),
    )
    made = []
    for word in words:
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [(ranks[a + b], at) for at, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
            if not pairs:
                break
            at = min(pairs)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        made += [ranks[part] for part in parts]
    return made


@pytest.mark.parametrize(
    "text",
    ["hello there, hell", "it's 1212  3", "你好，hello", "a\n\n\nb  c \n", "   x = 1\n\ty", "cafe\u0301 é", "😀 !?\n"],
)
def test_text_has_the_ids_of_plain_byte_pair_encoding(tmp_path: Path, text: str) -> None:
    qwen(tmp_path)
    ranks = ranks_file(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer(text).input_ids == encoded(text, ranks)
    assert tokenizer.decode(tokenizer(text).input_ids) == unicodedata.normalize("NFC", text)


def test_the_chat_marks_follow_the_ranks(tmp_path: Path) -> None:
    qwen(tmp_path)
    first = len(ranks_file(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 8192}))
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer("<|im_start|>user\nhello<|im_end|><|extra_204|>").input_ids
    assert ids[0] == first + 1 and ids[-2:] == [first + 2, first + 207]
    assert tokenizer.eos_token_id == first and tokenizer.model_max_length == 8192


@pytest.mark.parametrize(
    ("content", "problem"), [("aGU= 0\nx!\n", "qwen.tiktoken:2"), ("aGU= 7\n", "gaps"), (None, "missing")]
)
def test_a_damaged_vocabulary_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    qwen(tmp_path)
    if content:
        (tmp_path / "qwen.tiktoken").write_text(content)
    with pytest.raises(ValueError, match=problem):
        load_tokenizer(tmp_path)
