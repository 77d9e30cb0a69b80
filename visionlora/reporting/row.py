"""One model in a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from visionlora.scoring import Calibration, Confusion, Difference, OperatingPoint, Scores, Timing


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        label: what the model is called in the report, unlike any other row's.
        file: its path; of a base with an adapter, the adapter's.
        kind: what the file is: "checkpoint", "adapter", "merged", "onnx", "int8" or "openvino".
        sha256: of the file.
        bytes: of the file.
        image_size: side of the network's input in pixels.
        classes: the data set's classes that the model knows.
        scores: over these classes; None if there are none.
        ms_per_image: median milliseconds of the network alone for one picture; `timing` says how sure that is.
        parents: role and SHA-256 of the files that this one was made from; of the base its fingerprint.
        parameters: numbers in the file's weights; None if they were not counted.
        settings: how the file was made, as it says itself.
        operating: counts at the chosen threshold.
        calibration: whether its scores mean what they say.
        differences: to the reference, then to the model before.
        timing: spread and noise of the milliseconds, and how they compare; None in reports of earlier versions.
        precision: what the runtime computes in on this machine, such as `bf16`; None where it does not say.
        cut: the score below which the file itself leaves out what it finds; None where it leaves out nothing.
        boxes: scores of the boxes of what is found, where `scores` are of masks or keypoints; absent for other tasks.
        confusion: of a classifier, the cells of its confusion matrix that are not zero; absent for detectors.
    """

    label: str
    file: str
    kind: str
    sha256: str
    bytes: int
    image_size: int
    classes: tuple[str, ...]
    scores: Scores | None
    ms_per_image: float
    parents: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parameters: int | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    operating: OperatingPoint | None = None
    calibration: Calibration | None = None
    differences: tuple[Difference, ...] = ()
    timing: Timing | None = None
    precision: str | None = None
    cut: float | None = None
    boxes: Scores | None = None
    confusion: tuple[Confusion, ...] | None = None

    def difference_to(self, label: str) -> Difference | None:
        """Return how this model differs from another, or None where that was not measured."""
        return next((difference for difference in self.differences if difference.to == label), None)

    def class_scores(self) -> dict[str, float | None]:
        """Return AP50-95 of each class that the model knows by its name; None where the class has no objects."""
        return {score.name: score.ap50_95 for score in self.scores.per_class} if self.scores else {}
