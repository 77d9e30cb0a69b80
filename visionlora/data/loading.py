"""A data set of any form, loaded and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visionlora.data.coco_file import coco_paths, load_coco
from visionlora.data.dataset import Dataset, load_described
from visionlora.data.description import Description, KeypointLayout, read_description
from visionlora.data.listing import list_pictures
from visionlora.data.problems import raise_problems, shown
from visionlora.errors import DataError
from visionlora.tasks import DETECT, Pose, Task


def load_dataset(yaml_path: Path | str, *, splits: Sequence[str] = ("train", "val"), task: Task = DETECT) -> Dataset:
    """Load and check splits of a data set in Ultralytics' layout or of COCO files; of a classifier a folder of classes.

    Labels lie where the last folder `images` of an image's path is `labels`, with the suffix `.txt`; an image without a
    label file has no objects. Boxes are clipped to the image.

    Args:
        yaml_path: the data.yaml, a folder with one, the folder of classes, a COCO file or a folder with such, or a .zip
            of any of these.
        splits: which of train, val and test to load; the others may be absent.
        task: what a line of a label file holds, which a data.yaml does not say.

    Raises:
        DataError: anything is wrong with the data.yaml, the images or the labels; the first few problems of the
            images and labels are listed, one a line, and the others counted.
        UsageError: a split that no data.yaml has.

    Example:
        >>> dataset = load_dataset("datasets/neu-det/data.yaml", splits=["val"])  # doctest: +SKIP
        >>> len(dataset.split("val"))  # doctest: +SKIP
        360
    """
    description = read_description(yaml_path)
    if not description.truths:
        return load_described(description, splits=splits, task=task)
    if not task.boxes:
        raise DataError(
            f"{shown(description.path)}: expected a folder of classes for a model of task {task.name}, got COCO files"
        )
    loaded, problems = {}, []
    for split in splits:
        (truth,) = description.sources(split)
        try:
            loaded[split] = load_coco(truth, split=split, task=task).splits[split]
        except DataError as error:
            problems += str(error).splitlines()
    raise_problems(problems)
    layout = KeypointLayout(task.keypoints, task.dims) if isinstance(task, Pose) else None
    return Dataset(description.path, description.names, loaded, keypoints=layout)


def image_paths(yaml_path: Path | str, split: str) -> tuple[Path, ...]:
    """Return the image files of a split without opening them or their labels; none where the split is not there.

    Raises:
        DataError: the data.yaml cannot be read.
    """
    description = read_description(yaml_path)
    try:
        return picture_paths(description, split)
    except DataError:  # not in the file, not on this disk, or empty
        return ()


def picture_paths(description: Description, split: str) -> tuple[Path, ...]:
    """Return the image files of a split, ordered.

    Raises:
        DataError: the split is not there, or is empty.
    """
    sources = description.sources(split)
    if description.truths:
        return coco_paths(sources[0])
    return tuple(list_pictures(sources, f"{shown(description.path)}: split {split!r}"))
