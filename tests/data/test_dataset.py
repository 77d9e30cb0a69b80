from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from visionlora.data import Dataset, LabelledImage, load_dataset, warn_of_doubtful_data
from visionlora.errors import DataError, UsageError


def test_boxes_are_pixels_of_the_displayed_image(root: Path, write_image) -> None:
    write_image(root / "images/train/a.jpg", size_wh=(100, 50), orientation=6)  # displayed 50 wide, 100 high
    (root / "labels/train/a.txt").write_text("2 0.5 0.5 0.2 0.4\n")

    image = load_dataset(root / "data.yaml").split("train")[0]

    assert image.size_wh == (50, 100)
    np.testing.assert_allclose(image.boxes_xyxy, [[20, 30, 30, 70]], atol=1e-5)
    assert (image.boxes_xyxy.dtype, image.class_ids.dtype) == (np.float32, np.int64)
    assert image.class_ids.tolist() == [2]


def test_images_come_in_order_with_those_of_sub_folders(root: Path, write_image) -> None:
    write_image(root / "images/train/0/c.PNG")
    (root / "images/train/notes.md").write_text("no image")
    (root / "images/train/.hidden.jpg").write_text("no image")

    names = [image.path.name for image in load_dataset(root / "data.yaml").split("train")]

    assert names == ["c.PNG", "a.jpg", "b.jpg"]


def test_labels_that_are_no_boxes_are_told(root: Path, caplog) -> None:
    (root / "labels/train/a.txt").write_text("0 .1 .1 .5 .2 .4 .6 .1 .5\n0 .1 .1 .5 .2 .3 .9\n")
    dataset = load_dataset(root / "data.yaml")
    boxes = sum(len(image.class_ids) for image in dataset.split("train"))

    warn_of_doubtful_data(dataset, batch=1)

    said = f"2 of {boxes} labels of train are polygons or oriented boxes: the box around each is taken"
    assert [line for line in caplog.messages if "polygon" in line] == [said]


@pytest.mark.parametrize("text", [None, "", "\n"], ids=["no label file", "empty", "blank line"])
def test_an_image_may_have_no_objects(root: Path, text: str | None) -> None:
    label = root / "labels/train/a.txt"
    label.unlink() if text is None else label.write_text(text)

    image = load_dataset(root / "data.yaml").split("train")[0]

    assert image.boxes_xyxy.shape == (0, 4)
    assert image.class_ids.shape == (0,)


@pytest.mark.parametrize("line", ["./images/train/a.jpg", "images/train/a.jpg", "{root}/images/train/a.jpg"])
def test_a_split_may_be_a_list_file(root: Path, line: str) -> None:
    (root / "train.txt").write_text(line.format(root=root) + "\n\n")
    (root / "data.yaml").write_text("train: train.txt\nnames: [scratch]\n")

    (image,) = load_dataset(root / "data.yaml", splits=["train"]).split("train")

    assert image.path == root.resolve() / "images/train/a.jpg"
    assert len(image.class_ids) == 1


def test_a_split_may_be_several_folders_and_lists(root: Path) -> None:
    (root / "more.txt").write_text("./images/val/b.jpg\n")
    (root / "data.yaml").write_text("train: [images/train, more.txt]\nnames: [scratch]\n")

    images = load_dataset(root / "data.yaml", splits=["train"]).split("train")

    assert [image.path.parent.name + "/" + image.path.name for image in images] == [
        "train/a.jpg",
        "train/b.jpg",
        "val/b.jpg",
    ]


