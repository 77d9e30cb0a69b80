"""What a training step costs on this machine: milliseconds and memory of a few real steps on made-up pictures."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters import AdapterSettings
from visionlora.adapters.torch import freeze_norms
from visionlora.detectors.family import Base, StepCost, StepSample, StepSpec
from visionlora.detectors.ultralytics.activation_swap import SiLUToReLU
from visionlora.detectors.ultralytics.layout import adapted
from visionlora.detectors.ultralytics.step import TrainingStep, to_unit
from visionlora.errors import UsageError
from visionlora.tasks import DETECT, OrientedBoxes, Pose, Segment, Task

_WARM, _TIMED, _SECONDS = 2, 5, 1.0  # steps before and while timing a turn; fewer where they take longer together

_CPU_ALLOCATOR = "DefaultCPUAllocator"  # in the message where a CPU has no memory left: a plain RuntimeError


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
    images = _noise(batch, image_size, pinned=device.type == "cuda")
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


def _noise(batch: int, image_size: int, *, pinned: bool) -> torch.Tensor:
    """Return random images (batch, 3, image_size, image_size) as bytes."""
    generator = torch.Generator().manual_seed(0)
    try:
        images = torch.randint(0, 256, (batch, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
        return images.pin_memory() if pinned else images
    except RuntimeError as error:  # torch has no class of its own for this on a CPU
        raise UsageError(
            f"--batch {batch}: {batch} pictures of {image_size} px do not fit into memory; try a smaller batch"
        ) from error


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
    """Return the step to measure on a sample's device: called with a collated batch it returns the loss and its terms.

    Raises:
        UsageError: the targets of an adapter match nothing.
    """
    names, device = sample.names, sample.device
    if step.adapter is None:
        return full_model(base, names, freeze=step.frozen, device=device)
    objects = 2 * sample.most_objects  # of a mosaic, as the trainer expects them
    return adapted_step(base, names, step.adapter, device=device, lean=step.lean, objects=objects)


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


def measure_in_turns(
    builds: Sequence[Callable[[], nn.Module]], batch: Mapping[str, Any], device: torch.device, *, rounds: int
) -> Iterator[tuple[StepCost, ...]]:
    """Measure several models one after the other, and again: a slow spell of the machine meets all of them.

    Yields what is known after each turn, and in the end of all rounds; every other round goes backwards. What does not
    fit is not tried again.
    """
    costs: list[StepCost | None] = [None] * len(builds)
    for number in range(rounds):
        order = range(len(builds))
        for i in order if number % 2 == 0 else reversed(order):
            before = costs[i]
            if before is None or before.turns_ms:
                costs[i] = _joined(before, measure_step(builds[i], batch, device))
            yield tuple(cost for cost in costs if cost is not None)


def _joined(before: StepCost | None, turn: StepCost) -> StepCost:
    """Return a cost with one more turn: the median of the turns, and the most memory."""
    if before is None or turn.milliseconds is None or before.memory is None or turn.memory is None:
        return turn
    turns = (*before.turns_ms, *turn.turns_ms)
    return StepCost(turn.trainable, statistics.median(turns), max(before.memory, turn.memory), turns)


def measure_step(build: Callable[[], nn.Module], batch: Mapping[str, Any], device: torch.device) -> StepCost:
    """Train a few steps and return what one costs.

    Args:
        build: makes the model: called with a collated batch it returns the loss (3,) and its terms.
        batch: what `made_up_batch` returns.
        device: the CPU or one GPU; on a GPU the network runs in half precision.
    """
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # a graph holds what this one does
        return _measure(build, batch, device)


def _measure(build: Callable[[], nn.Module], batch: Mapping[str, Any], device: torch.device) -> StepCost:
    gc.collect()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device) if cuda else 0
    kept: dict[int, int] = {}
    trainable = 0
    try:
        step = build().train()
        if isinstance(step, TrainingStep):
            freeze_norms(step)
        trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
        trainable = sum(parameter.numel() for parameter in trained)
        own = {tensor.untyped_storage().data_ptr() for tensor in (*step.parameters(), *step.buffers())}
        note = partial(_note, kept, own)
        hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        run = Runner(step, trained, device)
        if cuda:
            run(batch)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with hooks:
                run(batch)
        times = run.timed(batch)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return StepCost(trainable, None, None)
    graphed = isinstance(step, TrainingStep) and step.uses_graphs
    peak = torch.cuda.max_memory_reserved if graphed else torch.cuda.max_memory_allocated
    memory = peak(device) - before if cuda else sum(kept.values())
    milliseconds = 1000 * statistics.median(times)
    return StepCost(trainable, milliseconds, memory, (milliseconds,))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says with an error that there is no memory left; on a CPU it has no class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or _CPU_ALLOCATOR in str(error)


class Runner:
    """One training step after another, as the trainer takes them."""

    def __init__(self, step: nn.Module, trained: Sequence[nn.Parameter], device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.step, self.trained, self.device = step, trained, device
        self.optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=cuda)
        self.scaler = torch.amp.GradScaler("cuda", enabled=cuda)

    def __call__(self, batch: Mapping[str, Any]) -> None:
        """Take a step with a collated batch that lies on the CPU."""
        batch = dict(batch)
        if isinstance(self.step, TrainingStep):
            self.step.prepare(batch)
            batch["img"] = self.step.place_images(batch)
        moved = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda"):
            loss, _ = self.step(moved)
        self.scaler.scale(loss.sum()).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.trained, max_norm=10.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def timed(self, batch: Mapping[str, Any]) -> list[float]:
        """Return the seconds of some steps."""
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < _WARM + _TIMED and (len(times) < 2 or time.perf_counter() - begun < _SECONDS):
            start = time.perf_counter()
            self(batch)
            times.append(time.perf_counter() - start)
        return times[min(_WARM, len(times) - 1) :]


class _AsUltralytics(nn.Module):
    """A detector that takes images as bytes; everything else is Ultralytics'."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, Any]:
        return self.model({**batch, "img": to_unit(batch["img"])})


def _note(kept: dict[int, int], own: Collection[int], tensor: torch.Tensor) -> torch.Tensor:
    """Note the bytes of a saved tensor that is none of the model's own."""
    storage = tensor.untyped_storage()
    if storage.data_ptr() not in own:
        kept[storage.data_ptr()] = storage.nbytes()
    return tensor
