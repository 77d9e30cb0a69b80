"""Pictures with a red, a green and a blue rectangle, and a detector that really finds them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from visionlora.data import LabelledImage
from visionlora.machine import Machine
from visionlora.reporting import Report, Row
from visionlora.scoring import ClassScores, Scores, timing
from visionlora.scoring.bootstrap import Change, Interval
from visionlora.scoring.coco import ClassCount
from visionlora.scoring.model_scores import ClassChange, Difference
from visionlora.scoring.split import DataUsed
from visionlora.tasks import DETECT
from visionlora.vision.detections import Detections

SIZE = 64
NAMES = ("red", "green", "blue")
CHANNEL = {"red": 0, "green": 1, "blue": 2}  # of an RGB tensor


class ColourNetwork:
    """Finds at most one rectangle of each colour that it has a name for; other names never fire."""

    task = DETECT
    nms = True
    batch: int | None = None
    cut: float | None = None
    precision: str | None = None

    def __init__(self, names: tuple[str, ...] = NAMES, *, image_size: int = SIZE) -> None:
        self.names = names
        self.image_size = image_size
        self.batches: list[int] = []

    def __call__(self, batch: np.ndarray, /) -> tuple[np.ndarray, ...]:
        self.batches.append(len(batch))
        prediction = np.zeros((len(batch), 4 + len(self.names), 21), dtype=np.float32)
        for image, output in zip(batch, prediction, strict=True):
            for class_id, name in enumerate(self.names):
                others = [channel for channel in range(3) if channel != CHANNEL.get(name)]
                rows, columns = np.nonzero((image[CHANNEL.get(name, 0)] > 0.8) & (image[others].max(axis=0) < 0.2))
                if name in CHANNEL and len(rows):
                    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
                    output[:4, class_id] = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
                    output[4 + class_id, class_id] = 0.9 - 0.1 * class_id
        return (prediction,)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what models find in a folder of this test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("VISIONLORA_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for other networks' threads to rest: these tests look at scores, not at milliseconds."""
    monkeypatch.setattr(timing, "_PAUSE_SECONDS", 0.0)


@pytest.fixture
def colour_network() -> type[ColourNetwork]:
    return ColourNetwork


@pytest.fixture
def names() -> tuple[str, ...]:
    return NAMES


@pytest.fixture
def images(tmp_path: Path) -> list[LabelledImage]:
    """Six 64x64 pictures: one, two and three rectangles of different colours, and one picture without any."""
    made = []
    for index, class_ids in enumerate([(0,), (1, 2), (0, 1, 2), (), (2,), (0, 1)]):
        picture = np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)
        boxes = []
        for place, class_id in enumerate(class_ids):
            left, top = 2 + 20 * place, 4 + 3 * index
            boxes.append([left, top, left + 12 + place, top + 15 + index])
            picture[top : boxes[-1][3], left : boxes[-1][2]] = 0
            picture[top : boxes[-1][3], left : boxes[-1][2], 2 - class_id] = 255  # BGR
        path = tmp_path / "images" / f"{index:04d}.png"
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), picture)
        made.append(
            LabelledImage(
                path=path,
                size_wh=(SIZE, SIZE),
                boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
                class_ids=np.array(class_ids, dtype=np.int64),
            )
        )
    return made


@pytest.fixture
def perfect() -> Callable[[LabelledImage], Detections]:
    """What a perfect detector finds in an image."""
    return lambda image: Detections(image.boxes_xyxy, np.full(len(image.class_ids), 0.9), image.class_ids)


def _row(label: str, kind: str, scores: dict[str, float | None] | None, *, megabytes: float, ms: float) -> Row:
    per_class = tuple(
        ClassScores(
            name=name,
            ap50_95=score,
            ap50=None if score is None else min(1.6 * score, 1.0),
            images=0 if score is None else 40,
            objects=0 if score is None else 57,
        )
        for name, score in (scores or {}).items()
    )
    known = [one.ap50_95 for one in per_class if one.ap50_95 is not None]
    mean = sum(known) / len(known) if known else None
    return Row(
        label=label,
        file=f"runs/{label}.{'pt' if kind == 'checkpoint' else 'onnx'}",
        kind=kind,
        sha256=f"{len(label):064x}",
        bytes=round(megabytes * 1e6),
        image_size=320,
        classes=tuple(scores or ()),
        scores=None
        if mean is None
        else Scores(map50_95=mean, map50=min(1.6 * mean, 1.0), map75=0.9 * mean, per_class=per_class),
        ms_per_image=ms,
        parents={"base": "ab" * 32} if kind != "checkpoint" else {},
    )


def _apart(to: str, crack: float, pit: float, *, half: float) -> Difference:
    mean = (crack + pit) / 2
    changes = {"crack": crack, "pit": pit}
    return Difference(
        to=to,
        classes=("crack", "pit"),
        map50_95=Change(mean, Interval(mean - half, mean + half)),
        map50=Change(1.6 * mean, Interval(1.6 * (mean - half), 1.6 * (mean + half))),
        per_class=tuple(
            ClassChange(name, Change(change, Interval(change - 2 * half, change + 2 * half)))
            for name, change in changes.items()
        ),
    )


