"""The training steps of Ultralytics' detectors that are measured, and made-up pictures for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters import AdapterSettings
from visionlora.adapters.torch import freeze_norms
from visionlora.detectors.family import Base, StepCost, StepSample, StepSpec
from visionlora.detectors.measuring import measure_in_turns, measure_step, noise
from visionlora.detectors.ultralytics.activation_swap import SiLUToReLU
from visionlora.detectors.ultralytics.layout import adapted
from visionlora.detectors.ultralytics.step import TrainingStep, to_unit
from visionlora.tasks import DETECT, OrientedBoxes, Pose, Segment, Task


def made_up_batch(
    objects: Sequence[Any], *, batch: int, image_size: int, device: torch.device, task: Task = DETECT
) -> dict[str, Any]:
    """Return a collated batch of noise; masks fill their boxes, keypoints lie in their middle, angles are zero.

    Args:
        objects: for each image an array (n, 5): class, then centre and size as fractions of the image.
        batch: images; `objects` is repeated to this many.
        image_size: side of the square images in pixels.
        device: where it will be moved to before a step; the batch itself lies on the CPU.
        task: what is labelled.

    Raises:
        UsageError: the images do not fit into memory.
    """
    images = noise(batch, image_size, pinned=device.type == "cuda")
    labels = [torch.as_tensor(objects[i % len(objects)], dtype=torch.float32).view(-1, 5) for i in range(batch)]
    counts = torch.tensor([len(each) for each in labels])
    joined = torch.cat(labels)
    made = {
        "img": images,
        "batch_idx": torch.repeat_interleave(torch.arange(batch), counts).float(),
        "cls": joined[:, :1],
        "bboxes": joined[:, 1:],
    }
    if not task.boxes:
        made["cls"] = torch.stack([each[0, 0] for each in labels]).long()
    elif isinstance(task, Pose):
        visible = torch.ones(len(joined), 1)
        made["keypoints"] = torch.cat([joined[:, 1:3], visible], 1)[:, None].repeat(1, task.keypoints, 1)
    elif isinstance(task, OrientedBoxes):
        made["bboxes"] = torch.cat([joined[:, 1:], torch.zeros(len(joined), 1)], 1)
    elif isinstance(task, Segment):
        made["masks"] = torch.stack([_filled(each, image_size // 4) for each in labels])
    return made


def _filled(boxes: torch.Tensor, side: int) -> torch.Tensor:
    """Return the numbers of objects (n, 5), from 1, where each covers a square; later ones cover earlier ones."""
    mask = torch.zeros(side, side)
    low, high = boxes[:, 1:3] - boxes[:, 3:] / 2, boxes[:, 1:3] + boxes[:, 3:] / 2
    corners = (torch.cat([low, high], 1).clamp(0, 1) * side).ceil().int().tolist()
    for number, (left, top, right, bottom) in enumerate(corners, start=1):
        mask[top:bottom, left:right] = number
    return mask


def full_model(base: Base, names: Sequence[str], *, freeze: int, device: torch.device) -> nn.Module:
    """Return a copy of `base` as Ultralytics fine-tunes it, its first `freeze` modules frozen."""
    with torch.random.fork_rng(devices=[]):
        model = cast(DetectionModel, adapted(base, names, AdapterSettings()).model)
    model.args = get_cfg()
    frozen = tuple(f"model.{number}." for number in range(freeze))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) and ".dfl" not in name)
    layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
    return _AsUltralytics(model.to(device).to(memory_format=layout))


def adapted_step(
    base: Base,
    names: Sequence[str],
    settings: AdapterSettings,
    *,
    device: torch.device,
    lean: bool = False,
    objects: int = 0,
) -> TrainingStep:
    """Return a copy of `base` with an adapter, as `visionlora train` trains it in float on this device.

    Args:
        base: the detector.
        names: class names of the data set.
        settings: shape of the adapter.
        device: the CPU or one GPU.
        lean: less memory for more time.
        objects: expected most objects in one picture (see `TrainingStep`).

    Raises:
        UsageError: the targets of `settings` match nothing.
    """
    with torch.random.fork_rng(devices=[]):
        detector = adapted(base, names, settings, relu=SiLUToReLU)
    detector.attach()
    model = cast(DetectionModel, detector.model)
    model.args = get_cfg()
    cuda = device.type == "cuda"
    layout = torch.preserve_format if device.type == "mps" else torch.channels_last
    model = model.to(device).to(memory_format=layout)
    half = torch.float16 if cuda else None
    return TrainingStep(model, graph=cuda, lean=lean, precision=half, objects=objects)


def measured_step(base: Base, step: StepSpec, sample: StepSample) -> nn.Module:
    """Return the step to measure on a sample's device, in training mode (see `visionlora.detectors.measuring`).

    Raises:
        UsageError: the targets of an adapter match nothing.
    """
    names, device = sample.names, sample.device
    if step.adapter is None:
        return full_model(base, names, freeze=step.frozen, device=device).train()
    objects = 2 * sample.most_objects  # of a mosaic, as the trainer expects them
    made = adapted_step(base, names, step.adapter, device=device, lean=step.lean, objects=objects).train()
    freeze_norms(made)
    return made


def measure_steps(
    base: Base, steps: Sequence[StepSpec], sample: StepSample, *, rounds: int
) -> Iterator[tuple[StepCost, ...]]:
    """Measure steps on images of noise, in turns (see `Family`).

    Raises:
        UsageError: the images do not fit into memory.
    """
    device = sample.device
    size = sample.image_size
    batch = made_up_batch(sample.objects, batch=sample.batch, image_size=size, device=device, task=base.task)
    builds = [partial(measured_step, base, step, sample) for step in steps]
    if device.type == "cuda":  # what CUDA's libraries allocate once belongs to no step
        measure_step(builds[0], batch, device)
    return measure_in_turns(builds, batch, device, rounds=rounds)


class _AsUltralytics(nn.Module):
    """A detector that takes images as bytes; everything else is Ultralytics'."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, Any]:
        return self.model({**batch, "img": to_unit(batch["img"])})
