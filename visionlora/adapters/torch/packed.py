"""A frozen weight in fewer bits, brought back as its layer runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from visionlora.adapters.base_precision import PRECISIONS, Packed
from visionlora.errors import ModelError

if TYPE_CHECKING:
    from visionlora.adapters.torch.plan import AdapterPlan


class PackedWeight(nn.Module):
    """Parametrization that makes the weight of a folded layer from its codes; what the codes count are its buffers.

    Args:
        precision: one of `PRECISIONS`.
        packed: the weight before its batch normalization was folded into it, as that precision packs it.
        shape: of the weight.
        gain: (outputs,) factor gamma / sigma of the norm, or None.
    """

    def __init__(self, precision: str, packed: Packed, shape: tuple[int, ...], gain: torch.Tensor | None) -> None:
        super().__init__()
        self.precision, self.shape = precision, shape
        self.counts = tuple(name for name in packed if name != "codes")
        for name in self.counts:
            self.register_buffer(name, torch.from_numpy(packed[name]).clone())
        self.gain: torch.Tensor | None
        self.register_buffer("gain", None if gain is None else gain.reshape(-1, *(1 for _ in shape[1:])))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the weight, float32, with the factor of its norm."""
        packed = {"codes": codes, **{name: getattr(self, name) for name in self.counts}}
        weight = PRECISIONS[self.precision].bring_back(packed, self.shape)
        return weight if self.gain is None else weight * self.gain


@torch.no_grad()
def round_weights(model: nn.Module, plan: AdapterPlan) -> Mapping[str, Packed]:
    """Round the weights of a base as it was loaded, in place, to the precision that `plan` wants.

    Returns:
        Them packed, by the name of the layer; empty where the base stays float32.

    Raises:
        ModelError: a weight is beyond what the precision holds; the model is unchanged then.
    """
    name = plan.settings.base_precision
    packed, rounded = {}, {}
    for layer in plan.rounded:
        with np.errstate(invalid="ignore"):  # a broken weight: told below
            packed[layer.name] = PRECISIONS[name].pack(model.get_parameter(layer.weight).float().cpu().numpy())
            rounded[layer] = PRECISIONS[name].weight(packed[layer.name], layer.shape)
    broken = [layer.name for layer, weight in rounded.items() if not np.isfinite(weight).all()]
    if broken:
        raise ModelError(
            f"{len(broken)} layers have weights that {name} cannot hold, the first is {broken[0]}; leave out "
            "--base-precision, or give a whole base"
        )
    for layer, weight in rounded.items():
        model.get_parameter(layer.weight).copy_(torch.from_numpy(weight))
    return packed


def frozen_bytes(model: nn.Module) -> int:
    """Return the bytes of all that is frozen in a model that `attach` prepared: weights, norms and biases, once each.

    Example:
        >>> from visionlora.adapters import AdapterSettings
        >>> from visionlora.adapters.torch import attach, plan_adapter
        >>> model = nn.Sequential(nn.Linear(64, 64))
        >>> attach(model, plan_adapter(model, AdapterSettings(base_precision="int8", train_bias=False)))
        >>> frozen_bytes(model)  # 64 * 64 codes, 64 scales and 64 biases
        4608
    """
    storages = {buffer.untyped_storage().data_ptr(): buffer.untyped_storage() for buffer in model.buffers()}
    return sum(storage.nbytes() for storage in storages.values())
