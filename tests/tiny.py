"""A tokenizer and model folders small enough to make afresh in each test. Knows nothing of swift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A chat template without a system prompt of its own and without tools."""
THINKING = """
{%- for each in messages -%}
{{ '<|im_start|>' + each.role + '\\n' }}
{%- if each.reasoning_content and loop.last -%}
{{ '<think>\\n' + each.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif -%}
{{ each.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' + ('<think>\\n' if enable_thinking is not false else '<think>\\n\\n</think>\\n\\n') }}
{%- endif -%}
"""
"""A chat template of models that think: it opens a thought, or closes it, and leaves out those of earlier rounds."""
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, after three special tokens (ids 0, 1, 2): any text survives encode and decode."""
    vocabulary = {mark: index for index, mark in enumerate(SPECIAL)}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def thinking_tokenizer() -> PreTrainedTokenizerFast:
    """The same tokenizer with the chat template of a model that thinks."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKING
    return tokenizer


def tiny_model_folder(path: Path, tie: bool = True, **config: Any) -> Path:
    """Saves a random two-layer model with its tokenizer under `path`; `model_type="qwen2"` gives a Qwen2."""
    torch.manual_seed(config.pop("seed", 0))
    tokenizer = tiny_tokenizer()
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    settings = {**SIZES, **ids, "vocab_size": len(tokenizer), "tie_word_embeddings": tie, **config}
    model: Any
    if settings.pop("model_type", "llama") == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**settings))
    else:
        model = LlamaForCausalLM(LlamaConfig(**settings))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
