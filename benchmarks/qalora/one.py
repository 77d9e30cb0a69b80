"""Train one float adapter with one seed, bring it to INT8 in several ways, and print one JSON object a way.

    python benchmarks/qalora/one.py --model yolo11n.pt --data datasets/neu-det/data.yaml --out runs/qalora --seed 0

A float adapter that an earlier call trained in `--out` is gone on with; `--variants` without a name trains it alone.
`full-qat` is Ultralytics' own training with `quantize=8` instead, as long as float and int8 training together.

Every number is visionlora's ruler on the exported file, run by onnxruntime on the CPU; differences have a 95 % interval
by a paired bootstrap over the validation images. The last epoch's averaged model counts: no epoch is chosen by the
validation images. `ms_per_image` is measured beside other processes: see latency.py for times that can be compared.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import report
from rivals import rival

from visionlora.adapters import read_adapter_card
from visionlora.detectors.ultralytics import activation_swap as fading
from visionlora.exporting import export, merge
from visionlora.quantization import quantize
from visionlora.runtime import OnnxNetwork
from visionlora.training import train
from visionlora.workflows.evaluating import evaluate

EARLY = "relu:to:4"
"""The layers at a half to an eighth of the picture's size: most of the time of SiLU is there."""


FULL_RATE = 0.0005
"""The learning rate that was best for full fine-tuning in benchmarks/accuracy, with an update every batch."""


