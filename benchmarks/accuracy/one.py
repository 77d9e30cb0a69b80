"""Train one variant with one seed, judge it with visionlora's ruler, and print one JSON object."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import ultralytics.engine.trainer as ultralytics_trainer
from ultralytics.models.yolo.detect import DetectionTrainer

import visionlora.training as training
from visionlora.data import load_dataset
from visionlora.evaluation.compare import score_model
from visionlora.yolo import TorchNetwork


class FullTrainer(DetectionTrainer):
    """Ultralytics' full fine-tuning as it is, without the two things that need a network or polars."""

    def read_results_csv(self) -> dict:
        """Leave the results out of the checkpoint."""
        return {}


def train_full(args: argparse.Namespace) -> Path:
    """Fine-tune everything with Ultralytics' own defaults; return the best checkpoint."""
    ultralytics_trainer.check_amp = lambda model: True
    overrides = {
        "model": args.model,
        "data": args.data,
        "epochs": args.epochs,
        "imgsz": args.imgsz,
        "batch": args.batch,
        "seed": args.seed,
        "device": args.device,
        "workers": args.workers,
        "cache": "ram",
        "plots": False,
        "save_dir": str(args.out),
        "exist_ok": True,
        **args.set,
    }
    trainer = FullTrainer(overrides=overrides)
    trainer.train()
    return trainer.best


def train_lora(args: argparse.Namespace) -> Path:
    """Train an adapter with visionlora; return its file."""
    return training.train(
        args.model,
        args.data,
        args.out,
        rank=args.rank,
        epochs=args.epochs,
        imgsz=args.imgsz,
        batch=args.batch,
        seed=args.seed,
        device=args.device,
        hyperparameters={"workers": args.workers, **args.set},
        overwrite=True,
        **({"lr0": args.lr0} if args.lr0 else {}),
    ).path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("lora", "full"), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr0", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", type=json.loads, default={}, help="more hyperparameters, as a JSON object")
    args = parser.parse_args()
    started = time.monotonic()
    weights = train_full(args) if args.method == "full" else train_lora(args)
    seconds = time.monotonic() - started
    adapter = weights if args.method == "lora" else None
    base = args.model if adapter else weights
    network = TorchNetwork(base, adapter=adapter, image_size=args.imgsz, device=args.device)
    dataset = load_dataset(args.data, splits=("val",))
    scores = score_model(network, dataset.split("val"), dataset.names, batch=64, progress=False).scores
    result = {
        "method": args.method,
        "rank": args.rank if adapter else None,
        "seed": args.seed,
        "epochs": args.epochs,
        "imgsz": args.imgsz,
        "batch": args.batch,
        "lr0": args.lr0,
        "set": args.set,
        "map50_95": round(scores.map50_95, 4),
        "map50": round(scores.map50, 4),
        "per_class": {entry.name: round(entry.ap50_95, 4) for entry in scores.per_class},
        "bytes": weights.stat().st_size,
        "seconds": round(seconds, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }
    print("RESULT " + json.dumps(result), flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
