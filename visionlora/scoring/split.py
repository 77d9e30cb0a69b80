"""A split that models are judged on: loaded once, asked of every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.data import LabelledImage, content_hash, load_coco, load_dataset, read_coco, read_description
from visionlora.errors import DataError
from visionlora.formats.text import printable
from visionlora.scoring.bootstrap import FEWEST_IMAGES, draw_images
from visionlora.scoring.cache import cache_key, image_hashes, keep_found, load_found
from visionlora.scoring.coco import ClassCount, count_classes
from visionlora.scoring.detect_split import SplitDetections, find_objects
from visionlora.tasks import Task
from visionlora.vision.inference import Network


@dataclass(frozen=True)
class DataUsed:
    """The labelled images that the numbers belong to; counts of the classes are in the order of their ids."""

    path: str
    content_hash: str
    split: str
    images: int
    classes: tuple[ClassCount, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The class names in the order of their ids."""
        return tuple(count.name for count in self.classes)

    @property
    def judged(self) -> tuple[str, ...]:
        """The classes that have objects, on which alone a model can be judged; all of them where none has any."""
        return tuple(count.name for count in self.classes if count.objects) or self.names


@dataclass(frozen=True, eq=False)
class EvaluationSplit:
    """A split, loaded, with what is asked of every model.

    Attributes:
        images: the ground truth.
        hashes: SHA-256 of each image file.
        names: the class names.
        used: what a report says of it.
        notes: what is good to know of its labels, a sentence each.
    """

    images: tuple[LabelledImage, ...]
    hashes: tuple[str, ...]
    names: tuple[str, ...]
    used: DataUsed
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> NDArray[np.int64] | None:
        """The draws of the bootstrap; None where the images are too few."""
        return draw_images(len(self.images)) if len(self.images) >= FEWEST_IMAGES else None

    def find(
        self, network: Network, files: Sequence[Path], *, runtime: str = "", cache: bool = True
    ) -> SplitDetections:
        """Run a network on the images, or read what it found there before.

        Args:
            network: the network.
            files: those that decide what it finds.
            runtime: what executes the network, where its files do not say.
            cache: whether to look for an earlier result, and to keep this one.
        """
        if not cache:
            return find_objects(network, self.images, self.names)
        key = cache_key(
            files,
            self.hashes,
            names=self.names,
            sizes=[image.size_wh for image in self.images],
            model_names=network.names,
            imgsz=network.image_size,
            runtime=runtime,
        )
        kept = load_found(key, network.task)
        if kept is None:
            kept = find_objects(network, self.images, self.names)
            keep_found(key, kept)
        return kept


def check_split(data: Path | str, split: str = "val", *, option: str = "--data") -> None:
    """Refuse what `load_split` cannot load without opening pictures and labels, whose task only a model says.

    Raises:
        DataError: the file cannot be read, or the split is not there.
        UsageError: a split that no data.yaml has.
    """
    if _is_coco(data):
        read_coco(Path(data), option=option)
    else:
        read_description(data, option=option).sources(split)


def load_split(data: Path | str, split: str = "val", *, task: Task) -> EvaluationSplit:
    """Load a split of a data.yaml, whose labels are of a task, or a COCO ground truth (.json).

    Raises:
        DataError: the data set or an image cannot be used.
    """
    coco = _is_coco(data)
    if coco and not task.boxes:
        raise DataError(f"{data}: expected a folder of classes for a model of task {task.name}, got a COCO file")
    dataset = load_coco(data, split=split, task=task) if coco else load_dataset(data, splits=(split,), task=task)
    images, names = dataset.split(split), dataset.names
    counts = count_classes(images, names, iou_type=task.iou_type)
    used = DataUsed(printable(data), content_hash(images), split, len(images), counts)
    upright = dataset.upright_words(split)
    return EvaluationSplit(images, image_hashes(images), names, used, (f"{upright}.",) if upright else ())


def _is_coco(data: Path | str) -> bool:
    return Path(data).suffix.lower() == ".json"
