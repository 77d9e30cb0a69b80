"""The fake quantizers as single GPU kernels (Triton): a step of a small detector is bound by launches and by memory.

What they compute stands in fake.py, which is also what runs where there is no GPU or no Triton. Scale and zero point
are read from GPU memory, so that a CUDA graph can hold the kernels while ranges are learned.
"""

from __future__ import annotations

import logging
from functools import cache

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

_LOGGER = logging.getLogger("visionlora")
_BLOCK = 2048
_WARPS = 8
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def fits(x: torch.Tensor) -> bool:
    """Return whether the kernels can work on `x`."""
    return x.is_cuda and x.dtype in _DTYPES and x.numel() > 0 and works()


@cache
def works() -> bool:
    """Return whether the kernels compile and give a known result on this GPU; a word is logged where they do not."""
    if triton is None:
        _LOGGER.warning("no triton: fake quantization takes several kernels a layer, and more memory")
        return False
    x = torch.tensor([-2.0, 0.004, 0.5, 3.0], device="cuda")
    scale, zero = torch.tensor(0.01, device="cuda"), torch.tensor(100.0, device="cuda")
    expected = torch.tensor([-1.0, 0.0, 0.5, 1.55], device="cuda")
    try:
        got = fake_quantize(x, scale, zero)
        passed, sums = fake_quantize_backward(torch.ones_like(x), x, scale, zero)
        quantized_silu_backward(torch.ones_like(x), x, scale, zero, scale, zero)
        quantized_silu(x, scale, zero, scale, zero)
        sound = bool(torch.allclose(got, expected)) and passed.tolist() == [0, 1, 1, 0]
        reason = "" if sound and bool(sums.isfinite().all()) else "wrong results"
    except Exception as error:  # whatever a compiler and a driver can raise
        reason = " / ".join(str(error.__cause__ or error).strip().splitlines()[-3:]) or repr(error)
    if reason:
        _LOGGER.warning("triton does not work here (%s): fake quantization takes several kernels a layer", reason)
    return not reason


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Return `x` rounded to the levels of a range; see `visionlora.fake_quant.fake.fake_quantize`."""
    x = _dense(x)
    out = torch.empty_like(x)
    _forward[_grid(x)](x, out, scale, zero, x.numel(), BLOCK=_BLOCK, num_warps=_WARPS)
    return out


def fake_quantize_backward(
    gradient: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of `x`, and (2,) sums: the gradients of scale and zero point."""
    x = _dense(x)
    gradient = _like(gradient, x)
    passed = torch.empty_like(x)
    sums = torch.empty(_grid(x)[0], 2, device=x.device)
    _backward[_grid(x)](x, gradient, passed, sums, scale, zero, x.numel(), BLOCK=_BLOCK, num_warps=_WARPS)
    return passed, sums.sum(0)


def quantized_silu(x: torch.Tensor, *ranges: torch.Tensor) -> torch.Tensor:
    """Return the quantized `x * sigmoid(x)`; `ranges` are scale and zero point before, then after."""
    x = _dense(x)
    out = torch.empty_like(x)
    _silu_forward[_grid(x)](x, out, *ranges, x.numel(), BLOCK=_BLOCK, num_warps=_WARPS)
    return out


