"""Token ids in, token ids out: requests from many threads decoded together. Knows no text, no chat, no tools."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import torch
from torch import Tensor

from swift.engine import decoder, openmp
from swift.engine.cpu import kernels, native_runner, products
from swift.engine.cpu.native_runner import NativeRunner
from swift.engine.cpu.torch_runner import TorchRunner
from swift.engine.interface import Busy, TokenOutput, TokenStream
from swift.engine.lora import Lora, read_lora
from swift.engine.prefix_cache import BLOCK_SIZE, PrefixCache
from swift.engine.runner import Chunk, Runner, SequenceState
from swift.engine.sampling import SampledToken, SamplingParams, is_plain_greedy, max_new_tokens, sampler
from swift.engine.transformers_runner import TransformersRunner
from swift.native import processor

PREFILL = 512
"""Most tokens of prompts in one step, while nobody is being answered."""
BESIDE = 128
"""Most tokens of prompts in one step beside replies: a reply's next token waits for no more than these."""
BESIDE_QUICK = 256
"""The same where the CPU reads so many sooner than others read `BESIDE`."""
MEMORY_SHARE = 0.25
"""Of the machine's memory, what keys and values may take: half of it for running requests, half for prefixes."""


class TorchEngine:
    """A transformers model behind a worker thread, which answers up to `max_batch` requests in one step.

    A request joins as soon as there is room and leaves when it ends or is cancelled; long prompts go in pieces between
    the tokens of other replies. The result of a greedy request is its result alone, up to float rounding.
    `context` None: the model's own. `max_queue`: more requests than that do not wait but get Busy; None lets all wait.
    `memory`: bytes for keys and values; None takes a quarter of the machine's. `unsplit`: a prompt's first so many
    tokens and one more are never taken apart. `bits` 8 or 4 rounds the weights, on a CPU. `keep_weights` False: `model`
    may lose its weights to the layout computed with here. `fast` False: transformers' own layers, whatever the model.
    `fast_path_missing` says what this machine lacks for quicker steps.
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
        self._vocabulary: int = config.vocab_size
        self.model = model.eval()
        self._memory = (memory or _memory(model.device)) // 2
        self._runner, self.fast_path_missing = _runner(model, bits, keep_weights, fast, self._memory)
        quick = products.has_tiles(model.device, model.dtype) and (bits != 4 or isinstance(self._runner, NativeRunner))
        self._beside = BESIDE_QUICK if quick else BESIDE
        self._prefixes = PrefixCache(self._memory)
        self._stop_tokens = frozenset(stop_tokens)
        self._max_batch, self._max_queue, self._unsplit = max_batch, max_queue, unsplit
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []
        self._adapters: dict[str, _Adapter] = {}
        self._gone: list[_Adapter] = []
        self._count = 0
        self._errands: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker: threading.Thread | None = None
        openmp.release()  # the worker has a team of its own

    def submit(
        self, tokens: Sequence[int], params: SamplingParams, inputs: Mapping[str, Any] | None = None
    ) -> TokenStream:
        inputs = inputs or None
        if inputs and not isinstance(self._runner, TransformersRunner):
            raise ValueError(f"{type(self.model).__name__} takes tokens alone, not {', '.join(inputs)}")
        stop_tokens = frozenset[int]() if params.ignore_eos else self._stop_tokens
        length = self._room(tokens, params)
        with self._changed:
            self._check_open()
            row = _Row(tokens, params, length, stop_tokens, self._adapter(params.adapter), inputs)
            if self._max_queue is not None and len(self._waiting) >= self._max_queue:
                raise Busy(f"{len(self._waiting)} requests are waiting: try again later")
            self._waiting.append(row)
            self._wake()
        return _Steps(row)

    def add_adapter(self, name: str, folder: Lora | Path | str) -> None:
        """Lets requests name an adapter: a folder as PEFT saves it, or one read. Requests under way are not disturbed.

        Raises ValueError for an adapter of another model or of a kind that cannot run beside others.
        """
        lora = folder if isinstance(folder, Lora) else read_lora(folder)
        where = name if isinstance(folder, Lora) else str(folder)

        def add() -> None:
            if not name or name in self._adapters:
                raise ValueError(f"there is an adapter named {name!r}" if name else "an adapter needs a name")
            if reason := self._runner.why_not(lora):
                raise ValueError(f"{where}: {reason}")
            self._count += 1
            added = _Adapter(f"{name}_{self._count}".replace(".", "_"))
            self._runner.add_lora(added.key, lora)
            self._adapters = {**self._adapters, name: added}

        self._run(add)

    def remove_adapter(self, name: str) -> None:
        """Requests under way with the adapter are answered to their end; new ones are refused."""

        def remove() -> None:
            gone = self._adapter(name)
            self._adapters = {other: adapter for other, adapter in self._adapters.items() if other != name}
            self._gone.append(gone)

        if not name:
            raise ValueError("the base model cannot be removed")
        self._run(remove)

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(self._adapters)

    def close(self) -> None:
        """Ends the worker; requests under way end with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._worker is not None:
            self._worker.join()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")

    def _wake(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="swift-engine", daemon=True)
            self._worker.start()
        self._changed.notify()

    def _run(self, errand: Callable[[], None]) -> None:
        """Has the worker do something between two steps, and waits for it."""
        done: SimpleQueue[Exception | None] = SimpleQueue()

        def report() -> None:
            try:
                errand()
            except Exception as error:  # belongs to the thread that waits
                done.put(error)
            else:
                done.put(None)

        with self._changed:
            self._check_open()
            self._errands.append(report)
            self._wake()
        if error := done.get():
            raise error

    def _adapter(self, name: str) -> _Adapter:
        if not name:
            return BASE
        if name not in self._adapters:
            near = get_close_matches(name, self._adapters, 1)
            hint = f": did you mean {near[0]}?" if near else f" ({', '.join(self._adapters) or 'there is none'})"
            raise ValueError(f"no adapter is named {name!r}{hint}")
        return self._adapters[name]

    def _room(self, tokens: Sequence[int], params: SamplingParams) -> int | None:
        """How many tokens the reply may have (None: no end), after checking that the request can be served."""
        held = self._held()
        context = min(self.context or held, held)
        whose = "the model's context" if context == self.context else "what its memory holds, a context"
        found = max_new_tokens(tokens, params, context, self._vocabulary, whose)
        return None if params.max_tokens is None and self.context is None else found

    def _held(self) -> int:
        """How many positions fit in memory, over all requests."""
        return self._memory // max(self._runner.position_bytes, 1)

    # the worker

    def _work(self) -> None:
        with torch.inference_mode():
            while self._wait():
                self._leave([row for row in self._rows if row.cancelled])
                self._admit()
                for group in self._groups():
                    self._advance(group)
                self._retire()
        with self._changed:
            over = [*self._rows, *self._waiting]
            self._rows = []
            self._waiting.clear()
        for row in over:
            row.end(RuntimeError("the engine was closed"))

    def _wait(self) -> bool:
        """Sleeps until there is work, after the errands; False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._rows or self._errands)
            while self._errands:
                self._errands.popleft()()
            return not self._closed

    def _admit(self) -> None:
        while self._waiting and len(self._rows) < self._max_batch:
            row = self._waiting[0]
            if not row.cancelled and self._rows and not self._fits([*self._rows, row]):
                return
            self._waiting.popleft()
            if row.cancelled:
                row.end()
            else:
                self._rows.append(row)

    def _fits(self, rows: Sequence[_Row]) -> bool:
        """Whether memory holds the rows for another step, each as wide as the longest."""
        return len(rows) * max(len(row.tokens) for row in rows) <= self._held()

    def _groups(self) -> list[list[tuple[_Row, Chunk]]]:
        """What goes through the model in this step: every reply's last token, and pieces of prompts up to a limit."""
        while len(self._rows) > 1 and not self._fits(self._rows):
            self._put_back(self._rows[-1])
        for row in self._rows[:]:
            if row.state is CLOSED and not self._awaits(row):
                self._open(row)
        ready = [row for row in self._rows if row.state is not CLOSED]
        replies = [(row, row.chunk(1)) for row in ready if row.left == 1]
        prompts = [row for row in ready if row.left > 1]
        shares = _shares(prompts, self._beside if replies else PREFILL)
        pieces = [(row, row.chunk(self._piece(row, share))) for row, share in shares.items()]
        if not isinstance(self._runner, TransformersRunner):
            return [[*replies, *pieces]] if replies or pieces else []
        return [*([replies] if replies else []), *([piece] for piece in pieces)]

    def _piece(self, row: _Row, share: int) -> int:
        """How much of a prompt is fed: what may not be taken apart goes whole."""
        if row.inputs is not None:
            return row.left
        return share if row.state.length else min(max(share, self._unsplit + 1), row.left)

    def _awaits(self, row: _Row) -> bool:
        """Whether an earlier prompt is about to compute what this one begins with."""
        if not self._reusable(row):
            return False
        for other in self._rows[: self._rows.index(row)]:
            end = (other.state.length // BLOCK_SIZE + 1) * BLOCK_SIZE
            alike = other.adapter is row.adapter and other.inputs is None and other.left > 1
            if alike and len(row.tokens) > end and other.tokens[:end] == row.tokens[:end]:
                return True
        return False

    def _open(self, row: _Row) -> None:
        """Gives a row its state, with what is known of its prompt."""
        kept = self._prefixes.match(row.adapter, row.tokens[:-1]) if self._reusable(row) else []
        length = len(kept) * BLOCK_SIZE
        # Whatever goes wrong belongs to the thread that waits for this row, not to the worker.
        try:
            row.state = self._runner.open(kept, length) if length > self._unsplit else self._runner.open()
        except Exception as error:
            self._leave([row], error)

    def _advance(self, group: Sequence[tuple[_Row, Chunk]]) -> None:
        try:
            logits_NV = self._runner.step([chunk for _, chunk in group])
        except Exception as error:
            if len(group) > 1 and not isinstance(self._runner, TransformersRunner):  # find out whose it was
                for each in group:
                    self._advance([each])
            else:
                self._leave([row for row, _ in group], error)
            return
        done, fed = [], [row for row, chunk in group if chunk.needs_logits]
        for row, chunk in group:
            if len(chunk.tokens) > 1:
                self._keep(row)
        for row, choice in zip(fed, self._choices(fed, logits_NV), strict=True):
            if isinstance(choice, Exception):
                self._leave([row], choice)
            elif row.take(choice):
                done.append(row)
        self._leave(done)

    def _choices(self, rows: Sequence[_Row], logits_NV: Tensor) -> list[SampledToken | Exception]:
        """The next token of each row; those that just take the likeliest go through together."""
        chosen: list[SampledToken | Exception | None] = [None] * len(rows)
        plain = [index for index, row in enumerate(rows) if row.greedy]
        if plain:
            some_NV = logits_NV if len(plain) == len(rows) else logits_NV[plain]
            for index, best in zip(plain, self._runner.argmax(some_NV), strict=True):
                chosen[index] = best
        found: list[SampledToken | Exception] = []
        for row, choice, logits_V in zip(rows, chosen, logits_NV, strict=True):
            try:
                found.append(choice or row.choose(logits_V))
            except Exception as error:  # belongs to the thread that waits for this row
                found.append(error)
        return found

    def _leave(self, rows: Sequence[_Row], error: Exception | None = None) -> None:
        for row in rows:
            self._rows.remove(row)
            if row.state is not CLOSED:
                if error is None:
                    self._keep(row)
                self._runner.close(row.state)
                row.state = CLOSED
            row.end(error)

    def _put_back(self, row: _Row) -> None:
        """Makes a row wait again, for want of memory; what it had said is part of its prompt then."""
        self._rows.remove(row)
        if row.state is not CLOSED:
            self._keep(row)
            self._runner.close(row.state)
            row.state = CLOSED
        with self._changed:
            self._waiting.appendleft(row)

    def _keep(self, row: _Row) -> None:
        if self._reusable(row):
            state = row.state
            self._prefixes.insert(
                row.adapter, row.tokens[: state.length], lambda start, end: self._runner.read(state, start, end)
            )

    def _reusable(self, row: _Row) -> bool:
        """Whether what is computed of its tokens serves others that begin with the same."""
        return row.inputs is None and self._runner.shares_prefixes

    def _retire(self) -> None:
        """Drops removed adapters that nobody is waiting for any more."""
        for adapter in self._gone[:]:
            if not any(row.adapter is adapter for row in [*self._rows, *self._waiting]):
                self._runner.remove_lora(adapter.key)
                self._prefixes.clear(adapter)
                self._gone.remove(adapter)


class _Adapter:
    """What requests point at while they need it; `key` is what the runner calls it."""

    def __init__(self, key: str) -> None:
        self.key = key


BASE = _Adapter("")
CLOSED = SequenceState()
"""The state of a row that has none yet."""


class _Row:
    """One request: its prompt, the reply so far, and the queue that its caller reads."""

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        room: int | None,
        stop_tokens: frozenset[int],
        adapter: _Adapter,
        inputs: Mapping[str, Any] | None,
    ) -> None:
        self.tokens = list(prompt)
        self.reply: list[int] = []
        self.queue: SimpleQueue[TokenOutput | Exception | None] = SimpleQueue()
        self.cancelled = False
        self.adapter, self.inputs = adapter, inputs
        self.state = CLOSED
        self.greedy = is_plain_greedy(params)
        self._sample = sampler(params, tuple(prompt))
        self._least = params.min_tokens
        self._room = room
        self._stop_tokens = stop_tokens

    @property
    def left(self) -> int:
        """Tokens that the model has not seen."""
        return len(self.tokens) - self.state.length

    def chunk(self, count: int) -> Chunk:
        start = self.state.length
        piece = self.tokens[start : start + count]
        return Chunk(self.state, piece, count == self.left, self.adapter.key, self.inputs if not start else None)

    def choose(self, logits_V: Tensor) -> SampledToken:
        if len(self.reply) >= self._least or not self._stop_tokens:
            return self._sample(logits_V, self.reply)
        logits_V = logits_V.float()
        stops = torch.tensor(sorted(self._stop_tokens), device=logits_V.device)
        choice = self._sample(logits_V.index_fill(0, stops, -torch.inf), self.reply)
        return choice._replace(logprob=float(logits_V[choice.token] - logits_V.logsumexp(-1)))

    def take(self, choice: SampledToken) -> bool:
        """Hands the next token to the caller; True when it is the last."""
        self.reply.append(choice.token)
        self.tokens.append(choice.token)
        finish: Literal["stop", "length"] | None = None
        if choice.token in self._stop_tokens:
            finish = "stop"
        elif len(self.reply) == self._room:
            finish = "length"
        self.queue.put(TokenOutput(choice.token, choice.logprob, finish, choice.top))
        return finish is not None

    def end(self, error: Exception | None = None) -> None:
        self.queue.put(error)


