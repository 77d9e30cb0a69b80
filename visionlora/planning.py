"""Before training: what each way to train would cost on this machine, measured, and which one to take."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from visionlora.adapters import AdapterSettings
from visionlora.data import load_dataset
from visionlora.data.dataset import LabelledImage
from visionlora.errors import UsageError
from visionlora.lowrank.methods import LoRA
from visionlora.yolo import Base, check_image_size, load_base
from visionlora.yolo.hyperparameters import check_device, default_device
from visionlora.yolo.measuring import StepCost, adapted_step, full_model, made_up_batch, measure_step

if TYPE_CHECKING:
    from torch import nn

_MOSAIC = 4  # pictures in one training image


@dataclass(frozen=True)
class PlannedRun:
    """One way to train, and what it costs here.

    Attributes:
        label: in words.
        options: what to add to `visionlora train` for it; None where visionlora does not train this way.
        trainable: parameters that are trained.
        share: of the detector's parameters.
        file_bytes: what has to be kept and shipped, about: an adapter, or a whole checkpoint.
        milliseconds: a step; None if it does not fit.
        memory: bytes of a step (see `StepCost`); None if it does not fit.
        fits: whether the step fits this machine's free GPU memory.
    """

    label: str
    options: str | None
    trainable: int
    share: float
    file_bytes: int
    milliseconds: float | None
    memory: int | None
    fits: bool


@dataclass(frozen=True)
class TrainingPlan:
    """What `plan` measured.

    Attributes:
        rows: the ways to train; the first is full fine-tuning.
        recommended: the label of the row to take.
        command: the training command for it.
        reason: why, in a sentence.
        device: what it was measured on.
        steps: training steps of one epoch.
    """

    rows: tuple[PlannedRun, ...]
    recommended: str
    command: str
    reason: str
    device: str
    steps: int

    def __str__(self) -> str:
        full = self.rows[0]
        lines = [
            f"one step on {self.device}; {self.steps} steps an epoch",
            "",
            "| way to train | trainable | share | file, MB | ms a step | memory, GiB | against full: time, memory |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for row in self.rows:
            mark = " (recommended)" if row.label == self.recommended else ""
            cells = [f"{row.label}{mark}", f"{row.trainable:,}", f"{row.share:.1%}", f"{row.file_bytes / 1e6:.2f}"]
            if row.milliseconds is None or row.memory is None:
                cells += ["does not fit", "-", "-"]
            else:
                cells += [f"{row.milliseconds:.1f}", f"{row.memory / 2**30:.2f}", _against(row, full)]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", self.reason, self.command])

    def to_json(self) -> str:
        """Return the plan as one JSON object."""
        return json.dumps(asdict(self), indent=2)


def plan(
    model: Path | str,
    data: Path | str,
    *,
    imgsz: int = 640,
    batch: int = 16,
    device: str | None = None,
) -> TrainingPlan:
    """Measure a few steps of every way to train `model` on `data` here, and recommend one.

    Full fine-tuning, two frozen ways and adapters of several ranks and places are each trained for a few steps on
    noise with the data set's boxes; nothing is written. On a GPU, memory is the peak of a step; on a CPU, what is kept
    for the backward pass. Anything else that runs on the machine distorts the times.

    Args:
        model: Ultralytics detection checkpoint (.pt), or a bare name such as `yolo11n.pt`.
        data: data.yaml with a train split.
        imgsz: side of the network's square input in pixels.
        batch: images a step.
        device: `cpu` or the number of one GPU; the first GPU if there is one, else the CPU, if None.

    Raises:
        UsageError: a setting is wrong, or one batch of pictures does not fit into memory.
        DataError, ModelError: the data set or the base cannot be used.

    Example:
        >>> import visionlora as vl
        >>> print(vl.plan("yolo11n.pt", "data.yaml", imgsz=320))  # doctest: +SKIP
    """
    if batch < 1:
        raise UsageError(f"--batch: expected at least 1 image, got {batch}")
    device = check_device(device or default_device())
    if "," in device:
        raise UsageError(f"--device {device}: a plan is measured on one device; name one, such as {device[0]}")
    place = torch.device(f"cuda:{device}" if device.isdigit() else device)
    base = load_base(model)
    check_image_size(imgsz, base.model)
    dataset = load_dataset(data, splits=("train",))
    images = dataset.split("train")
    sample = made_up_batch(_objects(images), batch=batch, image_size=imgsz, device=place)
    rows = _measure(base, _ways(base, dataset.names, place), sample, place)
    chosen, reason = recommend(rows)
    words = ["visionlora", "train", "--model", str(model), "--data", str(data), "--out", "runs/adapter"]
    words += ["--imgsz", str(imgsz), "--batch", str(batch), "--device", device]
    return TrainingPlan(
        rows=rows,
        recommended=chosen.label,
        command=f"{shlex.join(words)} {chosen.options or ''}".rstrip(),
        reason=reason,
        device=f"{_name(place)}, {imgsz} px, batch {batch}",
        steps=math.ceil(len(images) / batch),
    )


@dataclass(frozen=True)
class _Way:
    """A way to train: its label, the options of `visionlora train` (None for what that does not do), its step."""

    label: str
    options: str | None
    build: Callable[[], nn.Module]


def _ways(base: Base, names: Sequence[str], place: torch.device) -> tuple[_Way, ...]:
    """Return full fine-tuning, two frozen ways, and adapters of several ranks and places."""

    def frozen(label: str, modules: int) -> _Way:
        return _Way(label, None, lambda: full_model(base.model, names, freeze=modules, device=place))

    def adapter(options: str, *, lean: bool = False, rank: int = 8, targets: str = "all") -> _Way:
        settings = AdapterSettings(LoRA(rank), targets=targets)
        label = f"LoRA, rank {rank}, {targets}" + (", lean" if lean else "")
        return _Way(label, options, lambda: adapted_step(base.model, names, settings, device=place, lean=lean))

    return (
        frozen("full fine-tuning", 0),
        frozen("freeze=10", 10),
        frozen("head only", len(base.model.model) - 1),
        adapter("--rank 8"),
        adapter("--rank 8 --lean", lean=True),
        adapter("--rank 4", rank=4),
        adapter("--rank 16", rank=16),
        adapter("--rank 32", rank=32),
        adapter("--rank 8 --targets from:5", targets="from:5"),
        adapter("--rank 8 --targets neck+head", targets="neck+head"),
    )


def _measure(
    base: Base, ways: Sequence[_Way], sample: Mapping[str, Any], place: torch.device
) -> tuple[PlannedRun, ...]:
    """Measure a few steps of each way, the count of ways on a terminal."""
    free = torch.cuda.mem_get_info(place)[0] if place.type == "cuda" else None
    whole = sum(parameter.numel() for parameter in base.model.parameters())
    if place.type == "cuda":  # what CUDA's libraries allocate once belongs to no row
        measure_step(ways[0].build, sample, place)
    rows = []
    for way in tqdm(ways, desc="measuring", unit="way", leave=False, disable=None):
        cost: StepCost = measure_step(way.build, sample, place)
        rows.append(
            PlannedRun(
                label=way.label,
                options=way.options,
                trainable=cost.trainable,
                share=cost.trainable / whole,
                file_bytes=2 * (whole if way.options is None else cost.trainable),  # either is kept in half precision
                milliseconds=cost.milliseconds,
                memory=cost.memory,
                fits=cost.memory is not None and (free is None or cost.memory <= free),
            )
        )
    return tuple(rows)


def recommend(rows: tuple[PlannedRun, ...]) -> tuple[PlannedRun, str]:
    """Return the row to take, and why in a sentence.

    Adapters on all layers come first, because they are the ones whose accuracy was measured (benchmarks/accuracy): at
    rank 8, then in less memory, then in fewer layers.
    """
    full = rows[0]
    order = ("--rank 8", "--rank 8 --lean", "--rank 8 --targets from:5", "--rank 8 --targets neck+head")
    by_options = {row.options: row for row in rows}
    for options in order:
        row = by_options[options]
        if row.fits:
            why = "rank 8 in all layers" if options == "--rank 8" else f"the first that fits, with {options}"
            return row, f"Recommended: {why}; against full fine-tuning, time and memory: {_against(row, full)}."
    smallest = by_options["--rank 8 --lean"]
    return smallest, "No way to train fits this machine; use a smaller --batch or --imgsz."


def _against(row: PlannedRun, full: PlannedRun) -> str:
    if None in (row.milliseconds, row.memory, full.milliseconds, full.memory):
        return "full does not fit"
    return f"{row.milliseconds / full.milliseconds:.2f}, {row.memory / full.memory:.2f}"  # type: ignore[operator]


def _objects(images: tuple[LabelledImage, ...]) -> list[np.ndarray]:
    """Return the objects of mosaics of four training images each: class, then centre and size as fractions."""
    rows = []
    for image in images[:256]:
        width, height = image.size_wh
        left, top, right, bottom = (image.boxes_xyxy / np.array([width, height, width, height])).T
        columns = (image.class_ids, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
        rows.append(np.stack(columns, 1))
    return [np.concatenate(rows[i : i + _MOSAIC]) for i in range(0, len(rows), _MOSAIC)]


def _name(place: torch.device) -> str:
    return torch.cuda.get_device_name(place) if place.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
