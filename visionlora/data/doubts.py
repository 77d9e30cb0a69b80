"""What a user would want to know of a data set before training, though nothing is wrong with a single file."""

from __future__ import annotations

import logging

from visionlora.data.content import find_shared_images
from visionlora.data.dataset import Dataset

_LOGGER = logging.getLogger("visionlora")


def warn_of_doubtful_data(dataset: Dataset, batch: int) -> None:
    """Log what is seldom meant: pictures of val in train, splits without objects or classes, labels that are no boxes.

    And a batch that is an epoch.

    Args:
        dataset: with train and val.
        batch: images a step.
    """
    shared = find_shared_images(dataset.split("train"), dataset.split("val"))
    if shared:
        example = shared[0][1].path
        _LOGGER.warning("%d images of val are in train too, such as %s: the scores flatter", len(shared), example)
    for split in ("train", "val"):
        images = dataset.split(split)
        background = sum(not len(image.class_ids) for image in images)
        if background > len(images) / 2:
            _LOGGER.warning(
                "%d of %d pictures of %s show no object; are their label files in the folder labels?",
                background,
                len(images),
                split,
            )
        upright = dataset.upright_words(split)
        if upright:
            _LOGGER.warning("%s", upright)
        empty = dataset.classes_without_objects(split)
        if empty:
            _LOGGER.warning("%s shows no object of: %s", split, ", ".join(empty))
    count = len(dataset.split("train"))
    if batch > count:
        _LOGGER.warning("--batch %d: train has %d pictures; a step takes all of them, and is one epoch", batch, count)
