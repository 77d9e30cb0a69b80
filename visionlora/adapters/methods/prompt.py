"""Prompts: x' = x + P, a learned frame around the image, or around what blocks give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visionlora.adapters.methods.addition import Addition, BlockSite, InputSite
from visionlora.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Prompt(Addition):
    """A learned frame that is added to every image, as in [visual prompting](https://arxiv.org/abs/2203.17274).

    It is zero at the start, and of one image size: that of the training.

    Attributes:
        border: width of the frame in pixels.
        imgsz: side of the square images in pixels; a training sets it.

    Raises:
        UsageError: the frame is none, or leaves no picture inside.
    """

    border: int = 16
    imgsz: int = 640
    name: ClassVar[str] = "prompt"
    site: ClassVar[type[Any]] = InputSite
    place: ClassVar[str] = "the images"

    def __post_init__(self) -> None:
        for name in ("border", "imgsz"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value < 1 << 16:
                raise UsageError(f"--{name}: expected a whole number of at least 1, got {value!r:.40}")
        if 2 * self.border >= self.imgsz:
            raise UsageError(f"--border: expected less than half of --imgsz {self.imgsz}, got {self.border}")

    @property
    def words(self) -> str:
        """How wide the frame is."""
        return f"frame of {self.border} px around the images"

    def side(self, site: Any) -> int:
        """Return the side of the square map that the frame is added to at a site."""
        return self.imgsz

    def parts(self, site: Any) -> dict[str, nn.Parameter]:
        """Return the frame: `rows` (channels, 2 border, S) are top and bottom, `columns` what lies between them.

        These are (channels, S - 2 border, 2 border), left and right.
        """
        import torch
        from torch import nn

        side, both = self.side(site), 2 * self.border
        return {
            "rows": nn.Parameter(torch.zeros(site.channels, both, side)),
            "columns": nn.Parameter(torch.zeros(site.channels, side - both, both)),
        }

    def added(self, parts: Any, given: torch.Tensor) -> torch.Tensor:
        """Return the frame, (channels, S, S) and zero inside, in the precision of what it is added to.

        Raises:
            UsageError: that is of another size.
        """
        import torch

        side = self.side(parts.site)
        if tuple(given.shape[2:]) != (side, side):
            raise UsageError(
                f"--imgsz: the adapter's frame at {parts.site.name} is {side} x {side}, for images of {self.imgsz} px, "
                f"and got {given.shape[3]} x {given.shape[2]}; use {self.imgsz}"
            )
        top, bottom = parts.rows.chunk(2, 1)
        left, right = parts.columns.chunk(2, 2)
        inside = left.new_zeros(len(left), left.shape[1], side - 2 * self.border)
        middle = torch.cat([left, inside, right], 2)
        return torch.cat([top, middle, bottom], 1).to(given.dtype)


@dataclass(frozen=True)
class FeaturePrompt(Prompt):
    """A learned frame that is added to what every block gives, as [deep prompts](https://arxiv.org/abs/2203.12119) are.

    Attributes:
        border: width of the frame in cells of the map.
        imgsz: side of the square images in pixels; a training sets it.

    Raises:
        UsageError: the frame is none, or leaves nothing inside.
    """

    border: int = 1
    name: ClassVar[str] = "feature-prompt"
    site: ClassVar[type[Any]] = BlockSite
    place: ClassVar[str] = "a block before the head"

    @property
    def words(self) -> str:
        """How wide the frames are."""
        return f"blocks by frames {self.border} wide around what they give"

    def side(self, site: BlockSite) -> int:
        """Return the cells along a side of the map.

        Raises:
            UsageError: they leave nothing inside the frame.
        """
        side = self.imgsz // site.stride
        if side <= 2 * self.border:
            raise UsageError(
                f"--border: expected less than half of the {side} cells that {site.name} has at --imgsz {self.imgsz}, "
                f"got {self.border}; take a larger --imgsz, or --targets without it"
            )
        return side
