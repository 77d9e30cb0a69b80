"""What stands around the convolutions of a training step on a GPU, in fewer passes over memory and less of it.

Bias and SiLU are one kernel; the gradient of a bias that no SiLU follows is a product with ones. What
is cheap to compute again (an activation, a part, a sum, what is joined) need not be kept for the backward pass: of a
convolution and its SiLU that keeps one tensor. Nearest upsampling, which autocast would do in float32, together
with all that is joined with it, stays in half precision: it only copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from visionlora.detectors.ultralytics.again import Kept, Maker, Recipe, again_of, computed_again, kept, placed
from visionlora.detectors.ultralytics.feature_kernels import (
    bias_silu,
    bias_silu_backward,
    copied,
    fits,
    pixels_are_rows,
    summed,
)

_SILU = (functional.silu, torch.ops.aten.silu, torch._C._nn.silu)
_ADD = (torch.Tensor.add, torch.Tensor.__add__, torch.add)
_SPLIT = (torch.Tensor.chunk, torch.chunk, torch.Tensor.split, torch.split)


class FusedPass(TorchFunctionMode):
    """While it is entered, convolutions on a GPU add a trained bias together with the SiLU behind them.

    Values and gradients do not change but for rounding.

    Args:
        remembers: tensors that are cheap to compute again learn how, for `kept_once`.
        anywhere: work on any device, in plain torch where the kernels do not: for tests.
    """

    def __init__(self, *, remembers: bool = True, anywhere: bool = False) -> None:
        super().__init__()
        self._remembers, self._anywhere = remembers, anywhere
        self._ones = torch.empty(0)
        self._waiting: tuple[torch.Tensor, torch.Tensor] | None = None  # a convolution's output and its bias

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping | None = None
    ) -> Any:
        options = kwargs or {}
        if self._waiting is not None:
            output, bias = self._waiting
            if func in _SILU and args[0] is output and not options.get("inplace"):
                self._waiting = None
                return self._learned(BiasSiLU.apply(output, bias), lambda: activation(output, bias))
            self.settle()
        if func is torch.conv2d and not options and len(args) > 2:
            images, weight, bias, *rest = args
            if bias is not None and bias.requires_grad and (bias.is_cuda or self._anywhere):
                if fits(images) and not images.is_contiguous(memory_format=torch.channels_last):
                    part = images
                    images = self._learned(Dense.apply(part), lambda: copy(part))  # it would make one both times
                output = torch.conv2d(images, weight, None, *rest)
                self._waiting = output, bias.to(output.dtype)
                return output
        if func is functional.interpolate and options.get("mode", "nearest") == "nearest":
            with torch.autocast(args[0].device.type, enabled=False):
                return func(*args, **options)
        return self._cheap(func, args, options)

    def _cheap(self, func: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Call a function; if one pass over memory gives its result, that can be computed again."""
        if func is torch.cat and (args[1:], options) in (((1,), {}), ((), {"dim": 1})):
            parts = tuple(args[0])
            if all(_is_features(part) for part in parts):
                result = Join.apply(*parts) if fits(*parts) else func(*args, **options)
                return self._learned(result, lambda: join(parts, result))
        if func in _ADD and not options and len(args) == 2 and all(_is_features(each) for each in args):
            first, second = args
            if first.shape == second.shape and first.dtype == second.dtype:
                result = Sum.apply(first, second) if fits(first, second) else func(first, second)
                return self._learned(result, lambda: total(first, second))
        result = func(*args, **options)
        if func in _SPLIT and again_of(args[0]) is not None:
            for number, part in enumerate(result):
                self._learned(part, partial(piece, args[0], partial(_called, func, args[1:], options), number))
        elif func in _SILU and not options.get("inplace"):
            self._learned(result, lambda: silu(args[0]))
        return result

    def _learned(self, tensor: torch.Tensor, recipe: Callable[[], Recipe]) -> torch.Tensor:
        return computed_again(tensor, recipe()) if self._remembers else tensor

    def __exit__(self, *exception: Any) -> None:
        self.settle()
        super().__exit__(*exception)

    def settle(self) -> None:
        """Add the bias that waits for a SiLU which did not come, in place."""
        if self._waiting is not None:
            (output, bias), self._waiting = self._waiting, None
            AddBias.apply(output, bias, self._ones_like(output))

    def _ones_like(self, output: torch.Tensor) -> torch.Tensor:
        """Return (1, pixels) ones; a part of the longest that was needed so far."""
        pixels = output.numel() // output.shape[1]
        if self._ones.numel() < pixels or self._ones.dtype != output.dtype or self._ones.device != output.device:
            self._ones = output.new_ones(pixels)
        return self._ones[:pixels].unsqueeze(0)


