"""What methods share that add modules to the network instead of changing a weight, and where these stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visionlora.adapters.methods.bitfit import BitFit

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class LayerSite:
    """A convolution.

    Attributes:
        name: dotted name of the layer.
        inputs, outputs: channels.
        kernel, stride, padding, dilation: of the layer, as `torch.nn.Conv2d` has them.
    """

    name: str
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: str | tuple[int, int]
    dilation: tuple[int, int]


@dataclass(frozen=True)
class BlockSite:
    """A block of layers, with one output of so many channels.

    Attributes:
        name: dotted name of the block.
        channels: of its output.
        stride: pixels of the image that a cell of its output spans.
    """

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class AttentionSite:
    """An attention over the pixels of a feature map.

    Attributes:
        name: dotted name of the attention.
        heads: how many there are.
        keys, values: channels of a key (and a query) and of a value, of one head.
        source: dotted name of the module that gives, head by head, queries, keys and values, side by side.
        sink: dotted name of the module that reads what all heads found, (n, heads x values, H, W).
    """

    name: str
    heads: int
    keys: int
    values: int
    source: str
    sink: str


@dataclass(frozen=True)
class InputSite:
    """The images.

    Attributes:
        name: dotted name of the module that reads them, (n, channels, S, S) in [0, 1].
        channels: of an image.
    """

    name: str
    channels: int = 3


Site = LayerSite | BlockSite | AttentionSite | InputSite


@dataclass(frozen=True)
class Addition(BitFit):
    """A method that leaves the weights and adds modules: `Method` says what becomes of the weights, this of the rest.

    Nothing of it can be folded into a weight, so it is exported as it stands. A site counts where a layer in it is
    among the targets. In the adapter file a tensor of a site is `<site>.<name with _>.<tensor>`.

    Attributes:
        site: where its modules stand.
        place: the same for people.
        scaled: the part whose weight counts, output by output, `<scaled>.scale` times; empty for none.
        int8: whether training under the rounding of int8 trains it: all that it trains are convolutions.
    """

    merges: ClassVar[bool] = False
    site: ClassVar[type[Any]]
    place: ClassVar[str]
    scaled: ClassVar[str] = ""
    int8: ClassVar[bool] = False

    @property
    def reads_output(self) -> bool:
        """Whether it reads what a layer or a block gives; what that reads itself if not."""
        return True

    def parts(self, site: Any) -> Mapping[str, nn.Module | nn.Parameter]:
        """Return what is added at a site, by name, as it is before training: it adds nothing then."""
        raise NotImplementedError

    def scale(self, site: Any) -> torch.Tensor:
        """Return what the factors of the part `scaled` are before training, (outputs,)."""
        raise NotImplementedError

    def added(self, parts: Any, given: torch.Tensor) -> torch.Tensor:
        """Return what is added.

        Args:
            parts: of one site, as attributes, and the `site`.
            given: what a layer or a block reads or gives (n, C, H, W), of an attention what its source gives, of the
                input the images (n, channels, S, S).
        """
        raise NotImplementedError
