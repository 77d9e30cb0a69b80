"""No evaluation image may be among the calibration images, whatever it is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visionlora.data import Dataset, LabelledImage, find_shared_files, image_paths
from visionlora.errors import DataError
from visionlora.quantization.calibration import choose_images

_EVALUATION_SPLITS = ("val", "test")


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
