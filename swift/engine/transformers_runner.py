"""A runner for any causal model of transformers, with its own layers and cache. Knows no queue and no sampling."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from swift.engine.lora import Lora
from swift.engine.runner import Chunk, KVBlock, SequenceState
from swift.engine.sampling import argmax

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, both (batch, heads, positions, width)."""
ATTENTION = {"full_attention", "sliding_attention"}
STATES = {"linear_attention", "conv", "hybrid", "moe", "mlp"}
"""Layers for which transformers' cache keeps a recurrent state, or nothing."""


class _State(SequenceState):
    """During prefill it has a `cache` of its own; with the first decoded token it becomes a row of the batch.

    `shift`: what a vision-language model adds to the count of tokens to get a position.
    """

    def __init__(self, cache: DynamicCache, length: int) -> None:
        self.cache: DynamicCache | None = cache
        self.length = length
        self.shift = 0


class TransformersRunner:
    """A runner (see runner.py) that calls the model's forward. The decoding batch is padded on the left.

    Sequences of a model with recurrent layers are computed one by one and share no prefixes, because a recurrent state
    has absorbed all tokens so far. Raises ValueError for layer types that it does not know.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        # Most configurations have no layer types: all layers are attention.
        kinds = set(getattr(config, "layer_types", None) or ())
        if other := kinds - ATTENTION - STATES:
            raise ValueError(f"this engine cannot serve layers of type {', '.join(sorted(other))}")
        self._recurrent = config if kinds & STATES else None
        self.shares_prefixes = self._recurrent is None
        self._model: Any = model
        names = inspect.signature(model.forward).parameters
        # Nearly every model can compute the last position's logits alone, but wrappers hide the argument.
        self._options: dict[str, Any] = {
            "use_cache": True,
            **({"logits_to_keep": 1} if "logits_to_keep" in names else {}),
        }
        # Vision-language models keep here the shift of the prompt that they computed last.
        self._shifting = next((part for part in model.modules() if hasattr(part, "rope_deltas")), None)
        self._batch: list[_State] = []
        self._cache = DynamicCache()
        self._mask_BT = torch.zeros(0, 0, dtype=torch.long)
        self._adapters: list[str] = []
        self.position_bytes = 0

    argmax = staticmethod(argmax)

    def open(self, blocks: Sequence[KVBlock] = (), length: int = 0) -> SequenceState:
        if not blocks:
            return _State(DynamicCache(config=self._recurrent), 0)
        joined = [
            torch.cat(pieces, dim=-2)[..., :length, :]
            for pieces in zip(*(piece.tensors for piece in blocks), strict=True)
        ]
        return _State(_filled(list(zip(joined[::2], joined[1::2], strict=True))), length)

    def close(self, state: SequenceState) -> None:
        if state in self._batch:
            self._leave(state)

    def read(self, state: SequenceState, start: int, end: int) -> KVBlock:
        assert isinstance(state, _State)
        rows, cache = slice(None), state.cache
        if cache is None:
            row = self._batch.index(state)
            padding = self._mask_BT.shape[1] - state.length
            rows, cache, start, end = slice(row, row + 1), self._cache, start + padding, end + padding
        return KVBlock(end - start, [each[rows, ..., start:end, :].clone() for pair in _layers(cache) for each in pair])

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        logits: dict[int, Tensor] = {}
        decoding = [index for index, chunk in enumerate(chunks) if not self._recurrent and _decodes(chunk)]
        for index, chunk in enumerate(chunks):
            if index in decoding:
                self._join(chunk.state)
            else:
                logits[index] = self._prefill(chunk)
        if decoding:
            assert len(decoding) == len(self._batch), "every row of the batch takes part in a step"
            logits |= self._decode({chunks[index].state: (index, chunks[index]) for index in decoding})
        wanted = [logits[index] for index, chunk in enumerate(chunks) if chunk.needs_logits]
        return torch.stack(wanted) if wanted else torch.empty(0)

    def _prefill(self, chunk: Chunk) -> Tensor:
        state = chunk.state
        assert isinstance(state, _State) and state.cache is not None
        options: dict[str, Any] = {}
        if chunk.inputs is not None:
            options = {name: tensor.to(self._model.device) for name, tensor in chunk.inputs.items()}
        elif self._shifting is not None:
            options["position_ids"] = torch.arange(state.length, state.length + len(chunk.tokens))[None] + state.shift
        logits_BV = self._forward(torch.tensor([list(chunk.tokens)]), state.cache, [chunk.adapter], options)
        state.length += len(chunk.tokens)
        if chunk.inputs is not None and self._shifting is not None and self._shifting.rope_deltas is not None:
            state.shift = int(self._shifting.rope_deltas.reshape(-1)[0])
        if not self.position_bytes:
            self.position_bytes = sum(each.nbytes for pair in _attention(state.cache) for each in pair) // state.length
        return logits_BV[0]

    def _decode(self, chunks: Mapping[SequenceState, tuple[int, Chunk]]) -> dict[int, Tensor]:
        rows = [chunks[state] for state in self._batch]
        self._mask_BT = torch.cat([self._mask_BT, torch.ones(len(rows), 1, dtype=torch.long)], dim=1)
        options: dict[str, Any] = {}
        shifts = torch.tensor([state.shift for state in self._batch])
        padded = not bool(self._mask_BT.all())
        if padded:
            options["attention_mask"] = self._mask_BT
        if padded or self._shifting is not None:
            options["position_ids"] = self._mask_BT.sum(-1, keepdim=True) - 1 + shifts[:, None]
        tokens_BT = torch.tensor([list(chunk.tokens) for _, chunk in rows])
        logits_BV = self._forward(tokens_BT, self._cache, [chunk.adapter for _, chunk in rows], options)
        for state in self._batch:
            state.length += 1
        return {index: row for (index, _), row in zip(rows, logits_BV, strict=True)}

    def _forward(self, tokens_BT: Tensor, cache: DynamicCache, adapters: list[str], options: dict[str, Any]) -> Tensor:
        """The logits of the last position. Extends the cache."""
        device = self._model.device
        options = {name: tensor.to(device) for name, tensor in options.items()} | self._options
        if self._adapters:
            options["adapter_names"] = [name or "__base__" for name in adapters]
        output = self._model(input_ids=tokens_BT.to(device), past_key_values=cache, **options)
        logits_BV: Tensor = output.logits[:, -1]
        return logits_BV

    # the batch

    def _join(self, state: SequenceState) -> None:
        assert isinstance(state, _State)
        if state.cache is None:
            return
        layers, mask_BT = _layers(state.cache), torch.ones(1, state.length, dtype=torch.long)
        if self._batch:
            length = max(mask_BT.shape[1], self._mask_BT.shape[1])
            mask_BT = torch.cat([_pad(self._mask_BT[..., None], length), _pad(mask_BT[..., None], length)])[..., 0]
            layers = [
                (
                    torch.cat([_pad(keys, length), _pad(key, length)]),
                    torch.cat([_pad(values, length), _pad(value, length)]),
                )
                for (keys, values), (key, value) in zip(_layers(self._cache), layers, strict=True)
            ]
        self._batch, self._mask_BT, self._cache = [*self._batch, state], mask_BT, _filled(layers)
        state.cache = None

    def _leave(self, state: SequenceState) -> None:
        """Removes a row, and the columns of padding that no other row needs."""
        kept = [other is not state for other in self._batch]
        self._batch = [other for other in self._batch if other is not state]
        if not self._batch:
            self._cache = DynamicCache()
            return
        rows = torch.tensor(kept)
        mask_BT = self._mask_BT[rows]
        start = int(mask_BT.any(0).int().argmax())
        self._mask_BT = mask_BT[:, start:]
        self._cache = _filled(
            [
                (keys[rows.to(keys.device), ..., start:, :], values[rows.to(keys.device), ..., start:, :])
                for keys, values in _layers(self._cache)
            ]
        )

    # adapters: PEFT itself computes several in one batch

    def why_not(self, adapter: Lora) -> str:
        from peft import PeftModel  # slow to import, and needed for adapters alone

        if isinstance(self._model, PeftModel) and not self._adapters:
            return "the model already has an adapter, which is not merged"
        modules = dict(self._model.named_modules()) if not self._adapters else {}
        for name, (A_RI, B_OR) in adapter.pairs().items():
            module = modules.get(name)
            if modules and not isinstance(module, nn.Linear):
                return f"the adapter is on {name}, which is no linear layer of this model"
            if isinstance(module, nn.Linear) and (module.out_features, module.in_features) != (
                len(B_OR),
                A_RI.shape[1],
            ):
                return f"the adapter is of another model: {name} is {len(B_OR)} x {A_RI.shape[1]}"
        return ""

    def add_lora(self, name: str, adapter: Lora) -> None:
        from peft import PeftModel, set_peft_model_state_dict

        if self._adapters:
            self._model.add_adapter(name, adapter.config)
        else:
            self._model = PeftModel(self._model, adapter.config, adapter_name=name)
        tensors = {f"base_model.model.{key}": tensor for key, tensor in adapter.tensors.items()}
        set_peft_model_state_dict(self._model, tensors, adapter_name=name)
        self._model.eval()
        self._adapters.append(name)

    def remove_lora(self, name: str) -> None:
        self._model.delete_adapter(name)
        self._adapters.remove(name)
        if not self._adapters:
            self._model = self._model.unload()


def _decodes(chunk: Chunk) -> bool:
    """Whether a chunk is a sequence's last token. A single token in the middle of a prompt is prefill."""
    return len(chunk.tokens) == 1 and chunk.needs_logits and bool(chunk.state.length)


def _pad(tensor: Tensor, length: int) -> Tensor:
    """Pads the second to last dimension with zeros on the left, up to `length`."""
    return nn.functional.pad(tensor, (0, 0, length - tensor.shape[-2], 0))


def _filled(layers: Layers) -> DynamicCache:
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    return cache


def _layers(cache: DynamicCache) -> Layers:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _attention(cache: DynamicCache) -> Layers:
    """The layers that have keys and values."""
    return [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, DynamicLayer)]
