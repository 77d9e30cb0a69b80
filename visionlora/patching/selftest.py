"""Whether a detector file works on this machine, before anything depends on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import ModelError
from visionlora.patching.keeping import KeptModel, kept_content, open_kept
from visionlora.runtime import OnnxNetwork


def self_test(path: Path, names: Sequence[str]) -> None:
    """Load a file and run it on three pictures: black, grey, and coloured noise.

    Raises:
        ModelError: it cannot be loaded or run, has other classes, gives no numbers, scores outside [0, 1], or the
            same scores for every picture.
    """
    network = OnnxNetwork(path)
    pictures = _pictures(network.image_size)
    if tuple(names) != network.names:
        raise ModelError(f"{path}: expected the classes {', '.join(names)}, got {', '.join(network.names)}")
    outputs = [np.concatenate(parts) for parts in zip(*map(network, pictures), strict=True)]
    scores = network.task.split(outputs)[1]
    if not all(np.isfinite(output).all() for output in outputs) or scores.min() < 0 or scores.max() > 1:
        raise ModelError(f"{path}: expected finite boxes and scores in [0, 1], got others; the file is not used")
    if (scores == scores[0]).all():
        raise ModelError(f"{path}: gives the same scores for every picture; the file is not used")


@dataclass(frozen=True, eq=False)
class BaseAlone:
    """The base in a file with adapters beside it, as a network of its own.

    Attributes:
        network: the base.
        places: row of its output -> row of the file's output, of those that the file has.
    """

    network: OnnxNetwork
    places: Mapping[int, int]

    @classmethod
    def of(cls, path: Path) -> BaseAlone:
        """Return the base in a file.

        Raises:
            ModelError: the file is broken, or none that holds a base.
        """
        return cls.in_kept(open_kept(path))

    @classmethod
    def in_kept(cls, kept: KeptModel) -> BaseAlone:
        """Return the base with adapters beside it."""
        content = kept_content(replace(kept, adapters=(), branches=()))
        places = {row: place for place, row in enumerate(kept.rows[0]) if row is not None}
        return cls(OnnxNetwork(kept.base.path, content=content), places)

    def equals(self, network: OnnxNetwork, picture: NDArray[np.float32]) -> bool:
        """Whether the file's network predicts for an input (1, 3, S, S) what the base alone does, bit for bit."""
        (alone,), (got,) = self.network(picture), network(picture)
        return np.array_equal(got[:, list(self.places.values()), : alone.shape[2]], alone[:, list(self.places)])


def self_test_kept(path: Path, kept: KeptModel) -> None:
    """Run a base with adapters beside it on the same pictures: the base's part must be the base's own, bit for bit.

    Raises:
        ModelError: it is another.
    """
    base, network = BaseAlone.in_kept(kept), OnnxNetwork(path)
    if not all(base.equals(network, picture) for picture in _pictures(network.image_size)):
        raise ModelError(
            f"{path}: the base does not find what it finds alone, as this onnxruntime computes it; the file is not "
            "used: use another version of onnxruntime"
        )


def _pictures(side: int) -> tuple[NDArray[np.float32], ...]:
    """Return inputs (1, 3, side, side): black, grey, and coloured noise."""
    noise = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    return np.zeros_like(noise), np.full_like(noise, 0.5), noise
