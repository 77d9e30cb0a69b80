"""A detector with an activation outlier where one likes, and pictures labelled with what its float form finds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import onnx

from tests.quantization.graphs import IMAGE_SIZE, NAMES, build, node, random_conv, save, silu
from visionlora.runtime import OnnxNetwork
from visionlora.vision.inference import detect
from visionlora.vision.preprocess import read_image

SMALL, LARGE = 16, 48
LABELLED = 0.3
"""Scores of the detections that become labels."""


def outlying_detector(outlier: Literal["stem", "narrow"] | None = None, *, seed: int = 0) -> onnx.ModelProto:
    """images (1, 3, 64, 64) -> output0 (1, 7, 64): four small layers and one, `mix`, that holds most weights.

    With an outlier, one channel that the layer after `outlier` does not read is 3000 for every pixel: in float nothing
    happens, in int8 the other channels are left with a level or two.
    """
    rng = np.random.default_rng(seed)
    shapes = {
        "stem": (SMALL, 3, 4),
        "narrow": (LARGE, SMALL, 1),
        "mix": (LARGE, LARGE, 3),
        "box": (4, LARGE, 1),
        "score": (len(NAMES), LARGE, 1),
    }
    constants = {"rows4": np.array([1, 4, -1]), "rows3": np.array([1, 3, -1]), "unit": np.float32([IMAGE_SIZE])}
    for name, (outputs, inputs, kernel) in shapes.items():
        constants[f"{name}.weight"], constants[f"{name}.bias"] = random_conv(rng, outputs, inputs, kernel, 2.0)
    constants["score.bias"] -= 1
    after = {"stem": "narrow", "narrow": "mix"}
    for name, reader in after.items():
        constants[f"{reader}.weight"][:, 0] = 0
        if outlier == name:
            constants[f"{name}.bias"][0] = 3000
    nodes = [
        node("Conv", "images stem.weight stem.bias", "stem", strides=[8, 8]),
        *silu("stem", "stem.out"),
        node("Conv", "stem.out narrow.weight narrow.bias", "narrow"),
        *silu("narrow", "narrow.out"),
        node("Conv", "narrow.out mix.weight mix.bias", "mix", pads=[1, 1, 1, 1]),
        *silu("mix", "mix.out"),
        node("Conv", "mix.out box.weight box.bias", "box"),
        node("Conv", "mix.out score.weight score.bias", "score"),
        node("Reshape", "box rows4", "box.rows"),
        node("Sigmoid", "box.rows", "box.share"),
        node("Mul", "box.share unit", "boxes"),
        node("Reshape", "score rows3", "score.rows"),
        node("Sigmoid", "score.rows", "scores"),
        node("Concat", "boxes scores", "output0", axis=1),
    ]
    return build(nodes, constants, shape=(1, 3, IMAGE_SIZE, IMAGE_SIZE))


def write_labelled(root: Path, model: Path, *, train: int = 12, val: int = 24) -> Path:
    """Write pictures of noise with the model's own detections as labels; return the data.yaml."""
    network = OnnxNetwork(model)
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(first + index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            path = images / f"{index:02}.png"
            cv2.imwrite(str(path), cv2.resize(pixels, (IMAGE_SIZE, IMAGE_SIZE)))
            (found,) = detect(network, [read_image(path)], confidence=LABELLED)
            rows = []
            for box, class_id in zip(found.boxes_xyxy / IMAGE_SIZE, found.class_ids, strict=True):
                centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
                rows.append(" ".join([str(class_id), *(f"{value:.8f}" for value in (*centre, *size))]))
            (labels / f"{index:02}.txt").write_text("\n".join(rows))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {list(NAMES)}\n")
    return root / "data.yaml"


def write_outlying(root: Path, outlier: Literal["stem", "narrow"] | None) -> tuple[Path, Path]:
    """Write a detector and its data set; return both files."""
    model = save(outlying_detector(outlier), root / "model.onnx")
    return model, write_labelled(root / "data", model)