class _Steps:
    def __init__(self, row: _Row) -> None:
        self._row = row
        self._over = False

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> TokenOutput:
        if self._over:
            raise StopIteration
        step = self._row.queue.get()
        self._over = not isinstance(step, TokenOutput) or step.finish is not None
        if isinstance(step, TokenOutput):
            return step
        raise StopIteration if step is None else step

    def close(self) -> None:
        self._over = self._row.cancelled = True

    def __del__(self) -> None:
        self._row.cancelled = True


def _shares(prompts: Sequence[_Row], limit: int) -> dict[_Row, int]:
    """How many tokens of each prompt are fed.

    Half of the limit is for the one that came first, so that it is read however many others come; what is left goes
    to the shortest, so that a short one does not wait behind a long one.
    """
    shares: dict[_Row, int] = {}
    for row in [*prompts[:1], *sorted(prompts, key=lambda row: row.left)]:
        free = limit - sum(shares.values()) if shares else limit - limit // 2
        shares[row] = shares.get(row, 0) + min(row.left - shares.get(row, 0), free)
    return {row: share for row, share in shares.items() if share}


def _runner(model: Any, bits: int, keep_weights: bool, fast: bool, memory: int) -> tuple[Runner, str]:
    """What computes the model, and why not what is several times quicker, where this machine is the reason."""
    reason = decoder.why_not(model) if fast else "its own layers were asked for"
    if bits and (reason := reason or products.why_not(bits, model.device)):
        raise ValueError(f"the model cannot be served with weights of {bits} bits: {reason}")
    if reason:
        return TransformersRunner(model), ""
    if native_runner.why_not(model):
        return TorchRunner(model, bits, keep_weights, memory), ""
    if missing := native_runner.missing():
        return TorchRunner(model, bits, keep_weights, memory), missing
    quickest = kernels.selection(model.config, bits).kernels
    if quickest == processor.TORCH:
        return TorchRunner(model, bits, keep_weights, memory), ""
    return NativeRunner(model, bits, keep_weights, memory, quickest), ""


def _memory(device: torch.device) -> int:
    """Bytes that keys and values may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * (1 - MEMORY_SHARE))
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}  # Windows has none
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else 8 << 30
    return int(whole * MEMORY_SHARE)
