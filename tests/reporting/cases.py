"""Random ground truth and detections with everything that makes average precision hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from visionlora.data import LabelledImage
from visionlora.vision.detections import Detections

EMPTY = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, dtype=np.int64))


def random_case(
    seed: int, *, images: int, classes: int, detections: int, noise: float = 6.0
) -> tuple[list[LabelledImage], list[Detections]]:
    """Ground truth, and detections of which many lie near it; scores are tied where `seed` is odd."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for index in range(images):
        count = int(rng.integers(0, 6))
        corner = rng.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 90, (count, 2))], axis=1).astype(np.float32)
        ids = rng.integers(0, classes, count)
        truth.append(LabelledImage(path=Path(f"{index}.png"), size_wh=(300, 300), boxes_xyxy=boxes, class_ids=ids))
        if count:
            of = rng.integers(0, count, detections)
            near = boxes[of] + rng.normal(0, noise, (detections, 4))
            near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
            guesses = np.where(rng.random(detections) < 0.8, ids[of], rng.integers(0, classes, detections))
            scores = rng.choice([0.1, 0.3, 0.5, 0.7, 0.9], detections) if seed % 2 else rng.random(detections)
            found.append(Detections(near, scores, guesses))
        else:
            found.append(EMPTY)
    return truth, found
