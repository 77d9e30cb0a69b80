"""Some of Ultralytics' and torch's habits around precision and memory, replaced while a training is set up and runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
import ultralytics.engine.trainer as ultralytics_trainer
from torch import nn
from ultralytics.utils import LOGGER

from visionlora.detectors.ultralytics.checkpoint import raw_prediction
from visionlora.detectors.ultralytics.heads import task_of_model
from visionlora.detectors.ultralytics.qat_detector import QatDetector
from visionlora.tasks import difference


def no_fill() -> AbstractContextManager[None]:
    """Keep deterministic mode from writing to all new memory first: a debugging aid that costs a launch each time."""
    return _set_to(torch.utils.deterministic, "fill_uninitialized_memory", False)


def exact_convolutions() -> AbstractContextManager[None]:
    """Keep a GPU from rounding what convolutions multiply to 10 bits (TF32), its default in float32."""
    return _set_to(torch.backends.cudnn, "allow_tf32", False)


def fastest_convolutions() -> AbstractContextManager[None]:
    """Let cuDNN try its algorithms for each new shape, and take the fastest."""
    return _set_to(torch.backends.cudnn, "benchmark", True)


def own_amp_check(image_size: int) -> AbstractContextManager[None]:
    """Replace Ultralytics' AMP check, which downloads a checkpoint, by one on the model and the image size at hand.

    Answers ultralytics/engine/trainer.py, which calls `check_amp` of utils/checks.py; may go when that takes a model.
    """
    return _set_to(ultralytics_trainer, "check_amp", partial(amp_is_sound, image_size=image_size))


@contextmanager
def _set_to(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let an attribute have another value inside."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@torch.no_grad()
def amp_is_sound(model: nn.Module, *, image_size: int) -> bool:
    """Return whether half precision gives this model's scores on this GPU, within 0.05.

    Where activations are rounded to 256 levels, half precision decides some ties otherwise: what it is good for was
    seen when the float adapter was trained.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        return False
    if isinstance(model, QatDetector):
        return True
    model.eval()
    images = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    exact = raw_prediction(model, images)
    with torch.autocast("cuda"):
        half = tuple(output.float() for output in raw_prediction(model, images))
    sound = difference(task_of_model(model), half, exact)[1] < 0.05  # false for NaN too
    if not sound:
        LOGGER.warning("AMP: half precision changes this model's scores on this GPU; training in float32")
    return sound
