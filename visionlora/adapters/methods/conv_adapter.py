"""Conv-Adapter: y' = y + scale * U relu(D * x), a bottleneck beside a convolution or behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visionlora.adapters.methods.addition import Addition, LayerSite
from visionlora.adapters.methods.ranked import check_rank
from visionlora.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMS = ("parallel", "serial")


@dataclass(frozen=True)
class ConvAdapter(Addition):
    """A bottleneck of two convolutions at every adapted one, as in [Conv-Adapter](https://arxiv.org/abs/2208.07463).

    D is grouped, with one output for each group of inputs, and has kernel, stride and padding of the layer beside which
    it stands; U is pointwise and zero at the start; the scale, one number an output, starts at 1. Between them is
    ReLU, which costs nothing in int8.

    Attributes:
        rank: channels between D and U; lowered to the next number that divides the inputs.
        form: `parallel` reads what the layer reads, and what it adds is normalized with the layer's own output;
            `serial` reads what the layer gives, behind its normalization, by a D of 3 x 3.

    Raises:
        UsageError: the rank is not positive, or the form not known.
    """

    rank: int = 8
    form: str = FORMS[0]
    name: ClassVar[str] = "conv-adapter"
    site: ClassVar[type[Any]] = LayerSite
    place: ClassVar[str] = "a convolution"
    scaled: ClassVar[str] = "up"
    int8: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rank(self.rank)
        if self.form not in FORMS:
            raise UsageError(f"--form: expected {' or '.join(FORMS)}, got {self.form!r:.40}")

    @property
    def words(self) -> str:
        """Width and form."""
        where = "behind" if self.reads_output else "beside"
        return f"convolutions by bottlenecks of {self.rank} channels {where} them"

    @property
    def reads_output(self) -> bool:
        """Whether it stands behind the layer."""
        return self.form == "serial"

    def parts(self, site: LayerSite) -> dict[str, nn.Module]:
        """Return D and U."""
        from torch import nn

        inputs = site.outputs if self.reads_output else site.inputs
        width = next(each for each in range(min(self.rank, inputs), 0, -1) if inputs % each == 0)
        if self.reads_output:
            down = nn.Conv2d(inputs, width, 3, padding=1, groups=width)
        else:
            down = nn.Conv2d(inputs, width, site.kernel, site.stride, site.padding, site.dilation, groups=width)
        up = nn.Conv2d(width, site.outputs, 1, bias=False)
        nn.init.zeros_(up.weight)
        assert down.bias is not None
        nn.init.zeros_(down.bias)
        return {"down": down, "up": up}

    def scale(self, site: LayerSite) -> torch.Tensor:
        """Return ones."""
        import torch

        return torch.ones(site.outputs)

    def added(self, parts: Any, given: torch.Tensor) -> torch.Tensor:
        """Return U relu(D * x), the scale in U."""
        return parts.up(parts.down(given).relu())
