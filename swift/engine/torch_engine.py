"""The Engine over a PyTorch model: requests of many threads decoded together. Knows no text, no chat and no tools."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from swift.engine import openmp
from swift.engine.adapters import Adapters, as_lora
from swift.engine.choose_runner import choose_runner, computes_long_chunks_fast
from swift.engine.interface import EngineFigures, TokenStream
from swift.engine.lora import Lora
from swift.engine.memory import kv_memory
from swift.engine.prefix_cache import BLOCK_SIZE
from swift.engine.reply_queue import ReplyStream
from swift.engine.request import Request
from swift.engine.sampling import SampledToken, SamplingParams, draw, max_new_tokens
from swift.engine.scheduler import MIXED_PREFILL_TOKENS, ScheduledChunk, Scheduler, SchedulerOutput
from swift.engine.sequence_states import SequenceStates
from swift.engine.transformers_runner import TransformersRunner

Batch = list[ScheduledChunk[Request]]
FAST_MIXED_PREFILL_TOKENS = 256
"""Prompt tokens beside decoding ones where the CPU computes them in the time that others need for the default."""


class TorchEngine:
    """Continuous batching of a transformers model by a worker thread, up to `max_batch` requests in a step.

    A request joins as soon as the batch and memory have space for it, and leaves when it ends or is cancelled; long
    prompts are computed in chunks between the tokens of other replies. A greedy reply does not depend on the other
    requests, up to float rounding.

    `context` None: the model's own. `max_queue`: the number of requests that may wait; further ones raise Busy.
    `memory`: bytes for keys and values; None: a quarter of the machine's. `unsplit`: as in Scheduler. `bits`: 8 or 4
    quantises the weights, on CPUs. `keep_weights` False: `model` may lose its weights to the runner's layout of them.
    `fast` False: compute with transformers' own layers. `fast_path_missing`: what this machine lacks for a faster
    runner, or empty.
    """

    def __init__(
        self,
        model: Any,
        stop_tokens: Sequence[int],
        max_batch: int = 16,
        context: int | None = None,
        *,
        max_queue: int | None = None,
        memory: int | None = None,
        unsplit: int = 0,
        bits: int = 0,
        keep_weights: bool = True,
        fast: bool = True,
    ) -> None:
        for name, value in (("max_batch", max_batch), ("max_queue", max_queue), ("memory", memory)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        config = model.config.get_text_config()
        self.context: int | None = context or getattr(config, "max_position_embeddings", None)
        self.model = model.eval()
        self._vocabulary: int = config.vocab_size
        self._stop_tokens = frozenset(stop_tokens)
        half = (memory or kv_memory(model.device)) // 2  # the other half is the prefix cache's
        self._runner, self.fast_path_missing = choose_runner(model, bits, keep_weights, fast, half)
        self._own_layers = isinstance(self._runner, TransformersRunner)
        self._states = SequenceStates(self._runner, half, unsplit)
        self._adapters = Adapters(self._runner, self._states.prefixes)
        fast_prefill = computes_long_chunks_fast(self._runner, model, bits)
        self._scheduler = Scheduler[Request](
            self._states,
            max_batch,
            max_queue,
            block_size=BLOCK_SIZE,
            mixed_prefill_tokens=FAST_MIXED_PREFILL_TOKENS if fast_prefill else MIXED_PREFILL_TOKENS,
            unsplit=unsplit,
        )
        self._between_steps: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker: threading.Thread | None = None
        openmp.release()  # the worker has a team of its own

    def submit(
        self, tokens: Sequence[int], params: SamplingParams, inputs: Mapping[str, Any] | None = None
    ) -> TokenStream:
        inputs = inputs or None
        if inputs and not self._own_layers:
            raise ValueError(f"{type(self.model).__name__} takes tokens alone, not {', '.join(inputs)}")
        stop_tokens = frozenset[int]() if params.ignore_eos else self._stop_tokens
        limit = self._max_new_tokens(tokens, params)
        with self._changed:
            self._check_open()
            adapter, shares_prefix = self._adapters.find(params.adapter), self._runner.shares_prefixes
            request = Request(list(tokens), params, limit, stop_tokens, adapter, inputs, shares_prefix)
            self._scheduler.add(request)
            self._wake()
        return ReplyStream(request.reply, request.cancel)

    def add_adapter(self, name: str, source: Lora | Path | str) -> None:
        """Lets requests name an adapter: a folder as PEFT saves it, or one that is read already.

        Raises ValueError for an adapter of another model, or of a kind that cannot share a batch with others.
        """
        lora = as_lora(source)
        self._run(lambda: self._adapters.add(name, lora, name if isinstance(source, Lora) else str(source)))

    def remove_adapter(self, name: str) -> None:
        """Refuses new requests with the adapter; those already submitted are answered to their end."""
        if not name:
            raise ValueError("the base model cannot be removed")
        self._run(lambda: self._adapters.remove(name))

    @property
    def adapters(self) -> tuple[str, ...]:
        return self._adapters.names

    def figures(self) -> EngineFigures:
        """What the engine does. Safe to call from any thread."""
        queue, states = self._scheduler, self._states
        return EngineFigures(
            len(queue.running),
            len(queue.waiting),
            queue.memory_usage,
            states.prefix_queries,
            states.prefix_hits,
            queue.preemptions,
        )

    def close(self) -> None:
        """Stops the worker; unfinished requests end with an error. Called when Python exits if not before."""
        atexit.unregister(self.close)
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._worker is not None:
            self._worker.join()

    def _max_new_tokens(self, tokens: Sequence[int], params: SamplingParams) -> int | None:
        """The longest reply (None: no limit). Raises ValueError for a request that cannot be served."""
        capacity = self._states.capacity
        context = min(self.context or capacity, capacity)
        whose = "the model's context" if context == self.context else "what its memory holds, a context"
        limit = max_new_tokens(tokens, params, context, self._vocabulary, whose)
        return None if params.max_tokens is None and self.context is None else limit

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")

    def _wake(self) -> None:
        if self._worker is None:
            atexit.register(self.close)  # Python would end a running worker inside of torch, which aborts the process
            self._worker = threading.Thread(target=self._work, name="swift-engine", daemon=True)
            self._worker.start()
        self._changed.notify()

    def _run(self, task: Callable[[], None]) -> None:
        """Runs `task` on the worker between two steps. Returns when it is done, or raises what it raised."""
        done: SimpleQueue[Exception | None] = SimpleQueue()

        def report() -> None:
            try:
                task()
            except Exception as error:  # raised again in the waiting thread
                done.put(error)
            else:
                done.put(None)

        with self._changed:
            self._check_open()
            self._between_steps.append(report)
            self._wake()
        if error := done.get():
            raise error

    # the worker

    def _work(self) -> None:
        with torch.inference_mode():
            while self._wait():
                self._step()
        with self._changed:
            unfinished = self._scheduler.drain()
        for request in unfinished:
            request.reply.end(RuntimeError("the engine was closed"))

    def _wait(self) -> bool:
        """Sleeps until there is work and runs the tasks between steps; False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._scheduler.has_work or self._between_steps)
            while self._between_steps:
                self._between_steps.popleft()()
            return not self._closed

    def _step(self) -> None:
        output = self._scheduler.schedule()
        for request in output.cancelled:
            request.reply.end()
        for batch in self._batches(output):
            self._compute(batch)
        if self._adapters.removed:
            self._adapters.unload(request.adapter for request in self._scheduler.sequences())

    def _batches(self, output: SchedulerOutput[Request]) -> list[Batch]:
        """Chunks that go through the model together."""
        if self._own_layers:
            batches = [output.decoding, *([chunk] for chunk in output.prefill)]
        else:
            batches = [[*output.decoding, *output.prefill]]
        return [batch for batch in batches if batch]

    def _compute(self, batch: Batch) -> None:
        """Runs the model over a batch, samples, and removes the requests that are finished or failed."""
        chunks = [each.sequence.chunk(each.count) for each in batch]
        try:
            logits_NV = self._runner.step(chunks)
        except Exception as error:  # it ends the requests of the batch, not the engine
            self._split_or_fail(batch, error)
            return
        for each in batch:
            each.sequence.computed += each.count
            if each.count > 1:
                self._states.store(each.sequence)
        sampling = [each.sequence for each, chunk in zip(batch, chunks, strict=True) if chunk.needs_logits]
        over = []
        for request, sampled in zip(sampling, self._sample(sampling, logits_NV), strict=True):
            if isinstance(sampled, Exception):
                self._fail(request, sampled)
            elif request.append(sampled):
                over.append(request)
        for request in over:
            self._scheduler.finish(request)

    def _split_or_fail(self, batch: Batch, error: Exception) -> None:
        """Computes the requests of a failed batch one by one, so that only the one that causes the error fails."""
        if len(batch) > 1 and not self._own_layers:
            for each in batch:
                self._compute([each])
        else:
            for each in batch:
                self._fail(each.sequence, error)

    def _sample(self, requests: list[Request], logits_NV: Tensor) -> list[SampledToken | Exception]:
        """The next token of each request, or why there is none; plain ones are computed together."""
        ready = self._argmax(requests, logits_NV) | _drawn(requests, logits_NV)
        found: list[SampledToken | Exception] = []
        for index, request in enumerate(requests):
            try:
                found.append(ready.get(index) or request.sample(logits_NV[index]))
            except Exception as error:  # raised in the thread that reads this reply
                found.append(error)
        return found

    def _argmax(self, requests: list[Request], logits_NV: Tensor) -> dict[int, SampledToken]:
        """The tokens of the plain greedy requests, by their index."""
        greedy = [index for index, request in enumerate(requests) if request.greedy]
        if not greedy:
            return {}
        rows_NV = logits_NV if len(greedy) == len(requests) else logits_NV[greedy]
        return dict(zip(greedy, self._runner.argmax(rows_NV), strict=True))

    def _fail(self, request: Request, error: Exception) -> None:
        self._scheduler.finish(request, store=False)
        request.reply.end(error)


def _drawn(requests: list[Request], logits_NV: Tensor) -> dict[int, SampledToken]:
    """The tokens of the requests that are drawn at a temperature, by their index. None if a row has NaN: each request
    is then sampled alone, so that only that one fails."""
    drawn = [index for index, request in enumerate(requests) if request.drawn]
    if not drawn:
        return {}
    rows_NV = logits_NV if len(drawn) == len(requests) else logits_NV[drawn]
    chosen = [requests[index] for index in drawn]
    try:
        tokens = draw(rows_NV, [each.temperature for each in chosen], [each.uniform() for each in chosen])
    except ValueError:
        return {}
    return dict(zip(drawn, tokens, strict=True))
