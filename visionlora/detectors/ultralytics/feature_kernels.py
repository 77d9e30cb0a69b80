"""Passes over feature maps as GPU kernels (Triton): bias and SiLU behind a convolution, sums, parts of what is joined.

These passes, and not the arithmetic of the convolutions, take most of a step's time. Tensors are (n, C, H, W) whose
pixels are rows: the channels of a pixel lie side by side, and the pixels at equal distances, so that a part of the
channels is one too. All is computed in float32 and rounded once.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch.nn import functional

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

_LOGGER = logging.getLogger("visionlora")
_VECTOR = 8  # channels that a thread reads at once: 16 bytes in half precision
_BLOCK, _WARPS = 256, 4  # vectors of a program
_TILE, _COLUMNS = 4096, 64  # numbers and most columns of a tile of the backward pass
_PROGRAMS = 1024  # of the backward pass, about: each leaves a row of sums, the last one sums them
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def fits(*tensors: torch.Tensor) -> bool:
    """Return whether the kernels can work on these tensors, all of one type and made of rows."""
    like = tensors[0]
    return (
        like.is_cuda
        and like.dtype in _DTYPES
        and all(each.dtype == like.dtype and each.numel() > 0 and pixels_are_rows(each) for each in tensors)
        and works()
    )


@cache
def works() -> bool:
    """Return whether the kernels compile and give a known result on this GPU; a word is logged where they do not."""
    if triton is None:
        _LOGGER.warning("no triton: a training step takes longer")
        return False
    x = torch.linspace(-3, 3, 16, device="cuda").view(2, 2, 2, 2).to(memory_format=torch.channels_last)
    bias = torch.tensor([0.25, -1.0], device="cuda")
    before = x + bias.view(1, -1, 1, 1)
    after, slope = functional.silu(before), torch.ops.aten.silu_backward(torch.ones_like(x), before)
    try:
        passed, sums = bias_silu_backward(torch.ones_like(x), x, bias)
        pairs = (
            (bias_silu(x, bias), after),
            (summed(x, before), x + before),
            (passed, slope),
            (sums, slope.sum((0, 2, 3))),
        )
        reason = "" if all(torch.allclose(ours, theirs) for ours, theirs in pairs) else "wrong results"
    except Exception as error:  # whatever a compiler and a driver can raise
        reason = " / ".join(str(error.__cause__ or error).strip().splitlines()[-3:]) or repr(error)
    if reason:
        _LOGGER.warning("triton does not work here (%s): a training step takes longer", reason)
    return not reason


def pixels_are_rows(tensor: torch.Tensor) -> bool:
    """Whether the channels of a pixel lie side by side, and the pixels at equal distances: channels last or a part."""
    if tensor.dim() != 4:
        return False
    images, channels, height, width = tensor.stride()
    return (
        (channels == 1 or tensor.shape[1] == 1)
        and height == width * tensor.shape[3]
        and images == height * tensor.shape[2]
    )


def bias_silu(x: torch.Tensor, bias: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return silu(x + bias), in `out` if given; `bias` is (C,)."""
    return _passed(x, bias, None, out)


