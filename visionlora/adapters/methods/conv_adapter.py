"""Conv-Adapter: y' = y + scale * U relu(F * D x), a bottleneck beside a convolution or behind it."""

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
    """A bottleneck of separable convolutions at every adapted one, as in [Conv-Adapter](https://arxiv.org/abs/2208.07463).

    D is pointwise; F depthwise, with kernel, stride and padding of the layer beside which it stands, and left out where
    that is pointwise; U is pointwise and zero at the start; the scale, one number an output, starts at 1. The paper's F
    and D are one grouped convolution, which runtimes are slow at in int8; ReLU costs nothing there.

    Attributes:
        rank: channels between D and U; no more than the layer has.
        form: `parallel` reads what the layer reads, and what it adds is normalized with the layer's own output;
            `serial` reads what the layer gives, behind its normalization, by an F of 3 x 3.

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
        """Return D, F and U."""
        from torch import nn

        inputs = site.outputs if self.reads_output else site.inputs
        width = min(self.rank, inputs, site.outputs)
        if site.kernel == (1, 1) and not self.reads_output:
            parts = {"down": nn.Conv2d(inputs, width, 1, site.stride, site.padding)}
        else:
            if self.reads_output:
                filters = nn.Conv2d(width, width, 3, padding=1, groups=width)
            else:
                filters = nn.Conv2d(width, width, site.kernel, site.stride, site.padding, site.dilation, groups=width)
            parts = {"down": nn.Conv2d(inputs, width, 1, bias=False), "filter": filters}
        for part in parts.values():
            nn.init.kaiming_normal_(part.weight, nonlinearity="linear")  # as large as what it reads
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        up = nn.Conv2d(width, site.outputs, 1, bias=False)
        nn.init.zeros_(up.weight)
        return {**parts, "up": up}

    def scale(self, site: LayerSite) -> torch.Tensor:
        """Return ones."""
        import torch

        return torch.ones(site.outputs)

    def added(self, parts: Any, given: torch.Tensor) -> torch.Tensor:
        """Return U relu(F * D x), the scale in U."""
        inner = parts.down(given)
        return parts.up((parts.filter(inner) if hasattr(parts, "filter") else inner).relu())
