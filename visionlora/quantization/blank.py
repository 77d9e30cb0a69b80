"""Calibration pictures that show nothing: a covered lens, a black frame, a placeholder."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from visionlora.data import LabelledImage
from visionlora.errors import DataError
from visionlora.vision.preprocess import read_image

_LOGGER = logging.getLogger("visionlora")
LEAST_DEVIATION = 2.0
"""Standard deviation of the grey levels (0 to 255, all channels together) of a picture that shows something: below it,
only a sensor's noise or the traces of compression are left."""


def warn_of_blank_images(images: Sequence[LabelledImage]) -> None:
    """Log which calibration pictures are nearly of one colour: activations take values there that no other gives.

    Raises:
        DataError: all of them are, or one cannot be read.
    """
    blank = [image.path for image in images if read_image(image.path).std() < LEAST_DEVIATION]
    if not blank:
        return
    if len(blank) == len(images):
        raise DataError(
            f"expected calibration pictures that show something, got {len(blank)} of nearly one colour, such as "
            f"{blank[0]}; take such pictures out of the train split, or choose others with --seed or --images"
        )
    _LOGGER.warning(
        "%d of %d calibration pictures are nearly of one colour, such as %s: int8 loses accuracy by them; take such "
        "pictures out of the train split, or choose others with --seed or --images",
        len(blank),
        len(images),
        blank[0],
    )
