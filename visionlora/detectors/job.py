"""What a training is told to do, whichever family's trainer does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from visionlora.adapters import AdapterSettings
from visionlora.adapters.factors import FactorTraining
from visionlora.data import KeypointLayout, LabelledImage
from visionlora.fake_quant import FakeQuantSpec
from visionlora.progress import current_level
from visionlora.tasks import Task
from visionlora.trust import is_trusted
from visionlora.vision.detections import Detections

ADAPTER_FILE, RESUME_FILE, RESULTS_FILE = "adapter.safetensors", "resume.pt", "results.csv"
"""In the folder of a run."""


class MeanPrecision(Protocol):
    """What a ruler says of detections; None where no class has objects."""

    @property
    def map50(self) -> float | None:
        """MAP at an IoU of 0.5."""
        ...

    @property
    def map50_95(self) -> float | None:
        """Mean of mAP at IoU 0.5 to 0.95."""
        ...


Ruler = Callable[[Sequence[Detections], Sequence[LabelledImage], Sequence[str]], MeanPrecision]
"""Scores detections, one entry an image, against the labels, given the names of the classes."""


@dataclass(frozen=True)
class Int8Phase:
    """What training under fake quantization must know.

    Attributes:
        graph: the exported float graph (.onnx) of the base with the adapter that training starts with.
        spec: what is int8 in it, with calibrated ranges.
        recipe: the same as the adapter's card keeps it; training replaces its `ranges`.
        learned: whether the ranges are trained too.
    """

    graph: Path
    spec: FakeQuantSpec
    recipe: Mapping[str, Any]
    learned: bool = True


@dataclass(frozen=True)
class TrainingJob:
    """What a family's training must know.

    Attributes:
        model: path or name of the base checkpoint.
        fingerprint: SHA-256 of its weights.
        out: folder of the run.
        names: class names of the data set.
        task: what is learned: the base's, or another one that the adapter gives it.
        keypoints: of a pose data set.
        images: the checked pictures with their labels, by split (`train`, `val`).
        ruler: what scores detections on the `val` pictures.
        settings: shape of the adapter.
        preprocessing: as the adapter's card keeps it.
        training: the settings of the run, as the adapter's card keeps them.
        hyperparameters: of the family's trainer, under its own names (see `Family.check_hyperparameters`).
        run: names the settings that all epochs of the run have in common; its state says it too.
        resume: go on from the run's last finished epoch.
        lean: train in less memory and more time.
        factors: what the adapter's factors begin with where `start` is None, and how fast they learn.
        start: an adapter of the same shape whose tensors training begins with; None begins with the base.
        teacher: an exported float graph (.onnx) whose predictions count as goals beside the labels; None for none.
        distill: how much they count.
        int8: train as the int8 file computes; None trains in float.
        title: what the log says above the training.
        trust: run the code in the checkpoint, in every process of the training (see `visionlora.trusted`).
        console: how much its processes show, one of `visionlora.progress.LEVELS`.
    """

    model: str
    fingerprint: str
    out: Path
    names: tuple[str, ...]
    task: Task
    images: Mapping[str, tuple[LabelledImage, ...]]
    ruler: Ruler
    settings: AdapterSettings
    preprocessing: Mapping[str, Any]
    training: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    run: str
    keypoints: KeypointLayout | None = None
    resume: bool = False
    lean: bool = False
    factors: FactorTraining = field(default_factory=FactorTraining)
    start: Path | None = None
    teacher: Path | None = None
    distill: float = 1.0
    int8: Int8Phase | None = None
    title: str = ""
    trust: bool = field(default_factory=is_trusted)
    console: str = field(default_factory=current_level)
