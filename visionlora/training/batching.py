"""`--batch auto`: the largest batch whose training fits into a GPU's memory, by measuring a few of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from visionlora.data import Dataset
from visionlora.detectors.device import check_batch, free_memory, torch_device
from visionlora.detectors.family import Base, Family, StepSample, StepSpec
from visionlora.errors import UsageError
from visionlora.progress import counting
from visionlora.training.samples import step_sample
from visionlora.training.settings import AUTO_BATCH, Schedule, TrainingSettings

CEILING = 64
"""Most images of a batch that is chosen: what Ultralytics' own rates are for (`nbs`). More is another training."""
SHARE = 0.85
"""Of the free memory that a training may take. The rest is for what no measured step sees: kernels that CUDA loads,
pictures more crowded than expected, other programs."""
_FIRST = (4, 8)  # measured before there is a line to go by


@dataclass(frozen=True)
class LargestBatch:
    """The largest batch that fits.

    Attributes:
        batch: images a step.
        memory: bytes that were measured with it.
    """

    batch: int
    memory: int


def batches_up_to(most: int) -> tuple[int, ...]:
    """Return the batches to choose from, ascending: 1, 2, 4 and the multiples of 8, which tensor cores are filled by.

    Example:
        >>> batches_up_to(25)
        (1, 2, 4, 8, 16, 24)
    """
    return tuple(batch for batch in (1, 2, 4, *range(8, most + 1, 8)) if batch <= most)


def largest_batch(measure: Callable[[int], int | None], batches: Sequence[int], room: float) -> LargestBatch | None:
    """Return the largest of some batches that fits; None if not even the smallest does.

    Memory is nearly a + b * batch: two small batches give the line, and the largest that it lets fit is tried. It goes
    on until one fits and the next larger one does not, both measured; where the line is wrong, halfway between them.

    Args:
        measure: returns the bytes that a training with a batch takes; None where it does not fit.
        batches: ascending, each needs no less than the one before.
        room: bytes that may be taken.
    """
    sizes: dict[int, int] = {}
    fits, too_large = -1, len(batches)  # the largest that does, the smallest that does not
    while too_large - fits > 1:
        at = _next(batches, sizes, room, fits, too_large)
        size = measure(batches[at])
        if size is not None:
            sizes[batches[at]] = size
        if size is None or size > room:
            too_large = at
        else:
            fits = at
    return None if fits < 0 else LargestBatch(batches[fits], sizes[batches[fits]])


def _next(batches: Sequence[int], sizes: Mapping[int, int], room: float, fits: int, too_large: int) -> int:
    """Return which batch to measure next: one between the two."""
    if len(sizes) < 2:
        first = sum(batch < _FIRST[len(sizes)] for batch in batches)
        return min(max(first, fits + 1), too_large - 1)
    slope, start = np.polyfit(list(sizes), list(sizes.values()), 1)
    below = sum(start + slope * batch <= room for batch in batches) - 1
    return max(below, fits + 1) if below < too_large else (fits + too_large) // 2


@dataclass(frozen=True)
class Room:
    """Where a batch must fit: one GPU, or several alike that share it.

    Attributes:
        devices: the GPUs; what is measured is measured on the first.
        gib: what is free on each of them, in GiB.
    """

    devices: tuple[torch.device, ...]
    gib: float

    @classmethod
    def on(cls, devices: str, *, memory: float | None = None) -> Room:
        """Return what is free on GPUs, named as `check_device` returns them, or `memory` GiB of it.

        Raises:
            UsageError: there is not so much.
        """
        places = tuple(torch_device(name) for name in devices.split(","))
        gib = min(free_memory(place) for place in places) / 2**30
        if memory is not None and memory > gib:
            raise UsageError(f"--memory {memory:g}: {gib:.1f} GiB are free on --device {devices}; ask for less")
        return cls(places, gib if memory is None else memory)

    @property
    def limit(self) -> int:
        """Bytes that a training may take of each GPU."""
        return int(SHARE * self.gib * 2**30)

    def __str__(self) -> str:
        each = f", on each of {len(self.devices)} GPUs" if len(self.devices) > 1 else ""
        return f"{SHARE:.0%} of {self.gib:.1f} GiB{each}"


