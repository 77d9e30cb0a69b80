"""Detections in pixels, and what counts as one: numpy and OpenCV only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from visionlora.errors import UsageError
from visionlora.formats.text import printable
from visionlora.vision.drawing import Painter, class_colour, draw_boxes
from visionlora.vision.masks import Masks
from visionlora.vision.rotated import corners_of

EVALUATION_CONFIDENCE = 0.001
"""Lowest score that counts in an evaluation: average precision needs the low scores too."""
PREDICTION_CONFIDENCE = 0.25
"""Lowest score that is shown to a user."""
IOU_THRESHOLD = 0.7
"""Two boxes of one class that overlap more than this are one object."""
MAX_DETECTIONS = 300
"""Most detections of one image."""
MAX_CANDIDATES = 30_000
"""Most candidates that enter suppression, the best first; as Ultralytics' `max_nms`."""

_SHOWN = 50
"""Detections that a notebook shows."""


@dataclass(frozen=True)
class Timing:
    """How long one image took, in seconds; an image of a batch has its share.

    Attributes:
        prepare: from pixels to the network's input.
        network: the network itself.
        decode: from its output to boxes.
    """

    prepare: float
    network: float
    decode: float

    @property
    def total(self) -> float:
        """Seconds for the whole image; reading its file is not among them."""
        return self.prepare + self.network + self.decode


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """What a detector found in one image.

    Attributes:
        boxes_xyxy: (N, 4) float32, left, top, right, bottom in pixels of the original image.
        scores: (N,) float32 in [0, 1].
        class_ids: (N,) int64, index into the network's names.
        names: the network's class names; empty where it is not known which network it was.
        timing: how long it took; None where nobody measured.
        painter: what draws them.
        masks: of each object, in pixels of the original image; None where the task finds none, as of the two below.
        keypoints: (N, K, 3) float32, x and y in pixels of the original image, and how surely each is visible, in
            [0, 1], which is 1 where the network does not say.
        obb: (N, 5) float32, rotated boxes: centre x, centre y, width, height in pixels of the original image, and the
            angle in radians in [0, pi / 2) from the x axis to the y axis, which points down. `boxes_xyxy` are the
            upright boxes around them.

    Raises:
        UsageError: the arrays are not of these shapes, or a class id has no name.

    Example:
        >>> found = Detections([[0, 0, 9, 9], [5, 5, 7, 7]], [0.4, 0.9], [0, 1], names=("scratch", "pit"))
        >>> found
        Detections(2: 1 scratch, 1 pit)
        >>> len(found), found.top(1).labels, len(found.above(0.5))
        (2, ['pit'], 1)
        >>> found.of("scratch").scores.tolist() == found.within([0, 0, 5, 5]).scores.tolist()
        True
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    names: tuple[str, ...] = ()
    timing: Timing | None = None
    painter: Painter = draw_boxes
    masks: Masks | None = None
    keypoints: NDArray[np.float32] | None = None
    obb: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes_xyxy, dtype=np.float32)
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        scores = np.asarray(self.scores, dtype=np.float32)
        class_ids = np.asarray(self.class_ids, dtype=np.int64)
        count = len(boxes)
        if boxes.shape != (count, 4) or scores.shape != (count,) or class_ids.shape != (count,):
            raise UsageError(
                "Detections: expected boxes (N, 4), scores (N,) and class ids (N,), "
                f"got {boxes.shape}, {scores.shape} and {class_ids.shape}"
            )
        self._check_shapes(count)
        if self.names and count and not 0 <= class_ids.min() <= class_ids.max() < len(self.names):
            raise UsageError(f"Detections: expected class ids from 0 to {len(self.names) - 1}, got {class_ids}")
        object.__setattr__(self, "boxes_xyxy", boxes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "class_ids", class_ids)

    def _check_shapes(self, count: int) -> None:
        if self.masks is not None and len(self.masks) != count:
            raise UsageError(f"Detections: expected {count} masks, got {len(self.masks)}")
        for name, width, axes in (("keypoints", 3, 3), ("obb", 5, 2)):
            given = getattr(self, name)
            if given is None:
                continue
            array = np.asarray(given, dtype=np.float32)
            if array.ndim != axes or len(array) != count or array.shape[-1] != width:
                shape = f"({count}, K, 3)" if axes == 3 else f"({count}, {width})"
                raise UsageError(f"Detections: expected {name} {shape}, got {array.shape}")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Detections({len(self)}: {self.summary})" if len(self) else "Detections(0)"

    def _repr_html_(self) -> str:
        """A row a detection, for a notebook."""
        shown = self.top(_SHOWN)
        rows = "".join(
            f"<tr><td>{escape(printable(name))}</td><td>{score:.3f}</td>"
            f"<td>{', '.join(f'{side:.1f}' for side in box)}</td></tr>"
            for name, score, box in zip(shown.labels, shown.scores.tolist(), shown.boxes_xyxy.tolist(), strict=True)
        )
        head = "<tr><th>class</th><th>score</th><th>left, top, right, bottom</th></tr>"
        return f"<p>{escape(repr(self))}</p><table>{head}{rows}</table>"

    @property
    def summary(self) -> str:
        """How many there are of which class, the most first: `2 zebra, 1 rhino`."""
        return ", ".join(f"{count} {printable(name)}" for name, count in Counter(self.labels).most_common())

    @property
    def labels(self) -> list[str]:
        """The class name of each detection; its class id as text where there are no names."""
        return [self.names[class_id] if self.names else str(class_id) for class_id in self.class_ids.tolist()]

    def top(self, n: int) -> Detections:
        """Return the `n` best detections, best first; equal scores keep their order."""
        return self.at(np.argsort(-self.scores, kind="stable")[: max(n, 0)])

    def above(self, score: float) -> Detections:
        """Return the detections whose score is greater than `score`, in the same order."""
        return self.at(np.flatnonzero(self.scores > score))

    def of(self, *classes: str | int) -> Detections:
        """Return the detections of these classes, in the same order.

        Args:
            classes: class names or class ids.

        Raises:
            UsageError: there is no such class.
        """
        unknown = [given for given in classes if (given not in self.names if isinstance(given, str) else given < 0)]
        unknown += [given for given in classes if self.names and isinstance(given, int) and given >= len(self.names)]
        if unknown:
            raise UsageError(f"classes: expected some of {', '.join(self.names)}, got {', '.join(map(str, unknown))}")
        wanted = [self.names.index(given) if isinstance(given, str) else given for given in classes]
        return self.at(np.flatnonzero(np.isin(self.class_ids, wanted)))

    def within(self, region: ArrayLike) -> Detections:
        """Return the detections whose centre lies in a region or on its edge, in the same order.

        Args:
            region: a box (4,), left, top, right, bottom; or a polygon (K, 2) of at least three corners; in pixels.

        Raises:
            UsageError: `region` is neither.
        """
        corners = np.asarray(region, dtype=np.float32)
        if corners.shape == (4,):
            corners = corners[[[0, 1], [2, 1], [2, 3], [0, 3]]]
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
            raise UsageError(f"region: expected a box (4,) or a polygon (K, 2) of at least 3 corners, got {region!r}")
        centres = ((self.boxes_xyxy[:, :2] + self.boxes_xyxy[:, 2:]) / 2).tolist()
        inside = [cv2.pointPolygonTest(corners, centre, measureDist=False) >= 0 for centre in centres]
        return self.at(np.flatnonzero(inside))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: boxes to 0.01 pixel, scores to 0.0001, and the milliseconds where measured.

        Where there are some, also `segmentation`, a mask as COCO's compressed RLE; `keypoints`, [x, y, visible] each;
        and `obb`, centre x, centre y, width, height, and the angle in radians.
        """
        rows = zip(
            self.boxes_xyxy.tolist(),
            self.scores.tolist(),
            self.class_ids.tolist(),
            self.labels,
            self._beside_boxes(),
            strict=True,
        )
        detections = [
            {
                "box_xyxy": [round(side, 2) for side in box],
                "score": round(score, 4),
                "class_id": class_id,
                "name": name,
                **beside,
            }
            for box, score, class_id, name, beside in rows
        ]
        if self.timing is None:
            return {"detections": detections}
        times = {part: round(1000 * seconds, 3) for part, seconds in asdict(self.timing).items()}
        return {"detections": detections, "milliseconds": times}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return COCO results: image id, category id (the class id, from 0), box as x, y, width, height, and score.

        Where there are some, also `segmentation`, an RLE; `keypoints`, x, y and how surely it is visible in turns; and
        `obb`, which COCO does not have.
        """
        sides = np.concatenate([self.boxes_xyxy[:, :2], self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]], axis=1)
        results: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": class_id, "bbox": bbox, "score": score}
            for bbox, score, class_id in zip(sides.tolist(), self.scores.tolist(), self.class_ids.tolist(), strict=True)
        ]
        for index, result in enumerate(results):
            if self.masks is not None:
                result["segmentation"] = self.masks.rle(index)
            if self.keypoints is not None:
                result["keypoints"] = self.keypoints[index].ravel().tolist()
            if self.obb is not None:
                result["obb"] = self.obb[index].tolist()
        return results

    def _beside_boxes(self) -> list[dict[str, Any]]:
        """What JSON holds of each detection beside its box."""
        entries: list[dict[str, Any]] = [{} for _ in range(len(self))]
        for index, entry in enumerate(entries):
            if self.masks is not None:
                entry["segmentation"] = self.masks.rle(index)
            if self.keypoints is not None:
                points = self.keypoints[index].tolist()
                entry["keypoints"] = [[round(x, 2), round(y, 2), round(visible, 4)] for x, y, visible in points]
            if self.obb is not None:
                *sides, angle = self.obb[index].tolist()
                entry["obb"] = [*(round(side, 2) for side in sides), round(angle, 4)]
        return entries

    def to_supervision(self) -> Any:
        """Return them as `supervision.Detections`, with the class names under `class_name`.

        Masks are its masks; the corners of rotated boxes are under `xyxyxyxy`. Keypoints are `supervision.KeyPoints`.

        Raises:
            UsageError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise UsageError("supervision is not installed; pip install supervision") from error
        data: dict[str, Any] = {"class_name": np.array(self.labels, dtype=np.str_)}
        if self.keypoints is not None:
            return supervision.KeyPoints(
                xy=self.keypoints[..., :2].copy(),
                keypoint_confidence=self.keypoints[..., 2].copy(),
                detection_confidence=self.scores.copy(),
                class_id=self.class_ids.copy(),
                data=data,
            )
        mask = None
        if self.masks is not None:
            mask = np.zeros((len(self), *self.masks.size_wh[::-1]), dtype=np.bool_)
            for index in range(len(self)):
                mask[index] = self.masks.dense(index)
        if self.obb is not None:
            data["xyxyxyxy"] = corners_of(self.obb)
        return supervision.Detections(
            xyxy=self.boxes_xyxy.copy(),
            mask=mask,
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            data=data,
        )

    def draw(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a copy of the image, (H, W, 3) uint8 BGR, with each detection and its label, such as a box."""
        canvas = image_bgr.copy()
        labels = [f"{name} {score:.2f}" for name, score in zip(self.labels, self.scores, strict=True)]
        self.painter(canvas, self, labels, [class_colour(i) for i in self.class_ids.tolist()])
        return canvas

    def at(self, index: NDArray[np.intp]) -> Detections:
        """Return some of them, by their indices, in that order."""
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[index],
            scores=self.scores[index],
            class_ids=self.class_ids[index],
            masks=None if self.masks is None else self.masks[index],
            keypoints=None if self.keypoints is None else self.keypoints[index],
            obb=None if self.obb is None else self.obb[index],
        )


def check_thresholds(
    confidence: float | Sequence[float],
    iou_threshold: float,
    max_detections: int,
    *,
    name: str = "confidence",
    iou: str = "iou_threshold",
) -> None:
    """Refuse thresholds that no detector can mean.

    Args:
        confidence: the lowest score that counts, one number or one a class.
        iou_threshold: of suppression.
        max_detections: for each image.
        name: what `confidence` is called where the user gives it.
        iou: what `iou_threshold` is called there.

    Raises:
        UsageError: a threshold is outside [0, 1] or `max_detections` is below 1; all problems at once.
    """
    problems = []
    for what, values in ((name, confidence), (iou, iou_threshold)):
        given = as_numbers(values)
        if given is None:
            problems.append(f"{what}: expected a number in [0, 1], got {values!r:.60}")
            continue
        wrong = [value for value in given.ravel().tolist() if not 0 <= value <= 1]
        problems += [f"{what}: expected a number in [0, 1], got {value:g}" for value in wrong[:1]]
    if not isinstance(max_detections, int | np.integer) or isinstance(max_detections, bool) or max_detections < 1:
        problems.append(f"max_detections: expected at least 1, got {max_detections}")
    if problems:
        raise UsageError("; ".join(problems))


def as_numbers(values: Any) -> NDArray[Any] | None:
    """Return one or several numbers as an array; None where they are something else, such as text."""
    try:
        given = np.asarray(values)
    except ValueError:  # lists of different lengths
        return None
    return given if given.dtype.kind in "iuf" else None
