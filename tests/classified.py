"""A tiny classifier, and pictures sorted into folders by their class."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from ultralytics.nn.tasks import ClassificationModel

CLASSES = ("blue", "green", "red")
_LAYERS = [("Conv", [8, 3, 2]), ("Conv", [16, 3, 2]), ("C2f", [16, True]), ("Conv", [16, 1, 1]), ("Conv", [16, 1, 1])]


def write_classifier(path: Path, names: tuple[str, ...] = ("red", "stone"), *, side: int = 64) -> Path:
    """Write an Ultralytics checkpoint with random weights."""
    torch.manual_seed(0)
    yaml = {
        "nc": len(names),
        "backbone": [[-1, 1, *layer] for layer in _LAYERS],
        "head": [[-1, 1, "Classify", ["nc"]]],
        "channels": 3,
    }
    model = ClassificationModel(yaml, nc=len(names), verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    _spread(model.eval(), side)
    arguments = {"task": "classify", "imgsz": side, "model": path.name}
    model.names, model.task, model.args = dict(enumerate(names)), "classify", arguments
    torch.save({"model": model.eval(), "ema": None, "train_args": dict(arguments), "epoch": -1}, path)
    return path


@torch.no_grad()
def _spread(model: ClassificationModel, side: int) -> None:
    """Make answers differ: what enters the linear layer is centred by its bias."""
    seen: list[torch.Tensor] = []
    linear = model.model[-1].linear
    handle = linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tints = torch.eye(3).repeat(8, 1)[..., None, None] * 0.4
    model(torch.rand(24, 3, side, side) * 0.47 + tints)
    handle.remove()
    linear.weight.normal_(std=0.5)
    linear.bias.copy_(-linear.weight @ seen[0].mean(dim=0))


def write_classified(folder: Path, counts: dict[str, int], *, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write pictures of so many a class and split, of several shapes, tinted by their class; return the folder."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for class_id, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = (80, 64) if number % 2 else (72, 120)
                pixels = rng.integers(0, 120, (height, width, 3), dtype=np.uint8)
                pixels[..., class_id % 3] += 100
                cv2.imwrite(str(folder / split / name / f"{number}.png"), pixels)
    return folder