class AddBias(torch.autograd.Function):
    """Adds a bias (C,) to the output (n, C, H, W) of a convolution in place; `ones` is (1, n * H * W)."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, bias: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
        """Return `output` with the bias added."""
        ctx.ones = ones
        ctx.mark_dirty(output)
        return output.add_(bias.view(1, -1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return the gradients of output and bias."""
        if not pixels_are_rows(gradient):
            return gradient, gradient.sum((0, 2, 3)), None
        rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)  # (n * H * W, C), a view
        return gradient, torch.mm(ctx.ones, rows).squeeze(0), None


class BiasSiLU(torch.autograd.Function):
    """silu(output + bias) of a convolution's output (n, C, H, W) and a bias (C,)."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the activation."""
        ctx.save_for_backward(output, bias)
        return activated(output, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of output and bias."""
        output, bias = ctx.saved_tensors
        if fits(output):
            return bias_silu_backward(gradient, output, bias)
        passed = torch.ops.aten.silu_backward(gradient, output + bias.view(1, -1, 1, 1))
        return passed, passed.sum((0, 2, 3))


class Sum(torch.autograd.Function):
    """The sum of two feature maps (n, C, H, W)."""

    @staticmethod
    def forward(ctx: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        return summed(first, second)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradient, for both."""
        return gradient, gradient


class Join(torch.autograd.Function):
    """Feature maps (n, C of each, H, W) side by side in their channels."""

    @staticmethod
    def forward(ctx: Any, *parts: torch.Tensor) -> torch.Tensor:
        """Return what is joined."""
        ctx.channels = [part.shape[1] for part in parts]
        first = parts[0]
        shape = (len(first), sum(ctx.channels), *first.shape[2:])
        makers = [Kept(part) for part in parts]
        return joined(_room(shape, first.dtype, first.device), list(zip(makers, ctx.channels, strict=True)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the gradient's parts."""
        return gradient.split(ctx.channels, 1)


class Dense(torch.autograd.Function):
    """A part of feature maps (n, C, H, W) as feature maps of their own."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor) -> torch.Tensor:
        """Return a copy."""
        return compact(part)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient."""
        return gradient


def compact(part: torch.Tensor) -> torch.Tensor:
    """Return feature maps whose pixels lie side by side; a copy where they do not."""
    if part.is_contiguous(memory_format=torch.channels_last):
        return part
    return copied(part, torch.empty_like(part, memory_format=torch.channels_last))


def activated(output: torch.Tensor, bias: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return silu(output + bias), in `out` if given."""
    if fits(output):
        return bias_silu(output, bias, out)
    return placed(functional.silu(output + bias.view(1, -1, 1, 1)), out)


def joined(whole: torch.Tensor, parts: Sequence[tuple[Maker, int]]) -> torch.Tensor:
    """Fill feature maps (n, C, H, W) with parts side by side; each is computed where it belongs."""
    begin = 0
    for part, channels in parts:
        part(whole[:, begin : begin + channels])
        begin += channels
    return whole


def _room(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)


# -- recipes: how they are computed again


def activation(output: torch.Tensor, bias: torch.Tensor) -> Recipe:
    """Return how silu(output + bias) is computed again."""
    before, added = kept(output), kept(bias)
    return lambda out: activated(before(), added(), out)


def silu(x: torch.Tensor) -> Recipe:
    """Return how the SiLU of x is computed again."""
    before = kept(x)
    return lambda out: placed(functional.silu(before()), out)


def copy(part: torch.Tensor) -> Recipe:
    """Return how a part is copied again."""
    found = kept(part)
    return lambda out: compact(found()) if out is None else found(out)


def total(first: torch.Tensor, second: torch.Tensor) -> Recipe:
    """Return how a sum is computed again."""
    one, other = kept(first), kept(second)
    if fits(first, second):
        return lambda out: summed(one(), other(), out)
    return lambda out: placed(one() + other(), out)


def join(parts: Sequence[torch.Tensor], result: torch.Tensor) -> Recipe:
    """Return how feature maps are joined again."""
    makers = [(kept(part), part.shape[1]) for part in parts]
    room = partial(_room, result.shape, result.dtype, result.device)
    return lambda out: joined(room() if out is None else out, makers)


def piece(whole: torch.Tensor, split: Callable[[torch.Tensor], Sequence[torch.Tensor]], number: int) -> Recipe:
    """Return how one of the parts of a tensor is found again."""
    found = kept(whole)
    return lambda out: placed(split(found())[number], out)


def _called(func: Callable[..., Any], rest: Sequence[Any], options: Mapping[str, Any], first: torch.Tensor) -> Any:
    return func(first, *rest, **options)


def _is_features(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 4