def test_problems_of_all_files_and_splits_are_told_at_once(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("9 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n0 1.27 0.5 0.1 0.1\n")
    (root / "images/train/b.jpg").write_bytes(b"")
    (root / "labels/train/b.txt").write_text("nonsense\n")
    (root / "images/val/b.heic").write_bytes(b"")

    with pytest.raises(DataError) as caught:
        load_dataset("data.yaml")

    lines = str(caught.value).splitlines()
    assert lines[0] == "labels/train/a.txt:1: expected a class id from 0 to 2, got 9; data.yaml names 3 classes"
    assert lines[1] == (
        "labels/train/a.txt:3: expected x centre in [0, 1], got 1.27; coordinates are fractions of the image width"
    )
    assert lines[2].startswith("images/train/b.jpg: expected a JPEG, PNG, BMP, TIFF or WebP image, got an empty file")
    assert lines[3].startswith("labels/train/b.txt:1: expected 5 columns")
    assert lines[4].startswith("images/val/b.heic: expected .bmp .jpeg .jpg .png .tif .tiff .webp, got '.heic'")
    assert lines[5:] == ["data.yaml: the highest class id is 9: names needs at least 10 entries"]


@pytest.mark.parametrize(
    ("count", "last"),
    [(5, "labels/train/a.txt:5: "), (6, "and 1 more"), (19, "and 14 more")],
    ids=["5", "6", "19"],
)
def test_five_problems_are_shown_and_the_rest_counted(root: Path, count: int, last: str) -> None:
    (root / "labels/train/a.txt").write_text("0 7.5 0.5 0.1 0.1\n" * count)

    with pytest.raises(DataError) as caught:
        load_dataset("data.yaml")

    lines = str(caught.value).splitlines()
    assert len(lines) == min(count, 6)
    assert lines[-1].startswith(last)
    assert lines[-1] == last or count == 5


def test_the_highest_class_id_of_all_labels_is_told(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("3 0.5 0.5 0.1 0.1\n" * 6)
    (root / "labels/val/b.txt").write_text("4 0.5 0.5 0.1 0.1\n")

    with pytest.raises(DataError) as caught:
        load_dataset("data.yaml")

    assert str(caught.value).splitlines()[-1] == "data.yaml: the highest class id is 4: names needs at least 5 entries"


def _missing_image(root: Path) -> None:
    (root / "train.txt").write_text("./images/train/none.jpg\n")
    (root / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [a]\n")


def _empty_folder(root: Path) -> None:
    for image in (root / "images/train").iterdir():
        image.unlink()


def _unlabelled(root: Path) -> None:
    (root / "labels/train").rename(root / "labels/training")


def _truncated(root: Path) -> None:
    image = root / "images/train/a.jpg"
    image.write_bytes(image.read_bytes()[:-100])


BROKEN = {
    "list names a missing image": (
        _missing_image,
        "images/train/none.jpg: expected an image, got none that can be read",
    ),
    "no image in the folder": (_empty_folder, "data.yaml: split 'train': expected images, got none in "),
    "no label at all": (
        _unlabelled,
        "expected objects in split 'train', got 2 images without; labels are looked for in",
    ),
    "truncated image": (_truncated, "images/train/a.jpg: expected a whole image, got a broken or truncated one"),
    "empty list": (
        lambda root: (
            (root / "data.yaml").write_text("train: e.txt\nval: images/val\nnames: [a]\n")
            and (root / "e.txt").write_text("\n")
        ),
        "expected images, got none in ",
    ),
    "list of other bytes": (
        lambda root: (
            (root / "data.yaml").write_text("train: e.txt\nval: images/val\nnames: [a]\n")
            and (root / "e.txt").write_bytes("a.jpg".encode("utf-16"))
        ),
        "e.txt: expected a list of images",
    ),
    "folder missing": (
        lambda root: (root / "images/train").rename(root / "images/t"),
        "expected a folder or a .txt list",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_data_set_is_refused(root: Path, damage, message: str) -> None:
    load_dataset("data.yaml")  # sound before

    damage(root)

    with pytest.raises(DataError) as caught:
        load_dataset("data.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_the_splits_asked_for_are_loaded(root: Path) -> None:
    (root / "images/train/a.jpg").write_bytes(b"broken")

    dataset = load_dataset("data.yaml", splits=["val"])

    assert list(dataset.splits) == ["val"]
    with pytest.raises(DataError, match=r"expected images in split 'train', got val \(2 images\)"):
        dataset.split("train")


def test_an_absent_split_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"data\.yaml: expected a split 'test', got train, val"):
        load_dataset("data.yaml", splits=["val", "test"])


def test_a_split_of_no_data_yaml_is_wrong_usage(root: Path) -> None:
    with pytest.raises(UsageError, match="expected splits among train, val, test, got 'names'"):
        load_dataset("data.yaml", splits=["names"])


def test_an_empty_split_cannot_be_taken() -> None:
    with pytest.raises(DataError, match=r"expected images in split 'val', got val \(0 images\)"):
        Dataset(Path("data.yaml"), ("a",), {"val": ()}).split("val")


def test_classes_without_objects_are_named_and_not_refused(root: Path) -> None:
    dataset = load_dataset("data.yaml")

    assert dataset.count_objects("train") == {"scratch": 2, "pit": 0, "patch": 0}
    assert dataset.classes_without_objects("train") == ("pit", "patch")


def test_an_image_needs_a_class_for_each_box() -> None:
    with pytest.raises(UsageError, match="expected a class id for each box, got 1 for 2"):
        LabelledImage(Path("a.jpg"), (10, 10), np.zeros((2, 4), np.float32), np.zeros(1, np.int64))


def test_loading_imports_neither_torch_nor_ultralytics() -> None:
    code = "import sys, visionlora.data; print([m for m in ('torch', 'ultralytics') if m in sys.modules])"

    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_repository())

    assert output.stdout.strip() == "[]"


def _repository() -> Path:
    return Path(__file__).resolve().parents[2]
