"""How far data sets are from what bases have seen, as `train` looks at them: all pictures, few of them, and in gray.

    python benchmarks/accuracy/shift.py --model yolo11n.pt yolo26n.pt --data wildlife=african-wildlife/data.yaml \
        --out benchmarks/accuracy/shift.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2

from visionlora.data import load_dataset, read_labelled
from visionlora.data.leakage import choose_images
from visionlora.detectors import family_of
from visionlora.training.recipes import PICTURES, look_at
from visionlora.vision.preprocess import letterbox_pixels

FEW = (5, 20)


def measure(model: str, data: Path) -> dict[str, object]:
    """Return shift and detail as `train` has them, and the shift of few pictures and of gray ones."""
    family = family_of(model)
    base = family.load(model)
    images = load_dataset(data, splits=("train",), task=base.task).split("train")
    look = look_at(family, base, images)
    squares = [letterbox_pixels(read_labelled(one), base.image_size)[0] for one in choose_images(images, PICTURES)]
    gray = [cv2.cvtColor(cv2.cvtColor(one, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) for one in squares]
    shift = family.statistics_shift
    return {
        "model": Path(model).stem,
        "shift": round(look.shift, 4),
        "detail": round(look.detail, 4),
        "gray": round(shift(base, gray), 4),
        **{f"first_{count}": round(shift(base, squares[:count]), 4) for count in FEW},
        "recipe": "far" if look.is_far else "near",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=DATA.YAML")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    results = []
    for text in options.data:
        name, _, path = text.partition("=")
        for model in options.model:
            results.append({"data": name, **measure(model, Path(path))})
            print(results[-1], flush=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
