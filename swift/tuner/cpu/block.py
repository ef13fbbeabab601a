"""A decoder's block as one function forwards and one backwards, in C++ (`block.cpp`). Knows plain LoRA.

In bf16 and fp32, by whatever the processor multiplies best (`products.h`). Weights are kept as panels alone
(`panels.py`), which serve both directions. What it keeps for the gradient of one block is one piece of memory, taken
from those that earlier batches have given back.
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
"""Adapters of layers with one input, at most."""
WIDEST = 512
"""Features of a head, at most."""
DTYPES = (torch.bfloat16, torch.float32)


class _Part(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("down", "up", "ddown", "dup")),
        *((name, c_int64) for name in ("rank", "start", "stop")),
        ("scale", c_double),
    ]


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("panels", "bias", "mask")),
        ("kept", c_double),
        *((name, c_int64) for name in ("inputs", "outputs", "planes", "rank", "count")),
        ("parts", _Part * PARTS),
    ]


LINEARS = ("qkv", "o", "gate_up", "down")


class _Block(ctypes.Structure):
    _fields_ = [
        *((name, _Linear) for name in LINEARS),
        *((name, c_void_p) for name in ("norm", "norm_after", "norm_q", "norm_k")),
        *((name, c_double) for name in ("eps", "eps_after", "eps_q", "eps_k", "scale", "factor")),
        *((name, c_int64) for name in ("queries", "keys", "width", "window", "rotated")),
        *((name, c_int64) for name in ("tokens", "wanted", "lengths", "threads")),
        *((name, c_void_p) for name in ("places", "length", "x", "cos", "sin", "dy", "y", "dx", "kept", "room")),
    ]


def load(source: Path, dtype: torch.dtype, kernels: str) -> ctypes.CDLL:
    """The functions of a source that includes `products.h`, for such numbers. Raises native.Unavailable."""
    made = native.load(source, kernels, FP32=int(dtype is torch.float32))
    if not made.allowed():
        raise native.Unavailable("the system does not let a process use AMX")
    return made


def library(dtype: torch.dtype, kernels: str = "") -> ctypes.CDLL:
    """The functions of `block.cpp` for such numbers and an instruction set (see native.load).

    Raises native.Unavailable.
    """
    return _library(dtype, kernels or native.default())


@cache
def _library(dtype: torch.dtype, kernels: str) -> ctypes.CDLL:
    made = load(SOURCE, dtype, kernels)
    made.kept_bytes.argtypes, made.kept_bytes.restype = [POINTER(_Block)], c_int64
    made.room_bytes.argtypes, made.room_bytes.restype = [POINTER(_Block), c_int], c_int64
    made.lay_out_weight.argtypes = made.read_weight.argtypes = [c_void_p, c_int64, c_int64, c_int, c_void_p]
    made.forward.argtypes = made.backward.argtypes = [POINTER(_Block)]
    made.lay_out_weight.restype = made.read_weight.restype = made.forward.restype = made.backward.restype = None
    return made


def why_not(dtype: torch.dtype, kernels: str = "") -> str:
    """Why this machine computes such blocks with torch's functions instead; empty where it need not."""
    try:
        library(dtype, kernels)
    except native.Unavailable as error:
        return str(error)
    return ""


def planes(weight: Tensor, kernels: str = "") -> int:
    """The room of so many bf16 that a number of a weight takes: one where bf16 is exact, whatever its dtype."""
    return (
        1 if torch.equal(weight.bfloat16().to(weight.dtype), weight) else int(library(weight.dtype, kernels).planes())
    )


def why_not_room(moved: Sequence[Tensor], copied: Sequence[Tensor], kernels: str = "") -> str:
    """Why weights are not laid out here; empty if that takes less than half of what is free.

    Those that are `moved` are in the layout alone then, those `copied` as they are too.
    """
    rooms = {id(each): 2 * planes(each, kernels) * each.numel() for each in (*moved, *copied)}
    needed = sum(rooms.values()) - sum(min(each.nbytes, rooms[id(each)]) for each in moved)
    free = free_memory()
    if needed < free / 2:
        return ""
    return f"weights laid out for it would take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free"


def free_memory() -> int:
    """Bytes that Linux could give."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


class Memory:
    """Pieces of memory, all of the largest size so far, that come back by themselves when their tensor is gone.

    Pages that were never written take no room, and those that were need not be made anew for the next batch.
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
            piece = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            piece.madvise(mmap.MADV_HUGEPAGE)
        held = (ctypes.c_char * size).from_buffer(piece)
        weakref.finalize(held, self._back, piece)
        return torch.frombuffer(held, dtype=torch.uint8)

    def _back(self, piece: mmap.mmap) -> None:
        if len(piece) == self._size:
            self._free.append(piece)


class Both(NamedTuple):
    """Memory of all blocks of a model: what is kept from forwards to backwards, and what a call needs meanwhile."""

    kept: Memory
    room: Memory


class Layer(NamedTuple):
    """Linear layers with one input, as a block has them: their weights, one below the other, and their biases.

    Parts: where each adapter's outputs are, and its factor.
    """

    weights: Sequence[Tensor]
    bias_O: Tensor | None
    parts: Sequence[tuple[int, int, float]]


class Norm(NamedTuple):
    weight_I: Tensor
    eps: float


