"""Each inference engine behind one function: it loads a model and returns a function that completes prompts.

Runs in the Python of the peer, so an engine's package is imported only when its function is called.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import machine

ROOT = Path(__file__).resolve().parent.parent
VOCABULARY = range(100, 40_000)
"""Token ids of random prompts: ordinary tokens of SmolLM2's tokenizer, no special ones."""

Tokens = list[int]
Generate = Callable[[Sequence[Tokens], int], None]
"""(prompts, new tokens) -> None: completes prompts that arrive together, greedily; returns when all are done."""


class Setup(NamedTuple):
    """`model`: a folder or file. `bits`: of the weights, if the engine quantises them itself. `streams`, `context`: the
    maximum of concurrent requests, and of tokens in one."""

    model: str
    bits: int
    threads: int
    streams: int
    context: int


def swift(setup: Setup) -> Generate:
    import torch

    sys.path.insert(0, str(ROOT))
    from swift.engine.sampling import SamplingParams
    from swift.engine.torch_engine import TorchEngine
    from swift.model.load import load_model

    torch.set_num_threads(setup.threads)
    model = load_model(Path(setup.model), "bf16", "cpu")
    engine = TorchEngine(model, (), max_batch=setup.streams, bits=setup.bits, keep_weights=False)

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        params = SamplingParams(max_tokens=new, temperature=0)
        for steps in [engine.submit(prompt, params) for prompt in prompts]:
            assert len(list(steps)) == new

    return generate


def transformers(setup: Setup) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(setup.threads)
    loaded = AutoModelForCausalLM.from_pretrained(setup.model, dtype=torch.bfloat16)

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        tokens = torch.tensor(prompts)
        loaded.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            min_new_tokens=new,
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )

    return generate


def vllm(setup: Setup) -> Generate:
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that the CPU time of this process includes it
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    machine.restrict_vllm()
    from vllm import LLM, SamplingParams

    llm = LLM(
        setup.model,
        dtype="bfloat16",
        max_model_len=setup.context,
        max_num_seqs=setup.streams,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
    )

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)

    return generate


def openvino(setup: Setup) -> Generate:
    import numpy
    import openvino as runtime
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = 4, True
    scheduler.max_num_batched_tokens = 1024
    properties = machine.openvino_properties(setup.threads)
    pipeline = openvino_genai.ContinuousBatchingPipeline(setup.model, scheduler, "CPU", properties)
    ids = iter(range(1 << 40))

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        settings = openvino_genai.GenerationConfig()
        settings.apply_chat_template, settings.ignore_eos, settings.max_new_tokens = False, True, new
        handles = [
            pipeline.add_request(next(ids), runtime.Tensor(numpy.array([prompt], dtype=numpy.int64)), settings)
            for prompt in prompts
        ]
        while pipeline.has_non_finished_requests():
            pipeline.step()
        for handle in handles:
            (output,) = handle.read_all()
            assert len(output.generated_ids) == new, len(output.generated_ids)

    return generate


def mistralrs(setup: Setup) -> Generate:
    """Accepts only text, so its prompts consist of words of one token each, of the same number of tokens."""
    os.environ["RAYON_NUM_THREADS"] = str(setup.threads)
    from mistralrs import CompletionRequest, Runner, Which

    file = Path(setup.model)
    which = Which.GGUF(quantized_model_id=str(file.parent), quantized_filename=file.name)
    runner = Runner(which, max_seqs=setup.streams, prefix_cache_n=0, token_source="none")
    texts = [runner.detokenize_text([token], False) for token in VOCABULARY]
    words = [text for text in texts if text.startswith(" ") and text[1:].isascii() and text[1:].isalpha()]
    pool = ThreadPoolExecutor(setup.streams)

    def answer(prompt: Tokens, new: int) -> Any:
        request = CompletionRequest(
            prompt="".join(words[token % len(words)] for token in prompt),
            model="default",
            max_tokens=new,
            temperature=0.0,
            ignore_eos=True,
        )
        return runner.send_completion_request(request).usage

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        for prompt, usage in zip(prompts, pool.map(lambda each: answer(each, new), prompts), strict=True):
            assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), new), usage

    return generate


