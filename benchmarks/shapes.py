"""Models of the benchmarks: the bundled SmolLM2-135M, and published shapes of larger models with random weights.

    python benchmarks/shapes.py 0.5b --cache ~/.cache/swift-benchmarks --gguf Q4_1

Speed depends only on a model's shape, so nothing is downloaded. A random model has SmolLM2's tokenizer; embeddings of
ids beyond its vocabulary are zero, so that greedy decoding never selects one of them if the output head is tied to the
embedding.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import environments

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = "135m"
SHARD = 2**30
"""Bytes of a weight file, which bound the memory for writing."""
DEVIATION = 0.02
"""Standard deviation of random matrices, as in the initialisation of both families."""


class Shape(NamedTuple):
    """`config`: the settings of the model's published config.json."""

    name: str
    family: str
    config: dict[str, Any]


def _qwen2(
    name: str, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, context: int = 32_768
) -> Shape:
    return Shape(
        name,
        "qwen2",
        {
            **{"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers},
            **{"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": 151_936},
            **{"max_position_embeddings": context, "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
    )


LLAMA_3B = Shape(
    "Llama-3.2-3B",
    "llama",
    {
        **{"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "head_dim": 128},
        **{"num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 128_256},
        **{"max_position_embeddings": 131_072, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
        "rope_parameters": {
            **{"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0},
            **{"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        },
    },
)
SHAPES = {
    "0.5b": _qwen2("Qwen2.5-0.5B", 896, 4864, 24, 14, 2),
    "1.5b": _qwen2("Qwen2-1.5B", 1536, 8960, 28, 12, 2),
    "3b": LLAMA_3B,
}
CHOICES = (BUNDLED, *SHAPES)


def title(shape: str) -> str:
    return "SmolLM2-135M" if shape == BUNDLED else f"the shape of {SHAPES[shape].name}, random weights"


def folder(shape: str, cache: Path) -> Path:
    """The model as a Hugging Face folder in bf16; the first call writes it."""
    if shape == BUNDLED:
        from swift.model import bundled

        return bundled.unpack()
    target = cache / SHAPES[shape].name
    if not target.exists():
        _write_in_subprocess(shape, cache, "folder")
    return target


def gguf(shape: str, kind: str, cache: Path) -> Path:
    """The model as a GGUF file with matrices of type `kind`; the first call writes it. The bundled model is Q4_1."""
    if (shape, kind) == (BUNDLED, "Q4_1"):
        from swift.model import bundled

        packed = bundled.package_file()
        assert packed is not None, bundled.INSTALL
        return packed
    model = folder(shape, cache)
    target = cache / f"{model.name}.{kind}.gguf"
    if not target.exists():
        _write_in_subprocess(shape, cache, kind)
    return target


def onnx(shape: str, precision: str, cache: Path) -> Path:
    """The model as a folder of ONNX Runtime GenAI's own builder; the first call writes it."""
    model = folder(shape, cache)
    target = cache / f"{model.name}.{precision}.onnx"
    if not (target / "genai_config.json").exists():
        builder = [environments.python("onnxruntime", cache), "-m", "onnxruntime_genai.models.builder"]
        devnull = subprocess.DEVNULL
        command = [*builder, "-i", model, "-o", target, "-p", precision, "-e", "cpu"]
        subprocess.run(command, check=True, stdout=devnull, stderr=devnull, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return target


def config(model: Path) -> dict[str, Any]:
    """A folder's config.json, with head_dim even if the file has none."""
    read: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return {**read, "head_dim": read.get("head_dim") or read["hidden_size"] // read["num_attention_heads"]}


def _write_in_subprocess(shape: str, cache: Path, what: str) -> None:
    """Writes in a process of its own, so that its memory does not count in measurements of child processes."""
    print(f"writing {title(shape)} as {what} below {cache} (once)", file=sys.stderr)
    command = [sys.executable, __file__, shape, "--cache", str(cache)]
    subprocess.run([*command, *(["--gguf", what] if what != "folder" else [])], check=True)


def write_folder(shape: Shape, target: Path) -> None:
    """Config, tokenizer and random weights in bf16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from swift.model import bundled

    tokenizer = AutoTokenizer.from_pretrained(bundled.unpack())
    settings = AutoConfig.for_model(
        shape.family,
        **shape.config,
        dtype="bfloat16",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    temporary = target.with_name(f".{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    settings.architectures = [type(model).__name__]
    settings.save_pretrained(temporary)
    model.generation_config.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    _write_weights(_random_weights(model, len(tokenizer)), temporary)
    temporary.rename(target)


def _random_weights(model: Any, vocabulary_size: int) -> Iterator[tuple[str, Any]]:
    """Each parameter except a tied output head; norms are one, everything else is normally distributed."""
    import torch

    rng = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():  # yields a tied parameter once
        if name.endswith("norm.weight"):
            yield name, torch.ones(parameter.shape, dtype=torch.bfloat16)
            continue
        tensor = (torch.randn(parameter.shape, generator=rng) * DEVIATION).bfloat16()
        if name == "model.embed_tokens.weight":
            tensor[vocabulary_size:] = 0
        yield name, tensor


def _write_weights(weights: Iterator[tuple[str, Any]], target: Path) -> None:
    """Writes files of about SHARD bytes, and their index."""
    from safetensors.torch import save_file

    weight_map: dict[str, str] = {}
    total, number = 0, 0
    shard: dict[str, Any] = {}

    def close() -> None:
        nonlocal number
        number += 1
        file = f"model-{number:05d}.safetensors"
        save_file(shard, target / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, tensor in weights:
        shard[name] = tensor
        total += tensor.nbytes
        if sum(each.nbytes for each in shard.values()) >= SHARD:
            close()
    if shard:
        close()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_gguf(model_folder: Path, kind: str, target: Path) -> None:
    """Writes the model as `swift export --to_gguf` does, and also in 4 bits, which the export leaves to llama.cpp."""
    from gguf import GGMLQuantizationType, LlamaFileType

    from swift.model import gguf_write
    from swift.model.load import load_model, load_tokenizer

    gguf_write.KINDS["Q4_0"] = (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0)
    gguf_write.KINDS["Q4_1"] = (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1)
    model, tokenizer = load_model(model_folder, "bf16", "cpu"), load_tokenizer(model_folder)
    temporary = target.with_name(f".{target.name}")
    gguf_write.write(model, tokenizer, [tokenizer.eos_token_id], temporary, kind, model_folder.name)
    temporary.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=CHOICES)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/swift-benchmarks").expanduser())
    parser.add_argument(
        "--gguf", help="also write a GGUF file with matrices of this type: F16, Q8_0, Q4_0, Q4_1", metavar="KIND"
    )
    options = parser.parse_args()
    target = options.cache / SHAPES[options.shape].name if options.shape in SHAPES else None
    if target and not target.exists():
        write_folder(SHAPES[options.shape], target)
    model = target or folder(options.shape, options.cache)
    print(model)
    if options.gguf:
        file = options.cache / f"{model.name}.{options.gguf}.gguf"
        write_gguf(model, options.gguf, file)
        print(file)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
