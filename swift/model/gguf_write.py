"""A transformers model and its tokenizer -> a GGUF file for llama.cpp. Knows no adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swift.model.decoder_layers import window
from swift.model.gguf_tokenizer import Vocabulary, vocabulary
from swift.system.progress import tracked

KINDS = {
    "F32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "F16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "BF16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "Q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""Format -> type of matrices, and file type. llama.cpp writes others (`gguf_k_quants`)."""


class Architecture(NamedTuple):
    """How llama.cpp computes a family. `name`: in gguf-py's tables. `interleaved`: the two features that rotary
    embedding combines are neighbouring rows of q and k. `rotary_types`: those llama.cpp computes as transformers does.
    """

    name: str
    interleaved: bool
    rotary_types: tuple[str, ...]


ARCHITECTURES = {
    "llama": Architecture("llama", True, ("default", "linear", "llama3")),
    "mistral": Architecture("llama", True, ("default", "linear")),
    "qwen2": Architecture("qwen2", False, ("default", "linear", "yarn")),
    "qwen3": Architecture("qwen3", False, ("default", "linear", "yarn")),
}
"""transformers' `model_type` -> architecture. Converted checkpoints have one of these model types too."""


def check(config: Any) -> Architecture:
    """The model's architecture. Raises ValueError if it has none, or if llama.cpp would compute something else."""
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise ValueError(
            f"a model of type {config.model_type} cannot be written as GGUF here: only {', '.join(ARCHITECTURES)} can"
        )
    rotary = config.rope_parameters.get("rope_type", "default")
    if rotary not in architecture.rotary_types:
        raise ValueError(
            f"a {config.model_type} with rotary embedding of type {rotary} cannot be written as GGUF: "
            f"only {', '.join(architecture.rotary_types)} can"
        )
    windows = [window(config, index) for index in range(config.num_hidden_layers)]
    smallest = min(filter(None, windows), default=0)
    if 0 < smallest < config.max_position_embeddings:
        raise ValueError(
            f"sliding attention over {smallest} tokens cannot be written as GGUF: llama.cpp would see the whole "
            f"context; a max_position_embeddings of {smallest} in config.json makes both the same"
        )
    if config.hidden_act != "silu":
        raise ValueError(f"a {config.model_type} with {config.hidden_act} in place of silu cannot be written as GGUF")
    return architecture


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stops: Sequence[int],
    file: Path,
    kind: str,
    name: str,
    begins: bool = True,
) -> None:
    """Writes the model, one matrix at a time, with the tokenizer, its chat template and the stop tokens `stops`.

    `kind`: a key of `KINDS`. `begins`: the tokenizer's first token, if it has one, begins every prompt.

    Raises ValueError for a model, a tokenizer or a value that the file cannot hold.
    """
    config = model.config
    architecture = check(config)
    words = vocabulary(tokenizer, config.vocab_size)
    matrix, mark = KINDS[kind]
    writer = GGUFWriter(file, architecture.name)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(mark)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_settings(writer, config)
    _write_tokenizer(writer, words, tokenizer, stops, begins)
    tensors = tensors_of(model, architecture)
    for own, tensor in tensors:
        kept = _kept(tensor, matrix)
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, kept)
        counts_bytes = kept not in (GGMLQuantizationType.F32, GGMLQuantizationType.F16)
        dtype = np.dtype(np.uint8 if counts_bytes else np.float16 if kept == GGMLQuantizationType.F16 else np.float32)
        writer.add_tensor_info(own, shape if counts_bytes else tensor.shape, dtype, int(np.prod(shape)), kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for own, tensor in tracked(tensors, f"write {file.name}", len(tensors)):
        writer.write_tensor_data(_numbers(own, tensor, _kept(tensor, matrix), architecture, config))
    writer.close()


def _write_settings(writer: GGUFWriter, config: Any) -> None:
    # older configurations do not store the width of a head
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary = config.rope_parameters
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rotary["rope_theta"])
    if rotary.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rotary["rope_type"]))
        writer.add_rope_scaling_factor(rotary["factor"])
    if rotary.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rotary["original_max_position_embeddings"])


def _write_tokenizer(
    writer: GGUFWriter, words: Vocabulary, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], begins: bool
) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.scores:
        writer.add_token_scores(words.scores)
    if words.merges:
        writer.add_token_merges(words.merges)
    writer.add_add_space_prefix(words.space_first)
    opening = tokenizer("").input_ids[:1]
    writer.add_add_bos_token(begins and opening == [tokenizer.bos_token_id])
    writer.add_add_eos_token(False)
    for add, token in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if token is not None:
            add(token)
    if len(stops) > 3:
        raise ValueError(f"a GGUF file holds at most three stop tokens, this model has {len(stops)}")
    for add, token in zip(
        (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), stops, strict=False
    ):
        add(token)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def tensors_of(model: PreTrainedModel, architecture: Architecture) -> list[tuple[str, Tensor]]:
    """The weights under their names in the file, with the frequency factors of Llama 3's rotary embedding."""
    key = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(key, model.config.num_hidden_layers)
    found = []
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if own is None:
            raise ValueError(f"the weight {name} has no name in GGUF's {architecture.name}")
        found.append((own, tensor))
    if model.config.rope_parameters.get("rope_type") == "llama3":
        inverse = model.model.rotary_emb.inv_freq.double().cpu()
        steps = torch.arange(len(inverse), dtype=torch.float64) / len(inverse)
        plain = 1 / model.config.rope_parameters["rope_theta"] ** steps
        found.append(("rope_freqs.weight", (plain / inverse).float()))
    return found


def _kept(tensor: Tensor, matrix: GGMLQuantizationType) -> GGMLQuantizationType:
    """The type of a tensor: F32 for vectors, F16 for rows that are no multiple of a block."""
    if tensor.dim() == 1:
        return GGMLQuantizationType.F32
    return GGMLQuantizationType.F16 if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[matrix][0] else matrix


def _numbers(
    name: str, tensor: Tensor, kept: GGMLQuantizationType, architecture: Architecture, config: Any
) -> np.ndarray[Any, Any]:
    numbers: np.ndarray[Any, Any] = tensor.detach().float().cpu().numpy()
    if not np.isfinite(numbers).all():
        raise ValueError(f"the weight {name} holds NaN or infinity")
    if kept == GGMLQuantizationType.F16 and np.abs(numbers).max(initial=0) > np.finfo(np.float16).max:
        raise ValueError(f"the weight {name} holds numbers too large for F16: use --to_gguf BF16")
    if heads := heads_of(name, architecture, config):
        numbers = _interleaved(numbers, heads)
    written: np.ndarray[Any, Any] = gguf.quantize(np.ascontiguousarray(numbers), kept)
    return written


def heads_of(name: str, architecture: Architecture, config: Any) -> int:
    """The heads whose rows are interleaved in the file; 0: rows keep their order."""
    found = {".attn_q.": config.num_attention_heads, ".attn_k.": config.num_key_value_heads}
    return next((heads for part, heads in found.items() if architecture.interleaved and part in name), 0)


def _interleaved(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows i and i + width / 2 of each head, as neighbours."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    paired: np.ndarray[Any, Any] = halves.swapaxes(1, 2).reshape(rows.shape)
    return paired
