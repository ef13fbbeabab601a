"""Token ids in, token ids out: requests from many threads decoded together. Knows no text, no chat, no tools."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from swift.infer.sample import SamplingParams, sampler

PREFILL = 128
"""Tokens of a prompt are run in blocks of this many, counted from its start. A block run before is the same, bit for
bit, as one run again, so reusing the blocks of the last prompt never changes a reply."""

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, (batch, heads, length, width) each."""


class Step(NamedTuple):
    """One token of a reply. `finish` is set on the last: `stop` (the token is a stop token) or `length`."""

    token: int
    logprob: float
    finish: Literal["stop", "length"] | None = None
    top: tuple[tuple[int, float], ...] = ()


class Busy(RuntimeError):
    """Too many requests wait already."""


class Steps(Iterator[Step], Protocol):
    """A reply on its way. Closing it, or dropping it, cancels the request."""

    def close(self) -> None: ...


class Engine(Protocol):
    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Mapping[str, Any] | None = None) -> Steps:
        """Starts a reply to `tokens`. Safe to call from many threads. Raises ValueError for what cannot be served.

        `inputs` are what the model takes beside this prompt: the pixels of images.
        """
        ...

    def close(self) -> None: ...


class TorchEngine:
    """A transformers model behind a worker thread, which decodes up to `max_batch` requests in one step.

    A request joins the running batch as soon as there is room and leaves it when it ends or is cancelled. Rows are
    padded on the left; the result of a greedy row is its result alone, up to float rounding. `context` None: the
    model's own. The model must keep its past in keys and values alone (no recurrent layers).
    """

    def __init__(self, model: Any, stop_tokens: Sequence[int], max_batch: int = 16, context: int | None = None) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be 1 or more, not {max_batch}")
        config = model.config.get_text_config()
        # Most configurations name no layer types: attention alone.
        kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        if kinds:
            raise ValueError(f"this engine cannot serve layers of type {', '.join(sorted(kinds))}")
        self.context: int | None = context or getattr(config, "max_position_embeddings", None)
        self._vocabulary: int = config.vocab_size
        self.model = model.eval()
        self._forward = _Forward(self.model)
        self._stop_tokens = frozenset(stop_tokens)
        self._max_batch = max_batch
        self._batch = _Batch(self._forward)
        self._last_prompt: tuple[Sequence[int], Layers] = ((), [])
        self._waiting: deque[_Row] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker: threading.Thread | None = None

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Mapping[str, Any] | None = None) -> Steps:
        stop_tokens = frozenset[int]() if params.ignore_eos else self._stop_tokens
        row = _Row(tokens, params, self._room(tokens, params), stop_tokens, inputs)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(row)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="swift-engine", daemon=True)
                self._worker.start()
            self._changed.notify()
        return _Steps(row)

    def add_adapter(self, name: str, folder: str) -> None:
        raise ValueError(f"adapter '{name}': this engine serves one model")

    def remove_adapter(self, name: str) -> None:
        raise ValueError(f"adapter '{name}': this engine serves one model")

    def close(self) -> None:
        """Ends the worker; requests under way end with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._worker is not None:
            self._worker.join()

    def _room(self, tokens: Sequence[int], params: SamplingParams) -> int | None:
        """How many tokens the reply may have (None: no end), after checking that the request can be served."""
        if not tokens:
            raise ValueError("the prompt is empty")
        for what, ids in (("the prompt", tokens), ("logit_bias", params.logit_bias)):
            beyond = [token for token in ids if not 0 <= token < self._vocabulary]
            if beyond:
                raise ValueError(f"{what} holds token {beyond[0]}, but the model knows {self._vocabulary} tokens")
        if self.context is None:
            return params.max_tokens
        left = self.context - len(tokens)
        asked = 1 if params.max_tokens is None or params.clip else params.max_tokens
        if asked > left:
            raise ValueError(
                f"the prompt has {len(tokens)} tokens and the reply may have {asked}: "
                f"that is more than the model's context of {self.context}"
            )
        return left if params.max_tokens is None else min(params.max_tokens, left)

    def _work(self) -> None:
        with torch.inference_mode():
            while self._wait():
                self._admit()
                self._advance()
        for row in [*self._waiting, *self._batch.rows]:
            row.end(RuntimeError("the engine was closed"))

    def _wait(self) -> bool:
        """Sleeps until there is work; False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._batch.rows)
            return not self._closed

    def _admit(self) -> None:
        while len(self._batch.rows) < self._max_batch and self._waiting:
            row = self._waiting.popleft()
            if row.cancelled:
                row.end()
                continue
            # Whatever goes wrong belongs to the thread that waits for this row, not to the worker.
            try:
                logits_V, layers = self._see(row) if row.inputs else self._prefill(row.prompt)
                if not row.take(logits_V):
                    self._batch.join(row, layers)
            except Exception as error:
                row.end(error)

    def _advance(self) -> None:
        self._leave([row for row in self._batch.rows if row.cancelled])
        if not self._batch.rows:
            return
        try:
            logits_BV = self._batch.step()
        except Exception as error:  # every row of the batch lost its step
            self._leave(self._batch.rows, error)
            return
        done = []
        for row, logits_V in zip(self._batch.rows, logits_BV, strict=True):
            try:
                if row.take(logits_V):
                    done.append(row)
            except Exception as error:
                row.end(error)
                done.append(row)
        self._leave(done)

    def _leave(self, rows: list[_Row], error: Exception | None = None) -> None:
        if rows:
            self._batch.keep([row not in rows for row in self._batch.rows])
        for row in rows:
            row.end(error)

    def _see(self, row: _Row) -> tuple[Tensor, Layers]:
        """As `_prefill`, with the row's inputs and in one piece: what the tokens stand for is not in them."""
        assert row.inputs, row
        cache = _cache([])
        logits_BV, row.shift = self._forward.see(torch.tensor([row.prompt]), cache, row.inputs)
        row.inputs = None
        return logits_BV[0], _layers(cache)

    def _prefill(self, prompt: Sequence[int]) -> tuple[Tensor, Layers]:
        """The logits after `prompt`, and its keys and values."""
        last, layers = self._last_prompt
        shared = min(_common(prompt, last), len(prompt) - 1) // PREFILL * PREFILL
        cache = _cache([(keys[..., :shared, :], values[..., :shared, :]) for keys, values in layers] if shared else [])
        for start in range(shared, len(prompt), PREFILL):
            logits_BV = self._forward(torch.tensor([prompt[start : start + PREFILL]]), cache)
        self._last_prompt = (prompt, _layers(cache))
        return logits_BV[0], self._last_prompt[1]