def onnxruntime(setup: Setup) -> Generate:
    """One batch of prompts of equal length at a time: it has no queue."""
    import numpy
    import onnxruntime_genai

    options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": setup.threads}}}}
    config = onnxruntime_genai.Config(setup.model)
    config.overlay(json.dumps(options))
    model = onnxruntime_genai.Model(config)

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        settings = onnxruntime_genai.GeneratorParams(model)
        length = len(prompts[0]) + new
        settings.set_search_options(
            batch_size=len(prompts), min_length=length, max_length=length, do_sample=False, early_stopping=False
        )
        generator = onnxruntime_genai.Generator(model, settings)
        generator.append_tokens(numpy.array(prompts, dtype=numpy.int32))
        for _ in range(new):
            generator.generate_next_token()

    return generate


def llamacpp(setup: Setup) -> Generate:
    import llama_cpp

    settings = llama_cpp.llama_model_default_params()
    settings.use_extra_bufts = False  # as compiled by default, Q4_1 crashes with them where the CPU has AMX
    options = llama_cpp.llama_context_default_params()
    options.kv_unified = True
    context, size = _llama_context(llama_cpp, settings, options, setup)

    def clear() -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)

    return _llama_generate(llama_cpp, context, size, clear)


def ikllama(setup: Setup) -> Generate:
    """ik_llama.cpp, a faster fork for CPUs; its wheel is compiled for AVX2."""
    from ik_llama_cpp import _ctypes_api

    settings = _ctypes_api.llama_model_default_params()
    settings.repack_tensors = True  # interleaves rows for its kernels for batches
    options = _ctypes_api.llama_context_default_params()
    options.flash_attn = setup.streams == 1  # aborts with several sequences in one context
    context, size = _llama_context(_ctypes_api, settings, options, setup)
    return _llama_generate(_ctypes_api, context, size, lambda: _ctypes_api.llama_kv_cache_clear(context))


LLAMA_BATCH = 512
"""Maximum tokens that llama.cpp computes in one batch."""


def _llama_context(api: Any, settings: Any, options: Any, setup: Setup) -> tuple[Any, int]:
    """A context for all streams, and the size of the vocabulary."""
    options.n_ctx, options.n_seq_max = setup.streams * LLAMA_BATCH, setup.streams
    options.n_batch = options.n_ubatch = LLAMA_BATCH
    options.n_threads = options.n_threads_batch = setup.threads
    api.llama_backend_init()
    model = api.llama_model_load_from_file(setup.model.encode(), settings)
    return api.llama_init_from_model(model, options), api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))


def _llama_generate(api: Any, context: Any, size: int, clear: Callable[[], None]) -> Generate:
    """llama.cpp's library has no queue: prompts one after the other, then one token of each stream per step."""
    import numpy

    batch = api.llama_batch_init(LLAMA_BATCH, 0, 1)

    def decode(rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """`rows`: (token, position, stream, whether its logits are needed)."""
        batch.n_tokens = len(rows)
        for index, (token, position, stream, needed) in enumerate(rows):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, needed
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, stream
        assert api.llama_decode(context, batch) == 0

    def argmax(index: int) -> int:
        logits = api.llama_get_logits_ith(context, index)
        return int(numpy.ctypeslib.as_array(logits, (size,)).argmax())

    def generate(prompts: Sequence[Tokens], new: int) -> None:
        clear()
        last = []
        for stream, prompt in enumerate(prompts):
            for start in range(0, len(prompt), LLAMA_BATCH):
                chunk = prompt[start : start + LLAMA_BATCH]
                ends = start + len(chunk) == len(prompt)
                decode([(t, start + i, stream, ends and i == len(chunk) - 1) for i, t in enumerate(chunk)])
            last.append(argmax(len(chunk) - 1))
        for step in range(new - 1):
            decode([(token, len(prompts[stream]) + step, stream, True) for stream, token in enumerate(last)])
            last = [argmax(stream) for stream in range(len(last))]

    return generate


ENGINES: dict[str, Callable[[Setup], Generate]] = {
    each.__name__: each for each in (swift, transformers, vllm, openvino, mistralrs, onnxruntime, llamacpp, ikllama)
}
