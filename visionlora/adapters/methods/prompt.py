"""Visual prompting: x' = x + P, learned pixels in a frame around the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visionlora.adapters.methods.addition import Addition, InputSite
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

    def parts(self, site: InputSite) -> dict[str, nn.Parameter]:
        """Return the frame: `rows` (channels, 2 border, S) are top and bottom, `columns` what lies between them.

        These are (channels, S - 2 border, 2 border), left and right.
        """
        import torch
        from torch import nn

        inside, both = self.imgsz - 2 * self.border, 2 * self.border
        return {
            "rows": nn.Parameter(torch.zeros(site.channels, both, self.imgsz)),
            "columns": nn.Parameter(torch.zeros(site.channels, inside, both)),
        }

    def added(self, parts: Any, given: torch.Tensor) -> torch.Tensor:
        """Return the frame, (channels, S, S) and zero inside, in the precision of the images.

        Raises:
            UsageError: the images are of another size.
        """
        import torch

        if tuple(given.shape[2:]) != (self.imgsz, self.imgsz):
            raise UsageError(
                f"--imgsz: the adapter's frame is of {self.imgsz} px, and the images have "
                f"{given.shape[3]} x {given.shape[2]}; use {self.imgsz}"
            )
        top, bottom = parts.rows.chunk(2, 1)
        left, right = parts.columns.chunk(2, 2)
        inside = left.new_zeros(len(left), left.shape[1], self.imgsz - 2 * self.border)
        middle = torch.cat([left, inside, right], 2)
        return torch.cat([top, middle, bottom], 1).to(given.dtype)
