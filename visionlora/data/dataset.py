"""A data set in memory: which images, which boxes. Pixels stay on disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from visionlora.data.class_folders import class_of, misplaced
from visionlora.data.description import Description, KeypointLayout
from visionlora.data.images import image_size
from visionlora.data.labels import Labels, label_path, read_labels
from visionlora.data.listing import list_pictures
from visionlora.data.problems import raise_problems, shown
from visionlora.errors import DataError, UsageError
from visionlora.tasks import DETECT, Pose, Task
from visionlora.vision.preprocess import IMAGE_SUFFIXES, read_image, refuse_special

_LOGGER = logging.getLogger("visionlora")
_THREADS = 8
Segmentation: TypeAlias = tuple[NDArray[np.float64], ...] | dict[str, Any]
"""One mask, as polygons or as an RLE."""


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image file and the objects in it.

    Attributes:
        path: the image file.
        size_wh: width and height in pixels as displayed, that is after EXIF rotation.
        boxes_xyxy: (N, 4) float32, left, top, right, bottom in pixels, within the image.
        class_ids: (N,) int64, index into the names of the data set.
        crowd: (N,) bool, whether a box stands for a group that was not labelled one by one: neither a miss where
            nothing is found in it, nor a false alarm where something is. None means that no box is.
        areas: (N,) float64, square pixels of the objects themselves, where a ground truth says more than the box does:
            they decide what is small, medium or large. None means the areas of the boxes.
        segments: N masks, each a tuple of polygons (P, 2) in pixels, or an RLE as COCO has it: a dict of `size`, height
            and width, and `counts`. None where no masks are labelled.
        keypoints: (N, K, 3) float32, x and y in pixels, and 0 (not labelled), 1 (hidden) or 2 (visible). None where no
            keypoints are labelled.
        sigmas: (K,) float64, COCO's sigma of each keypoint; None where the data set does not say.
        obb: (N, 5) float32, oriented boxes: centre x, y, width and height in pixels, and the angle in radians, in
            [0, pi / 2). None where none are labelled.

    Raises:
        UsageError: the arrays are not of these shapes.
    """

    path: Path
    size_wh: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    crowd: NDArray[np.bool_] | None = None
    areas: NDArray[np.float64] | None = None
    segments: tuple[Segmentation, ...] | None = None
    keypoints: NDArray[np.float32] | None = None
    sigmas: NDArray[np.float64] | None = None
    obb: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes_xyxy, dtype=np.float32).reshape(-1, 4)
        class_ids = np.asarray(self.class_ids, dtype=np.int64).reshape(-1)
        if len(boxes) != len(class_ids):
            raise UsageError(f"{self.path}: expected a class id for each box, got {len(class_ids)} for {len(boxes)}")
        object.__setattr__(self, "boxes_xyxy", boxes)
        object.__setattr__(self, "class_ids", class_ids)
        if self.crowd is not None:
            crowd = np.asarray(self.crowd, dtype=bool).reshape(-1)
            if len(crowd) != len(boxes):
                raise UsageError(f"{self.path}: expected a crowd flag for each box, got {len(crowd)} for {len(boxes)}")
            object.__setattr__(self, "crowd", crowd)
        if self.areas is not None:
            areas = np.asarray(self.areas, dtype=np.float64).reshape(-1)
            if len(areas) != len(boxes):
                raise UsageError(f"{self.path}: expected an area for each box, got {len(areas)} for {len(boxes)}")
            object.__setattr__(self, "areas", areas)
        if self.segments is not None and len(self.segments) != len(boxes):
            raise UsageError(f"{self.path}: expected {len(boxes)} segments, got {len(self.segments)}")
        for name, dimensions, columns in (("keypoints", 3, 3), ("obb", 2, 5)):
            if getattr(self, name) is None:
                continue
            values = np.asarray(getattr(self, name), dtype=np.float32)
            if values.ndim != dimensions or len(values) != len(boxes) or values.shape[-1] != columns:
                raise UsageError(f"{self.path}: expected {name} of {len(boxes)} objects, got shape {values.shape}")
            object.__setattr__(self, name, values)

    def at(self, kept: NDArray[np.bool_] | NDArray[np.intp]) -> LabelledImage:
        """Return the image with some of its objects alone, by a mask or by indices."""
        index = np.arange(len(self.class_ids))[kept]
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[index],
            class_ids=self.class_ids[index],
            crowd=self.is_crowd[index],
            areas=self.object_areas[index],
            segments=None if self.segments is None else tuple(self.segments[i] for i in index),
            keypoints=None if self.keypoints is None else self.keypoints[index],
            obb=None if self.obb is None else self.obb[index],
        )

    @property
    def is_crowd(self) -> NDArray[np.bool_]:
        """(N,) bool, also where nothing was said about crowds."""
        return np.zeros(len(self.class_ids), dtype=bool) if self.crowd is None else self.crowd

    @property
    def object_areas(self) -> NDArray[np.float64]:
        """(N,) float64 square pixels of each object: what the ground truth says, else of its box."""
        if self.areas is not None:
            return self.areas
        boxes = self.boxes_xyxy.astype(np.float64)
        return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The loaded splits of a data set.

    Attributes:
        yaml_path: the data.yaml.
        names: class names; a class id is an index into them.
        splits: the images of each loaded split, ordered by path.
        polygons: how many objects of a split its label files have as polygons or oriented boxes, where boxes are asked
            for.
        keypoints: of a pose data set; None for any other.
    """

    yaml_path: Path
    names: tuple[str, ...]
    splits: Mapping[str, tuple[LabelledImage, ...]]
    polygons: Mapping[str, int] = field(default_factory=dict)
    keypoints: KeypointLayout | None = None

    def split(self, name: str) -> tuple[LabelledImage, ...]:
        """Return the images of a split.

        Raises:
            DataError: the split was not loaded, or is empty.
        """
        if not self.splits.get(name):
            has = ", ".join(f"{split} ({len(images)} images)" for split, images in self.splits.items()) or "none"
            raise DataError(f"{shown(self.yaml_path)}: expected images in split {name!r}, got {has}; load it first")
        return self.splits[name]

    def count_objects(self, split: str) -> dict[str, int]:
        """Return how many objects of each class a split has, in the order of `names`."""
        ids = np.concatenate([image.class_ids for image in self.split(split)])
        counts = np.bincount(ids, minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))

    def upright_words(self, split: str) -> str:
        """Say how many objects of a split are taken as the upright box around them; empty where none is."""
        polygons = self.polygons.get(split, 0)
        if not polygons:
            return ""
        objects = sum(self.count_objects(split).values())
        return f"{polygons} of {objects} labels of {split} are polygons or oriented boxes: the box around each is taken"

    def classes_without_objects(self, split: str) -> tuple[str, ...]:
        """Return the classes that have no object in a split: nothing can be learned or measured for them.

        Loading does not refuse them, as a small sample of many classes always has some; tell the user.
        """
        return tuple(name for name, count in self.count_objects(split).items() if count == 0)


def load_described(description: Description, *, splits: Sequence[str], task: Task) -> Dataset:
    """Load splits of label files or of a folder of classes, as `load_dataset` does.

    Raises:
        DataError: as from `load_dataset`.
        UsageError: a split that no data.yaml has.
    """
    _check_kind(description, task)
    check_keypoints(description.keypoints, task, shown(description.path))
    problems: list[str] = []
    loaded, polygons, highest = {}, {}, -1
    for split in splits:
        try:
            paths = list_pictures(description.sources(split), f"{shown(description.path)}: split {split!r}")
        except DataError as error:
            problems += str(error).splitlines()
            continue
        if description.by_folder:
            images, found = _load_classified(paths, description, split)
            problems += found
            loaded[split] = images
            continue
        images, labels, found = _load_images(paths, description, task)
        highest = max(highest, *(each.highest_class for each in labels))
        polygons[split] = sum(each.polygons for each in labels) if task.name == DETECT.name else 0
        if not found and not any(len(image.class_ids) for image in images):
            found.append(
                f"{shown(description.path)}: expected objects in split {split!r}, got {len(images)} images without; "
                f"labels are looked for in files such as {shown(label_path(paths[0]))}"
            )
        problems += found
        loaded[split] = images
    raise_problems(problems, hint=_class_hint(description, highest))
    return Dataset(description.path, description.names, loaded, polygons, description.keypoints)


def _check_kind(description: Description, task: Task) -> None:
    """Refuse a folder of classes for a detector, and label files for a classifier."""
    if description.by_folder and task.boxes:
        raise DataError(
            f"{shown(description.path)}: expected a data.yaml for a model of task {task.name}, got a folder of "
            "classes; give the data.yaml, or a model of task classify"
        )
    if not description.by_folder and not task.boxes:
        raise DataError(
            f"{shown(description.path)}: expected a folder with train/CLASS/*.jpg and val/CLASS/*.jpg for a model of "
            "task classify, got a file; give the folder"
        )


def check_keypoints(layout: KeypointLayout | None, task: Task, where: str) -> None:
    """Refuse a data set whose objects do not have the keypoints of a task, or have keypoints that it knows nothing of.

    Args:
        layout: what the data set says.
        task: what a model finds.
        where: the data set, in messages.

    Raises:
        DataError: they do not fit.
    """
    if not isinstance(task, Pose):
        if layout is not None:
            raise DataError(
                f"{where}: expected a data set of task {task.name}, got 'kpt_shape' (a pose data set); take a model of "
                "task pose, or a data.yaml and labels without keypoints"
            )
        return
    wanted = f"kpt_shape: [{task.keypoints}, {task.dims}], as the model has it"
    if layout is None:
        raise DataError(f"{where}: expected {wanted}, got no kpt_shape; take a pose data set, or a model of its task")
    if (layout.count, layout.dims) != (task.keypoints, task.dims):
        raise DataError(
            f"{where}: expected {wanted}, got [{layout.count}, {layout.dims}]; take a model of its keypoints"
        )


def read_labelled(image: LabelledImage) -> NDArray[np.uint8]:
    """Return the pixels, (H, W, 3) uint8 BGR, after checking that the labels belong to a picture of this size.

    Raises:
        DataError: they do not, or the image cannot be read.
    """
    pixels = read_image(image.path)
    size_wh = (pixels.shape[1], pixels.shape[0])
    if size_wh != tuple(image.size_wh):
        raise DataError(f"{image.path}: expected {image.size_wh} pixels (width, height), got {size_wh}")
    return pixels


def _class_hint(description: Description, highest: int) -> str:
    if highest < len(description.names):
        return ""
    return f"{shown(description.path)}: the highest class id is {highest}: names needs at least {highest + 1} entries"


def _load_images(
    paths: Sequence[Path], description: Description, task: Task
) -> tuple[tuple[LabelledImage, ...], list[Labels], list[str]]:
    """Return the images that are right, the labels of all, and what is wrong with the others."""
    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(lambda path: _load_image(path, description, task), paths))
    images = tuple(image for image, _, _ in results if image is not None)
    problems = [problem for _, _, problems in results for problem in problems]
    return images, [labels for _, labels, _ in results], problems


def _load_classified(
    paths: Sequence[Path], description: Description, split: str
) -> tuple[tuple[LabelledImage, ...], list[str]]:
    """Return the images that are right, each one object of the class whose folder it lies in, and what is wrong."""
    (source,) = description.sources(split)
    if split == "val" and source.name == "test":
        _LOGGER.warning("%s: has no val: its test is taken", shown(description.path))
    problems = misplaced(paths, source, description.names, complete=split == "train")
    if problems:
        return (), problems
    ids = {name: index for index, name in enumerate(description.names)}

    def load(path: Path) -> LabelledImage | str:
        try:
            size_wh = checked_size(path)
        except DataError as error:
            return str(error)
        return LabelledImage(path, size_wh, np.array([[0, 0, *size_wh]]), np.array([ids[class_of(path, source)]]))

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(load, paths))
    return tuple(one for one in found if not isinstance(one, str)), [one for one in found if isinstance(one, str)]


def checked_size(path: Path) -> tuple[int, int]:
    """Return width and height in pixels, as displayed, of a picture that is whole.

    Raises:
        DataError: it is not, or of another format.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(
            f"{shown(path)}: expected {' '.join(IMAGE_SUFFIXES)}, got {path.suffix!r}; convert it to JPEG or PNG"
        )
    return image_size(path)