@pytest.fixture
def report() -> Report:
    """A base that shares two classes, two complete models, one that shares none; `patch` has no objects.

    The scores of `dent` are the means of the others.
    """
    base, merged, int8, stranger = (
        _row("base", "checkpoint", {"crack": 0.105, "pit": 0.2511}, megabytes=5.4, ms=21.94),
        _row(
            "merged",
            "checkpoint",
            {"crack": 0.3712, "pit": 0.5531, "patch": None, "dent": 0.46215},
            megabytes=5.41,
            ms=21.71,
        ),
        _row("int8", "int8", {"crack": 0.3507, "pit": 0.5462, "patch": None, "dent": 0.44845}, megabytes=2.88, ms=9.06),
        _row("stranger", "onnx", None, megabytes=10.7, ms=20.0),
    )
    base = replace(base, differences=(_apart("merged", -0.2662, -0.302, half=0.05),))
    int8 = replace(int8, differences=(_apart("merged", -0.0205, -0.0069, half=0.02),))
    rows = (base, merged, int8, stranger)
    return Report(
        data=DataUsed(
            path="data.yaml",
            content_hash="cd" * 32,
            split="val",
            images=60,
            classes=(
                ClassCount("crack", 40, 57),
                ClassCount("pit", 31, 44),
                ClassCount("patch", 0, 0),
                ClassCount("dent", 12, 15),
            ),
        ),
        machine=Machine(cpu="A processor", cores=4, threads=2),
        versions={"python": "3.11.0", "numpy": "2.0.0"},
        rows=rows,
    )


@pytest.fixture
def onnx_model(tmp_path: Path) -> Callable[..., Path]:
    """Write an ONNX detector that finds the same boxes (one a class, cx cy w h) in every 64x64 picture."""

    def make(names: Sequence[str], boxes_cxcywh: Sequence[Sequence[float]] = (), *, file: str = "model.onnx") -> Path:
        prediction = np.zeros((1, 4 + len(names), 84), dtype=np.float32)
        for class_id, box in enumerate(boxes_cxcywh):
            prediction[0, :4, class_id], prediction[0, 4 + class_id, class_id] = box, 0.9
        moving = np.zeros_like(prediction)
        moving[0, 2, -1] = 1  # the width of a box without a score: a network that sees nothing is refused
        graph = helper.make_graph(
            [
                helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
                helper.make_node("Mul", ["mean", "moving"], ["seen"]),
                helper.make_node("Add", ["prediction", "seen"], ["output0"]),
            ],
            "constant",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, SIZE, SIZE))],
            [helper.make_tensor_value_info("output0", TensorProto.FLOAT, prediction.shape)],
            [numpy_helper.from_array(prediction, "prediction"), numpy_helper.from_array(moving, "moving")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        card = {
            "format": 1,
            "kind": "int8",
            "names": list(names),
            "preprocessing": {
                "image_size": SIZE,
                "letterbox": "square",
                "padding": 114,
                "channels": "RGB",
                "scale": "1/255",
            },
            "nms": True,
            "parents": {"model": "12" * 32},
            "settings": {},
            "version": "0",
        }
        helper.set_model_props(model, {"task": "detect", "visionlora": json.dumps(card)})
        onnx.save(model, str(tmp_path / file))
        return tmp_path / file

    return make


DEFECTS = ("scratch", "pit")
BOXES = ((16.0, 20.0, 20.0, 24.0), (44.0, 40.0, 24.0, 20.0))  # cx, cy, w, h in pixels of the 64x64 pictures


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four 64x64 pictures in Ultralytics' layout, each with both boxes."""
    for index in range(4):
        image = tmp_path / "set" / "images" / "val" / f"{index}.png"
        label = tmp_path / "set" / "labels" / "val" / f"{index}.txt"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.full((64, 64, 3), 60 * index, dtype=np.uint8))
        rows = [" ".join(map(str, [class_id, *(side / 64 for side in box)])) for class_id, box in enumerate(BOXES)]
        label.write_text("\n".join(rows))
    yaml = tmp_path / "set" / "data.yaml"
    yaml.write_text("path: .\ntrain: images/val\nval: images/val\nnames: [scratch, pit]\n")
    return yaml


@pytest.fixture
def models(onnx_model) -> Sequence[str]:
    """A stranger that shares one class and misses, a perfect model, and one that misses the second class."""
    stranger = onnx_model(("pit", "dog"), [(10, 10, 5, 5), BOXES[0]], file="stranger.onnx")
    perfect = onnx_model(DEFECTS, BOXES, file="perfect.onnx")
    half = onnx_model(DEFECTS, [BOXES[0], (10, 50, 8, 8)], file="half.onnx")
    return [f"base={stranger}", str(perfect), f"half={half}"]
