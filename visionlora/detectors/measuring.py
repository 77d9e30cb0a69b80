"""What a training step costs on this machine: milliseconds and memory of a few real steps on made-up pictures."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from visionlora.detectors.checkpoints import out_of_memory
from visionlora.detectors.family import StepCost
from visionlora.errors import UsageError

_WARM, _TIMED, _SECONDS = 2, 5, 1.0  # steps before and while timing a turn; fewer where they take longer together


def noise(batch: int, image_size: int, *, pinned: bool) -> torch.Tensor:
    """Return random images (batch, 3, image_size, image_size) as bytes.

    Raises:
        UsageError: they do not fit into memory.
    """
    generator = torch.Generator().manual_seed(0)
    try:
        images = torch.randint(0, 256, (batch, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
        return images.pin_memory() if pinned else images
    except RuntimeError as error:  # torch has no class of its own for this on a CPU
        raise UsageError(
            f"--batch {batch}: {batch} pictures of {image_size} px do not fit into memory; try a smaller batch"
        ) from error


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
        build: makes the step, in training mode: called with a collated batch it returns the losses and what else
            there is. One with CUDA graphs says so (`uses_graphs`) and places the images (`prepare`, `place_images`).
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
        step = build()
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
    graphed = getattr(step, "uses_graphs", False)
    peak = torch.cuda.max_memory_reserved if graphed else torch.cuda.max_memory_allocated
    memory = peak(device) - before if cuda else sum(kept.values())
    milliseconds = 1000 * statistics.median(times)
    return StepCost(trainable, milliseconds, memory, (milliseconds,))


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
        step: Any = self.step
        if hasattr(step, "prepare"):
            step.prepare(batch)
            batch["img"] = step.place_images(batch)
        moved = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda"):
            loss, _ = step(moved)
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


def _note(kept: dict[int, int], own: Collection[int], tensor: torch.Tensor) -> torch.Tensor:
    """Note the bytes of a saved tensor that is none of the model's own."""
    storage = tensor.untyped_storage()
    if storage.data_ptr() not in own:
        kept[storage.data_ptr()] = storage.nbytes()
    return tensor
