"""How much of a GPU's memory a training takes: the steps of an epoch and a validation, taken for real on noise."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize
from ultralytics.nn.tasks import DetectionModel

from visionlora.detectors.checkpoints import out_of_memory
from visionlora.detectors.family import Base, StepSample, StepSpec
from visionlora.detectors.measuring import Runner
from visionlora.detectors.ultralytics.checkpoint import quiet
from visionlora.detectors.ultralytics.measuring import made_up_batch, measured_step
from visionlora.detectors.ultralytics.precision import exact_convolutions, no_fill
from visionlora.detectors.ultralytics.step import TrainingStep, clear_workspaces, to_unit

_NO_ROOM = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR", "unable to find an engine")
"""What libraries say where they find no memory, as ultralytics/engine/trainer.py lists it."""


def training_memory(
    base: Base, step: StepSpec, sample: StepSample, *, last: int, validated: int, limit: int
) -> int | None:
    """Return the most bytes that a training takes on a GPU; None where these are more than `limit` (see `Family`).

    What torch reserves is limited while it is measured: libraries that take what they get then take less, as they
    would on a smaller GPU.
    """
    device = sample.device
    torch.cuda.init()
    with torch.cuda.device(device), quiet(), no_fill():  # a graph that fails here is no news for the user
        _free()
        try:
            with _limited(limit, device):
                return _most(base, step, sample, last=last, validated=validated)
        finally:
            _free()


def _most(base: Base, step: StepSpec, sample: StepSample, *, last: int, validated: int) -> int | None:
    device = sample.device
    before, refused = torch.cuda.memory_reserved(device), _refused(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        taken, graphed = take_epoch(base, step, sample, last=last, validated=validated)
    except RuntimeError as error:
        if not (out_of_memory(error) or any(words in str(error) for words in _NO_ROOM)):
            raise
        return None
    if isinstance(taken, TrainingStep) and not graphed and _refused(device) > refused:
        return None  # it would train without its graph, for want of memory
    peak = torch.cuda.max_memory_reserved if graphed else torch.cuda.max_memory_allocated
    return peak(device) - before


def take_epoch(base: Base, step: StepSpec, sample: StepSample, *, last: int, validated: int) -> tuple[nn.Module, bool]:
    """Take the steps that an epoch's memory depends on, on any device; return the step, and whether it has a graph.

    The usual batch twice, the smaller last one, which has a graph of its own, and the validation of the averaged copy.
    Ultralytics' own steps hold nothing between them, so that their validation has all the room.
    """
    model = measured_step(base, step, sample)
    average = None
    if isinstance(model, TrainingStep):
        average = copy.deepcopy(cast(DetectionModel, model.module)).eval().requires_grad_(False)
    run = Runner(model, [parameter for parameter in model.parameters() if parameter.requires_grad], sample.device)
    for _ in range(2):
        run(_batch(base, sample, sample.batch))
    graphed = isinstance(model, TrainingStep) and model.uses_graphs
    if last:
        run(_batch(base, sample, last))
    if average is not None and validated:
        batch = {name: tensor.to(sample.device) for name, tensor in _batch(base, sample, validated).items()}
        with torch.no_grad(), parametrize.cached(), exact_convolutions():
            average.loss(batch, average(to_unit(batch["img"])))
    return model, graphed


def _batch(base: Base, sample: StepSample, images: int) -> dict[str, torch.Tensor]:
    size = sample.image_size
    return made_up_batch(sample.objects, batch=images, image_size=size, device=sample.device, task=base.task)


@contextmanager
def _limited(limit: int, device: torch.device) -> Iterator[None]:
    """Let torch reserve so many bytes more of a GPU."""
    before = torch.cuda.get_per_process_memory_fraction(device)
    total = torch.cuda.get_device_properties(device).total_memory
    share = (torch.cuda.memory_reserved(device) + limit) / total
    torch.cuda.set_per_process_memory_fraction(min(share, before), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


def _refused(device: torch.device) -> int:
    """Return how often torch found no memory so far."""
    return torch.cuda.memory_stats(device).get("num_ooms", 0)


def _free() -> None:
    gc.collect()  # torch's graphed modules refer to themselves
    clear_workspaces()
    torch.cuda.empty_cache()
