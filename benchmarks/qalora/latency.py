"""Milliseconds of the INT8 file against how many layers have ReLU in place of SiLU: what each stage of a network gains.

    yolo export model=yolo11n.pt format=onnx imgsz=640
    python benchmarks/qalora/latency.py --model yolo11n.pt --stock yolo11n.onnx --data data.yaml \
        --out benchmarks/qalora/latency.json

No training: the time does not depend on the weights. Files take turns, at each number of threads. `--rival` adds a file
that Ultralytics exported after training with `quantize=8` (one.py's `full-qat` at 640 px makes one).
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

from visionlora.adapters import AdapterSettings
from visionlora.data import load_dataset
from visionlora.data.leakage import calibration_images
from visionlora.detectors.ultralytics import load_base, set_activations
from visionlora.exporting.exporting import write_graph
from visionlora.machine import this_machine
from visionlora.quantization import build_int8, calibrate_detector
from visionlora.quantization.float_detector import load_float_detector
from visionlora.runtime import OnnxNetwork
from visionlora.scoring import time_networks
from visionlora.scoring.timing import CALLS

STOCK, RIVAL = "stock float32", "Ultralytics quantize=8"
STAGES = {  # the words of --targets
    "none": None,
    "modules 0 to 4": "to:4",
    "backbone": "backbone",
    "neck": "neck",
    "head": "head",
    "backbone and neck": "backbone+neck",
    "neck and head": "neck+head",
    "all": "all",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--stock", type=Path, required=True, help="Ultralytics' own float32 export")
    parser.add_argument("--rival", type=Path, help="Ultralytics' export after training with quantize=8")
    parser.add_argument("--data", required=True, help="data.yaml; a few training images calibrate")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--count", type=int, default=30, help="timed calls of each file")
    parser.add_argument("--files", type=Path, help="folder for the files; made anew where they are missing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = args.files or Path(folder)
        given = {STOCK: args.stock, RIVAL: args.rival}
        made = {**{name: (path, 0) for name, path in given.items() if path}, **make_files(args, folder)}
        pictures = load_dataset(args.data, splits=("train",)).split("train")
        rows = [{"layers": name, "convs": convs, "bytes": path.stat().st_size} for name, (path, convs) in made.items()]
        for threads in args.threads:
            networks = [OnnxNetwork(path, threads=threads) for path, _ in made.values()]
            rounds = -(-args.count // CALLS)
            for row, turns in zip(rows, time_networks(networks, pictures, rounds=rounds), strict=True):
                row[f"ms_{threads}"] = round(turns.median, 2)
    result = {"model": Path(args.model).stem, "imgsz": args.imgsz, "machine": str(this_machine()), "files": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: dict) -> str:
    """Return milliseconds and how much faster than the stock float file each file is, as a Markdown table."""
    threads = [name.removeprefix("ms_") for name in result["files"][0] if name.startswith("ms_")]
    stock = next(row for row in result["files"] if row["layers"] == STOCK)
    lines = [
        "| file | ReLUs | MB | " + " | ".join(f"ms, threads: {count}" for count in threads) + " | faster than stock |",
        "| --- | ---: | ---: |" + " ---: |" * len(threads) + " --- |",
    ]
    for row in result["files"]:
        faster = " / ".join(f"{stock[f'ms_{count}'] / row[f'ms_{count}']:.2f}" for count in threads)
        times = " | ".join(f"{row[f'ms_{count}']:.1f}" for count in threads)
        lines.append(f"| {row['layers']} | {row['convs']} | {row['bytes'] / 1e6:.1f} | {times} | {faster} |")
    return "\n".join(lines)


def make_files(args: argparse.Namespace, folder: Path) -> dict[str, tuple[Path, int]]:
    """Write the float file and an INT8 file a stage; return path and number of ReLUs by name."""
    folder.mkdir(parents=True, exist_ok=True)
    base, dataset = load_base(args.model), load_dataset(args.data, splits=("train",))
    made: dict[str, tuple[Path, int]] = {}
    for name, targets in STAGES.items():
        model, replaced = copy.deepcopy(base.model), 0
        if targets is not None:
            replaced = set_activations(model, AdapterSettings(activation=f"relu:{targets}"))
        path = folder / f"{name}.onnx".replace(" ", "-")
        if not path.with_suffix(".int8.onnx").exists():
            write_graph(replace(base, model=model, image_size=args.imgsz, card=None), path, image_size=args.imgsz)
            source = load_float_detector(path)
            recipe = calibrate_detector(source, calibration_images(dataset, args.images, seed=0))
            path.with_suffix(".int8.onnx").write_bytes(build_int8(source, recipe).SerializeToString())
            onnx.checker.check_model(str(path.with_suffix(".int8.onnx")))
        if name == "none":
            made["float32"] = (path, 0)
        made[f"int8, ReLU: {name}"] = (path.with_suffix(".int8.onnx"), replaced)
    return made


if __name__ == "__main__":
    main()
