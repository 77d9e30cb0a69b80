"""Whether a detector file works on this machine, before anything depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visionlora.errors import ModelError
from visionlora.runtime import OnnxNetwork


def self_test(path: Path, names: Sequence[str]) -> None:
    """Load a file and run it on three pictures: black, grey, and coloured noise.

    Raises:
        ModelError: it cannot be loaded or run, has other classes, gives no numbers, scores outside [0, 1], or the
            same scores for every picture.
    """
    network = OnnxNetwork(path)
    if tuple(names) != network.names:
        raise ModelError(f"{path}: expected the classes {', '.join(names)}, got {', '.join(network.names)}")
    side = network.image_size
    noise = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    pictures = (np.zeros_like(noise), np.full_like(noise, 0.5), noise)
    outputs = [np.concatenate(parts) for parts in zip(*map(network, pictures), strict=True)]
    scores = network.task.split(outputs)[1]
    if not all(np.isfinite(output).all() for output in outputs) or scores.min() < 0 or scores.max() > 1:
        raise ModelError(f"{path}: expected finite boxes and scores in [0, 1], got others; the file is not used")
    if (scores == scores[0]).all():
        raise ModelError(f"{path}: gives the same scores for every picture; the file is not used")
