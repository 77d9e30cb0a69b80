"""Reports of made-up models on made-up pictures: any number of models and classes, any names, no network to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from visionlora.data import LabelledImage
from visionlora.machine import Machine
from visionlora.reporting import Report, Row
from visionlora.reporting.verdict import judge_budget
from visionlora.scoring.bootstrap import draw_images
from visionlora.scoring.budget import Budget
from visionlora.scoring.coco import count_classes
from visionlora.scoring.detect_split import SplitDetections
from visionlora.scoring.model_scores import ModelScores, difference, judge
from visionlora.scoring.split import DataUsed
from visionlora.tasks import DETECT
from visionlora.vision.detections import Detections

SIDE = 320  # pixels of a picture
KINDS = ("checkpoint", "adapter", "merged", "onnx", "int8")


def made_report(
    folder: Path,
    labels: Sequence[str],
    names: Sequence[str],
    *,
    pictures: int = 12,
    objects: int = 5,
    budget: Budget | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Report, list[LabelledImage], list[ModelScores | None]]:
    """Return a report with what its page is drawn from; the later a model, the more it finds.

    Args:
        folder: for the pictures.
        labels: of the models, in their order.
        names: of the classes.
        pictures: how many.
        objects: on each, the half of them close together, so that labels stand in each other's way.
        budget: held to the models after the first.
        settings: of the models, by label.
    """
    rng = np.random.default_rng(0)
    images = [_picture(folder / f"picture_{index:03d}.png", len(names), objects, rng) for index in range(pictures)]
    weights = draw_images(len(images))
    judgements: list[ModelScores | None] = []
    rows = []
    for index, label in enumerate(labels):
        share = 0.45 + 0.45 * index / max(len(labels) - 1, 1)
        found = SplitDetections(
            tuple(_detections(image, len(names), share, rng) for image in images), tuple(names), task=DETECT
        )
        judged = judge(found, images, names, weights=weights, confidence=0.25)
        assert judged is not None
        judgements.append(judged)
        first = judgements[0] or judged
        apart = difference(judged.scores, first.scores, draws=judged.draws, other_draws=first.draws, to=labels[0])
        rows.append(
            Row(
                label=label,
                file=f"runs/{label}/model.onnx",
                kind=KINDS[index % len(KINDS)],
                sha256=f"{index + 1:064x}",
                bytes=(10_730_000, 590_000, 10_870_000, 2_800_000)[index % 4],
                image_size=SIDE,
                classes=tuple(names),
                scores=judged.scores,
                ms_per_image=(28.4, 28.2, 14.5, 9.7)[index % 4],
                parents={"base": "ab" * 32} if index else {},
                parameters=2_590_000 + index,
                settings=dict((settings or {}).get(label, {})),
                operating=judged.operating,
                calibration=judged.calibration,
                differences=(apart,) if index and apart is not None else (),
            )
        )
    data = DataUsed("data/data.yaml", "cd" * 32, "val", len(images), count_classes(images, names))
    machine = Machine("AMD EPYC 9B14", 2, 2)
    report = Report(data, machine, {"visionlora": "0"}, tuple(rows), created="2026-03-14T12:00:00+00:00", command="x")
    return replace(report, verdict=judge_budget(report, budget or Budget())), images, judgements


def _picture(path: Path, classes: int, objects: int, rng: np.random.Generator) -> LabelledImage:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = cv2.resize(rng.integers(60, 190, (5, 5, 3), dtype=np.uint8), (SIDE, SIDE // 4 * 3))
    boxes = []
    for index in range(objects):
        side = rng.uniform(30, 90, 2)
        corner = rng.uniform(0, (SIDE - 95, SIDE * 0.75 - 95))
        if index % 2:
            corner = np.clip(np.array(boxes[-1][:2]) + rng.uniform(-12, 12, 2), 0, None)
        boxes.append([*corner, *(corner + side)])
        centre, half = (corner + side / 2).astype(int), (side / 2).astype(int)
        cv2.ellipse(
            pixels, centre.tolist(), half.tolist(), 0, 0, 360, rng.integers(0, 255, 3).tolist(), -1, cv2.LINE_AA
        )
    cv2.imwrite(str(path), pixels)
    boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    boxes_xyxy[:, [1, 3]] = boxes_xyxy[:, [1, 3]].clip(0, SIDE * 0.75)
    return LabelledImage(path, (SIDE, SIDE // 4 * 3), boxes_xyxy, rng.integers(0, classes, objects))


def _detections(image: LabelledImage, classes: int, share: float, rng: np.random.Generator) -> Detections:
    """Return what a model finds that sees this share of the objects: some beside, of another class, or of nothing."""
    kept = rng.random(len(image.class_ids)) < share
    near = image.boxes_xyxy[kept] + rng.normal(0, 8 * (1.1 - share), (int(kept.sum()), 4))
    ids = np.where(rng.random(len(near)) < share, image.class_ids[kept], rng.integers(0, classes, len(near)))
    stray = rng.uniform(0, SIDE * 0.6, (2, 2))
    boxes = np.concatenate([near, np.concatenate([stray, stray + 50], axis=1)])
    scores = np.concatenate([rng.uniform(0.3, 0.98, len(near)), rng.uniform(0.05, 0.6, 2)])
    return Detections(boxes, scores, np.concatenate([ids, rng.integers(0, classes, 2)]))