@dataclass(frozen=True)
class Fitting:
    """What the largest batch is looked for with.

    Attributes:
        family: of the base.
        base: the detector.
        sample: what is shown in the steps that are measured, on the first GPU; its batch does not count.
        room: where it must fit.
        pictures: of the train split.
        validated: pictures of the val split; None where they are not known.
    """

    family: Family
    base: Base
    sample: StepSample
    room: Room
    pictures: int
    validated: int | None = None

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches to choose from, over all GPUs.

        Raises:
            UsageError: the trainer takes a step with none of them.
        """
        count, allowed, problem = len(self.room.devices), [], None
        for share in batches_up_to(min(max(CEILING // count, 1), self._pictures_each)):
            chosen = {"imgsz": self.sample.image_size, "batch": share * count}
            try:
                self.family.check_batches(self.base, chosen, pictures=self.pictures, processes=count)
                allowed.append(share * count)
            except UsageError as error:
                problem = error
        if problem and not allowed:
            raise problem
        return tuple(allowed)

    def __str__(self) -> str:
        batches = self.batches
        listed = f"{batches[0]} to {batches[-1]}" if len(batches) > 1 else f"{batches[0]}"
        return f"{listed} that fits into {self.room}"

    @property
    def _pictures_each(self) -> int:
        return -(-self.pictures // len(self.room.devices))

    def largest(self, step: StepSpec, advance: Callable[..., None]) -> LargestBatch | None:
        """Return the largest batch that such a step fits with; `advance` is called behind each that is measured."""

        def measure(batch: int) -> int | None:
            share = batch // len(self.room.devices)
            seen = 2 * share  # Ultralytics validates twice as many at once
            size = self.family.training_memory(
                self.base,
                step,
                replace(self.sample, batch=share),
                last=self._pictures_each % share,
                validated=seen if self.validated is None else min(seen, self.validated),
                limit=self.room.limit,
            )
            advance()
            return size

        return largest_batch(measure, self.batches, self.room.limit)


def with_batch(
    settings: TrainingSettings, base: Base, dataset: Dataset, begun: Mapping[str, Any] | None
) -> tuple[TrainingSettings, str]:
    """Return settings with the batch that fits where one is to be found, and a sentence about it; else as they are.

    Args:
        settings: under their recipe.
        base: the frozen detector.
        dataset: with train and val.
        begun: the record of the run to resume, whose batch it is then; None begins a run.

    Raises:
        UsageError: none fits, or that of the run cannot be shared by the GPUs.
    """
    schedule, device = settings.schedule, str(settings.device)
    if not settings.auto_batch:
        return settings, ""
    if begun is not None:
        schedule = replace(schedule, batch=begun["hyperparameters"].get("batch"))
        check_batch(schedule.batch, device)
        return replace(settings, schedule=schedule, auto_batch=False), f"batch {schedule.batch}, as the run began"
    room, images = Room.on(device), dataset.split("train")
    sample = step_sample(dataset.names, images, batch=1, image_size=schedule.imgsz, device=room.devices[0])
    fitting = Fitting(settings.family, base, sample, room, len(images), len(dataset.split("val")))
    with counting("batch", None, "batch", f"--batch {AUTO_BATCH}: measuring") as advance:
        found = fitting.largest(StepSpec(settings.adapter, lean=settings.lean), advance)
    if found is None:
        smaller = "a smaller --imgsz" if settings.lean else "--lean or a smaller --imgsz"
        raise UsageError(
            f"--batch {AUTO_BATCH}: expected a batch that fits into {room}, but not even {fitting.batches[0]} does; "
            f"train with {smaller}, or free memory"
        )
    schedule = replace(schedule, batch=found.batch)
    rate = schedule.lr0 if settings.recipe.lr0 is None else None
    return replace(settings, schedule=schedule, auto_batch=False), _sentence(found, fitting, rate)


def _sentence(found: LargestBatch, fitting: Fitting, rate: float | None) -> str:
    """Say which batch was found, and what it means for the learning rate of a recipe; None is the user's own."""
    words = f"batch {found.batch}: the largest of {fitting}, with {found.memory / 2**30:.1f} GiB; "
    words += f"{-(-fitting.pictures // found.batch)} steps an epoch"
    if rate is None or found.batch == Schedule.batch:
        return words
    grown = rate * found.batch / Schedule.batch
    return f"{words}; --lr0 {rate:g} was measured at batch {Schedule.batch}, {grown:g} would be in proportion"
