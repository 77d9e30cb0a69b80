"""Finished detections, as end-to-end files give them, in the form of a raw prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError


def one_hot(path: Path, rows: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """(n, boxes, 6) x1, y1, x2, y2, score, class -> (n, 4 + classes, boxes) as a raw prediction."""
    class_ids = rows[:, :, 5].astype(np.int64)
    if rows.shape[1] and (np.min(class_ids) < 0 or np.max(class_ids) >= classes):
        raise ModelError(f"{path}: gave class id {np.min(class_ids)} to {np.max(class_ids)}, but has {classes} names")
    prediction = np.zeros((rows.shape[0], 4 + classes, rows.shape[1]), dtype=np.float32)
    prediction[:, 0:2] = ((rows[:, :, 0:2] + rows[:, :, 2:4]) / 2).transpose(0, 2, 1)
    prediction[:, 2:4] = (rows[:, :, 2:4] - rows[:, :, 0:2]).transpose(0, 2, 1)
    np.put_along_axis(prediction, 4 + class_ids[:, None, :], rows[:, None, :, 4], axis=1)
    return prediction
