"""What was found, as files: JSON, JSON lines, COCO, CSV, YOLO labels, drawn pictures and a drawn video."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from visionlora.errors import UsageError
from visionlora.formats.text import csv_cell, is_unicode
from visionlora.prediction.annotated import AnnotatedVideo
from visionlora.runtime import Frame
from visionlora.runtime.frames import is_video
from visionlora.tasks import Task
from visionlora.vision.detections import Detections
from visionlora.vision.masks import rle_area
from visionlora.vision.painters import SEEN

FILES = {
    "json": "detections.json",
    "jsonl": "detections.jsonl",
    "coco": "detections.coco.json",
    "csv": "detections.csv",
}
"""What can be written into one file; besides `labels` and `images`, a file for each picture."""
FORMATS = (*FILES, "labels", "images")
LABELS = "labels"
COLUMNS = ("image", "frame", "seconds", "class_id", "name", "score", "left", "top", "right", "bottom")
_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")
"""Drawn pictures keep these formats; others become PNG."""


class Records:
    """Writes frames in the chosen formats: line by line where it can be, what needs all of them when it is closed."""

    def __init__(
        self,
        folder: Path,
        formats: Sequence[str],
        names: tuple[str, ...],
        task: Task,
        pictures: Sequence[Path],
        video: AnnotatedVideo | None,
    ) -> None:
        self._folder, self._formats, self._names, self._task = folder, formats, names, task
        self._pictures = pictures  # none where frames are no pictures of a list
        self._drawn, self._video = picture_names(pictures), video
        self._entries: list[dict[str, Any]] = []
        self._coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        self._lines: IO[str] | None = None
        self._table: IO[str] | None = None

    def __enter__(self) -> Records:
        if "jsonl" in self._formats:
            self._lines = (self._folder / FILES["jsonl"]).open("w", encoding="utf-8")
        if "csv" in self._formats:
            self._table = (self._folder / FILES["csv"]).open("w", encoding="utf-8", newline="")
            csv.writer(self._table).writerow(COLUMNS)
        if "labels" in self._formats:
            (self._folder / LABELS).mkdir(exist_ok=True)
        return self

    def add(self, frame: Frame, found: Detections) -> None:
        """Write what can be written now."""
        entry: dict[str, Any] = {"image": written_name(frame.source)}
        if not self._pictures:
            entry |= {"frame": frame.index, "seconds": round(frame.seconds, 3)}
        entry |= found.to_dict()
        if self._lines is not None:
            self._lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._lines.flush()  # another program may be following it
        if self._table is not None:
            csv.writer(self._table).writerows(_rows(entry))
            self._table.flush()
        if "json" in self._formats:
            self._entries.append({key: value for key, value in entry.items() if key != "milliseconds"})
        if "coco" in self._formats:
            self._add_coco(frame, found)
        if "labels" in self._formats:
            name = self._pictures[frame.index].stem if self._pictures else Path(self._name_of(frame)).stem
            (self._folder / LABELS / f"{name}.txt").write_text(_label_lines(self._task, frame, found), encoding="ascii")
        if "images" in self._formats or self._video is not None:
            self._draw(frame, found)

    def _draw(self, frame: Frame, found: Detections) -> None:
        picture = found.draw(frame.pixels)
        if self._video is not None:
            self._video.add(picture, frame.seconds)
        if "images" in self._formats:
            path = self._folder / self._name_of(frame)
            path.write_bytes(cv2.imencode(path.suffix, picture)[1].tobytes())

    def _name_of(self, frame: Frame) -> str:
        if self._drawn:
            return self._drawn[frame.index]
        path = Path(frame.source)
        if "://" in frame.source or not path.suffix:  # a camera
            return f"frame_{frame.index:06d}.png"
        stem = f"{path.stem}_{path.suffix[1:]}"
        return f"{stem}_{frame.index:06d}.png" if is_video(path) else f"{stem}.png"

    def _add_coco(self, frame: Frame, found: Detections) -> None:
        height, width = frame.pixels.shape[:2]
        image_id = len(self._coco["images"]) + 1
        name = written_name(Path(frame.source).name if self._pictures else self._name_of(frame))
        self._coco["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
        for annotation in found.to_coco(image_id):
            number = len(self._coco["annotations"]) + 1  # from 1: pycocotools takes an annotation 0 for none
            self._coco["annotations"].append({"id": number, **annotation, **_labelled(annotation), "iscrowd": 0})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for file in (self._lines, self._table):
            if file is not None:
                file.close()
        if kind is not None:
            if self._video is not None:
                self._video.discard()
            return
        if self._video is not None:
            self._video.close()
        if "json" in self._formats:
            self._write("json", json.dumps({"format": 1, "images": self._entries}, indent=1, ensure_ascii=False))
        if "coco" in self._formats:
            categories = [{"id": class_id, "name": name} for class_id, name in enumerate(self._names)]
            self._write("coco", json.dumps({**self._coco, "categories": categories}, ensure_ascii=False))

    def _write(self, name: str, text: str) -> None:
        (self._folder / FILES[name]).write_text(text + "\n", encoding="utf-8")


def written_name(name: str) -> str:
    r"""Return a file's name as JSON and CSV hold it: bytes that are no UTF-8 as `\xe9`.

    Example:
        >>> print(written_name("caf\udce9.png"))
        caf\xe9.png
    """
    if is_unicode(name):
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def picture_names(pictures: Sequence[Path]) -> list[str]:
    """Return a file name for each drawn picture: its own, of TIFF, BMP and WebP `a_tif.png`; a repeated one numbered.

    Example:
        >>> picture_names([Path("1/a.jpg"), Path("1/a.tif"), Path("2/a.jpg")])
        ['a.jpg', 'a_tif.png', 'a_2.jpg']
    """
    names: list[str] = []
    taken: set[str] = set()  # without case: some file systems do not tell it apart
    for path in pictures:
        kept = path.suffix.lower() in _KEPT_SUFFIXES
        stem, suffix = (path.stem, path.suffix) if kept else (f"{path.stem}_{path.suffix[1:]}", ".png")
        number, name = 1, f"{stem}{suffix}"
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}{suffix}"
        taken.add(name.casefold())
        names.append(name)
    return names


def refuse_boxes(formats: Sequence[str], task: Task) -> None:
    """Refuse formats of boxes for a task that finds none.

    Raises:
        UsageError: there is one.
    """
    wrong = [name for name in formats if name in ("coco", "labels")]
    if wrong and not task.boxes:
        raise UsageError(f"--formats: {' and '.join(wrong)} hold boxes, and the model classifies pictures; use json")


def refuse_shared_labels(pictures: Sequence[Path]) -> None:
    """Refuse pictures whose label files would have one name.

    Raises:
        UsageError: there are two.
    """
    first: dict[str, Path] = {}
    for path in pictures:
        other = first.setdefault(path.stem.casefold(), path)
        if other is not path:
            raise UsageError(
                f"--formats labels: {other} and {path} would share {LABELS}/{path.stem}.txt; predict them apart"
            )


def _rows(entry: dict[str, Any]) -> list[list[Any]]:
    """A row a detection, or of a classifier a class, without a box.

    One with empty fields where nothing was found, so that no picture is missing.
    """
    place = [csv_cell(entry["image"]), entry.get("frame", ""), entry.get("seconds", "")]
    rows = [
        [
            *place,
            detection["class_id"],
            csv_cell(detection["name"]),
            detection["score"],
            *detection.get("box_xyxy", [""] * 4),
        ]
        for detection in entry.get("detections", entry.get("top5", []))
    ]
    return rows or [[*place, *[""] * (len(COLUMNS) - len(place))]]


def _label_lines(task: Task, frame: Frame, found: Detections) -> str:
    """Lines of a YOLO label file as the task has them: a class, and fractions of the picture."""
    height, width = frame.pixels.shape[:2]
    rows = zip(found.class_ids.tolist(), task.label_rows(found, (width, height)), strict=True)
    return "".join(f"{class_id} {' '.join(map(_fraction, row))}\n" for class_id, row in rows if row)


def _fraction(value: float) -> str:
    return f"{value:.0f}" if value == 2 else f"{value:.6f}"  # 2 is no fraction: a keypoint is visible


def _labelled(annotation: dict[str, Any]) -> dict[str, Any]:
    """What an annotation of a COCO data set says of an object beside what a result does: its area, visible points."""
    width, height = annotation["obb"][2:4] if "obb" in annotation else annotation["bbox"][2:]
    fields: dict[str, Any] = {"area": width * height}
    if "segmentation" in annotation:
        fields["area"] = int(rle_area(annotation["segmentation"]))
    if "keypoints" in annotation:
        points = np.reshape(annotation["keypoints"], (-1, 3))
        seen = points[:, 2:] >= SEEN
        marked = np.where(seen, [1, 1, 0], 0) * points + np.where(seen, [0, 0, 2], 0)
        fields |= {"keypoints": marked.ravel().tolist(), "num_keypoints": int(seen.sum())}
    return fields