def quantized_silu_backward(
    gradient: torch.Tensor, x: torch.Tensor, *ranges: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of `x`, and (4,) sums: the gradients of scale and zero point before, then after."""
    x = _dense(x)
    gradient = _like(gradient, x)
    passed = torch.empty_like(x)
    sums = torch.empty(_grid(x)[0], 4, device=x.device)
    _silu_backward[_grid(x)](x, gradient, passed, sums, *ranges, x.numel(), BLOCK=_BLOCK, num_warps=_WARPS)
    return passed, sums.sum(0)


def _grid(x: torch.Tensor) -> tuple[int]:
    return (-(-x.numel() // _BLOCK),)


def _dense(x: torch.Tensor) -> torch.Tensor:
    """Return `x` without holes in memory, in whatever order of axes it has: the kernels count elements."""
    whole = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last) if x.dim() == 4 else False
    return x if whole else x.contiguous()


def _like(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return a gradient in the dtype and the order of axes of `x`."""
    if gradient.stride() == x.stride() and gradient.dtype == x.dtype:
        return gradient
    return torch.empty_like(x).copy_(gradient)


if triton is not None:
    # No annotation but tl.constexpr below: Triton takes any other name for a global variable.

    @triton.jit
    def _rounded(ratio):
        """Round halves to even: adding 1.5 * 2^23 leaves float32 no fraction. Outside +-2^21 all is clipped anyway."""
        ratio = tl.minimum(tl.maximum(ratio, -2097152.0), 2097152.0)
        return (ratio + 12582912.0) - 12582912.0

    @triton.jit
    def _levels(x, scale, zero):
        """Return the level of x, not yet clipped."""
        return _rounded(tl.div_rn(x, scale + tl.zeros_like(x))) + zero

    @triton.jit
    def _clipped(level, zero):
        return tl.minimum(tl.maximum(level, 0.0), 255.0) - zero

    @triton.jit
    def _forward(x_ptr, out_ptr, scale_ptr, zero_ptr, count, BLOCK: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        there = at < count
        scale, zero = tl.load(scale_ptr), tl.load(zero_ptr)
        x = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32)
        out = _clipped(_levels(x, scale, zero), zero) * scale
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=there)

    @triton.jit
    def _backward(x_ptr, gradient_ptr, passed_ptr, sums_ptr, scale_ptr, zero_ptr, count, BLOCK: tl.constexpr):
        program = tl.program_id(0)
        at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        there = at < count
        scale, zero = tl.load(scale_ptr), tl.load(zero_ptr)
        x = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32)
        gradient = tl.load(gradient_ptr + at, mask=there, other=0.0).to(tl.float32)
        level = _levels(x, scale, zero)
        inside = (level >= 0.0) & (level <= 255.0)
        clipped = _clipped(level, zero)
        tl.store(passed_ptr + at, tl.where(inside, gradient, 0.0).to(passed_ptr.dtype.element_ty), mask=there)
        by_scale = gradient * tl.where(inside, clipped - x / scale, clipped)
        by_zero = gradient * tl.where(inside, 0.0, -scale)
        tl.store(sums_ptr + program * 2, tl.sum(by_scale, 0))
        tl.store(sums_ptr + program * 2 + 1, tl.sum(by_zero, 0))

    @triton.jit
    def _sigmoid(x):
        return 1.0 / (1.0 + tl.exp(-x))

    @triton.jit
    def _gate(value):
        """Return a sigmoid on the 256 levels of [0, 1]."""
        scale = 0.003921568859368563  # float32(1 / 255)
        return _rounded(tl.div_rn(value, scale + tl.zeros_like(value))) * scale

    @triton.jit
    def _silu_forward(x_ptr, out_ptr, scale1_ptr, zero1_ptr, scale2_ptr, zero2_ptr, count, BLOCK: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        there = at < count
        scale1, zero1 = tl.load(scale1_ptr), tl.load(zero1_ptr)
        scale2, zero2 = tl.load(scale2_ptr), tl.load(zero2_ptr)
        x = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32)
        before = _clipped(_levels(x, scale1, zero1), zero1) * scale1
        product = before * _gate(_sigmoid(before))
        out = _clipped(_levels(product, scale2, zero2), zero2) * scale2
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=there)

    @triton.jit
    def _silu_backward(
        x_ptr,
        gradient_ptr,
        passed_ptr,
        sums_ptr,
        scale1_ptr,
        zero1_ptr,
        scale2_ptr,
        zero2_ptr,
        count,
        BLOCK: tl.constexpr,
    ):
        program = tl.program_id(0)
        at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        there = at < count
        scale1, zero1 = tl.load(scale1_ptr), tl.load(zero1_ptr)
        scale2, zero2 = tl.load(scale2_ptr), tl.load(zero2_ptr)
        x = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32)
        gradient = tl.load(gradient_ptr + at, mask=there, other=0.0).to(tl.float32)
        level1 = _levels(x, scale1, zero1)
        inside1 = (level1 >= 0.0) & (level1 <= 255.0)
        clipped1 = _clipped(level1, zero1)
        before = clipped1 * scale1
        sigmoid = _sigmoid(before)
        gate = _gate(sigmoid)
        product = before * gate
        level2 = _levels(product, scale2, zero2)
        inside2 = (level2 >= 0.0) & (level2 <= 255.0)
        clipped2 = _clipped(level2, zero2)
        by_scale2 = gradient * tl.where(inside2, clipped2 - product / scale2, clipped2)
        by_zero2 = gradient * tl.where(inside2, 0.0, -scale2)
        gradient = tl.where(inside2, gradient, 0.0) * (gate + before * sigmoid * (1.0 - sigmoid))
        by_scale1 = gradient * tl.where(inside1, clipped1 - x / scale1, clipped1)
        by_zero1 = gradient * tl.where(inside1, 0.0, -scale1)
        passed = tl.where(inside1, gradient, 0.0)
        tl.store(passed_ptr + at, passed.to(passed_ptr.dtype.element_ty), mask=there)
        tl.store(sums_ptr + program * 4, tl.sum(by_scale1, 0))
        tl.store(sums_ptr + program * 4 + 1, tl.sum(by_zero1, 0))
        tl.store(sums_ptr + program * 4 + 2, tl.sum(by_scale2, 0))
        tl.store(sums_ptr + program * 4 + 3, tl.sum(by_zero2, 0))
