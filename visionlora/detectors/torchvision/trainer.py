"""Training an adapter of a torchvision detector: a plain loop over torchvision's own losses."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from visionlora.adapters import MAP50, MAP50_95, AdapterCard
from visionlora.adapters.torch import (
    Adapter,
    BatchedWeights,
    adapter_tensors,
    freeze_norms,
    frozen_weights,
    kept_statistics,
    load_adapter,
    load_adapter_tensors,
    rate_left_factors,
    save_adapter,
    start_factors,
    trained_state,
    weight_gradients,
)
from visionlora.detectors.checkpoints import out_of_memory
from visionlora.detectors.device import torch_device
from visionlora.detectors.job import ADAPTER_FILE, RESULTS_FILE, RESUME_FILE, TrainingJob
from visionlora.detectors.lines import describe, epoch_line
from visionlora.detectors.resume import read_resume_state, restore_results, write_resume_state
from visionlora.detectors.torchvision.checkpoint import FAMILY, load_base
from visionlora.detectors.torchvision.layout import adapted
from visionlora.detectors.torchvision.network import raw_prediction
from visionlora.detectors.torchvision.pictures import TrainingPictures, squares
from visionlora.errors import DataError, ModelError, VisionLoraError
from visionlora.files import atomic_output
from visionlora.progress import counting, level, report
from visionlora.tasks import one_image, task_fields
from visionlora.vision.detections import EVALUATION_CONFIDENCE

MOST_HALVINGS = 3
GRADIENT_NORM = 10.0
_START_BATCHES = 4  # whose gradient factors begin with, where they are asked to


def run_job(job: TrainingJob) -> None:
    """Train the adapter of `job`; leave it, the results and the state to resume from in its folder.

    Raises:
        DataError: a picture was changed or removed since the job was made.
        VisionLoraError: the training diverged, a step does not fit into memory, or the base changed since the job was
            made.
    """
    with level(job.console):
        try:
            _Training(job).run()
        except DataError as error:  # from a process that reads pictures it comes with that one's traceback
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            size, batch = job.hyperparameters["imgsz"], job.hyperparameters["batch"]
            raise VisionLoraError(
                f"{job.out}: --batch {batch} at --imgsz {size} does not fit into memory; train with a smaller one"
            ) from error


def losses_of(model: Any, images: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return torchvision's own losses, by their names; under autocast, of boxes and anchors in float32.

    A coordinate beyond 512 px in half precision is a multiple of half a pixel.

    Args:
        model: in training mode; its `transform` normalises and must not resize.
        images: (n, 3, S, S) uint8 RGB.
        targets: `boxes` (m, 4) xyxy in pixels and `labels` (m,) of each image.
    """
    model.transform._skip_resize = True
    with (
        model.head.register_forward_hook(lambda _module, _inputs, outputs: _in_float32(outputs)),
        model.anchor_generator.register_forward_pre_hook(lambda _module, inputs: (inputs[0], _in_float32(inputs[1]))),
    ):
        return model(list(images.float().div(255)), targets)


def _in_float32(tensors: Any) -> Any:
    if isinstance(tensors, Mapping):
        return {name: each.float() for name, each in tensors.items()}
    return [each.float() for each in tensors]


@dataclass
class _Progress:
    """How far a training is.

    Attributes:
        epoch: finished ones.
        updates: of the average.
        halvings: of the learning rate.
        best, best_epoch: the best score so far, and the epoch that it is from, from 1.
    """

    epoch: int = 0
    updates: int = 0
    halvings: int = 0
    best: float = -1.0
    best_epoch: int = 0