def _load_image(path: Path, description: Description, task: Task) -> tuple[LabelledImage | None, Labels, list[str]]:
    """Return an image with its labels, these as they are, and what is wrong: then there is no image."""
    problems = []
    size_wh = (1, 1)
    try:
        size_wh = checked_size(path)
    except DataError as error:
        problems.append(str(error))
    labels = labels_of(path, len(description.names), task)
    problems += labels.problems
    image = None
    if not problems:
        boxes, fields = labels.boxes_xyxy * np.array(size_wh * 2), task.label_fields(labels.rows, size_wh)
        image = LabelledImage(path, size_wh, boxes, labels.class_ids, sigmas=_sigmas(description), **fields)
    return image, labels, problems


def _sigmas(description: Description) -> NDArray[np.float64] | None:
    layout = description.keypoints
    return None if layout is None or layout.sigmas is None else np.array(layout.sigmas)


def labels_of(path: Path, class_count: int, task: Task) -> Labels:
    """Return the labels of an image; a label file that is a pipe or a device is not opened."""
    labels = label_path(path)
    try:
        refuse_special(labels)
    except DataError as error:
        return Labels(problems=(str(error),))
    except FileNotFoundError:
        return Labels()  # an image without objects
    except OSError:
        pass  # told by whoever opens it
    return read_labels(labels, class_count=class_count, task=task)
