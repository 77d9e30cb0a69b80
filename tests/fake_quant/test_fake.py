"""The fake quantizer: ONNX's values, gradients that finite differences confirm, and the same from one GPU kernel."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from visionlora.fake_quant import fake_quantize, quantized_silu
from visionlora.int8.ranges import UNIT_RANGE, ActivationRange

RANGES = [ActivationRange(-1.3, 2.9), ActivationRange(0.0, 6.0), ActivationRange(-4.0, 0.0), ActivationRange(0.0, 0.0)]
IDS = ["both sides", "behind a relu", "negative", "always zero"]


def levels_of(chosen: ActivationRange, *, grad: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point as the fake quantizer takes them."""
    scale, zero = torch.tensor(float(chosen.scale)), torch.tensor(float(chosen.zero_point))
    return scale.requires_grad_(grad), zero.requires_grad_(grad)


@pytest.mark.parametrize("chosen", RANGES, ids=IDS)
def test_values_are_those_of_quantize_and_dequantize(chosen) -> None:
    x = np.random.default_rng(0).normal(0, 3, 5000).astype(np.float32)
    got = fake_quantize(torch.from_numpy(x), *levels_of(chosen)).numpy()
    assert np.array_equal(got, chosen.dequantize(chosen.quantize(x)))


def test_halves_are_rounded_to_even() -> None:
    got = fake_quantize(torch.tensor([0.5, 1.5, 2.5, -0.5]), torch.tensor(1.0), torch.tensor(128.0))
    assert got.tolist() == [0, 2, 2, 0]


def test_gradient_of_x_is_the_slope_over_many_levels() -> None:
    x = torch.tensor([-5.0, -0.7, 0.3, 2.0, 9.0], requires_grad=True)
    levels = levels_of(RANGES[0])
    fake_quantize(x, *levels).sum().backward()
    with torch.no_grad():
        step = 0.5  # far wider than a level, so that rounding averages out; narrower than the distance to a bound
        slope = (fake_quantize(x + step, *levels) - fake_quantize(x - step, *levels)) / (2 * step)
    assert x.grad.tolist() == [0, 1, 1, 1, 0] == pytest.approx(slope.tolist(), abs=0.02)  # a level


@pytest.mark.parametrize("value", [-7.0, -0.512, 0.3004, 1.774, 8.0])
def test_gradient_of_the_scale_agrees_with_finite_differences_away_from_rounding_points(value) -> None:
    """Between rounding points the value moves with the scale by its level, and x itself adds `- x / scale` (LSQ)."""
    scale, zero = levels_of(RANGES[0], grad=True)
    x = torch.tensor([value])
    fake_quantize(x, scale, zero).sum().backward()
    with torch.no_grad():
        step = 1e-3 * scale  # moves x by less than it is away from the next rounding point
        slope = (fake_quantize(x, scale + step, zero) - fake_quantize(x, scale - step, zero)) / (2 * step)
        inside = -1.3 < value < 2.9
        expected = float(slope) - (value / float(scale) if inside else 0)
    assert float(scale.grad) * 255**0.5 == pytest.approx(expected, abs=2e-2)


@pytest.mark.parametrize(("value", "moves"), [(-7.0, True), (0.3, False), (8.0, True)])
def test_gradient_of_the_zero_point_moves_the_clipped_values_alone(value, moves) -> None:
    scale, zero = levels_of(RANGES[0], grad=True)
    x = torch.tensor([value])
    fake_quantize(x, scale, zero).sum().backward()
    with torch.no_grad():
        slope = float(fake_quantize(x, scale, zero + 1) - fake_quantize(x, scale, zero))  # a whole level
    assert float(zero.grad) * 255**0.5 == pytest.approx(slope if moves else 0, rel=1e-4)


def test_silu_is_the_three_roundings_of_the_int8_graph() -> None:
    before, after = ActivationRange(-6.0, 7.0), ActivationRange(-0.3, 5.0)
    x = np.random.default_rng(1).normal(0, 3, 5000).astype(np.float32)
    levels = before.dequantize(before.quantize(x))
    gate = UNIT_RANGE.dequantize(UNIT_RANGE.quantize(torch.sigmoid(torch.from_numpy(levels)).numpy()))
    expected = after.dequantize(after.quantize(levels * gate))
    got = quantized_silu(torch.from_numpy(x), levels_of(before), levels_of(after)).numpy()
    assert np.array_equal(got, expected)


KERNELS = """
import torch
from visionlora.fake_quant import kernels
from visionlora.fake_quant.fake import fake_quantize, quantized_silu
torch.manual_seed(0)
halves = ((torch.float16, 0.0, 4e-3), (torch.bfloat16, 2**-7, 3e-2))  # the interpreter cuts to bfloat16, no rounding
for dtype, cut, tolerance in ((torch.float32, 0.0, 1e-6), *halves):
    assert dtype in kernels._DTYPES
    x = (2 * torch.randn(2, 8, 33, 17)).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn(x.shape).to(dtype)
    ranges = [torch.tensor(value, requires_grad=True) for value in (0.02, 90.0, 0.011, 25.0)]
    flat = [one.detach() for one in ranges]
    share = (x.numel() * 255) ** -0.5
    for eager, forward, backward, count in (
        (lambda: fake_quantize(x.float(), *ranges[:2]), kernels.fake_quantize, kernels.fake_quantize_backward, 2),
        (
            lambda: quantized_silu(x.float(), ranges[:2], ranges[2:]),
            kernels.quantized_silu,
            kernels.quantized_silu_backward,
            4,
        ),
    ):
        value = eager().to(dtype)  # the kernels compute in float32 and round what they give
        expected = torch.autograd.grad(value, [x, *ranges[:count]], gradient)
        torch.testing.assert_close(forward(x.detach(), *flat[:count]), value.detach(), atol=0, rtol=cut)
        passed, sums = backward(gradient, x.detach(), *flat[:count])
        torch.testing.assert_close(passed, expected[0], atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(sums * share, torch.stack(expected[1:]), atol=1e-4, rtol=4e-3)
print("equal")
"""


def test_gpu_kernels_give_what_torch_gives(monkeypatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # the kernels' own code, without a GPU
    run = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True)
    assert run.stdout.strip() == "equal", run.stderr


KERNEL_NAMES = ("_forward", "_backward", "_silu_forward", "_silu_backward")
POINTERS_TO_VALUES = ("x_ptr", "out_ptr", "gradient_ptr", "passed_ptr")


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("name", KERNEL_NAMES)
def test_gpu_kernels_compile_and_keep_the_rounding(name, dtype, monkeypatch, tmp_path) -> None:
    """For a GPU that need not be there: what the interpreter takes, the compiler may refuse."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from visionlora.fake_quant import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(kernels, name)
    types = {name: f"*{dtype}" if name in POINTERS_TO_VALUES else "*fp32" for name in kernel.arg_names}
    types |= {"count": "i32", "BLOCK": "constexpr"}
    source = ASTSource(
        fn=kernel, signature=types, constexprs={(kernel.arg_names.index("BLOCK"),): kernels._BLOCK}, attrs={}
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    assert "0f4B400000" in compiled.asm["ptx"] and "0fCB400000" in compiled.asm["ptx"]  # + and - 1.5 * 2^23
    assert "div.rn.f32" in compiled.asm["ptx"]
    copies = dtype == "fp32" or name == "_backward"
    assert copies or f"cvt.rn.{dtype.replace('fp', 'f')}" in compiled.asm["ptx"]  # to nearest