def summed(x: torch.Tensor, other: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return x + other, in `out` if given."""
    return _passed(x, None, other, out)


def copied(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Copy x to `out`, and return that."""
    return _passed(x, None, None, out)


def _passed(
    x: torch.Tensor, bias: torch.Tensor | None, other: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    channels = x.shape[1]
    if out is None:
        out = torch.empty_like(x, memory_format=torch.channels_last)
    vector = _vector(channels, x.stride(3), out.stride(3), channels if other is None else other.stride(3))
    groups = channels // vector
    count = x.numel() // vector
    _pass[(-(-count // _BLOCK),)](
        x,
        x if bias is None else bias.contiguous(),
        x if other is None else other,
        out,
        count,
        groups,
        x.stride(3) // vector,
        0 if other is None else other.stride(3) // vector,
        out.stride(3) // vector,
        ACTIVATES=bias is not None,
        ADDS=other is not None,
        VECTOR=vector,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )
    return out


def bias_silu_backward(
    gradient: torch.Tensor, x: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of x and of the bias (C,)."""
    if not pixels_are_rows(gradient):
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    passed = torch.empty_like(x, memory_format=torch.channels_last)
    channels = x.shape[1]
    vector = _vector(channels, x.stride(3), gradient.stride(3), channels)
    columns = min(_COLUMNS, triton.next_power_of_2(channels))
    rows, across = x.numel() // channels, -(-channels // columns)
    tiles = -(-rows // (_TILE // columns))
    each = -(-tiles * across // _PROGRAMS)  # tiles of a program
    down = -(-tiles // each)
    sums, total = torch.empty(down, channels, device=x.device), torch.empty_like(bias)
    _backward[(down, across)](
        x,
        bias.contiguous(),
        gradient,
        passed,
        sums,
        total,
        _counters(x.device, across),
        rows,
        channels // vector,
        x.stride(3) // vector,
        gradient.stride(3) // vector,
        each,
        VECTOR=vector,
        ROWS=_TILE // columns,
        COLUMNS=columns,
        num_warps=_WARPS,
    )
    return passed, total


_COUNTERS: dict[torch.device, torch.Tensor] = {}  # zeros between two kernels; those of a device run one by one


def _counters(device: torch.device, number: int) -> torch.Tensor:
    """Return zeros, at least `number`, with which the programs of a kernel count who is done, and leave as zeros."""
    if device not in _COUNTERS or _COUNTERS[device].numel() < number:
        _COUNTERS[device] = torch.zeros(max(number, 1024), dtype=torch.int32, device=device)
    return _COUNTERS[device]


def _vector(*sizes: int) -> int:
    """Return how many channels can be read at once where all distances are of these sizes."""
    vector = _VECTOR
    while any(size % vector for size in sizes):
        vector //= 2
    return vector


if triton is not None:
    # No annotation but tl.constexpr below: Triton takes any other name for a global variable.

    @triton.jit
    def _sigmoid(x):
        return 1.0 / (1.0 + tl.exp(-x))

    @triton.jit
    def _pass(
        x_ptr,
        bias_ptr,
        other_ptr,
        out_ptr,
        count,
        groups,
        x_stride,
        other_stride,
        out_stride,
        ACTIVATES: tl.constexpr,
        ADDS: tl.constexpr,
        VECTOR: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        begin = tl.program_id(0).to(tl.int64) * BLOCK
        first = begin // groups
        within = (begin - first * groups).to(tl.int32) + tl.arange(0, BLOCK)
        row, group = within // groups, within % groups
        lane = tl.arange(0, VECTOR)[None, :]
        there = (begin + tl.arange(0, BLOCK) < count)[:, None]
        at = (row * x_stride + group)[:, None] * VECTOR + lane
        x = tl.load(x_ptr + first * x_stride * VECTOR + at, mask=there, other=0.0).to(tl.float32)
        if ACTIVATES:
            x += tl.load(bias_ptr + group[:, None] * VECTOR + lane, mask=there, other=0.0).to(tl.float32)
            x = x * _sigmoid(x)
        if ADDS:
            at = (row * other_stride + group)[:, None] * VECTOR + lane
            x += tl.load(other_ptr + first * other_stride * VECTOR + at, mask=there, other=0.0).to(tl.float32)
        at = (row * out_stride + group)[:, None] * VECTOR + lane
        tl.store(out_ptr + first * out_stride * VECTOR + at, x.to(out_ptr.dtype.element_ty), mask=there)

    @triton.jit
    def _backward(
        x_ptr,
        bias_ptr,
        gradient_ptr,
        passed_ptr,
        sums_ptr,
        total_ptr,
        counter_ptr,
        rows,
        groups,
        x_stride,
        gradient_stride,
        tiles,
        VECTOR: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
    ):
        program = tl.program_id(0).to(tl.int64)
        channels = groups * VECTOR
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        wide = (column < channels)[None, :]
        bias = tl.load(bias_ptr + column, mask=column < channels, other=0.0).to(tl.float32)[None, :]
        begin = program * tiles * ROWS
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for tile in range(tiles):
            first = begin + tile * ROWS
            row = tl.arange(0, ROWS)
            there = (first + row < rows)[:, None] & wide
            at = first * x_stride * VECTOR + ((row * x_stride)[:, None] * VECTOR + column[None, :])
            x = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32) + bias
            at = first * gradient_stride * VECTOR + ((row * gradient_stride)[:, None] * VECTOR + column[None, :])
            gradient = tl.load(gradient_ptr + at, mask=there, other=0.0).to(tl.float32)
            share = _sigmoid(x)
            passed = gradient * share * (1.0 + x * (1.0 - share))
            at = first * channels + ((row * groups)[:, None] * VECTOR + column[None, :])
            tl.store(passed_ptr + at, passed.to(passed_ptr.dtype.element_ty), mask=there)
            sums += passed
        tl.store(sums_ptr + program * channels + column, tl.sum(sums, 0), mask=column < channels)
        tl.debug_barrier()  # every thread has stored, before one says so
        programs = tl.num_programs(0)
        if tl.atomic_add(counter_ptr + tl.program_id(1), 1) == programs - 1:
            sums = tl.zeros((ROWS, COLUMNS), tl.float32)
            for start in range(0, programs, ROWS):
                row = start + tl.arange(0, ROWS)
                there = (row < programs)[:, None] & wide
                at = row[:, None] * channels + column[None, :]
                sums += tl.load(sums_ptr + at, mask=there, other=0.0, cache_modifier=".cg")
            total = tl.sum(sums, 0).to(total_ptr.dtype.element_ty)
            tl.store(total_ptr + column, total, mask=column < channels)
            tl.store(counter_ptr + tl.program_id(1), 0)