class _Training:
    """A frozen detector with an adapter, its average, its optimizer, and how far they are."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.chosen = job, job.hyperparameters
        self.device = torch_device(str(self.chosen["device"]))
        self.epochs, self.seed = int(self.chosen["epochs"]), int(self.chosen["seed"])
        self.half = bool(self.chosen["amp"]) and self.device.type == "cuda"
        base = load_base(job.model)
        if base.fingerprint != job.fingerprint:
            raise ModelError(f"{job.model}: its weights changed since this run began; start a new run")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            detector = adapted(replace(base, task=job.task), job.names, job.settings)
            parameters = sum(parameter.numel() for parameter in detector.model.parameters())
            detector.attach(None if job.start is None else load_adapter(job.start).tensors)
        self.plan, self.model = detector.plan, detector.model
        if job.factors.start == "principal":
            start_factors(self.model, frozen_weights(self.model))
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.weights = BatchedWeights(self.model)
        report("train", 0, self.epochs, describe(self.plan, self.model, parameters))
        self.pictures = TrainingPictures(job.images["train"], self.chosen["imgsz"], self.chosen, seed=self.seed)
        self.batch = min(int(self.chosen["batch"]), len(self.pictures))
        self.steps = -(-len(self.pictures) // self.batch)
        self.optimizer = self._optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half)
        self.average = {name: tensor.detach().clone() for name, tensor in trained_state(self.model).items()}
        self.done = _Progress()
        self.results = ""

    def run(self) -> None:
        """Train all epochs that are left."""
        job = self.job
        if job.resume:
            self._restore(read_resume_state(job.out / RESUME_FILE, run=job.run))
        elif job.factors.start == "gradient":
            self._start_from_gradients()
        kept = self._state()
        while self.done.epoch < self.epochs and not self._stalled:
            begun = time.time()
            means = self._epoch(self.done.epoch)
            if not self._is_finite(means):
                self._go_back(kept)
                continue
            scores = self._validate()
            self.done.epoch += 1
            self._write(means, scores, time.time() - begun)
            kept = self._state()
            write_resume_state(kept, job.out / RESUME_FILE)
            line = epoch_line(self.done.epoch, self.epochs, means, scores, time.time() - begun)
            report("train", self.done.epoch, self.epochs, line)
        if self.done.epoch < self.epochs:
            stopped = f"stopped: {self.chosen['patience']} epochs without a better score"
            report("train", self.done.epoch, self.epochs, stopped)

    @property
    def _stalled(self) -> bool:
        return self.done.epoch - self.done.best_epoch >= self.chosen["patience"]

    # -- steps

    def _optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW; biases and what normalizes do not decay. `initial` of a group is its rate after warm-up."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [each for each in trained if each.ndim > 1], "weight_decay": self.chosen["weight_decay"]},
            {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.chosen["lr0"])
        if self.job.factors.plus != 1:
            rate_left_factors(optimizer, self.model, self.job.factors.plus)
        for group in optimizer.param_groups:
            group["initial"] = group["lr"]
        return optimizer

    def _rate(self, progress: float) -> float:
        """Return the factor of the learning rate after so many epochs: up while it warms up, then down to `lrf`."""
        left = (
            (1 + math.cos(math.pi * progress / self.epochs)) / 2
            if self.chosen["cos_lr"]
            else 1 - progress / self.epochs
        )
        warm = min(float(self.chosen["warmup_epochs"]), self.epochs / 2)
        up = min(progress / warm, 1.0) if warm else 1.0
        return up * (self.chosen["lrf"] + (1 - self.chosen["lrf"]) * left) / 2**self.done.halvings

    def _batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, list[dict[str, torch.Tensor]]]]:
        cuda = self.device.type == "cuda"
        loader = self.pictures.batches(epoch, batch=self.batch, workers=self.chosen["workers"], pin_memory=cuda)
        for images, targets in loader:
            moved = [
                {name: each.to(self.device, non_blocking=True) for name, each in target.items()} for target in targets
            ]
            yield images.to(self.device, non_blocking=True), moved

    def _epoch(self, epoch: int) -> dict[str, float]:
        """Train an epoch; return the means of the losses, which are no numbers where a step had none."""
        self.model.train()
        freeze_norms(self.model)
        sums: dict[str, torch.Tensor] = {}
        words = f"epoch {epoch + 1}/{self.epochs}"
        with counting("epoch", self.steps, "batch", words) as advance:
            for step, (images, targets) in enumerate(self._batches(epoch)):
                for group in self.optimizer.param_groups:
                    group["lr"] = group["initial"] * self._rate(epoch + (step + 1) / self.steps)
                losses = self._step(images, targets)
                sums = {name: sums.get(name, 0) + value.detach() for name, value in losses.items()}
                advance()
        return {name: float(value) / self.steps for name, value in sums.items()}

    def _step(self, images: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        with torch.autocast(self.device.type, torch.float16, enabled=self.half), self.weights.computed():
            losses = losses_of(self.model, images, targets)
        self.optimizer.zero_grad()
        self.scaler.scale(sum(losses.values(), torch.zeros((), device=self.device))).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(trained, GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._follow()
        return losses

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the average follow, over about the last twentieth of the run's updates."""
        self.done.updates += 1
        window = max(0.05 * self.steps * self.epochs, 10.0)
        decay = min(1 - 1 / window, 0.9999) * (1 - math.exp(-self.done.updates / window))
        for name, tensor in trained_state(self.model).items():
            self.average[name].lerp_(tensor, 1 - decay)

    def _start_from_gradients(self) -> None:
        """Let A of every layer begin with the directions in which full fine-tuning would go."""
        self.model.train()
        freeze_norms(self.model)
        with weight_gradients(self.model) as gradients, kept_statistics(self.model):
            for images, targets in islice(self._batches(0), _START_BATCHES):
                sum(losses_of(self.model, images, targets).values(), torch.zeros((), device=self.device)).backward()  # type: ignore[no-untyped-call]
        self.model.zero_grad(set_to_none=True)
        start_factors(self.model, gradients)
        self.average = {name: tensor.detach().clone() for name, tensor in trained_state(self.model).items()}

    # -- the average

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the model be the average, in eval mode, as its file will hold it: in half precision."""
        state = trained_state(self.model)
        before = {name: tensor.detach().clone() for name, tensor in state.items()}
        try:
            _copy(state, self.average)
            saved = {name: tensor.half() for name, tensor in adapter_tensors(self.model, self.plan).items()}
            load_adapter_tensors(self.model, self.plan, saved)
            self.model.eval()
            yield
        finally:
            _copy(state, before)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Score the average under the ruler of `visionlora eval`, and save it if it is the best so far."""
        task, found = self.job.task, []
        images = self.job.images["val"]
        with self._averaged():
            with parametrize.cached():
                for pixels, placements in squares(images, self.chosen["imgsz"], 2 * self.batch):
                    outputs = raw_prediction(self.model, pixels.to(self.device).float().div(255))
                    arrays = [output.float().cpu().numpy() for output in outputs]
                    found += [
                        task.decode(
                            one_image(arrays, index), nms=True, confidence=EVALUATION_CONFIDENCE, placement=placement
                        )
                        for index, placement in enumerate(placements)
                    ]
            ruled = self.job.ruler(found, images, self.job.names)
            scores = {MAP50: ruled.map50 or 0.0, MAP50_95: ruled.map50_95 or 0.0}
            if scores[MAP50_95] > self.done.best or not self.done.best:  # of nothing but zeros the last
                self.done.best, self.done.best_epoch = scores[MAP50_95], self.done.epoch + 1
                self._save(scores)
        return scores

    def _save(self, scores: Mapping[str, float]) -> None:
        job = self.job
        card = AdapterCard(
            settings=job.settings,
            names=job.names,
            base={"name": Path(job.model).name, "fingerprint": job.fingerprint, "family": FAMILY},
            preprocessing=job.preprocessing,
            training={**job.training, "epoch": self.done.epoch + 1, "lr0_halved": self.done.halvings},
            scores=scores,
            **task_fields(job.task),
            version=version("visionlora"),
        )
        save_adapter(Adapter(card, adapter_tensors(self.model, self.plan)), job.out / ADAPTER_FILE)

    # -- files

    def _write(self, losses: Mapping[str, float], scores: Mapping[str, float], seconds: float) -> None:
        """Add the row of an epoch to results.csv, under the names that its curves are drawn by."""
        row = {"epoch": self.done.epoch, "time": f"{seconds:.3f}"}
        row |= {f"train/{name}": f"{value:.5f}" for name, value in losses.items()}
        row |= {name: f"{value:.5f}" for name, value in scores.items()}
        row["lr/pg0"] = f"{self.optimizer.param_groups[0]['lr']:.6g}"
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        if not self.results:
            writer.writeheader()
        writer.writerow(row)
        self.results += text.getvalue()
        with atomic_output(self.job.out / RESULTS_FILE) as partial:
            partial.write_text(self.results, encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "run": self.job.run,
            "epochs": self.epochs,
            "finished": self.done.epoch == self.epochs or self._stalled,
            "results": self.results,
            "progress": dict(vars(self.done)),
            "model": {name: tensor.detach().clone() for name, tensor in trained_state(self.model).items()},
            "average": {name: tensor.clone() for name, tensor in self.average.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.done = _Progress(**state["progress"])
        self.results = state["results"]
        _copy(trained_state(self.model), state["model"])
        _copy(self.average, state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        restore_results(state, self.job.out / RESULTS_FILE)

    # -- what is no number

    def _is_finite(self, losses: Mapping[str, float]) -> bool:
        numbers = all(math.isfinite(value) for value in losses.values())
        return numbers and all(bool(tensor.isfinite().all()) for tensor in self.average.values())

    def _go_back(self, kept: Mapping[str, Any]) -> None:
        """Begin the epoch again from the average before it, at half the learning rate.

        Raises:
            VisionLoraError: it was halved often enough.
        """
        halvings, epoch = self.done.halvings + 1, self.done.epoch + 1
        if halvings > MOST_HALVINGS:
            raise VisionLoraError(
                f"{self.job.out}: the loss is not finite in epoch {epoch}, though the learning rate was halved "
                f"{MOST_HALVINGS} times; train with a lower --lr0 than {self.chosen['lr0']} or a lower --alpha"
            )
        for state in (trained_state(self.model), self.average):
            _copy(state, kept["average"])
        self.done = _Progress(**{**kept["progress"], "halvings": halvings})
        if kept["scaler"]:
            self.scaler.load_state_dict(kept["scaler"])
        self.optimizer.state.clear()
        rate = self.chosen["lr0"] / 2**halvings
        what = (
            f"epoch {epoch}: the loss is not finite; it begins again, from the average before it, at half the learning"
        )
        report("train", epoch - 1, self.epochs, f"{what} rate (--lr0 {rate:g})")


@torch.no_grad()
def _copy(to: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in to.items():
        tensor.data.copy_(source[name])
