"""Mona: y' = y + U gelu(F(D n(y))), filters of several sizes behind a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visionlora.adapters.methods.addition import Addition, BlockSite
from visionlora.adapters.methods.ranked import check_rank

if TYPE_CHECKING:
    import torch
    from torch import nn

KERNELS = (3, 5, 7)


@dataclass(frozen=True)
class Mona(Addition):
    """A multi-cognitive visual adapter behind every block, of [Mona](https://arxiv.org/abs/2408.08345).

    n(y) = a layernorm(y) + b y, over the channels of a pixel, a zero and b one at the start; D and U are pointwise, U
    zero at the start. F(x) = z + P z with P pointwise, and z = x + the mean of three depthwise filters of x, of 3, 5
    and 7 pixels.

    Attributes:
        rank: channels between D and U.

    Raises:
        UsageError: the rank is not positive.
    """

    rank: int = 8
    name: ClassVar[str] = "mona"
    site: ClassVar[type[Any]] = BlockSite
    place: ClassVar[str] = "a block before the head"

    def __post_init__(self) -> None:
        check_rank(self.rank)

    @property
    def words(self) -> str:
        """The width."""
        return f"blocks by filters in {self.rank} channels behind them"

    def parts(self, site: BlockSite) -> dict[str, nn.Module | nn.Parameter]:
        """Return the norm, its two factors, D, the filters, P and U."""
        import torch
        from torch import nn

        up = nn.Conv2d(self.rank, site.channels, 1)
        assert up.bias is not None
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        return {
            "norm": nn.LayerNorm(site.channels),
            "normed": nn.Parameter(torch.zeros(site.channels)),
            "plain": nn.Parameter(torch.ones(site.channels)),
            "down": nn.Conv2d(site.channels, self.rank, 1),
            **{
                f"filter{side}": nn.Conv2d(self.rank, self.rank, side, padding=side // 2, groups=self.rank)
                for side in KERNELS
            },
            "mix": nn.Conv2d(self.rank, self.rank, 1),
            "up": up,
        }

    def added(self, parts: Any, given: torch.Tensor) -> torch.Tensor:
        """Return U gelu(F(D n(y)))."""
        from torch.nn import functional

        pixels = given.permute(0, 2, 3, 1)  # (n, H, W, channels)
        normed = parts.norm(pixels) * parts.normed + pixels * parts.plain
        inner = parts.down(normed.permute(0, 3, 1, 2))
        filtered = inner + sum(getattr(parts, f"filter{side}")(inner) for side in KERNELS) / len(KERNELS)
        return parts.up(functional.gelu(filtered + parts.mix(filtered)))
