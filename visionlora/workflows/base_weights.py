"""The weights of a base that adapters adapt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.adapters import ArrayAdapter
from visionlora.adapters.base_precision import rounded_weight
from visionlora.adapters.shapes import check_shapes
from visionlora.adapters.torch.merge import expected_shapes
from visionlora.detectors import family_of
from visionlora.errors import AdapterError


def base_weights(
    model: Path | str, paths: Sequence[Path], adapters: Sequence[ArrayAdapter]
) -> dict[str, NDArray[np.float32]]:
    """Return the weights that adapters of the same targets adapt, rounded as they are for these, by layer.

    Args:
        model: the base (.pt).
        paths: the adapters' files.
        adapters: the adapters.

    Raises:
        AdapterError: one belongs to another base, or does not fit.
        ModelError: the base cannot be used.
    """
    family = family_of(model)
    base = family.load(model)
    for path, adapter in zip(paths, adapters, strict=True):
        card = adapter.card
        try:
            card.check_base(base.fingerprint, str(base.path), family=family.name)
            adapted = family.adapted(base, card.names, card.settings)
            check_shapes(expected_shapes(adapted.model, adapted.plan), adapter.tensors)
        except AdapterError as error:
            raise AdapterError(f"{path}: {error}") from error
    return {
        layer.name: rounded_weight(
            adapted.model.get_parameter(layer.weight).detach().numpy(), card.settings.base_precision
        )
        for layer in adapted.plan.adapted
    }
