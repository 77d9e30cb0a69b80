"""How far pictures are from what the backbone of a torchvision detector has seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from visionlora.detectors import statistics
from visionlora.detectors.family import Base
from visionlora.detectors.torchvision.network import features_of


def statistics_shift(base: Base, squares: Sequence[NDArray[np.uint8]]) -> float:
    """Return the divergence of pictures from the statistics of the backbone's later norms (see `Family`)."""
    norms = [module for module in base.model.get_submodule("backbone").modules() if isinstance(module, nn.BatchNorm2d)]
    later = norms[round(statistics.EARLY * len(norms)) :]
    return statistics.statistics_shift(later, lambda images: features_of(base.model, images), squares)
