"""Train one variant with one seed, judge it with visionlora's ruler, and print one JSON object.

The last epoch's averaged model is judged, on either side: no epoch is chosen by the validation pictures. With
`--set '{"val": true}'` they are validated on each epoch, and the best one is judged. `seconds` begin when training is
called.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from injected import INJECTED, Refusal
from jobs import report
from rivals import rival
from ways import OWN, RIVALS, is_ranked, own_settings

from visionlora.data import load_dataset
from visionlora.detectors.network import CheckpointNetwork
from visionlora.detectors.ultralytics import load_base
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.progress import level
from visionlora.scoring import coco_scores, find_objects, mean_precision
from visionlora.tasks import DETECT, TASKS
from visionlora.training import training


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--method", choices=(*OWN, *RIVALS), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, help="the model's if not given; another one of a detection model")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--lr0", type=float, help="Ultralytics' automatic choice, or visionlora's default, if not given"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="0")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", type=json.loads, default={}, help="more hyperparameters, as a JSON object")
    parser.add_argument("--adapter", type=json.loads, default={}, help="more adapter settings, as a JSON object")
    args = parser.parse_args()
    run = {"epochs": args.epochs, "imgsz": args.imgsz, "batch": args.batch, "seed": args.seed, "device": args.device}
    where = {"image_size": args.imgsz, "device": args.device.split(",")[0]}
    extra = {"workers": args.workers, "val": False, **args.set}
    own = None if args.method in OWN else load_base(args.model).task.name
    started = time.monotonic()
    ranked = is_ranked(args.method)
    result = {
        "method": args.method,
        "rank": args.rank if ranked else None,
        "seed": args.seed,
        "epochs": args.epochs,
        "imgsz": args.imgsz,
        "batch": args.batch,
        "lr0": args.lr0,
        "set": args.set,
        "adapter": args.adapter,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }
    if args.method in OWN:
        rate = {"lr0": args.lr0} if args.lr0 else {}
        settings = {**({"rank": args.rank} if ranked else {}), **own_settings(args.method), **args.adapter}
        settings |= {} if args.task is None else {"task": args.task}
        path = training.train(
            args.model, args.data, args.out, hyperparameters=extra, overwrite=True, **settings, **rate, **run
        ).path
        network = ULTRALYTICS.open(args.model, adapter=path, **where)
    else:
        chosen = {"optimizer": "AdamW", "momentum": 0.9, "lr0": args.lr0, "warmup_bias_lr": 0.0} if args.lr0 else {}
        options = {"model": args.model, "data": args.data, "cache": "ram", "save_dir": str(args.out)}
        task = args.task or own
        if task != own:  # a detection model's weights by name in a description of the task
            description = f"{Path(args.model).stem}-{task.replace('segment', 'seg')}.yaml"
            options |= {"model": description, "pretrained": args.model}
        trainer = rival(args.method, {**options, **run, **chosen, **extra}, task=task)
        try:
            trainer.train()
        except Refusal as refusal:
            report({**result, "refused": str(refusal)})
            return
        path = trainer.best if extra["val"] else trainer.last
        if args.method in INJECTED:
            network, path = trained_network(trainer, args), saved_adapter(trainer, args.out)
        else:
            network = ULTRALYTICS.open(path, **where)
    seconds = time.monotonic() - started
    dataset = load_dataset(args.data, splits=("val",), task=network.task)
    images = dataset.split("val")
    with level("quiet"):
        found = find_objects(network, images, dataset.names, batch=64)
    scores = coco_scores(found.detections, images, dataset.names, classes=found.classes, task=network.task)
    beside = {}
    if network.task != DETECT:
        boxes = mean_precision(found.detections, images, dataset.names, task=DETECT)
        beside = {"task": network.task.name, "box_map50_95": round(boxes.map50_95, 4)}
    result |= {
        "map50_95": round(scores.map50_95, 4),
        "map50": round(scores.map50, 4),
        **beside,
        "per_class": {entry.name: round(entry.ap50_95, 4) for entry in scores.per_class},
        "bytes": path.stat().st_size if path.exists() else None,
        "seconds": round(seconds, 1),
    }
    report(result)


def trained_network(trainer, args) -> CheckpointNetwork:
    """Return the averaged model of an injected trainer as a network to judge."""
    network = ULTRALYTICS.open(args.model, image_size=args.imgsz, device=args.device)
    network.names = tuple(trainer.data["names"].values())
    network.detector.model = trainer.ema.ema.eval()
    network.detector.model.model[-1].export = True
    return network


def saved_adapter(trainer, out: Path) -> Path:
    """Save what an injected trainer trained, averaged and in half precision as visionlora's files are."""
    path = out / "trained.safetensors"
    average = dict(trainer.ema.ema.named_parameters())
    save_file({name: average[name].detach().half().cpu().contiguous() for name in sorted(trainer.trained)}, path)
    return path


if __name__ == "__main__":
    main()
