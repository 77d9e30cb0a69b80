"""Labels of another task than the one asked for: polygons, oriented boxes or keypoints where boxes are expected."""

from __future__ import annotations

from collections.abc import Sequence

from visionlora.checking.findings import Finding
from visionlora.checking.pictures import Picture
from visionlora.data import shown
from visionlora.tasks import DETECT, Task

_CORNERS = 8  # columns of an oriented box behind the class
_BOX = 4
_NEAR = 0.55  # of the sides of a box, from its centre


def kind_findings(pictures: Sequence[Picture], task: Task) -> list[Finding]:
    """Return which labels of a detection data set are of another task, named as such."""
    if task.name != DETECT.name:
        return []
    found = [picture for picture in pictures if picture.rows]
    if not found:
        return []
    kind = _kind([row for picture in found for row in picture.rows if len(row) > _BOX])
    count = sum(picture.polygons for picture in found)
    total = sum(len(picture.class_ids) for picture in pictures)
    message = f"{count} of {total} labels look like {_WORDS[kind]}: the box around each is taken; {_ADVICE[kind]}"
    return [Finding("warning", "other task", message, tuple(shown(picture.label) for picture in found))]


_WORDS = {"segment": "polygons (segmentation)", "obb": "oriented boxes", "pose": "keypoints behind a box (pose)"}
_ADVICE = {
    "segment": "--task segment checks them as masks",
    "obb": "--task obb checks them as oriented boxes",
    "pose": "data.yaml needs kpt_shape, or the boxes are wrong",
}


def _kind(rows: Sequence[Sequence[float]]) -> str:
    """Return the task that the columns of all labels behind the class look like."""
    lengths = {len(row) for row in rows}
    if lengths == {_CORNERS}:
        return "obb"
    return "pose" if len(lengths) == 1 and all(_is_pose(row) for row in rows) else "segment"


def _is_pose(row: Sequence[float]) -> bool:
    """Whether columns are a box and points inside it, x and y; with a visibility they are no polygon at all."""
    x, y, width, height = row[:_BOX]
    rest = row[_BOX:]
    points = [rest[index : index + 2] for index in range(0, len(rest), 2)]
    seen = [point for point in points if any(point)]
    return bool(seen) and all(abs(u - x) <= width * _NEAR and abs(v - y) <= height * _NEAR for u, v in seen)
