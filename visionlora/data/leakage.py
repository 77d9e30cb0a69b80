"""Which training images calibrate, none of which may be one to evaluate on, whatever it is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visionlora.data.content import find_shared_files
from visionlora.data.dataset import Dataset, LabelledImage
from visionlora.data.loading import image_paths
from visionlora.errors import DataError

_EVALUATION_SPLITS = ("val", "test")


def choose_images(images: Sequence[LabelledImage], count: int, *, seed: int = 0) -> tuple[LabelledImage, ...]:
    """Choose images so that every class is shown, the rare ones as often as the frequent ones where possible.

    Each choice goes to a class that was shown least so far, the one with the fewest images first.

    Args:
        images: what to choose from.
        count: how many; all where there are fewer.
        seed: which of the equally good choices.

    Returns:
        The chosen images in the order of `images`.
    """
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    classes = {index: set(images[index].class_ids.tolist()) for index in order}
    left = {
        class_id: [index for index in order if class_id in classes[index]]
        for class_id in sorted(set().union(*classes.values()))
    }
    shown = dict.fromkeys(left, 0)
    chosen: dict[int, None] = {}
    while len(chosen) < min(count, len(images)):
        left = {class_id: [index for index in queue if index not in chosen] for class_id, queue in left.items()}
        open_classes = [class_id for class_id in left if left[class_id]]
        if open_classes:
            needy = min(open_classes, key=lambda class_id: (shown[class_id], len(left[class_id])))
            unseen = {class_id for class_id in shown if not shown[class_id]}
            index = max(left[needy], key=lambda index: len(classes[index] & unseen))
        else:
            index = next(index for index in order if index not in chosen)
        chosen[index] = None
        for class_id in classes[index]:
            shown[class_id] += 1
    return tuple(images[index] for index in sorted(chosen))


def calibration_images(dataset: Dataset, count: int, *, seed: int) -> tuple[LabelledImage, ...]:
    """Return the training images of a data set that calibrate, none of which may be one to evaluate on.

    Raises:
        DataError: one is; or there is no train split.
    """
    chosen = choose_images(dataset.split("train"), count, seed=seed)
    refuse_evaluation_images(chosen, dataset.yaml_path)
    return chosen


def refuse_evaluation_images(chosen: Sequence[LabelledImage], yaml_path: Path | str) -> None:
    """Refuse calibration images whose files hold the same bytes as one of the val or the test split.

    A split that is not on this disk is not looked at.

    Args:
        chosen: the calibration images.
        yaml_path: the data.yaml that names the splits.

    Raises:
        DataError: one does; the message names both files.
    """
    problems = []
    for split in _EVALUATION_SPLITS:
        shared = find_shared_files([image.path for image in chosen], image_paths(yaml_path, split))
        if shared:
            twin, path = shared[0]
            more = f" ({len(shared)} such pairs)" if len(shared) > 1 else ""
            problems.append(
                f"{twin}: expected no evaluation image among the calibration images, got the bytes of {path} of split "
                f"{split!r}{more}; take it out of one of the splits"
            )
    if problems:
        raise DataError("\n".join(problems))
