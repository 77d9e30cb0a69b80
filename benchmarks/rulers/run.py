"""Our mAP of masks and keypoints beside Ultralytics' `val`, of its own checkpoints on square pictures.

Labels come from the checkpoint itself, shown the mirrored picture at 480 pixels: near its predictions, but not these.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ultralytics import YOLO

import visionlora as vl
from visionlora.machine import installed_versions, this_machine

SIDE, LABELLING_SIDE, LEAST = 640, 480, 0.3
FULL = {"overlap_mask": False, "mask_ratio": 1, "save_txt": True}
"""Makes `val` compare masks at the input's resolution, labelled ones whole."""
MIRRORED = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)  # COCO's keypoints of a person


def main() -> None:
    """Measure, write the raw results, print them."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs, such as COCO's val2017")
    parser.add_argument("--count", type=int, default=128, help="how many of them, the first by name")
    parser.add_argument("--segment", default="yolov8n-seg.pt")
    parser.add_argument("--pose", default="yolo11n-pose.pt")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    args = parser.parse_args()
    pictures = sorted(args.images.glob("*.jpg"))[: args.count]
    rows = []
    for task, model in (("segment", args.segment), ("pose", args.pose)):
        with tempfile.TemporaryDirectory() as folder:
            data = make_data(YOLO(model), pictures, Path(folder))
            rows.append({"task": task, "model": Path(model).name, **compared(model, data, task)})
    results = {"images": len(pictures), "machine": vars(this_machine()), "versions": installed_versions(), "rows": rows}
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(summary(results))


def summary(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table: mAP50-95 and mAP50 of each ruler."""
    lines = ["| model | ruler | mAP50-95 | mAP50 |", "| --- | --- | --- | --- |"]
    for row in results["rows"]:
        for name in [name for name in row if name not in ("task", "model")]:
            lines.append(f"| {row['model']} | {name} | {row[name][0]:.4f} | {row[name][1]:.4f} |")
    return "\n".join(lines)


def make_data(model: Any, pictures: list[Path], folder: Path) -> Path:
    """Write the middle square of each picture with labels, and a data.yaml; return its path."""
    for name in ("images", "labels"):
        (folder / name / "val").mkdir(parents=True)
    for path in pictures:
        pixels = cv2.imread(str(path))
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = cv2.resize(pixels[top : top + side, left : left + side], (SIDE, SIDE))
        cv2.imwrite(str(folder / f"images/val/{path.stem}.png"), square)
        mirrored = np.ascontiguousarray(square[:, ::-1])
        (found,) = model.predict(mirrored, imgsz=LABELLING_SIDE, conf=LEAST, verbose=False, device="cpu")
        (folder / f"labels/val/{path.stem}.txt").write_text("".join(label_lines(found)))
    keypoints = "" if model.task == "segment" else f"kpt_shape: [17, 3]\nflip_idx: {list(MIRRORED)}\n"
    names = f"names: {json.dumps(list(model.names.values()))}\n"
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/val\nval: images/val\n{names}{keypoints}")
    return folder / "data.yaml"


def label_lines(found: Any) -> list[str]:
    """Return label lines of what was found in a mirrored picture; none of objects without a labelled keypoint."""
    lines = []
    for index, class_id in enumerate(found.boxes.cls.int().tolist()):
        if found.masks is not None:
            polygon = found.masks.xyn[index].clip(0, 1)
            if len(polygon) < 3 or not (np.ptp(polygon, axis=0) > 0).all():
                continue
            values = np.column_stack([1 - polygon[:, 0], polygon[:, 1]]).ravel()
        else:
            box = found.boxes.xywhn[index].numpy().clip(0, 1)
            points = found.keypoints.data[index].numpy()[list(MIRRORED)]
            places = (points[:, :2] / SIDE).clip(0, 1)
            seen = points[:, 2] > 0.5
            if not seen.any():
                continue
            labelled = np.column_stack([1 - places[:, 0], places[:, 1], np.full(len(seen), 2)]) * seen[:, None]
            values = np.concatenate([[1 - box[0]], box[1:], labelled.ravel()])
        lines.append(f"{class_id} " + " ".join(f"{value:.6f}" for value in values) + "\n")
    return lines


def compared(model: str, data: Path, task: str) -> dict[str, Any]:
    """Return mAP50-95 and mAP50 of both rulers, of the boxes too."""
    (row,) = vl.evaluate([model], data, imgsz=SIDE, cache=False).rows
    ours = {"ours": [row.scores.map50_95, row.scores.map50], "ours, boxes": [row.boxes.map50_95, row.boxes.map50]}
    theirs = {}
    for words, options in (("", {}), *([(" in full", FULL)] if task == "segment" else [])):
        settings = {"imgsz": SIDE, "rect": False, "device": "cpu", "batch": 4, "workers": 0, "plots": False}
        result = YOLO(model).val(data=str(data), verbose=False, project=str(data.parent), **settings, **options)
        own = result.seg if task == "segment" else result.pose
        theirs |= {f"val{words}": [own.map, own.map50], f"val{words}, boxes": [result.box.map, result.box.map50]}
    return ours | {name: [float(value) for value in values] for name, values in theirs.items()}


if __name__ == "__main__":
    main()
