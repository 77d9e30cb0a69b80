"""Computing the adapted weights of all layers together, instead of one by one as each layer runs.

What depends on parameters alone needs no launch of its own for every layer: the factors of all layers are joined,
scaled and rounded in one go, and each layer keeps one matrix product. The weights and their gradients are those of
`visionlora.adapters.attach`, but for the rounding to half precision, which here comes before the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from visionlora.adapters.attach import LowRank, TrainedBias


class WeightsTogether:
    """All adapted weights and biases of one model.

    Args:
        model: a model that `attach` prepared, on its device and in its memory format; it must not move afterwards.

    Example:
        >>> import torch
        >>> from visionlora.adapters import AdapterSettings, attach, plan_adapter
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4))
        >>> attach(model, plan_adapter(model, AdapterSettings(rank=2)))
        >>> with WeightsTogether(model).computed():
        ...     y = model(torch.ones(1, 4))
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers: list[LowRank] = []
        self._frozen: list[torch.Tensor] = []
        self._biases: list[tuple[TrainedBias, nn.Parameter]] = []
        for module in model.modules():
            if not parametrize.is_parametrized(module):
                continue
            for chain in cast(nn.ModuleDict, module.parametrizations).values():
                own, original = chain[0], chain.original  # type: ignore[index]
                if isinstance(own, LowRank):
                    self._layers.append(own)
                    self._frozen.append(cast(torch.Tensor, original))
                elif isinstance(own, TrainedBias):
                    self._biases.append((own, cast(nn.Parameter, original)))
        self._rounded: dict[torch.dtype, tuple[list[torch.Tensor], torch.Tensor]] = {}

    @contextmanager
    def computed(self) -> Iterator[None]:
        """Compute every weight and bias now, in the precision of autocast; inside, the layers use them."""
        self.compute()
        try:
            yield
        finally:
            self.clear()

    def compute(self) -> None:
        """Compute every weight and bias now; the layers use them until `clear`, whatever becomes of the parameters."""
        device = self._frozen[0].device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else torch.float32
        with torch.autocast(device, enabled=False):
            self._compute(dtype)

    def clear(self) -> None:
        """Let each layer compute its own weight again."""
        for layer in self._layers:
            layer.ready = None
        for bias, _ in self._biases:
            bias.ready = None

    def _compute(self, dtype: torch.dtype) -> None:
        frozen, factors = self._constants(dtype)
        rights = [layer.right() for layer in self._layers]
        lefts = [layer.lora_B for layer in self._layers]
        joined_right = torch.cat([right.reshape(-1) for right in rights]).to(dtype)
        joined_left = (torch.cat([left.reshape(-1) for left in lefts]) * factors).to(dtype)
        split_right = joined_right.split([right.numel() for right in rights])
        split_left = joined_left.split([left.numel() for left in lefts])
        for layer, matrix, left, right in zip(self._layers, frozen, split_left, split_right, strict=True):
            product = torch.addmm(matrix, left.view(layer.lora_B.shape), right.view(len(layer.lora_A), -1))
            layer.ready = layer.shaped(product)
        if self._biases:
            joined = torch.cat([bias for _, bias in self._biases]).to(dtype)
            pieces = joined.split([bias.numel() for _, bias in self._biases])
            for (own, _), piece in zip(self._biases, pieces, strict=True):
                own.ready = piece

    def _constants(self, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the frozen weights as matrices, and what each element of the joined B is multiplied with."""
        if dtype not in self._rounded:
            pairs = list(zip(self._layers, self._frozen, strict=True))
            frozen = [layer.matrix(weight).to(dtype).contiguous() for layer, weight in pairs]
            ones = [torch.ones_like(layer.lora_B) * layer.scale for layer in self._layers]
            gains = [1.0 if layer.gain is None else layer.gain for layer in self._layers]
            factors = [(one * gain).reshape(-1) for one, gain in zip(ones, gains, strict=True)]
            self._rounded[dtype] = frozen, torch.cat(factors)
        return self._rounded[dtype]
