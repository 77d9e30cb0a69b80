"""Make the data sets of the benchmark that are made from others: far domains, and few training pictures.

    python benchmarks/accuracy/sets.py --data datasets/neu-det/data.yaml --out runs/far --look threshold --train 300
    python benchmarks/accuracy/sets.py --data datasets/african-wildlife/data.yaml --out runs/few-50 --train 50

`threshold` and `lines` turn every picture into black and white, on which the statistics of a model of photographs do
not fit. Boxes and the choice of validation pictures stay; the training pictures are a seeded choice that goes round the
classes, so that none is missing.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml

from visionlora.data import LabelledImage, load_dataset
from visionlora.vision.preprocess import read_image


def threshold(image: np.ndarray) -> np.ndarray:
    """Return which pixels are brighter than their neighbourhood (51 x 51, Gaussian), as black and white."""
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return cv2.adaptiveThreshold(gray, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, 51, 4)


def lines(image: np.ndarray) -> np.ndarray:
    """Return the edges of a picture (Canny, 60 and 140) as black lines on white."""
    gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (3, 3), 0)
    return 255 - cv2.Canny(gray, 60, 140)


LOOKS = {"threshold": threshold, "lines": lines}


def choose(images: Sequence[LabelledImage], count: int, seed: int) -> list[LabelledImage]:
    """Return `count` images drawn at random, class after class in turn."""
    shuffled = random.Random(seed).sample(list(images), len(images))
    classes = sorted({int(number) for image in images for number in image.class_ids})
    chosen: dict[Path, LabelledImage] = {}
    for number in itertools.cycle(classes):
        if len(chosen) == min(count, len(images)):
            return list(chosen.values())
        fitting = (image for image in shuffled if image.path not in chosen and number in image.class_ids)
        image = next(fitting, None) or next(image for image in shuffled if image.path not in chosen)
        chosen[image.path] = image
    return []


def write_set(data: Path, out: Path, *, look: str | None, train: int, seed: int) -> Path:
    """Write the set into `out`; return its data.yaml."""
    dataset = load_dataset(data)
    splits = {"train": choose(dataset.split("train"), train, seed), "val": list(dataset.split("val"))}
    for split, images in splits.items():
        for folder in ("images", "labels"):
            (out / folder / split).mkdir(parents=True, exist_ok=True)
        for image in images:
            pixels = read_image(image.path)
            pixels = LOOKS[look](pixels) if look else pixels
            cv2.imwrite(str(out / "images" / split / f"{image.path.stem}.png"), pixels)
            width, height = image.size_wh
            rows = []
            for number, (left, top, right, bottom) in zip(image.class_ids, image.boxes_xyxy, strict=True):
                box = ((left + right) / 2 / width, (top + bottom) / 2 / height)
                box += ((right - left) / width, (bottom - top) / height)
                rows.append(f"{number} " + " ".join(f"{min(value, 1.0):.6f}" for value in box))
            (out / "labels" / split / f"{image.path.stem}.txt").write_text("\n".join(rows) + "\n")
    description = {**{split: f"images/{split}" for split in splits}, "names": list(dataset.names)}
    (out / "data.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return out / "data.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--look", choices=tuple(LOOKS), help="the pictures as they are if not given")
    parser.add_argument("--train", type=int, required=True, help="training pictures")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_set(options.data, options.out, look=options.look, train=options.train, seed=options.seed))


if __name__ == "__main__":
    main()
