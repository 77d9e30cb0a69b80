"""Train one float adapter with one seed, bring it to INT8 in several ways, and print one JSON object a way.

    python benchmarks/qalora/one.py --model yolo11n.pt --data datasets/neu-det/data.yaml --out runs/qalora --seed 0

Every number is visionlora's ruler on the exported file, run by onnxruntime on the CPU; differences have a 95 % interval
by a paired bootstrap over the validation images. The last epoch's averaged model counts: no epoch is chosen by the
validation images. `ms_per_image` is measured beside other processes: see latency.py for times that can be compared.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from visionlora.adapters import read_adapter_card
from visionlora.evaluation import evaluate
from visionlora.exporting import export
from visionlora.merging import merge
from visionlora.quantization import quantize
from visionlora.training import train
from visionlora.yolo import fading

EARLY = r"relu:model\.[0-4]\..*"
"""The layers at a half to an eighth of the picture's size: most of the time of SiLU is there."""


@dataclass(frozen=True)
class Variant:
    """A way to INT8.

    Attributes:
        options: of `train` beside the shared ones; without any, the float adapter is only calibrated.
        weights: what the file keeps its weights in; None for what was trained.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None


VARIANTS: Mapping[str, Variant] = {
    "ptq": Variant(),
    "qalora": Variant({"quantize": "int8"}),
    "relu": Variant({"quantize": "int8", "activation": "relu"}),
    "relu-early": Variant({"quantize": "int8", "activation": EARLY}),
    "relu-backbone": Variant({"quantize": "int8", "activation": "relu:backbone"}),
    "qalora-no-teacher": Variant({"quantize": "int8", "distill": 0.0}),
    "qalora-fixed": Variant({"quantize": "int8", "ranges": "fixed"}),
    "int4-ptq": Variant(weights="int4"),
    "int4": Variant({"quantize": "int4"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--adapter", type=Path, help="a float adapter to begin with; trained first if not given")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40, help="of the float adapter")
    parser.add_argument("--relu-epochs", type=int, default=40, help="after activations were replaced")
    parser.add_argument("--qat-epochs", type=int, default=10)
    parser.add_argument("--lr0", type=float, default=0.001)
    parser.add_argument("--qat-lr0", type=float, default=0.0002)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no variant after so many")
    parser.add_argument("--no-fading", action="store_true", help="replace SiLU by ReLU at once")
    args = parser.parse_args()
    if args.no_fading:
        fading.PART = 1e-9
    started = time.monotonic()
    shared = {"rank": args.rank, "imgsz": args.imgsz, "batch": args.batch, "seed": args.seed, "device": args.device}
    shared |= {"lr0": args.lr0, "hyperparameters": {"workers": args.workers, "val": False}, "overwrite": True}
    adapter, seconds = args.adapter, 0.0
    if adapter is not None:
        args.epochs = read_adapter_card(adapter).training["hyperparameters"]["epochs"]
    else:
        trained = train(args.model, args.data, args.out / "float", epochs=args.epochs, **shared)
        adapter, seconds = trained.path, trained.seconds
    base = shipped(args, adapter, "float")
    for name in args.variants:
        if time.monotonic() - started > 60 * args.minutes:
            print(f"no time left for {name}", flush=True)
            continue
        options, weights = dict(VARIANTS[name].options), VARIANTS[name].weights
        files, took, peak = base, seconds, None
        if weights:
            files = shipped(args, adapter, name, weights=weights)
        if options:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            second = {"epochs": args.relu_epochs, "qat_epochs": args.qat_epochs, "qat_lr0": args.qat_lr0}
            trained = train(args.model, args.data, args.out / name, adapter=adapter, **{**shared, **second, **options})
            took = trained.seconds
            peak = torch.cuda.max_memory_reserved() / 2**30 if torch.cuda.is_available() else None
            files = shipped(args, trained.path, name)
        report = evaluate([f"float={base['onnx']}", f"own={files['onnx']}", f"int8={files['int8']}"], args.data)
        print("RESULT " + json.dumps(result(args, name, options, report, files, took, peak)), flush=True)


def shipped(args: argparse.Namespace, adapter: Path, name: str, *, weights: str | None = None) -> dict[str, Path]:
    """Merge, export and quantize an adapter; return the files by kind."""
    folder = args.out / "shipped"
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"{name}.{suffix}" for kind, suffix in (("onnx", "onnx"), ("int8", "int8.onnx"))}
    merged = merge(args.model, adapter, folder / f"{name}.pt", overwrite=True)
    export(merged.path, files["onnx"], imgsz=args.imgsz, overwrite=True)
    quantize(files["onnx"], args.data, files["int8"], seed=args.seed, weights=weights, overwrite=True)
    return {"adapter": Path(adapter), **files}


def result(args, name: str, options: dict, report, files: dict[str, Path], seconds: float, peak: float | None) -> dict:
    """Return what is kept of one way: scores of the float SiLU model, of its own float form and of its INT8 file."""
    float_row, own, int8 = report.rows
    change = int8.difference_to("float").map50_95
    interval = (change.interval.low, change.interval.high) if change.interval else (float("nan"), float("nan"))
    per_class = {one.name: round(one.ap50_95, 4) for one in int8.scores.per_class}
    return {
        "variant": name,
        "options": {**options, "weights": VARIANTS[name].weights} if VARIANTS[name].weights else options,
        "seed": args.seed,
        "rank": args.rank,
        "epochs": {"float": args.epochs, "relu": args.relu_epochs, "int8": args.qat_epochs},
        "fading": not args.no_fading,
        "given_adapter": args.adapter is not None,
        "lr0": {"float": args.lr0, "int8": args.qat_lr0},
        "imgsz": args.imgsz,
        "batch": args.batch,
        "images": report.data.images,
        "float": round(float_row.scores.map50_95, 4),
        "own_float": round(own.scores.map50_95, 4),
        "int8": round(int8.scores.map50_95, 4),
        "int8_map50": round(int8.scores.map50, 4),
        "int8_minus_float": [round(value, 4) for value in (change.difference, *interval)],
        "per_class": per_class,
        "bytes": {"adapter": files["adapter"].stat().st_size, "onnx": own.bytes, "int8": int8.bytes},
        "ms_per_image": {"float": float_row.ms_per_image, "int8": int8.ms_per_image},
        "seconds": round(seconds, 1),
        "memory_gib": None if peak is None else round(peak, 3),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
