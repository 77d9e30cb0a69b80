"""What INT8 costs masks and keypoints, and what it costs in time to keep the ends of their branches in float.

    python benchmarks/tasks/int8.py --images val2017 --segment yolov8n-seg.pt --pose yolo11n-pose.pt

The labels are what the float file itself finds at a score of 0.4 and above, so a drop is that of INT8 alone. The first
32 pictures by name calibrate, the next 64 are judged. The files are timed in turns, on one thread: a share of the float
file's time is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import ResultsFile
from provenance import provenance

import visionlora as vl
from visionlora.data import load_dataset
from visionlora.int8.plan import beside_boxes_and_scores
from visionlora.quantization.float_detector import FloatDetector, load_float_detector
from visionlora.quantization.quantizing import build_int8, calibrate_detector
from visionlora.runtime import OnnxNetwork

CALIBRATED, JUDGED, SCORE = 32, 64, 0.4
ROUNDS = 60
KEPT = {
    "nothing": 0,
    "last convolutions beside boxes and scores": 1,
    "last two convolutions": 2,
    "all three convolutions": 3,
}


def main() -> None:
    """Measure, write each model's results, print them."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs, such as COCO's val2017")
    parser.add_argument("--segment", default="yolov8n-seg.pt")
    parser.add_argument("--pose", default="yolo11n-pose.pt")
    parser.add_argument("--imgsz", type=int, default=416)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("int8.json"))
    args = parser.parse_args()
    pictures = sorted(args.images.glob("*.jpg"))[: CALIBRATED + JUDGED]
    results = ResultsFile(args.out, [])
    for model in (args.segment, args.pose):
        with tempfile.TemporaryDirectory() as folder:
            results.add(measure(model, pictures, Path(folder), args.imgsz))
    print(summary(results.content))


def measure(model: str, pictures: list[Path], folder: Path, side: int) -> dict:
    """Return what the float file and the int8 files of a checkpoint reach, weigh and take."""
    exported = vl.export(model, folder / "float.onnx", imgsz=side).path
    source = load_float_detector(exported)
    task = source.network.task
    data = write_data(source, pictures, folder)
    recipe = calibrate_detector(source, load_dataset(data, splits=("train",), task=task).split("train"))
    files = {"float": exported}
    for name, depth in KEPT.items():
        layers = beside_boxes_and_scores(source.model.graph, depth) if depth else ()
        files[name] = folder / f"{len(files)}.onnx"
        onnx.save(build_int8(source, replace(recipe, float_layers=layers)), str(files[name]))
    shares = time_shares(list(files.values()))
    report = vl.evaluate([f"{name}={path}" for name, path in files.items()], data, cache=False)
    rows = [
        {
            "kept in float": row.label,
            "map50_95": round(row.scores.map50_95, 4),
            "boxes": round(row.boxes.map50_95, 4),
            "bytes": row.bytes,
            "time": round(share, 3),
        }
        for row, share in zip(report.rows, shares, strict=True)
    ]
    return {"model": Path(model).name, "task": task.name, "imgsz": side, "images": JUDGED, "rows": rows, **provenance()}


def time_shares(files: list[Path]) -> list[float]:
    """Return the time of each file as a share of the first one's: the median over rounds in which they take turns."""
    networks = [OnnxNetwork(path, threads=1) for path in files]
    rounds = [[network.seconds_for_blank() for network in networks] for _ in range(ROUNDS + 1)][1:]
    return [statistics.median(each[index] / each[0] for each in rounds) for index in range(len(files))]


def write_data(source: FloatDetector, pictures: list[Path], folder: Path) -> Path:
    """Write the pictures with what a float detector finds in them as labels; return the data.yaml."""
    splits = {"train": pictures[:CALIBRATED], "val": pictures[CALIBRATED:]}
    for split, chosen in splits.items():
        images = folder / "images" / split
        images.mkdir(parents=True)
        for picture in chosen:
            shutil.copy(picture, images)
        vl.predict(source.path, images, folder / split, conf=SCORE, formats=("labels",))
        shutil.copytree(folder / split / "labels", folder / "labels" / split)
    network = source.network
    shape = f"kpt_shape: [{network.task.keypoints}, {network.task.dims}]\n" if network.task.name == "pose" else ""
    names = f"names: {json.dumps(list(network.names))}\n"
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\n{names}{shape}")
    return folder / "data.yaml"


def summary(results: list[dict]) -> str:
    """Return the results as a Markdown table; without times where none were measured."""
    timed = all("time" in row for result in results for row in result["rows"])
    lines = [
        "| model | kept in float | mAP50-95 | of boxes | file, share of float |" + " time, share of float |" * timed,
        "| --- | --- | ---: | ---: | ---: |" + " ---: |" * timed,
    ]
    for result in results:
        whole = result["rows"][0]["bytes"]
        for row in result["rows"]:
            kept = "all" if row["kept in float"] == "float" else row["kept in float"]
            cells = [f"{row['map50_95']:.3f}", f"{row['boxes']:.3f}", f"{row['bytes'] / whole:.3f}"]
            cells += [f"{row['time']:.2f}"] if timed else []
            lines.append(f"| {result['model']} | {kept} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
