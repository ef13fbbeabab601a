"""A block of a decoder as one forward and one backward function in C++ (`block.cpp`). Knows plain LoRA.

Computes in bf16 or fp32 with the best instructions of the processor (`blocks.h`). Weights are stored as panels alone
(`panels.py`), which serve both directions. What one block saves for its gradient is one piece of memory, reused from
batch to batch. `docs/native.md` has the layouts, the formulas and the memory of a step.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections.abc import Sequence
from ctypes import POINTER, c_double, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from swift import native
from swift.tuner.cpu.panels import SIDE, Panels

SOURCE = Path(__file__).with_suffix(".cpp")
PARTS = 3
"""Adapters of layers that share an input, at most; `block.cpp` checks it too."""
MAX_HEAD_DIM = 512
"""Numbers of a head, at most; `block.cpp` checks it too."""
DTYPES = (torch.bfloat16, torch.float32)


# The structures of block_abi.h and lora.h, field by field.


class _LoraPart(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("a", "b", "da", "db")),
        *((name, c_int64) for name in ("rank", "start", "stop")),
        ("scale", c_double),
    ]


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("panels", "bias", "mask")),
        ("mask_scale", c_double),
        *((name, c_int64) for name in ("inputs", "outputs", "planes", "rank", "count")),
        ("parts", _LoraPart * PARTS),
    ]


LINEARS = ("qkv", "o", "gate_up", "down")


class _DecoderBlock(ctypes.Structure):
    _fields_ = [
        *((name, _Linear) for name in LINEARS),
        *((name, c_void_p) for name in ("norm", "norm_after", "norm_q", "norm_k")),
        *((name, c_double) for name in ("eps", "eps_after", "eps_q", "eps_k", "scale", "residual_scale")),
        *((name, c_int64) for name in ("heads", "kv_heads", "head_dim", "window", "rotary_dim")),
        *((name, c_int64) for name in ("tokens", "out_tokens", "rows", "threads", "saved_bytes", "memory_bytes")),
        *((name, c_void_p) for name in ("positions", "lengths", "branches", "x", "cos", "sin", "dy")),
        *((name, c_void_p) for name in ("y", "dx", "saved", "memory")),
    ]


STRUCTURES = (_LoraPart, _Linear, _DecoderBlock)


def library(dtype: torch.dtype, kernels: str = "") -> ctypes.CDLL:
    """The functions of `block.cpp` for a dtype and an instruction set (see native.load).

    Raises native.Unavailable.
    """
    return _library(dtype, kernels or native.default())


@cache
def _library(dtype: torch.dtype, kernels: str) -> ctypes.CDLL:
    functions = native.load(SOURCE, kernels, STRUCTURES, FP32=int(dtype is torch.float32))
    native.declare(
        functions,
        pack_weight=[c_void_p, c_int64, c_int64, c_int, c_void_p],
        unpack_weight=[c_void_p, c_int64, c_int64, c_int, c_void_p],
        block_bytes=[POINTER(_DecoderBlock), c_int, POINTER(c_int64), POINTER(c_int64)],
        forward=[POINTER(_DecoderBlock)],
        backward=[POINTER(_DecoderBlock)],
    )
    return functions


def why_not(dtype: torch.dtype, kernels: str = "") -> str:
    """Why this machine computes blocks of a dtype with torch's functions; empty where C++ does."""
    try:
        library(dtype, kernels)
    except native.Unavailable as error:
        return str(error)
    return ""


def planes(weight: Tensor, kernels: str = "") -> int:
    """Memory of a number of a packed weight, in bf16: one where bf16 holds the weight exactly, whatever its dtype."""
    return (
        1 if torch.equal(weight.bfloat16().to(weight.dtype), weight) else int(library(weight.dtype, kernels).planes())
    )


def why_not_memory(moved: Sequence[Tensor], copied: Sequence[Tensor], kernels: str = "") -> str:
    """Why weights are not packed here; empty if packing takes less than half of the free memory.

    Weights that are `moved` exist as panels alone afterwards, those `copied` in both layouts.
    """
    packed = {id(each): 2 * planes(each, kernels) * each.numel() for each in (*moved, *copied)}
    needed = sum(packed.values()) - sum(min(each.nbytes, packed[id(each)]) for each in moved)
    free = free_memory()
    if needed < free / 2:
        return ""
    return f"packed weights would take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free"


