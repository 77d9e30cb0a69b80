"""Computing the adapted weights of all layers together, instead of one by one as each layer runs.

What depends on parameters alone needs no launch of its own for every layer: each method says how its layers are
computed in one go. The weights and their gradients are those of `visionlora.adapters.torch.attach`, but for rounding
to half precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from visionlora.adapters.methods import Batch, Method
from visionlora.adapters.torch.attach import AdaptedWeight, TrainedBias


class BatchedWeights:
    """All adapted weights and biases of one model.

    Args:
        model: a model that `attach` prepared, on its device and in its memory format; it must not move afterwards.
        leave_packed: let a layer whose frozen weight is packed compute its own as it runs: where what it does is
            computed again for the backward pass, no weight is kept for that.

    Example:
        >>> import torch
        >>> from visionlora.adapters import AdapterSettings
        >>> from visionlora.adapters.torch import attach, plan_adapter
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4))
        >>> attach(model, plan_adapter(model, AdapterSettings()))
        >>> with BatchedWeights(model).computed():
        ...     y = model(torch.ones(1, 4))
    """

    def __init__(self, model: nn.Module, *, leave_packed: bool = False) -> None:
        layers: dict[Method, tuple[list[AdaptedWeight], list[torch.Tensor]]] = {}
        self._biases: list[tuple[TrainedBias, nn.Parameter]] = []
        for module in model.modules():
            if not parametrize.is_parametrized(module):
                continue
            for chain in cast(nn.ModuleDict, module.parametrizations).values():
                own, original = chain[0], chain.original  # type: ignore[index]
                if isinstance(own, AdaptedWeight):
                    if leave_packed and own.packed is not None:
                        continue
                    adapted, frozen = layers.setdefault(own.method, ([], []))
                    adapted.append(own)
                    frozen.append(cast(torch.Tensor, original))
                elif isinstance(own, TrainedBias):
                    self._biases.append((own, cast(nn.Parameter, original)))
        self._device = next(model.buffers()).device.type
        self._batches: list[tuple[Batch, list[AdaptedWeight], list[torch.Tensor]]] = []
        self._single: list[tuple[AdaptedWeight, torch.Tensor]] = []
        for method, (adapted, frozen) in layers.items():
            batch = method.batch(adapted)
            if batch is None:
                self._single += zip(adapted, frozen, strict=True)
            else:
                self._batches.append((batch, adapted, frozen))

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
        self.clear()  # a layer that has its weight would give that one
        half = torch.is_autocast_enabled(self._device)
        dtype = torch.get_autocast_dtype(self._device) if half else torch.float32
        with torch.autocast(self._device, enabled=False):
            self._compute(dtype)

    def clear(self) -> None:
        """Let each layer compute its own weight again."""
        adapted = [layer for _, layers, _ in self._batches for layer in layers]
        for layer in (*adapted, *(layer for layer, _ in self._single)):
            layer.ready = None
        for bias, _ in self._biases:
            bias.ready = None

    def _compute(self, dtype: torch.dtype) -> None:
        for batch, layers, frozen in self._batches:
            weights = [layer.frozen(kept) for layer, kept in zip(layers, frozen, strict=True)]
            for layer, weight in zip(layers, batch.compute(weights, dtype), strict=True):
                layer.ready = weight
        for layer, weight in self._single:
            layer.ready = layer(weight).to(dtype)
        if self._biases:
            joined = torch.cat([bias for _, bias in self._biases]).to(dtype)
            pieces = torch.split(joined, [bias.numel() for _, bias in self._biases])
            for (own, _), piece in zip(self._biases, pieces, strict=True):
                own.ready = piece