class Mask(NamedTuple):
    """Dropout's, (T, I): a bit a number, of each 32 the first the lowest, as int32; and what those kept are multiplied
    with."""

    bits: Tensor
    kept: float


class Shape(NamedTuple):
    """Heads as in `functions.Heads`; `factor` is that of what a block adds."""

    queries: int
    keys: int
    width: int
    scale: float
    window: int | None
    factor: float


class Block:
    """The constants of one block: its weights in `block.cpp`'s layout."""

    def __init__(
        self,
        layers: Sequence[Layer],
        norms: Sequence[Norm],
        head_norms: Sequence[Norm],
        shape: Shape,
        memory: Both,
        kernels: str = "",
    ) -> None:
        self.memory = memory
        self.kernels = kernels or native.default()
        self.library = library(layers[0].weights[0].dtype, self.kernels)
        self.panels: list[Panels] = []
        """Of each of `layers`."""
        self._held: list[Tensor] = []
        self.parts = [layer.parts for layer in layers]
        self._constants = made = _Block()
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
        made.queries, made.keys, made.width = shape.queries, shape.keys, shape.width
        made.scale, made.window, made.factor = shape.scale, shape.window or 0, shape.factor

    def _hold(self, tensor: Tensor) -> int:
        self._held.append(tensor)
        return tensor.data_ptr()

    def __call__(
        self,
        x_TI: Tensor,
        turn: tuple[Tensor, Tensor] | None,
        rows: Tensor,
        wanted_N: Tensor | None,
        masks: Sequence[Mask | None],
        adapters: Sequence[Sequence[Tensor]],
    ) -> Tensor:
        """What the block makes of rows one behind the other; of the `wanted` positions only, where they are given.

        `turn`: cosines and sines, (T, R). `masks`: dropout's, of the inputs of q k v, o, gate up and down. `adapters`:
        for each of these A and B of every part, A first; none where they are switched off.
        """
        flat = [each for several in adapters for each in several]
        call = _Call(self, [len(several) // 2 for several in adapters], turn, rows, wanted_N, list(masks))
        y_NI: Tensor = _Whole.apply(x_TI, call, *flat)  # type: ignore[no-untyped-call]
        return y_NI

    def arguments(self, call: _Call, x_TI: Tensor, adapters: Sequence[Tensor]) -> _Block:
        """What C++ needs to know of a call; adapters are (A and B of each part) of each layer, in fp32."""
        made = _Block.from_buffer_copy(self._constants)
        made.tokens = len(x_TI)
        made.wanted = len(x_TI) if call.wanted_N is None else len(call.wanted_N)
        made.lengths, made.length, made.threads = len(call.rows), call.rows.data_ptr(), torch.get_num_threads()
        made.x, made.places = x_TI.data_ptr(), None if call.wanted_N is None else call.wanted_N.data_ptr()
        if call.turn is not None:
            made.cos, made.sin = (each.data_ptr() for each in call.turn)
            made.rotated = call.turn[0].shape[1]
        found = iter(adapters)
        for name, parts, count, mask in zip(LINEARS, self.parts, call.counts, call.masks, strict=True):
            linear = getattr(made, name)
            linear.count = count
            if mask is not None:
                linear.mask, linear.kept = mask.bits.data_ptr(), mask.kept
            downs, ups = ([next(found) for _ in range(count)] for _ in range(2))
            for part, (start, stop, scale), down, up in zip(linear.parts, parts, downs, ups, strict=False):
                part.down, part.up, part.rank = down.data_ptr(), up.data_ptr(), len(down)
                part.start, part.stop, part.scale = start, stop, scale
            linear.rank = -(-sum(map(len, downs)) // SIDE) * SIDE
        return made


class _Call(NamedTuple):
    """What a call has beside tensors with gradients."""

    block: Block
    counts: list[int]
    turn: tuple[Tensor, Tensor] | None
    rows: Tensor
    wanted_N: Tensor | None
    masks: list[Mask | None]


class _Whole(Function):
    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, call: _Call, *adapters: Tensor) -> Tensor:
        x_TI = x_TI.contiguous()
        plain = [each.detach().float().contiguous() for each in adapters]
        made = call.block.arguments(call, x_TI, plain)
        y_NI = x_TI.new_empty(made.wanted, x_TI.shape[1])
        kept = call.block.memory.kept.take(call.block.library.kept_bytes(made))
        room = call.block.memory.room.take(call.block.library.room_bytes(made, 0))
        made.y, made.kept, made.room = y_NI.data_ptr(), kept.data_ptr(), room.data_ptr()
        call.block.library.forward(made)
        # gradient checkpointing makes again what is saved this way, and that is all that grows with the tokens
        ctx.save_for_backward(x_TI, kept, *plain)
        ctx.call, ctx.dtypes = call, [each.dtype for each in adapters]
        return y_NI

    @staticmethod
    def backward(ctx: Any, dy_NI: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, kept, *plain = ctx.saved_tensors
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
            for field in ("ddown", "dup"):
                for part in range(count):
                    setattr(parts[part], field, next(found).data_ptr())
        room = call.block.memory.room.take(call.block.library.room_bytes(made, 1))
        made.dy, made.dx, made.kept, made.room = (each.data_ptr() for each in (dy_NI, dx_TI, kept, room))
        call.block.library.backward(made)
        return (dx_TI, None, *(each.to(dtype) for each, dtype in zip(gradients, ctx.dtypes, strict=True)))
