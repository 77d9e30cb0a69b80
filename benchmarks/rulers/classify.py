"""Our top-1 and top-5 beside Ultralytics' `val`, of a classifier, on the boxes of a detection data set cut out.

    python benchmarks/rulers/classify.py --data datasets/african-wildlife/data.yaml --model yolov8n-cls.pt \
        --called buffalo=water_buffalo elephant=African_elephant
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import cv2
from ultralytics import YOLO

import visionlora as vl
from visionlora.data import load_dataset, read_labelled
from visionlora.machine import installed_versions, this_machine

SMALLEST = 16
"""Side of a box in pixels; smaller ones are left out."""


def main() -> None:
    """Measure, write the raw results, print them."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data.yaml of boxes")
    parser.add_argument("--model", default="yolov8n-cls.pt")
    parser.add_argument("--called", nargs="*", default=[], help="what the model calls a class: name=other")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[224, 128])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("classify.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = cut_out(args.data, Path(folder) / "data", dict(pair.split("=") for pair in args.called))
        rows = [compared(args.model, Path(folder) / "data", imgsz) for imgsz in args.imgsz]
    results = {
        "model": Path(args.model).name,
        "pictures": pictures,
        "machine": vars(this_machine()),
        "versions": installed_versions(),
        "rows": rows,
    }
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print("| imgsz | ruler | top-1 | top-5 |\n| --- | --- | --- | --- |")
    for row in rows:
        for name in ("ours", "val"):
            print(f"| {row['imgsz']} | {name} | {row[name][0]:.4f} | {row[name][1]:.4f} |")


def cut_out(data: Path, folder: Path, called: dict[str, str]) -> int:
    """Write the boxes of val as pictures in folders by class, with an empty train; return how many there are."""
    dataset = load_dataset(data, splits=("val",))
    count = 0
    for image in dataset.split("val"):
        pixels = read_labelled(image)
        for box, class_id in zip(image.boxes_xyxy.astype(int).tolist(), image.class_ids.tolist(), strict=True):
            left, top, right, bottom = box
            if min(right - left, bottom - top) < SMALLEST:
                continue
            name = called.get(dataset.names[class_id], dataset.names[class_id])
            for split in ("train", "val"):  # the same pictures: nothing is trained
                path = folder / split / name / f"{count:05}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels[top:bottom, left:right])
            count += 1
    return count


def compared(model: str, data: Path, imgsz: int) -> dict[str, object]:
    """Return top-1 and top-5 of both rulers."""
    (row,) = vl.evaluate([model], data, imgsz=imgsz, cache=False).rows
    options = {"workers": 0, "plots": False, "verbose": False, "device": "cpu", "project": str(data.parent)}
    theirs = YOLO(model).val(data=str(data), imgsz=imgsz, **options)
    return {
        "imgsz": imgsz,
        "classes": list(row.classes),
        "ours": [row.scores.map50_95, row.scores.map50],
        "val": [float(theirs.top1), float(theirs.top5)],
    }


if __name__ == "__main__":
    main()