def free_memory() -> int:
    """Bytes that Linux has available."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


class Memory:
    """A pool of memory: pieces of the largest size so far, which return to it when their tensor is freed.

    Untouched pages take no memory, and touched ones serve the next batch without page faults. `take` raises
    MemoryError.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._size = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> Tensor:
        with self._lock:
            if size > self._size:
                self._size = -(-size // 2**21) * 2**21
                self._free.clear()
            size = self._size
            piece = self._free.pop() if self._free else None
        if piece is None:
            try:
                piece = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError as error:
                raise MemoryError(f"{size / 2**30:.2f} GiB cannot be allocated: {error.strerror}") from error
            piece.madvise(mmap.MADV_HUGEPAGE)
        held = (ctypes.c_char * size).from_buffer(piece)
        weakref.finalize(held, self._back, piece)
        return torch.frombuffer(held, dtype=torch.uint8)

    def _back(self, piece: mmap.mmap) -> None:
        if len(piece) == self._size:
            self._free.append(piece)


class BlockMemory(NamedTuple):
    """Pools of all blocks of a model: what forward saves for backward, and what a call needs while it runs."""

    saved: Memory
    workspace: Memory


class Layer(NamedTuple):
    """Linear layers that share an input: their weights, one below the other, and their biases.

    `parts`: of each adapter, its outputs [start, stop) and its scale.
    """

    weights: Sequence[Tensor]
    bias_O: Tensor | None
    parts: Sequence[tuple[int, int, float]]


class Norm(NamedTuple):
    weight_I: Tensor
    eps: float


class Mask(NamedTuple):
    """Dropout: a bit for each number, the first of 32 lowest in an int32, (T, I / 32); the scale of what is kept."""

    bits: Tensor
    scale: float


class Shape(NamedTuple):
    """Heads as in `functions.Heads`; `residual_scale` multiplies what is added to the residual."""

    queries: int
    keys: int
    width: int
    scale: float
    window: int | None
    residual_scale: float


class Block:
    """One block: its packed weights and constants, and the call."""

    def __init__(
        self,
        layers: Sequence[Layer],
        norms: Sequence[Norm],
        head_norms: Sequence[Norm],
        shape: Shape,
        memory: BlockMemory,
        kernels: str = "",
    ) -> None:
        self.memory = memory
        self.kernels = kernels or native.default()
        self.library = library(layers[0].weights[0].dtype, self.kernels)
        self.panels: list[Panels] = []
        """One for each of `layers`."""
        self._held: list[Tensor] = []
        self.parts = [layer.parts for layer in layers]
        self._constants = made = _DecoderBlock()
        for name, layer in zip(LINEARS, layers, strict=True):
            linear = getattr(made, name)
            linear.planes = max(planes(each, kernels) for each in layer.weights)
            panels = Panels(layer.weights, linear.planes, self.library)
            linear.outputs, linear.inputs, linear.panels = panels.outputs, panels.inputs, panels.data.data_ptr()
            self.panels.append(panels)
            if layer.bias_O is not None:
                linear.bias = self._hold(layer.bias_O.detach().float().contiguous())
        names = ("", "_after", "_q", "_k")
        for name, norm in zip(names, [*norms, *head_norms], strict=False):
            setattr(made, f"norm{name}", self._hold(norm.weight_I.detach().float().contiguous()))
            setattr(made, f"eps{name}", norm.eps)
        made.heads, made.kv_heads, made.head_dim = shape.queries, shape.keys, shape.width
        made.scale, made.window, made.residual_scale = shape.scale, shape.window or 0, shape.residual_scale

    def _hold(self, tensor: Tensor) -> int:
        self._held.append(tensor)
        return tensor.data_ptr()

    def __call__(
        self,
        x_TI: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        rows: Tensor,
        branches_T: Tensor | None,
        positions_N: Tensor | None,
        masks: Sequence[Mask | None],
        adapters: Sequence[Sequence[Tensor]],
    ) -> Tensor:
        """The output of the block, (N, I), for packed rows x (T, I); of the tokens at `positions` alone where given.

        `rotary`: cosines and sines, (T, R) each. `rows`: the tokens of each row. `branches`: a token does not see those
        of its row with another number, but for those with 0. `masks`: dropout of the inputs of
        q k v, o, gate up, and down. `adapters`: for each of these A of every part, then B of every part; empty where
        adapters are off. Raises MemoryError and RuntimeError.
        """
        flat = [each for several in adapters for each in several]
        call = _Call(
            self, [len(several) // 2 for several in adapters], rotary, rows, branches_T, positions_N, list(masks)
        )
        y_NI: Tensor = _BlockFunction.apply(x_TI, call, *flat)  # type: ignore[no-untyped-call]
        return y_NI

    def arguments(self, call: _Call, x_TI: Tensor, adapters: Sequence[Tensor]) -> _DecoderBlock:
        """The structure of a call; `adapters` are those of `__call__` in one list, in fp32."""
        made = _DecoderBlock.from_buffer_copy(self._constants)
        made.tokens = len(x_TI)
        made.out_tokens = len(x_TI) if call.positions_N is None else len(call.positions_N)
        made.rows, made.lengths, made.threads = len(call.rows), call.rows.data_ptr(), torch.get_num_threads()
        made.branches = None if call.branches_T is None else call.branches_T.data_ptr()
        made.x, made.positions = x_TI.data_ptr(), None if call.positions_N is None else call.positions_N.data_ptr()
        if call.rotary is not None:
            made.cos, made.sin = (each.data_ptr() for each in call.rotary)
            made.rotary_dim = call.rotary[0].shape[1]
        found = iter(adapters)
        for name, parts, count, mask in zip(LINEARS, self.parts, call.counts, call.masks, strict=True):
            linear = getattr(made, name)
            linear.count = count
            if mask is not None:
                linear.mask, linear.mask_scale = mask.bits.data_ptr(), mask.scale
            lora_a, lora_b = ([next(found) for _ in range(count)] for _ in range(2))
            for part, (start, stop, scale), a_RI, b_OR in zip(linear.parts, parts, lora_a, lora_b, strict=False):
                part.a, part.b, part.rank = a_RI.data_ptr(), b_OR.data_ptr(), len(a_RI)
                part.start, part.stop, part.scale = start, stop, scale
            linear.rank = -(-sum(map(len, lora_a)) // SIDE) * SIDE
        return made

    def bytes(self, made: _DecoderBlock, gradient: bool) -> tuple[int, int]:
        """Bytes that forward saves for backward, and those of the workspace of a call."""
        saved, workspace = c_int64(), c_int64()
        self.library.block_bytes(made, int(gradient), saved, workspace)
        return saved.value, workspace.value


class _Call(NamedTuple):
    """The arguments of a call that have no gradient."""

    block: Block
    counts: list[int]
    rotary: tuple[Tensor, Tensor] | None
    rows: Tensor
    branches_T: Tensor | None
    positions_N: Tensor | None
    masks: list[Mask | None]


class _BlockFunction(Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, call: _Call, *adapters: Tensor) -> Tensor:
        x_TI = x_TI.contiguous()
        plain = [each.detach().float().contiguous() for each in adapters]
        made = call.block.arguments(call, x_TI, plain)
        y_NI = x_TI.new_empty(made.out_tokens, x_TI.shape[1])
        made.saved_bytes, made.memory_bytes = call.block.bytes(made, gradient=False)
        saved = call.block.memory.saved.take(made.saved_bytes)
        workspace = call.block.memory.workspace.take(made.memory_bytes)
        made.y, made.saved, made.memory = y_NI.data_ptr(), saved.data_ptr(), workspace.data_ptr()
        call.block.library.forward(made)
        # gradient checkpointing recomputes what is saved here, which is all that grows with the tokens
        ctx.save_for_backward(x_TI, saved, *plain)
        ctx.call, ctx.dtypes = call, [each.dtype for each in adapters]
        return y_NI

    @staticmethod
    def backward(ctx: Any, dy_NI: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, saved, *plain = ctx.saved_tensors
        call: _Call = ctx.call
        made = call.block.arguments(call, x_TI, plain)
        dy_NI, dx_TI = dy_NI.contiguous(), torch.empty_like(x_TI)
        flat = torch.empty(sum(each.numel() for each in plain))
        gradients = [
            part.view_as(each) for part, each in zip(flat.split([p.numel() for p in plain]), plain, strict=True)
        ]
        found = iter(gradients)
        for name, count in zip(LINEARS, call.counts, strict=True):
            parts = getattr(made, name).parts
            for field in ("da", "db"):
                for part in range(count):
                    setattr(parts[part], field, next(found).data_ptr())
        _, made.memory_bytes = call.block.bytes(made, gradient=True)
        made.saved_bytes = saved.numel()
        workspace = call.block.memory.workspace.take(made.memory_bytes)
        made.dy, made.dx, made.saved, made.memory = (each.data_ptr() for each in (dy_NI, dx_TI, saved, workspace))
        call.block.library.backward(made)
        return (dx_TI, None, *(each.to(dtype) for each, dtype in zip(gradients, ctx.dtypes, strict=True)))
