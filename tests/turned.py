"""Pictures of turned rectangles, labelled for each task, and tiny detectors with its head."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from ultralytics.nn.tasks import OBBModel, PoseModel, SegmentationModel, yaml_model_load

from visionlora.detectors.family import Base
from visionlora.detectors.ultralytics import load_base
from visionlora.detectors.ultralytics.checkpoint import pack_checkpoint
from visionlora.detectors.ultralytics.heads import task_of_model, with_task
from visionlora.tasks import OrientedBoxes, Pose, Segment, Task

POSE = Pose(keypoints=4, dims=2)
TURNED: tuple[Task, ...] = (Segment(coefficients=8), POSE, OrientedBoxes())
NAMES = ("red", "blue")
COLOURS = ((40, 40, 220), (220, 60, 40))


def write_turned(folder: Path, task: Task, *, train: int = 8, val: int = 4, size: int = 96, seed: int = 0) -> Path:
    """Write a data set of turned rectangles as a task labels them; return its data.yaml."""
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            picture = random.integers(90, 150, (size, size, 3)).astype(np.uint8)
            lines = []
            for centre in ((0.28, 0.3), (0.7, 0.68)):
                class_id = int(random.integers(2))
                sides = size * random.uniform((0.3, 0.15), (0.45, 0.25))
                corners = cv2.boxPoints((np.multiply(centre, size), sides, random.uniform(0, 180)))
                cv2.fillPoly(picture, [corners.round().astype(int)], COLOURS[class_id])
                lines.append(_line(task, class_id, np.clip(corners / size, 0, 1)))
            name = f"{split}/{number:03}"
            cv2.imwrite(str(folder / f"images/{name}.png"), picture)
            (folder / f"labels/{name}.txt").write_text("\n".join(lines) + "\n")
    pose = "kpt_shape: [4, 2]\nflip_idx: [1, 0, 3, 2]\n" if task.name == "pose" else ""
    text = f"train: images/train\nval: images/val\n{pose}names: [{', '.join(NAMES)}]\n"
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


def _line(task: Task, class_id: int, corners: np.ndarray) -> str:
    numbers = corners.reshape(-1)
    if task.name in ("pose", "detect"):
        low, high = corners.min(axis=0), corners.max(axis=0)
        box = [*(low + high) / 2, *(high - low)]
        numbers = np.array([*box, *numbers] if task.name == "pose" else box)
    return " ".join([str(class_id), *(f"{number:.5f}" for number in numbers)])


def write_detector(detector: Path, task: Task, out: Path, *, seed: int = 0) -> Path:
    """Write a detection checkpoint with an untrained head of a task, and random statistics of its norms, as another."""
    base = load_base(detector)
    torch.manual_seed(seed)
    model, new = with_task(base.model, task)
    for name in new:
        norm = getattr(model.get_submodule(name.rpartition(".")[0]), "bn", None)
        if norm is not None:
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 1.5)
    made = Base(**{**vars(base), "model": model, "task": task})
    out.write_bytes(pack_checkpoint(made, image_size=base.image_size, card={"kind": "test"}))
    return out


def write_yolo26(task: Task, out: Path, *, seed: int = 0) -> Path:
    """Write a tiny YOLO26 of a task: untrained, end-to-end, with the sizes of Ultralytics' own, for `NAMES`."""
    kinds = {"segment": ("seg", SegmentationModel), "pose": ("pose", PoseModel), "obb": ("obb", OBBModel)}
    word, kind = kinds[task.name]
    description = {**yaml_model_load(f"yolo26n-{word}.yaml"), "scales": {"n": [0.34, 0.125, 256]}}
    torch.manual_seed(seed)
    model = kind(description, nc=len(NAMES), verbose=False).eval()
    model.names, model.task = dict(enumerate(NAMES)), task.name
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    if task.name == "segment":
        for layer in model.model[-1].cv4:
            torch.nn.init.normal_(layer[-1].bias)  # masks that are not empty
    base = Base(model, out, NAMES, 96, "", 32, "ultralytics", task_of_model(model))
    out.write_bytes(pack_checkpoint(base, image_size=96, card={"kind": "test"}))
    return out