class _Forward:
    """The model as a function: (tokens, cache) -> logits of the last position; the cache grows."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # Nearly every model can skip the logits of the positions before the last; wrappers hide the argument.
        keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._options: dict[str, Any] = {"use_cache": True, **({"logits_to_keep": 1} if keep else {})}
        # Some models that see remember how far images moved the positions of the last prompt; they are always told.
        self._tells = model.config.get_text_config() is not model.config

    def __call__(
        self, tokens_BT: Tensor, cache: DynamicCache, mask_BT: Tensor | None = None, shift_B1: Tensor | int = 0
    ) -> Tensor:
        """`mask_BT` None: nothing is padded. `shift_B1`: how much further positions are than the tokens before."""
        options = dict(self._options)
        if mask_BT is not None:
            options["attention_mask"] = mask_BT.to(self._model.device)
            options["position_ids"] = (mask_BT.sum(-1, keepdim=True) - 1 + shift_B1).to(self._model.device)
        elif self._tells:
            past = cache.get_seq_length()
            positions_BT = torch.arange(past, past + tokens_BT.shape[1]).expand_as(tokens_BT) + shift_B1
            options["position_ids"] = positions_BT.to(self._model.device)
        output = self._model(input_ids=tokens_BT.to(self._model.device), past_key_values=cache, **options)
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV

    def see(self, tokens_BT: Tensor, cache: DynamicCache, inputs: Mapping[str, Any]) -> tuple[Tensor, int]:
        """The same for a whole prompt with images; and the shift of what follows (Qwen2-VL, arXiv 2409.12191)."""
        given = {name: tensor.to(self._model.device) for name, tensor in inputs.items()}
        output = self._model(
            input_ids=tokens_BT.to(self._model.device), past_key_values=cache, **self._options, **given
        )
        moved = output.get("rope_deltas")
        return output.logits[:, -1], 0 if moved is None else int(moved)


class _Row:
    """One request: its prompt, the reply so far, and the queue that its caller reads."""

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        room: int | None,
        stop_tokens: frozenset[int],
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        self.prompt = list(prompt)
        self.inputs = inputs
        self.shift = 0
        self.reply: list[int] = []
        self.queue: SimpleQueue[Step | Exception | None] = SimpleQueue()
        self.cancelled = False
        self._sample = sampler(params, self.prompt)
        self._room = room
        self._stop_tokens = stop_tokens

    def take(self, logits_V: Tensor) -> bool:
        """Draws the next token; True when it is the last."""
        token, logprob, top = self._sample(logits_V, self.reply)
        self.reply.append(token)
        finish: Literal["stop", "length"] | None = None
        if token in self._stop_tokens:
            finish = "stop"
        elif len(self.reply) == self._room:
            finish = "length"
        self.queue.put(Step(token, logprob, finish, top))
        return finish is not None

    def end(self, error: Exception | None = None) -> None:
        self.queue.put(error)


class _Steps:
    def __init__(self, row: _Row) -> None:
        self._row = row
        self._over = False

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Step:
        if self._over:
            raise StopIteration
        step = self._row.queue.get()
        self._over = not isinstance(step, Step) or step.finish is not None
        if isinstance(step, Step):
            return step
        raise StopIteration if step is None else step

    def close(self) -> None:
        self._over = self._row.cancelled = True

    def __del__(self) -> None:
        self._row.cancelled = True


class _Batch:
    """The rows that are decoded together, with their keys and values, padded on the left."""

    def __init__(self, forward: _Forward) -> None:
        self.rows: list[_Row] = []
        self._forward = forward
        self._cache = DynamicCache()
        self._mask_BT = torch.zeros(0, 0, dtype=torch.long)

    def join(self, row: _Row, layers: Layers) -> None:
        mask_BT = torch.ones(1, layers[0][0].shape[-2], dtype=torch.long)
        if self.rows:
            length = max(mask_BT.shape[1], self._mask_BT.shape[1])
            mask_BT = torch.cat([_pad(self._mask_BT[..., None], length), _pad(mask_BT[..., None], length)])[..., 0]
            layers = [
                (
                    torch.cat([_pad(keys, length), _pad(key, length)]),
                    torch.cat([_pad(values, length), _pad(value, length)]),
                )
                for (keys, values), (key, value) in zip(_layers(self._cache), layers, strict=True)
            ]
        self.rows, self._mask_BT, self._cache = [*self.rows, row], mask_BT, _cache(layers)

    def keep(self, kept: list[bool]) -> None:
        """Drops the other rows, and the columns that were there for them alone."""
        self.rows = [row for row, stays in zip(self.rows, kept, strict=True) if stays]
        if not self.rows:
            self._cache = DynamicCache()
            return
        rows = torch.tensor(kept)
        mask_BT = self._mask_BT[rows]
        start = int(mask_BT.any(0).int().argmax())
        self._mask_BT = mask_BT[:, start:]
        self._cache = _cache(
            [
                (keys[rows.to(keys.device), ..., start:, :], values[rows.to(keys.device), ..., start:, :])
                for keys, values in _layers(self._cache)
            ]
        )

    def step(self) -> Tensor:
        """Feeds each row's last token; the logits of the next."""
        tokens_BT = torch.tensor([row.reply[-1:] for row in self.rows])
        self._mask_BT = torch.cat([self._mask_BT, torch.ones(len(self.rows), 1, dtype=torch.long)], dim=1)
        padded = not bool(self._mask_BT.all())
        shift_B1 = torch.tensor([[row.shift] for row in self.rows])
        return self._forward(tokens_BT, self._cache, self._mask_BT if padded else None, shift_B1)


def _pad(tensor: Tensor, length: int) -> Tensor:
    """Zeros on the left of the last dimension but one, up to `length`."""
    return torch.nn.functional.pad(tensor, (0, 0, length - tensor.shape[-2], 0))


def _cache(layers: Layers) -> DynamicCache:
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def _layers(cache: DynamicCache) -> Layers:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    length = min(len(first), len(second))
    return next((index for index in range(length) if first[index] != second[index]), length)
