"""How far pictures are from what the backbone of an Ultralytics detector has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from visionlora.detectors import statistics
from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics.layout import module_inputs


def statistics_shift(base: Base, squares: Sequence[NDArray[np.uint8]]) -> float:
    """Return the divergence of pictures from the statistics of the backbone's later norms (see `Family`)."""
    model = cast(DetectionModel, base.model)
    backbone = model.model[: len(model.yaml["backbone"])]
    later = backbone[round(statistics.EARLY * len(backbone)) :].modules()

    def run(x: torch.Tensor) -> None:
        outputs: list[torch.Tensor] = []
        for module in backbone:
            x = module(module_inputs(module, x, outputs))
            outputs.append(x)

    return statistics.statistics_shift([norm for norm in later if isinstance(norm, nn.BatchNorm2d)], run, squares)
