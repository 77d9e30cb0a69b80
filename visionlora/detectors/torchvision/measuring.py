"""The training steps of torchvision's detectors that are measured, on images of noise."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.torch import BatchedWeights, freeze_norms
from visionlora.detectors.family import Base, StepCost, StepSample, StepSpec
from visionlora.detectors.measuring import measure_in_turns, noise
from visionlora.detectors.torchvision.layout import adapted
from visionlora.detectors.torchvision.trainer import losses_of
from visionlora.errors import UsageError


class _Step(nn.Module):
    """A detector that takes a batch as `measure_steps` makes it and returns its losses.

    Args:
        model: the detector, on its device.
        adapted: whether it is trained by an adapter, whose weights are computed together then.
    """

    def __init__(self, model: nn.Module, *, adapted: bool) -> None:
        super().__init__()
        self.model = model
        self._weights = BatchedWeights(model) if adapted else None

    def forward(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, None]:
        """Return the losses (k,)."""
        counts = batch["counts"].tolist()
        boxes, labels = (torch.split(batch[name], counts) for name in ("boxes", "labels"))
        targets = [{"boxes": own, "labels": label} for own, label in zip(boxes, labels, strict=True)]
        if self._weights is None:
            losses = losses_of(self.model, batch["img"], targets)
        else:
            with self._weights.computed():
                losses = losses_of(self.model, batch["img"], targets)
        return torch.stack(list(losses.values())), None


def measure_steps(
    base: Base, steps: Sequence[StepSpec], sample: StepSample, *, rounds: int
) -> Iterator[tuple[StepCost, ...]]:
    """Measure steps on images of noise, in turns (see `Family`).

    Raises:
        UsageError: the images do not fit into memory, or an adapter's settings name no layer.
    """
    builds = [partial(_step, base, step, sample) for step in steps]
    return measure_in_turns(builds, _batch(sample), sample.device, rounds=rounds)


def training_memory(
    base: Base, step: StepSpec, sample: StepSample, *, last: int, validated: int, limit: int
) -> int | None:
    """Refuse: no batch is looked for here (see `Family`).

    Raises:
        UsageError: always.
    """
    raise UsageError("--batch auto: nothing measures torchvision's training; give --batch a number, such as 16")


def _step(base: Base, step: StepSpec, sample: StepSample) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        detector = adapted(base, sample.names, step.adapter or AdapterSettings())
    model = copy.deepcopy(detector.model)
    if step.adapter is None:
        model.requires_grad_(True)
    else:
        detector.attach()
        model = detector.model
    model = model.to(sample.device).to(memory_format=torch.channels_last)
    made = _Step(model, adapted=step.adapter is not None).train()
    if step.adapter is not None:
        freeze_norms(made)
    return made


def _batch(sample: StepSample) -> dict[str, Any]:
    """Return a batch of noise with the objects of the sample: `img`, and `boxes`, `labels` and `counts` of all."""
    images = noise(sample.batch, sample.image_size, pinned=sample.device.type == "cuda")
    objects = [torch.as_tensor(sample.objects[i % len(sample.objects)]).view(-1, 5) for i in range(sample.batch)]
    joined = torch.cat(objects).float()
    low, high = joined[:, 1:3] - joined[:, 3:] / 2, joined[:, 1:3] + joined[:, 3:] / 2
    return {
        "img": images,
        "boxes": torch.cat([low, high], 1) * sample.image_size,
        "labels": joined[:, 0].long() + 1,
        "counts": torch.tensor([len(each) for each in objects]),
    }
