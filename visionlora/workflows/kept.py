"""What a file that keeps its base is worth beside the base alone: its old classes, its new ones, its time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from visionlora.data import LabelledImage
from visionlora.patching import BaseAlone, KeptFile, list_adapters
from visionlora.reporting import Row, code, representative_images
from visionlora.runtime import OnnxNetwork
from visionlora.scoring import time_networks
from visionlora.vision.inference import Network, placed
from visionlora.vision.preprocess import read_image

_PICTURES = 8


def kept_notes(
    rows: Sequence[Row], networks: Sequence[Network], images: Sequence[LabelledImage], score: str
) -> tuple[str, ...]:
    """Return a sentence for each model that keeps its base: what it finds, old and new, and what that costs.

    The base in a float file is run alone beside it: on some of the pictures, and for the time.

    Args:
        rows: the models, judged.
        networks: the same.
        images: what they were judged on.
        score: what the first score is called.
    """
    return tuple(
        f"{code(row.label)}: {'; '.join(_parts(row, network, list_adapters(network.path), images, score))}."
        for row, network in zip(rows, networks, strict=True)
        if isinstance(network, OnnxNetwork) and "kept" in (network.metadata or {})
    )


def _parts(row: Row, network: OnnxNetwork, kept: KeptFile, images: Sequence[LabelledImage], score: str) -> list[str]:
    new = list(dict.fromkeys(name for adapter in kept.adapters for name in adapter.names))
    scores = {
        f"{len(new)} new": new,
        "the old alone": [name for name in kept.base_names if name not in new],
        "old and new together": network.names,
    }
    judged = {what: row.scores.mean_over(names) for what, names in scores.items()} if row.scores else {}
    if None in list(judged.values())[:2]:  # together is the one that there is
        judged.pop("old and new together")
    found = [f"{what} at {score} {mean:.3f}" for what, mean in judged.items() if mean is not None]
    if kept.kind != "onnx":
        return [f"{len(kept.base_names)} old classes in {kept.kind}", *found]
    base, pictures = BaseAlone.of(network.path), representative_images(images, _PICTURES)
    inputs = [placed(network.task, read_image(image.path), network.image_size)[0][None] for image in pictures]
    changed = sum(not base.equals(network, picture) for picture in inputs)
    whole = f"CHANGED on {changed} of {len(inputs)}" if changed else f"unchanged, bit for bit on {len(inputs)}"
    turns, its = time_networks([network, base.network], images)
    ratio = statistics.median(turns.milliseconds.mean(axis=1) / its.milliseconds.mean(axis=1))
    time = f"{ratio:.2f} times the time of {code(kept.base)} alone"
    return [f"{len(kept.base_names)} old classes {whole} pictures", *found, time]
