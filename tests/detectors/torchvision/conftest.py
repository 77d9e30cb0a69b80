"""Tiny torchvision detectors at random weights, whose class outputs differ from place to place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from visionlora.detectors.checkpoints import fingerprint
from visionlora.detectors.family import Base
from visionlora.detectors.torchvision.architectures import named
from visionlora.detectors.torchvision.checkpoint import detector, pack_checkpoint
from visionlora.detectors.torchvision.classes import class_output_names, class_rows
from visionlora.tasks import DETECT

FCOS, RETINANET, RETINANET_V2 = "fcos_resnet18_fpn_64", "retinanet_resnet18_fpn_64", "retinanet_resnet18_fpn_v2_64"
SSDLITE = "ssdlite320_mobilenet_v3_large"
DETECTORS = (FCOS, RETINANET, RETINANET_V2, SSDLITE)
CATEGORIES = ("__background__", "one", "N/A", "crack", "three")
SIZE = 96


def random_detector(name: str, categories: tuple[str, ...] = CATEGORIES) -> Any:
    torch.manual_seed(0)
    model = detector(named(name), categories)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
        elif isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)  # of equal biases an exported graph holds one
    if name == SSDLITE:  # its own start is for training: signals fade on their way through it
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    for path in class_output_names(model):
        torch.nn.init.normal_(model.get_submodule(path).weight, std=0.3)
    return model


def base_of(model: Any, path: Path) -> Base:
    names = tuple(model.categories[row] for row in class_rows(model.categories))
    return Base(model, path, names, SIZE, fingerprint(model), 32, "torchvision", DETECT)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the path of the checkpoint of a detector by name, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("torchvision")

    def written(name: str) -> Path:
        path = folder / f"{name}.pt"
        if not path.exists():
            path.write_bytes(pack_checkpoint(base_of(random_detector(name), path), image_size=SIZE, card={}))
        return path

    return written
