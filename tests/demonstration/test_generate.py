from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import yaml

from visionlora.demonstration.drawing import Picture
from visionlora.demonstration.generate import count_labels, data_yaml, write_counted_dataset, write_dataset
from visionlora.demonstration.surface import SURFACE_NAMES, draw_surface
from visionlora.errors import DataError, OutputError, UsageError

DATASETS = Path(__file__).parents[2] / "datasets"


def write(out: Path, *, train: int = 4, seed: int = 0, workers: int = 1) -> Path:
    counts = {"train": train, "val": 2}
    return write_dataset(draw_surface, SURFACE_NAMES, out, counts=counts, size=96, seed=seed, workers=workers)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equal_seeds_write_equal_files_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for name, seed, workers in (("one", 3, 1), ("two", 3, 2), ("other", 4, 1)):
        write(tmp_path / name, seed=seed, workers=workers)

    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one")["images/train/00000.png"] != digests(tmp_path / "other")["images/train/00000.png"]


def test_a_larger_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    write(tmp_path / "small", train=3)
    write(tmp_path / "large", train=6)

    assert digests(tmp_path / "small").items() <= digests(tmp_path / "large").items()


def test_train_and_val_share_no_picture(tmp_path: Path) -> None:
    write(tmp_path)

    names = [digest for path, digest in digests(tmp_path).items() if path.startswith("images")]
    assert len(names) == 6 == len(set(names))


def test_labels_give_back_the_boxes_that_were_drawn(tmp_path: Path) -> None:
    drawn: list[Picture] = []

    def draw(rng: np.random.Generator, size: int) -> Picture:
        drawn.append(draw_surface(rng, size))
        return drawn[-1]

    write_dataset(draw, SURFACE_NAMES, tmp_path, counts={"train": 12, "val": 1}, size=160, seed=0)
    for picture, path in zip(drawn, sorted((tmp_path / "labels/train").iterdir()), strict=False):  # val: drawn last
        rows = np.array([line.split() for line in path.read_text().splitlines()], float).reshape(-1, 5)
        centre, sides = rows[:, 1:3] * 160, rows[:, 3:] * 160

        assert rows[:, 0].astype(int).tolist() == picture.class_ids.tolist()
        assert np.allclose(np.hstack([centre - sides / 2, centre + sides / 2]), picture.boxes_xyxy, atol=1e-3)
        image = cv2.imread(str(tmp_path / "images/train" / f"{path.stem}.png"))
        assert image is not None and np.array_equal(image, picture.image_bgr)


def test_the_yaml_names_the_classes_and_the_folders(tmp_path: Path) -> None:
    path = write(tmp_path)

    described = yaml.safe_load(path.read_text())
    assert path == tmp_path / "data.yaml"
    assert tuple(described["names"][i] for i in range(len(SURFACE_NAMES))) == SURFACE_NAMES
    assert len(list((tmp_path / described["train"]).glob("*.png"))) == 4


@pytest.mark.parametrize("left_over", ["images", "labels"])
def test_existing_pictures_or_labels_are_refused(tmp_path: Path, left_over: str) -> None:
    (tmp_path / left_over).mkdir()

    with pytest.raises(OutputError, match=f"{left_over}: exists already"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [left_over]


def test_another_data_yaml_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [other]\n")

    with pytest.raises(OutputError, match="another content"):
        write(tmp_path)
    assert (tmp_path / "data.yaml").read_text() == "names: [other]\n"


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def draw(rng: np.random.Generator, size: int) -> Picture:
        if rng.random() < 0.5:
            raise ValueError("no picture")
        return draw_surface(rng, size)

    with pytest.raises(ValueError, match="no picture"):
        write_dataset(draw, SURFACE_NAMES, tmp_path, counts={"train": 20, "val": 1}, size=96, seed=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("counts", "size", "seed", "message"),
    [
        ({"train": 0, "val": 1}, 96, 0, "expected at least 1, got 0"),
        ({"train": 1}, 96, 0, "expected the split 'val'"),
        ({"train": 1, "val": 1}, 32, 0, "at least 96 pixels, got 32"),
        ({"train": 1, "val": 1}, 96, -1, "non-negative integer, got -1"),
    ],
    ids=["empty split", "no val", "too small", "negative seed"],
)
def test_impossible_requests_are_refused(
    tmp_path: Path, counts: dict[str, int], size: int, seed: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write_dataset(draw_surface, SURFACE_NAMES, tmp_path, counts=counts, size=size, seed=seed)


def test_the_surface_set_has_the_counts_that_its_script_expects(
    tmp_path: Path, script: Callable[[str], ModuleType]
) -> None:
    prepare = script("surface/prepare.py")

    write_dataset(
        draw_surface,
        SURFACE_NAMES,
        tmp_path,
        counts={split: one["images"] for split, one in prepare.EXPECTED.items()},
        size=prepare.SIZE,
        seed=prepare.SEED,
        workers=2,
    )
    assert count_labels(tmp_path, SURFACE_NAMES) == prepare.EXPECTED


@pytest.mark.parametrize("name", ["surface", "shapes"])
def test_readme_and_data_yaml_agree_with_the_script(name: str, script: Callable[[str], ModuleType]) -> None:
    prepare = script(f"{name}/prepare.py")

    readme = (DATASETS / name / "README.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|$", readme, re.MULTILINE)
    assert {row[0]: int(row[1]) for row in rows} == prepare.EXPECTED["train"]
    assert {row[0]: int(row[2]) for row in rows} == prepare.EXPECTED["val"]
    classes = [key for key in prepare.EXPECTED["train"] if key != "images"]
    assert (DATASETS / name / "data.yaml").read_text() == data_yaml(classes, list(prepare.EXPECTED))


def test_a_set_of_other_counts_is_not_kept(tmp_path: Path) -> None:
    expected = {split: {"images": 1, **dict.fromkeys(SURFACE_NAMES, 99)} for split in ("train", "val")}
    with pytest.raises(DataError, match="draw otherwise"):
        write_counted_dataset(draw_surface, SURFACE_NAMES, tmp_path, expected=expected, size=96, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["data.yaml"]