@dataclass(frozen=True)
class Variant:
    """A way to INT8.

    Attributes:
        options: of `train` beside the shared ones; without any, the float adapter is only calibrated.
        weights: what the file keeps its weights in; None for what was trained.
        scale: factor of the epochs under fake quantization.
        rival: Ultralytics trains all weights under fake quantization instead.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    scale: int = 1
    rival: bool = False


VARIANTS: Mapping[str, Variant] = {
    "ptq": Variant(),
    "qalora": Variant({"quantize": "int8"}),
    "qalora-teacher": Variant({"quantize": "int8", "distill": 1.0}),
    "qalora-fixed": Variant({"quantize": "int8", "ranges": "fixed"}),
    "relu-early": Variant({"quantize": "int8", "activation": EARLY}),
    "relu-backbone": Variant({"quantize": "int8", "activation": "relu:backbone"}),
    "relu": Variant({"quantize": "int8", "activation": "relu"}),
    "int4-ptq": Variant(weights="int4"),
    "int4": Variant({"quantize": "int4", "qat_lr0": 0.001}, scale=3),
    "full-qat": Variant(rival=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--adapter", type=Path, help="a float adapter to begin with; trained first if not given")
    parser.add_argument("--variants", nargs="*", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40, help="of the float adapter")
    parser.add_argument("--relu-epochs", type=int, default=40, help="after activations were replaced")
    parser.add_argument("--qat-epochs", type=int, default=10)
    parser.add_argument("--lr0", type=float, help="of training in float; the recipe's if not given")
    parser.add_argument("--qat-lr0", type=float, default=0.0002)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-fading", action="store_true", help="replace SiLU by ReLU at once")
    args = parser.parse_args()
    if args.no_fading:
        fading.PART = 1e-9
    OnnxNetwork.__init__ = functools.partialmethod(OnnxNetwork.__init__, threads=1)  # other processes run beside
    shared = {"rank": args.rank, "imgsz": args.imgsz, "batch": args.batch, "seed": args.seed, "device": args.device}
    shared |= {"lr0": args.lr0, "hyperparameters": {"workers": args.workers, "val": False}, "overwrite": True}
    adapter, seconds, base = float_adapter(args, shared)
    args.epochs = read_adapter_card(adapter).training["hyperparameters"]["epochs"]
    for name in args.variants:
        variant = VARIANTS[name]
        files, took, peak = base, seconds, None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if variant.weights:
            files = shipped(args, adapter, name, weights=variant.weights)
        if variant.options:
            second = {"epochs": args.relu_epochs, "qat_epochs": variant.scale * args.qat_epochs}
            second |= {"qat_lr0": args.qat_lr0, **variant.options}
            trained = train(args.model, args.data, args.out / name, adapter=adapter, **shared, **second)
            took, files = trained.seconds, shipped(args, trained.path, name)
        if variant.rival:
            started = time.monotonic()
            files, took = trained_by_ultralytics(args, name), time.monotonic() - started
        if (variant.options or variant.rival) and torch.cuda.is_available():
            peak = torch.cuda.max_memory_reserved() / 2**30
        judged = evaluate([f"float={base['onnx']}", f"own={files['onnx']}", f"int8={files['int8']}"], args.data)
        report(result(args, name, judged, files, took, peak))


def float_adapter(args: argparse.Namespace, shared: Mapping[str, Any]) -> tuple[Path, float, dict[str, Path]]:
    """Return the float adapter to begin with, the seconds of its training and its files, made first if not there."""
    if args.adapter is not None:
        return args.adapter, 0.0, shipped(args, args.adapter, "float")
    note = args.out / "float.json"
    if not note.exists():
        trained = train(args.model, args.data, args.out / "float", epochs=args.epochs, **shared)
        shipped(args, trained.path, "float")
        note.write_text(json.dumps({"adapter": str(trained.path), "seconds": trained.seconds}))
    found = json.loads(note.read_text())
    adapter = Path(found["adapter"])
    return adapter, found["seconds"], files_of(args, adapter, "float")


def trained_by_ultralytics(args: argparse.Namespace, name: str) -> dict[str, Path]:
    """Train all weights with `quantize=8` and export; return the files by kind."""
    from ultralytics import YOLO

    run = {"model": args.model, "data": args.data, "save_dir": str((args.out / name).absolute()), "cache": "ram"}
    run |= {"epochs": args.epochs + args.qat_epochs, "imgsz": args.imgsz, "batch": args.batch, "nbs": args.batch}
    run |= {"optimizer": "AdamW", "momentum": 0.9, "lr0": FULL_RATE, "warmup_bias_lr": 0.0, "seed": args.seed}
    trainer = rival("full", {**run, "device": args.device, "workers": args.workers, "val": False, "quantize": 8})
    trainer.train()
    path = Path(YOLO(trainer.last).export(format="onnx", imgsz=args.imgsz, device="cpu"))
    return {"adapter": trainer.last, "onnx": path, "int8": path}


def shipped(args: argparse.Namespace, adapter: Path, name: str, *, weights: str | None = None) -> dict[str, Path]:
    """Merge, export and quantize an adapter; return the files by kind."""
    files = files_of(args, adapter, name)
    files["onnx"].parent.mkdir(parents=True, exist_ok=True)
    merged = merge(args.model, adapter, files["onnx"].with_suffix(".pt"), overwrite=True)
    export(merged.path, files["onnx"], imgsz=args.imgsz, overwrite=True)
    quantize(files["onnx"], args.data, files["int8"], seed=args.seed, weights=weights, overwrite=True)
    return files


def files_of(args: argparse.Namespace, adapter: Path, name: str) -> dict[str, Path]:
    """Return where the files of a way are, by kind."""
    folder = args.out / "shipped"
    return {"adapter": Path(adapter), "onnx": folder / f"{name}.onnx", "int8": folder / f"{name}.int8.onnx"}


def result(args, name: str, judged, files: dict[str, Path], seconds: float, peak: float | None) -> dict:
    """Return what is kept of one way: scores of the float SiLU model, of its own float form and of its INT8 file."""
    float_row, own, int8 = judged.rows
    change = int8.difference_to("float").map50_95
    interval = (change.interval.low, change.interval.high) if change.interval else (float("nan"), float("nan"))
    per_class = {one.name: round(one.ap50_95, 4) for one in int8.scores.per_class}
    variant = VARIANTS[name]
    rates = {"float": args.lr0, "int8": variant.options.get("qat_lr0", args.qat_lr0)}
    return {
        "variant": name,
        "options": {**variant.options, **({"weights": variant.weights} if variant.weights else {})},
        "seed": args.seed,
        "rank": args.rank,
        "epochs": {"float": args.epochs, "relu": args.relu_epochs, "int8": variant.scale * args.qat_epochs},
        "fading": not args.no_fading,
        "given_adapter": args.adapter is not None,
        "lr0": {"full": FULL_RATE} if variant.rival else rates,
        "imgsz": args.imgsz,
        "batch": args.batch,
        "images": judged.data.images,
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
