"""Flags of inference: checkpoint, engine and generation. Does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.flags import flag


@dataclass(frozen=True)
class GenerationFlags:
    """Generation"""

    max_new_tokens: int = 2048
    """Maximum tokens of a reply"""
    do_sample: bool = True
    """Sample tokens; false always takes the most likely one"""
    temperature: float = 0.3
    """Sampling temperature; 0 always takes the most likely token"""
    top_k: int = 20
    """Sample from this many most likely tokens"""
    top_p: float = 0.7
    """Sample from the most likely tokens that together have this probability"""
    repetition_penalty: float = 1.0
    """Above 1, makes tokens that occurred before less likely"""
    seed: int = 42
    """Seed of sampling"""
    stop_words: tuple[str, ...] = ()
    """Stop strings, in addition to the template's"""
    min_confidence: float | None = None
    """Reply in words instead of calling tools with a lower confidence than this probability; 0 makes every call; none
    means what the checkpoint's calibration.json says, or 0"""
    stream: bool = True
    """Show a reply while it is generated"""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range."""
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ValueError(f"--min_confidence {self.min_confidence:g}: must be a probability from 0 to 1")


@dataclass(frozen=True)
class VllmFlags:
    """vLLM"""

    gpu_memory_utilization: float = 0.9
    """Share of GPU memory (on a CPU, of main memory) that vLLM may use"""
    tensor_parallel_size: int = flag(1, alias=("vllm_tensor_parallel_size",))
    """Number of devices for tensor parallelism"""
    data_parallel_size: int = flag(1, alias=("vllm_data_parallel_size",))
    """Number of replicas for data parallelism"""
    max_model_len: int | None = flag(None, alias=("vllm_max_model_len",))
    """Maximum tokens of prompt and reply together; none means the model's context length"""
    enforce_eager: bool = flag(False, alias=("vllm_enforce_eager",))
    """Do not compile: a faster start, slower replies"""
    vllm_enable_lora: bool = False
    """Serve a LoRA adapter without merging it"""
    vllm_max_lora_rank: int = 16
    """Maximum rank of an unmerged adapter"""


@dataclass(frozen=True)
class BackendFlags:
    """Weights and engine"""

    ckpt_dir: str | None = flag(None, alias=("adapters",))
    """Checkpoint that training saved"""
    load_args_from_ckpt_dir: bool = True
    """Take model, template and system prompt from the checkpoint's sft_args.json unless a flag sets them"""
    merge_lora: bool = flag(False, alias=("merge_lora_and_save",))
    """Merge the adapter into a folder next to the checkpoint, and load that"""
    infer_backend: Literal["AUTO", "pt", "vllm", "openvino"] = flag("AUTO", values={"transformers": "pt"})
    """Engine: pt (PyTorch), vllm, openvino (CPUs); AUTO selects vllm on GPUs if installed and able to run the model"""
    max_batch: int = 16
    """Maximum requests in a batch of pt"""
    vllm: VllmFlags = VllmFlags()


def check_engine(guided_tools: bool, generation: GenerationFlags, backend: BackendFlags) -> None:
    """Raises ValueError for a flag that the engine has nothing for."""
    if backend.infer_backend != "openvino":
        return
    if guided_tools:
        raise ValueError("--guided_tools true does not work with --infer_backend openvino: use pt or vllm")
    if generation.min_confidence:
        raise ValueError("--min_confidence does not work with --infer_backend openvino: use pt or vllm")
