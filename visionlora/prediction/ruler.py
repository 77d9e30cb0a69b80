"""What counts as an object: scores, classes and suppression, as a user asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visionlora.errors import UsageError
from visionlora.tasks import Task
from visionlora.vision.detections import PREDICTION_CONFIDENCE


@dataclass(frozen=True)
class Ruler:
    """What counts as an object; `own_iou` says whether the user asked for a suppression."""

    confidence: float | None
    iou: float
    classes: Sequence[str | int] | None
    agnostic: bool
    own_iou: bool

    def limits(self, names: Sequence[str], own: Sequence[float] | None) -> tuple[float, ...]:
        """The lowest score of each class; 1, which no score is above, for a class that is not wanted."""
        default = (PREDICTION_CONFIDENCE,) * len(names) if own is None else tuple(own)
        limits = default if self.confidence is None else (self.confidence,) * len(names)
        if self.classes is None:
            return limits
        wanted = _class_ids(self.classes, names)
        return tuple(limit if index in wanted else 1.0 for index, limit in enumerate(limits))

    def check(self, path: Path, *, nms: bool, task: Task) -> None:
        """Refuse to steer a suppression that has happened inside the file, and to choose among a picture's classes.

        Raises:
            UsageError: it has, or the model classifies pictures.
        """
        if not task.boxes and (self.own_iou or self.confidence is not None or self.classes is not None):
            raise UsageError(
                f"{path}: expected no --conf, --iou, --classes and --agnostic: it classifies pictures, and gives the "
                "probabilities of all classes"
            )
        if self.own_iou and not nms:
            raise UsageError(
                f"{path}: expected no --iou and no --agnostic: this file suppresses by itself; export it without nms"
            )


def _class_ids(classes: Sequence[str | int], names: Sequence[str]) -> set[int]:
    if isinstance(classes, str):
        classes = [classes]
    found: set[int] = set()
    unknown = []
    for wanted in classes:
        same = [index for index, name in enumerate(names) if name == wanted]
        if not same and str(wanted).isascii() and str(wanted).isdigit() and int(wanted) < len(names):
            same = [int(wanted)]
        found.update(same)
        unknown += [] if same else [str(wanted)]
    if unknown or not classes:
        raise UsageError(f"--classes: expected some of {', '.join(names)}, or ids, got {', '.join(unknown) or 'none'}")
    return found
