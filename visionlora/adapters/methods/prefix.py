"""Prefix tuning: every query of an attention also attends to learned keys, g * V softmax(K q), by a gate of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visionlora.adapters.methods.addition import Addition, AttentionSite
from visionlora.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Prefix(Addition):
    """Learned keys and values before those of the picture, as in [prefix tuning](https://arxiv.org/abs/2101.00190).

    The prefix has a softmax of its own and a gate that is zero at the start, as in
    [LLaMA-Adapter](https://arxiv.org/abs/2303.16199), one for each channel of a value: so training begins with the
    base. Keys and values are two grouped pointwise convolutions, one group a head; the usual factor of the logits is in
    the keys.

    Attributes:
        tokens: pairs of key and value of each head.

    Raises:
        UsageError: there is no token, or more than a thousand.
    """

    tokens: int = 8
    name: ClassVar[str] = "prefix"
    site: ClassVar[type[Any]] = AttentionSite
    place: ClassVar[str] = "an attention (C2PSA or area attention, as in YOLO11, YOLO12 and YOLO26)"
    scaled: ClassVar[str] = "values"
    int8: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.tokens) is not int or not 1 <= self.tokens <= 1000:
            raise UsageError(f"--tokens: expected a whole number from 1 to 1000, got {self.tokens!r:.40}")

    @property
    def words(self) -> str:
        """How many tokens."""
        return f"attentions by {self.tokens} keys and values a head"

    def parts(self, site: AttentionSite) -> dict[str, nn.Module]:
        """Return keys and values."""
        from torch import nn

        heads, tokens = site.heads, site.heads * self.tokens
        return {
            "keys": nn.Conv2d(heads * site.keys, tokens, 1, groups=heads, bias=False),
            "values": nn.Conv2d(tokens, heads * site.values, 1, groups=heads, bias=False),
        }

    def scale(self, site: AttentionSite) -> torch.Tensor:
        """Return the gates, zero."""
        import torch

        return torch.zeros(site.heads * site.values)

    def added(self, parts: Any, given: torch.Tensor) -> torch.Tensor:
        """Return what the queries in `given` (n, heads x (2 keys + values), H, W) find in the prefix."""
        import torch

        heads, keys = parts.site.heads, parts.site.keys
        queries = torch.unflatten(given, 1, (heads, -1))[:, :, :keys].flatten(1, 2)
        weights = torch.unflatten(parts.keys(queries), 1, (heads, self.tokens)).softmax(2)
        return parts.values(weights.flatten(1, 2))
