"""Damaged descriptions and labels end in a result or in an error of ours, soon: never in a traceback or a hang."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visionlora.data import Dataset, load_coco, voc_boxes
from visionlora.data.description import read_description
from visionlora.data.labels import read_labels
from visionlora.data.problems import raise_problems
from visionlora.errors import DataError
from visionlora.tasks import DETECT

MUTANTS, SEED = 400, 0
SECONDS = 10
NAMES = ("scratch", "pit")
ODD = (
    *("", " ", "~", "null", "no", "007", "-1", "1e999", "nan", ".inf", "1_0", "0x1F", "9" * 5000, "\0", "\ufeff"),
    *("\ud83d", "\\ud83d", "\u202e", "\u0661", "../..", "/dev/zero", "a" * 5000, "[", "{", "]", "}", "&a", "*a", "!!x"),
    *("<a>", "</object>", "&lt;", "&x;", "<!DOCTYPE a [<!ENTITY x 'y'>]>", "<![CDATA[", '"', "'", ",", ":", "\n", "\t"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**400, float("nan"), float("inf"), "", "7", "a.png", "\ud83d", "\0", "x" * 5000),
    *([], {}, [None], [1, 2, 3, 4], [[]], {"id": 7}, [[[[]]]]),
)

YAML = b"""# a data set
path: .
train: [images/train, images/more]
val: &v images/val
test: *v
nc: 2
channels: 3
names:
  0: scratch
  1: "pit \\u00e9"
"""
LABELS = b"0 0.5 0.5 0.25 0.25\n1 0.25 0.75 0.1 0.2\n\n1 0.1 0.1 0.1 0.1\n"
VOC = b"""<?xml version="1.0"?><annotation><size><width>64</width></size><object><name>pit</name><bndbox><xmin>2</xmin>
<ymin>3</ymin><xmax>20</xmax><ymax>30.5</ymax></bndbox></object><object><name>scratch</name><bndbox><xmin>1</xmin>
<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""
COCO = {
    "info": {"year": 2024},
    "images": [
        {"id": 7, "file_name": "a.png", "width": 64, "height": 48},
        {"id": 8, "file_name": "b.png", "width": 64, "height": 48},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [4, 6, 10, 20], "area": 150.5, "iscrowd": 0},
        {"id": 2, "image_id": 8, "category_id": 9, "bbox": [1.5, 2.5, 30, 30], "segmentation": {"counts": "x"}},
        {"id": 3, "image_id": 8, "category_id": 9, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1, "ignore": 0},
    ],
    "categories": [{"id": 3, "name": "scratch", "supercategory": "none"}, {"id": 9, "name": "pit"}],
}


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to three faults: bits, cuts, repeats, and text that readers stumble over."""
    mutant = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(mutant) + 1)
        end = min(start + rng.choice((1, 2, 8, 40)), len(mutant))
        kind = rng.randrange(6)
        if kind == 0 and start < len(mutant):
            mutant[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del mutant[start:]
        elif kind == 2:
            del mutant[start:end]
        elif kind == 3:
            mutant[start:start] = mutant[start:end] * rng.choice((1, 3, 500))
        elif kind == 4:
            mutant[start:start] = rng.randbytes(rng.choice((1, 4, 64)))
        else:
            mutant[start:end] = rng.choice(ODD).encode("utf-8", "surrogatepass")
    return bytes(mutant)


def swap_words(content: bytes, rng: random.Random) -> bytes:
    """Return a text in which words are changed for an odd one or for each other."""
    words = content.decode().split(" ")
    for _ in range(rng.randint(1, 3)):
        words[rng.randrange(len(words))] = rng.choice((rng.choice(ODD), rng.choice(words)))
    return " ".join(words).encode("utf-8", "surrogatepass")


def swap_values(rng: random.Random) -> bytes:
    """Return the COCO file in which values or keys at any depth are changed, left out or repeated."""
    fields = json.loads(json.dumps(COCO))
    for _ in range(rng.randint(1, 3)):
        places = [place for place in _places(fields) if place]
        holder, key = rng.choice(places) if places else (fields, "images")
        kind = rng.randrange(4)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.append(holder[key])
        elif kind == 2:
            other, there = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[there]))
        else:
            holder[key] = rng.choice(VALUES)
    return json.dumps(fields).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *_places(inner))]


def check_dataset(dataset: Dataset) -> None:
    """What is read must be fit to be used: distinct names, boxes inside the pictures, class ids among the names."""
    assert len(set(dataset.names)) == len(dataset.names)
    for image in dataset.splits["val"]:
        limit = np.array(image.size_wh * 2)
        assert (image.boxes_xyxy >= 0).all() and (image.boxes_xyxy <= limit).all()
        assert (image.boxes_xyxy[:, :2] < image.boxes_xyxy[:, 2:]).all() and np.isfinite(image.object_areas).all()
        assert ((image.class_ids >= 0) & (image.class_ids < len(dataset.names))).all()


def _description(path: Path) -> None:
    description = read_description(path)
    assert all(name.strip() and name.encode("utf-8") for name in description.names)
    assert len(set(description.names)) == len(description.names)
    for split in description.splits:
        description.sources(split)


def _label_file(path: Path) -> None:
    labels = read_labels(path, class_count=2, task=DETECT)
    raise_problems(labels.problems)
    assert ((labels.boxes_xyxy >= 0) & (labels.boxes_xyxy <= 1)).all() and set(labels.class_ids.tolist()) <= {0, 1}


def _annotation(path: Path) -> None:
    boxes, class_ids = voc_boxes(path, NAMES)
    assert np.isfinite(boxes).all() and (boxes[:, :2] < boxes[:, 2:]).all() and len(boxes) == len(class_ids)


def _ground_truth(path: Path) -> None:
    check_dataset(load_coco(path))


COCO_BYTES = json.dumps(COCO, indent=1).encode()
READERS: dict[str, tuple[str, bytes, Callable[[Path], None], Callable[[random.Random], bytes]]] = {
    "data.yaml": ("data.yaml", YAML, _description, lambda rng: swap_words(YAML, rng)),
    "label file": ("a.txt", LABELS, _label_file, lambda rng: swap_words(LABELS, rng)),
    "VOC annotation": (
        "a.xml",
        VOC,
        _annotation,
        lambda rng: swap_words(VOC.replace(b">", b"> ").replace(b"<", b" <"), rng),
    ),
    "COCO ground truth": ("a.json", COCO_BYTES, _ground_truth, swap_values),
}


@pytest.mark.parametrize(("name", "content", "read", "swap"), READERS.values(), ids=READERS.keys())
def test_a_damaged_file_ends_in_a_result_or_an_error_of_ours(
    tmp_path: Path, write_image: Any, name: str, content: bytes, read: Callable, swap: Callable
) -> None:
    for picture in ("a.png", "b.png"):
        write_image(tmp_path / picture)
    for folder in ("images/train", "images/more", "images/val"):
        (tmp_path / folder).mkdir(parents=True)
    path, rng = tmp_path / name, random.Random(SEED)
    path.write_bytes(content)
    read(path)  # sound as it is
    refused = 0
    for index in range(MUTANTS):
        mutant = swap(rng) if index % 2 else damage(content, rng)
        path.write_bytes(mutant)  # and there it stays, should reading it end in another exception
        started = time.monotonic()
        try:
            read(path)
        except DataError as error:
            refused += 1
            assert len(str(error)) < 8000, mutant
        assert time.monotonic() - started < SECONDS, mutant
    assert refused > MUTANTS // 10  # the damage is seen; some of it, in a comment or a name, means nothing
