"""The class of a whole picture: detections of which each is a class that the picture may be of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.formats.text import printable
from visionlora.vision.detections import Detections
from visionlora.vision.drawing import Colour, draw_labels

SHOWN = 5
"""Classes that are written and drawn, the best ones."""


@dataclass(frozen=True, eq=False, repr=False)
class Classification(Detections):
    """What a classifier says of one image: all classes, best first, `scores` their probabilities.

    Each box is the whole image. `labels` are the names of the classes in this order.

    Example:
        >>> found = Classification([[0, 0, 9, 9]] * 2, [0.9, 0.1], [1, 0], names=("scratch", "pit"))
        >>> found
        Classification(pit 0.90, scratch 0.10)
        >>> found.top1, found.top5, found.probabilities.shape
        (1, [1, 0], (2,))
    """

    def __repr__(self) -> str:
        return f"Classification({self.summary})"

    def _repr_html_(self) -> str:
        """A row a class, for a notebook."""
        cells = [(escape(printable(entry["name"])), entry["score"]) for entry in self._top()]
        rows = "".join(f"<tr><td>{name}</td><td>{score:.3f}</td></tr>" for name, score in cells)
        return f"<table><tr><th>class</th><th>score</th></tr>{rows}</table>"

    @property
    def top1(self) -> int:
        """The class id of the best class."""
        return int(self.class_ids[0])

    @property
    def top5(self) -> list[int]:
        """The class ids of the five best classes, best first."""
        return self.class_ids[:SHOWN].tolist()

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(classes,) float32, the probability of each class in the order of the class ids."""
        return self.scores[np.argsort(self.class_ids)]

    @property
    def summary(self) -> str:
        """The best classes: `zebra 0.93, rhino 0.05`."""
        return ", ".join(f"{printable(entry['name'])} {entry['score']:.2f}" for entry in self._top())

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: the five best classes, scores to 0.0001, and the milliseconds where measured."""
        if self.timing is None:
            return {"top5": self._top()}
        times = {part: round(1000 * seconds, 3) for part, seconds in asdict(self.timing).items()}
        return {"top5": self._top(), "milliseconds": times}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Refuse: COCO has boxes.

        Raises:
            UsageError: always.
        """
        raise UsageError("a classification has no boxes, which COCO results are made of; use to_dict")

    def to_supervision(self) -> Any:
        """Return it as `supervision.Classifications`.

        Raises:
            UsageError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise UsageError("supervision is not installed; pip install supervision") from error
        return supervision.Classifications(class_id=self.class_ids.copy(), confidence=self.scores.copy())

    def _top(self) -> list[dict[str, Any]]:
        best = zip(self.class_ids.tolist(), self.labels, self.scores.tolist(), strict=True)
        return [
            {"class_id": class_id, "name": name, "score": round(score, 4)}
            for class_id, name, score in list(best)[:SHOWN]
        ]


def draw_classes(
    canvas: NDArray[np.uint8],
    objects: Any,
    labels: Sequence[str],
    colours: Sequence[Colour],
    *,
    scale: float = 1.0,
    offset_xy: tuple[int, int] = (0, 0),
) -> None:
    """Write the best classes into the corner of the picture, one below the other, as a `Painter` does."""
    left, top = offset_xy
    line = 18  # pixels of the canvas
    corners = [(left, top + line * index, left, top + line * index) for index in range(min(len(labels), SHOWN))]
    draw_labels(canvas, corners, labels[:SHOWN], colours[:SHOWN])
