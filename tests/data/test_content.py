from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from visionlora.data import content_hash, find_shared_images, load_dataset
from visionlora.errors import DataError


def _hash(root: Path) -> str:
    return content_hash(load_dataset(root / "data.yaml").split("train"))


def test_the_hash_is_of_content_and_not_of_names(root: Path, tmp_path: Path) -> None:
    before = _hash(root)
    for folder, suffix in (("images", "jpg"), ("labels", "txt")):
        (root / folder / "train" / f"a.{suffix}").rename(root / folder / "train" / f"z.{suffix}")

    assert len(before) == 64
    assert _hash(root) == before


def test_the_hash_does_not_depend_on_the_order_of_boxes(root: Path) -> None:
    lines = ["0 0.5 0.5 0.5 0.5\n", "1 0.4 0.5 0.5 0.5\n", "0 0.4 0.5 0.5 0.5\n"]
    (root / "labels/train/a.txt").write_text("".join(lines))
    before = _hash(root)
    (root / "labels/train/a.txt").write_text("".join(reversed(lines)))

    assert _hash(root) == before


def _other_class(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("1 0.5 0.5 0.5 0.5\n")


def _moved_box(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.501\n")


def _no_box(root: Path) -> None:
    (root / "labels/train/a.txt").unlink()


def _other_bytes(root: Path) -> None:
    with open(root / "images/train/a.jpg", "ab") as file:
        file.write(b"x")


def _exchanged_labels(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("2 0.5 0.5 0.5 0.5\n")
    shutil.copy(root / "images/train/a.jpg", root / "images/train/c.jpg")


@pytest.mark.parametrize("change", [_other_class, _moved_box, _no_box, _other_bytes, _exchanged_labels])
def test_the_hash_notices_any_change(root: Path, change) -> None:
    before = _hash(root)

    change(root)

    assert _hash(root) != before


def test_images_in_both_splits_are_found_whatever_their_names(root: Path) -> None:
    shutil.copy(root / "images/train/b.jpg", root / "images/val/other.jpg")
    dataset = load_dataset("data.yaml")

    pairs = find_shared_images(dataset.split("train"), dataset.split("val"))

    assert [(a.path.name, b.path.name) for a, b in pairs] == [("b.jpg", "other.jpg")]


def test_sound_splits_share_nothing(root: Path) -> None:
    dataset = load_dataset("data.yaml")

    assert find_shared_images(dataset.split("train"), dataset.split("val")) == ()


def test_images_of_equal_length_are_not_taken_for_equal(root: Path, write_image) -> None:
    for split, seed in (("train", 1), ("val", 2)):
        write_image(root / f"images/{split}/c.bmp", seed=seed)
    dataset = load_dataset("data.yaml")

    assert len({(root / f"images/{split}/c.bmp").stat().st_size for split in ("train", "val")}) == 1
    assert find_shared_images(dataset.split("train"), dataset.split("val")) == ()


@pytest.mark.parametrize("function", [content_hash, lambda images: find_shared_images(images, images)])
def test_an_image_that_is_gone_is_named(root: Path, function) -> None:
    images = load_dataset("data.yaml").split("train")
    (root / "images/train/a.jpg").unlink()

    with pytest.raises(DataError, match=r"images/train/a\.jpg: expected an image, got none that can be read"):
        function(images)
