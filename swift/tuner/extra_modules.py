"""Trained modules that PEFT does not have: bottlenecks, edits of hidden states, a side network; and their files.

They form one submodule of the frozen model, `added`, attached by hooks. Each works token by token, so the KV cache
stays valid. None can be merged: they are not linear in a layer's input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from swift.tuner.decoder_parts import blocks, branches, final_norm
from swift.tuner.peft_models import CONFIG, WEIGHTS


class Bottleneck(nn.Module):
    """x + up(act(down(x))), initialised to x (arXiv 1902.00751)."""

    def __init__(self, hidden_size: int, length: int, act: str) -> None:
        super().__init__()
        self.down, self.act, self.up = nn.Linear(hidden_size, length), _activation(act), nn.Linear(length, hidden_size)
        _zero(self.up)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)

    def change(self, x: Tensor) -> Tensor:
        """up(act(down(x))): what is added to x."""
        y: Tensor = self.up(self.act(self.down(x.to(self.up.weight.dtype))))
        return y.to(x.dtype)


class Intervention(nn.Module):
    """h + R'(Wh + b - Rh) with orthonormal rows in R, initialised to h: LoReFT (arXiv 2404.03592)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        if not 1 <= rank <= width:
            raise ValueError(f"--reft_rank {rank}: must be from 1 to {width}, the hidden size of the model")
        self.basis = nn.Parameter(torch.randn(width, rank))
        self.source = nn.Linear(width, rank)
        self.source.weight.data.copy_(self._subspace().T)
        self.source.bias.data.zero_()

    def _subspace(self) -> Tensor:
        """R' by QR decomposition: torch's `orthogonal` returns zeros for a wide matrix that has been trained."""
        basis: Tensor = torch.linalg.qr(self.basis).Q
        return basis

    def forward(self, h: Tensor) -> Tensor:
        subspace = self._subspace()
        x = h.to(subspace.dtype)
        edit: Tensor = (self.source(x) - x @ subspace) @ subspace.T
        return h + edit.to(h.dtype)


class Adapters(nn.ModuleList):
    """A bottleneck after attention and one after the MLP of every block."""

    def __init__(self, model: PreTrainedModel, act: str, length: int) -> None:
        parts = [part for block in blocks(model) for part in branches(block)]
        width = model.get_input_embeddings().embedding_dim
        super().__init__(Bottleneck(width, length, act) for _ in parts)
        for part, bottleneck in zip(parts, self, strict=True):
            part.register_forward_hook(_after(bottleneck))


class SkipTuners(nn.ModuleList):
    """A bottleneck on the skip connection around every block: block(x) + up(act(down(x))) (SC-Tuner, arXiv 2312.11392).

    The paper's skip connections are a U-Net's; these are the residual stream's.
    """

    def __init__(self, model: PreTrainedModel, act: str, length: int) -> None:
        width = model.get_input_embeddings().embedding_dim
        bottlenecks = [Bottleneck(width, length, act) for _ in blocks(model)]
        super().__init__(bottlenecks)
        for block, bottleneck in zip(blocks(model), bottlenecks, strict=True):
            block.register_forward_hook(_around(bottleneck))


class Interventions(nn.ModuleList):
    """An edit of every block's output, at every position."""

    def __init__(self, model: PreTrainedModel, rank: int) -> None:
        width = model.get_input_embeddings().embedding_dim
        super().__init__(Intervention(width, rank) for _ in blocks(model))
        for block, edit in zip(blocks(model), self, strict=True):
            block.register_forward_hook(_after(edit))


class Bypass(nn.Module):
    """A narrow side network that reads hidden states and adds to the input of the final norm.

    It reads every block's output (the bypass form of Res-Tuning, arXiv 2310.19859) or, without `ladder`, the
    embeddings only (side tuning, arXiv 1912.13503). Training needs no gradients inside the model itself.
    """

    def __init__(self, model: PreTrainedModel, width: int, act: str, ladder: bool) -> None:
        super().__init__()
        outer = model.get_input_embeddings().embedding_dim
        sources = [model.get_input_embeddings(), *(blocks(model) if ladder else ())]
        self.into = nn.ModuleList(nn.Linear(outer, width) for _ in sources)
        self.steps = nn.ModuleList(Bottleneck(width, width, act) for _ in sources)
        self.back = nn.Linear(width, outer)
        _zero(self.back)
        self._state: Tensor | None = None
        for index, source in enumerate(sources):
            source.register_forward_hook(self._reader(index))
        final_norm(model).register_forward_pre_hook(self._writer())

    def _reader(self, index: int) -> Any:
        def read(_: nn.Module, __: Any, output: Any) -> None:
            hidden = (output[0] if isinstance(output, tuple) else output).to(self.back.weight.dtype)
            seen = self.into[index](hidden)
            before = torch.zeros_like(seen) if index == 0 or self._state is None else self._state
            self._state = self.steps[index](before + seen)

        return read

    def _writer(self) -> Any:
        def write(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            assert self._state is not None, "the embeddings were never computed"
            added, self._state = self.back(self._state), None
            return (inputs[0] + added.to(inputs[0].dtype), *inputs[1:])

        return write


KINDS: Mapping[str, Any] = {"ADAPTER": Adapters, "SKIP": SkipTuners, "REFT": Interventions, "BYPASS": Bypass}


def add(model: PreTrainedModel, kind: str, options: Mapping[str, Any]) -> PreTrainedModel:
    """The model with new modules of a kind in `KINDS`, in fp32, which alone are trainable."""
    added = KINDS[kind](model, **options)
    model.requires_grad_(False)
    added.float().to(model.device).requires_grad_(True)
    added.options = {"peft_type": kind, **options}
    model.add_module("added", added)
    return model


def is_added(model: nn.Module) -> bool:
    """Whether the model has modules of this file."""
    return "added" in dict(model.named_children())


def save(model: PreTrainedModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    added = model.get_submodule("added")
    config = {**added.options, "base_model_name_or_path": model.name_or_path}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in added.state_dict().items()}, folder / WEIGHTS)


def load(model: PreTrainedModel, folder: Path, trainable: bool) -> PreTrainedModel:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    del config["base_model_name_or_path"]
    add(model, config.pop("peft_type"), config)
    restore(model, folder)
    model.get_submodule("added").requires_grad_(trainable)
    return model


def restore(model: PreTrainedModel, folder: Path) -> None:
    """Loads the weights of `folder` into the attached modules. Raises ValueError if they do not fit."""
    try:
        model.get_submodule("added").load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{folder}: the adapter does not fit this model: {' '.join(reason[:2])}") from error


def _after(module: nn.Module) -> Any:
    """A hook that applies `module` to a module's output, or to the first of its outputs."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        return (module(output[0]), *output[1:]) if isinstance(output, tuple) else module(output)

    return hook


def _around(bottleneck: Bottleneck) -> Any:
    """A hook that adds the bottleneck's change of a block's input to the block's output."""

    def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        change = bottleneck.change(inputs[0])
        return (output[0] + change, *output[1:]) if isinstance(output, tuple) else output + change

    return hook


def _activation(name: str) -> nn.Module:
    if name not in ACT2FN:
        raise ValueError(f"--adapter_act {name} is unknown: choose from {', '.join(sorted(ACT2FN))}")
    act: nn.Module = ACT2FN[name]
    return act


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
