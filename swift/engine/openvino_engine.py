"""The Engine over OpenVINO GenAI, which reads a GGUF file and computes on CPUs. Knows no text."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from swift.engine.reply_queue import ReplyQueue, ReplyStream
from swift.engine.sampling import SamplingParams, max_new_tokens

PRECISIONS = {"fp32": "f32", "bf16": "bf16", "AUTO": "f32"}
CACHE_GB = 4
"""Memory for keys and values."""
UNSUPPORTED = ("logit_bias", "guide", "adapter", "top_logprobs", "min_tokens")
"""Options of a request that OpenVINO GenAI does not have."""


class OpenVinoEngine:
    """Requests from many threads, batched by OpenVINO's scheduler, which one worker thread drives.

    `file`: a GGUF file with F16 or Q8_0 matrices. `dtype`: of the computation and of the KV cache.
    Raises ValueError for another dtype, or if OpenVINO cannot load the file.
    """

    def __init__(
        self, file: Path, stop_tokens: Sequence[int], context: int, vocabulary: int, dtype: str = "AUTO"
    ) -> None:
        self._genai, self._tensor = _library()
        if dtype not in PRECISIONS:
            raise ValueError(f"--infer_backend openvino computes in {', '.join(PRECISIONS)}, not {dtype}")
        self.context, self._vocabulary = context, vocabulary
        self._stop_tokens = frozenset(stop_tokens)
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.enable_prefix_caching = True
        precision = PRECISIONS[dtype]
        properties = {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision}
        try:
            self._pipeline = self._genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", properties)
        except RuntimeError as error:
            reason = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
            raise ValueError(f"{file}: OpenVINO cannot load it: {reason}") from error
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._running: list[tuple[_Request, Any]] = []
        self._closed = False
        self._count = 0
        self._worker = threading.Thread(target=self._work, name="swift-openvino", daemon=True)
        self._worker.start()

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> ReplyStream:
        if inputs is not None:
            raise ValueError("--infer_backend openvino is used for text only: for images use pt")
        for name in UNSUPPORTED:
            if getattr(params, name) not in (None, False, "", 0, {}, ()):
                raise ValueError(f"{name} is not supported by --infer_backend openvino: omit it, or use pt")
        if params.logprobs and not _returns_logprobs(params):
            raise ValueError(
                "--infer_backend openvino returns log probabilities only for temperature 0 without penalties"
            )
        limit = max_new_tokens(tokens, params, self.context, self._vocabulary)
        reply = ReplyQueue(limit, frozenset() if params.ignore_eos else self._stop_tokens)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(_Request(reply, list(tokens), self._generation_config(params, limit)))
            self._changed.notify()
        return ReplyStream(reply)

    def close(self) -> None:
        """Stops the worker; unfinished requests end with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def _generation_config(self, params: SamplingParams, limit: int) -> Any:
        settings = self._genai.GenerationConfig()
        settings.apply_chat_template = False
        settings.ignore_eos = True  # ReplyQueue finds the stop tokens
        settings.max_new_tokens = limit
        settings.logprobs = int(params.logprobs or (params.confidence and _returns_logprobs(params)))
        settings.repetition_penalty = params.repetition_penalty
        settings.presence_penalty = params.presence_penalty
        settings.frequency_penalty = params.frequency_penalty
        if params.temperature > 0:
            settings.do_sample = True
            settings.temperature = params.temperature
            settings.top_p = params.top_p
            settings.min_p = params.min_p
            if params.top_k:
                settings.top_k = params.top_k
            # Without a seed every request samples another reply, as with the other engines.
            settings.rng_seed = hash(object()) & 0xFFFFFFFF if params.seed is None else params.seed
        settings.validate()
        return settings

    def _work(self) -> None:
        while self._wait():
            try:
                self._pipeline.step()
            except RuntimeError as error:  # every running request lost its step
                for request, handle in self._running:
                    handle.cancel()
                    request.reply.end(RuntimeError(str(error)))
            self._running = [pair for pair in self._running if not self._pass_on(*pair)]
        for request in [*self._waiting, *(request for request, _ in self._running)]:
            request.reply.end(RuntimeError("the engine was closed"))

    def _wait(self) -> bool:
        """Sleeps until there is work and submits the waiting requests; False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._running)
            while self._waiting and not self._closed:
                request = self._waiting.popleft()
                if request.reply.over:
                    continue
                self._count += 1
                tokens = self._tensor(request.tokens)
                self._running.append((request, self._pipeline.add_request(self._count, tokens, request.settings)))
            return not self._closed

    def _pass_on(self, request: _Request, handle: Any) -> bool:
        """Passes the tokens of the last step to the caller; True when the request is over."""
        reply = request.reply
        while handle.can_read() and not reply.over:
            for output in handle.read().values():
                for token, logprob in zip(output.generated_ids, output.generated_log_probs, strict=True):
                    if not reply.over:
                        reply.put(token, logprob if request.settings.logprobs else math.nan)
        if reply.over:
            handle.cancel()
        elif handle.get_status() == self._genai.GenerationStatus.IGNORED:
            reply.end(RuntimeError(f"the request does not fit into {CACHE_GB} GB of KV cache"))
        return reply.over


class _Request(NamedTuple):
    reply: ReplyQueue
    tokens: list[int]
    settings: Any


def _returns_logprobs(params: SamplingParams) -> bool:
    """Whether OpenVINO's log probabilities would be the model's own."""
    penalties = params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty
    return params.temperature == 0 and not penalties


def check_installed() -> None:
    """Raises ValueError, which names the extra to install, if openvino-genai is missing."""
    if find_spec("openvino_genai") is None:
        raise ValueError(
            "--infer_backend openvino needs the package openvino-genai: pip install 'swift-agents[openvino]'"
        )


def _library() -> tuple[Any, Any]:
    """The module openvino_genai, and a function tokens -> OpenVINO tensor (1, length)."""
    check_installed()
    import numpy as np
    import openvino
    import openvino_genai

    return openvino_genai, lambda tokens: openvino.Tensor(np.array([tokens], dtype=np.int64))
