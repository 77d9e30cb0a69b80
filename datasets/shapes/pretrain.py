r"""Pretrain the demonstration's toy base from scratch on generated shapes.

The base that the package carries was made on two CPU cores, in about 35 minutes, by

    python datasets/shapes/pretrain.py --out base.safetensors

with the defaults below. It needs numpy, OpenCV, torch, Ultralytics and safetensors, and no network. For a rehearsal:

    python datasets/shapes/pretrain.py --images 64 --epochs 1 --batch 16 --out rehearsal.safetensors
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("YOLO_OFFLINE", "true")  # before the import: Ultralytics then asks no server for anything
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone where nothing is installed

import torch
import ultralytics
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel, load_checkpoint
from ultralytics.utils import YAML

from visionlora.demonstration.generate import count_labels, write_dataset
from visionlora.demonstration.shapes import SHAPE_NAMES, draw_shapes
from visionlora.detectors.ultralytics.toy_base import BaseCard, save_base
from visionlora.files import refuse_existing

DEPTH, WIDTH, MOST_CHANNELS = 0.5, 0.14, 896  # as yolo11n, but narrower: 1.9 MB in half precision
RECIPE = {
    "optimizer": "AdamW",
    "lr0": 0.004,
    "cos_lr": True,
    "warmup_epochs": 3,
    "flipud": 0.5,
    "close_mosaic": 15,
}


def model_description(classes: int) -> dict[str, Any]:
    """Return YOLO11's description at the toy scale."""
    folder = Path(ultralytics.__file__).parent / "cfg" / "models" / "11"
    description: dict[str, Any] = YAML.load(folder / "yolo11.yaml")
    return {**description, "nc": classes, "scales": {"t": [DEPTH, WIDTH, MOST_CHANNELS]}, "scale": "t"}


class ToyTrainer(DetectionTrainer):
    """Ultralytics' trainer on the toy model, on a machine where neither polars nor a network may be found."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> DetectionModel:
        """Build the toy model, whatever `cfg` says: Ultralytics' configuration can only name a file."""
        return super().get_model(model_description(self.data["nc"]), None, verbose)

    def read_results_csv(self) -> dict[str, Any]:
        """Put no curves into the checkpoint: reading them back would need polars."""
        return {}


def train(data: Path, options: argparse.Namespace, project: Path) -> ToyTrainer:
    """Train the toy model and return the trainer, with the scores of its last model in `metrics`."""
    trainer = ToyTrainer(
        overrides={
            "model": "yolo11n.yaml",
            "data": str(data),
            "epochs": options.epochs,
            "imgsz": options.imgsz,
            "batch": options.batch,
            "nbs": options.batch,
            "device": options.device,
            "workers": options.workers,
            "seed": options.seed,
            "project": str(project),
            "name": "train",
            "pretrained": False,
            "amp": False if options.device == "cpu" else "bf16",  # bf16 skips the check that downloads a checkpoint
            "cache": "ram",
            "val": False,  # once, after the last epoch
            "plots": False,
            **RECIPE,
        }
    )
    trainer.train()
    return trainer


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Pretrain the toy base of visionlora's demonstration."
    )
    parser.add_argument("--images", type=int, default=5000, help="training pictures; a tenth more for validation")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--imgsz", type=int, default=160, help="side of the pictures in pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu", help="cpu, or the number of a GPU")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw and load pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write; must not exist")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures, train, and write the weights with their provenance."""
    options = parse(arguments)
    refuse_existing(options.out)
    with tempfile.TemporaryDirectory(prefix="visionlora-shapes-") as work:
        folder = Path(work, "data")
        pictures = {"train": options.images, "val": max(8, options.images // 10)}
        data = write_dataset(
            draw_shapes,
            SHAPE_NAMES,
            folder,
            counts=pictures,
            size=options.imgsz,
            seed=options.seed,
            workers=max(1, options.workers),
        )
        trainer = train(data, options, Path(work))
        model, _ = load_checkpoint(trainer.best)
        measured = cast(dict[str, Any], trainer.metrics)
        scores = {
            name: round(float(measured[f"metrics/{name}(B)"]), 4)
            for name in ("precision", "recall", "mAP50", "mAP50-95")
        }
        card = BaseCard(
            model={key: value for key, value in model.yaml.items() if key != "yaml_file"},
            names=SHAPE_NAMES,
            image_size=options.imgsz,
            provenance={
                "command": shlex.join(["python", "datasets/shapes/pretrain.py", *(arguments or sys.argv[1:])]),
                "recipe": RECIPE,
                "seed": options.seed,
                "epochs": options.epochs,
                "counts": count_labels(folder, SHAPE_NAMES),
                "ultralytics": ultralytics.__version__,
                "torch": torch.__version__,
                "device": "CPU" if options.device == "cpu" else torch.cuda.get_device_name(trainer.device),
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            },
            scores=scores,
        )
        save_base(model, card, options.out)
    print(f"mAP50-95 {scores['mAP50-95']:.3f}, mAP50 {scores['mAP50']:.3f} on {pictures['val']} validation pictures")
    print(f"wrote {options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
