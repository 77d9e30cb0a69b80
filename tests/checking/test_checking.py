from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.checking.conftest import write_noise
from visionlora import cli
from visionlora.checking import DataCheck, check_data, pictures
from visionlora.checking.duplicates import NEAR, near_pairs
from visionlora.checking.findings import Finding
from visionlora.data import load_dataset, to_coco
from visionlora.errors import DataError, OutputError, UsageError

SMALL_SET = {"few pictures"}  # what any set of so few pictures is told


def told(found: DataCheck) -> dict[str, Finding]:
    return {finding.kind: finding for finding in found.findings if finding.kind not in SMALL_SET}


def test_a_sound_data_set_has_no_findings(root: Path) -> None:
    found = check_data("data.yaml", imgsz=64)
    assert told(found) == {} and found.ok
    assert found.splits["train"].objects == {"scratch": 1, "pit": 1}
    assert found.splits["val"].short_sides["under 32"] == 2  # 32 x 24 pixels


def test_all_errors_are_told_at_once_with_their_lines(root: Path) -> None:
    (root / "images/train/a.jpg").write_bytes(b"")
    whole = (root / "images/val/a.jpg").read_bytes()
    (root / "images/val/a.jpg").write_bytes(whole[: len(whole) // 2])
    lines = ["0 0.5 0.5 0.5 0.5", "2 .5 .5 .5 .5", "0 1.5 .5 .5 .5", "0 .5 .5 0 .5", "0 .5 .5 .5", "0 a .5 .5 .5"]
    (root / "labels/train/b.txt").write_text("\n".join(lines))

    errors = check_data("data.yaml").of("error")

    assert [error.message.split(" ")[0] for error in errors] == [
        "images/train/a.jpg:",
        *(f"labels/train/b.txt:{line}:" for line in range(2, 7)),
        "images/val/a.jpg:",
    ]
    assert [error.kind for error in errors] == ["picture", *["label"] * 5, "picture"]


def change_repeat(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .5 .5 .5 .5\n\n0 .5 .5 .5 .5\n")


def change_twice(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .5 .5 .5 .5\n0 .5 .5 .5 .49\n")


def change_classes(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .5 .5 .5 .5\n1 .5 .5 .5 .5\n")


def change_thin(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .5 .5 .02 .5\n")


def change_outside(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .9 .5 .5 .5\n")


def change_orphan(root: Path) -> None:
    (root / "labels/train/c.txt").write_text("0 .5 .5 .5 .5\n")
    (root / "labels/train/classes.txt").write_text("scratch\npit\n")


def change_unlabelled(root: Path) -> None:
    write_noise(root / "images/train/c.jpg", 5)


def change_gif(root: Path) -> None:
    (root / "images/train/c.gif").write_bytes(b"GIF89a")


def change_exif(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(root / "images/train/a.jpg") as image:
        image.save(root / "images/train/a.jpg", exif=exif)


def change_suffix(root: Path) -> None:
    (root / "images/train/a.jpg").rename(root / "images/train/a.JPG")


def change_stem(root: Path) -> None:
    write_noise(root / "images/train/a.png", 5)


def change_copy(root: Path) -> None:
    shutil.copy(root / "images/train/a.jpg", root / "images/val/a.jpg")


def change_compressed(root: Path) -> None:
    cv2.imwrite("images/train/b.jpg", cv2.imread("images/train/a.jpg"), [cv2.IMWRITE_JPEG_QUALITY, 40])


def change_scaled(root: Path) -> None:
    cv2.imwrite("images/val/b.jpg", cv2.resize(cv2.imread("images/train/a.jpg"), (96, 72)))


def change_polygons(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .1 .1 .5 .2 .4 .6 .1 .5 .1 .2\n0 .1 .1 .5 .2 .3 .9\n")


def change_oriented(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .3 .1 .5 .3 .3 .5 .1 .3\n")


def change_pose(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .5 .5 .4 .4 .4 .4 .6 .6 .5 .4\n")


CHANGES = [
    (change_repeat, "repeated line", "labels/train/a.txt:3"),
    (change_twice, "duplicate box", "labels/train/a.txt:2"),
    (change_classes, "two classes", "labels/train/a.txt:2"),
    (change_thin, "degenerate box", "labels/train/a.txt:1"),
    (change_outside, "outside", "labels/train/a.txt:1"),
    (change_orphan, "no picture", "labels/train/c.txt"),
    (change_unlabelled, "no label file", "images/train/c.jpg"),
    (change_gif, "ignored file", "images/train/c.gif"),
    (change_exif, "EXIF", "images/train/a.jpg"),
    (change_suffix, "suffix", ""),
    (change_stem, "name", "images/train/a.jpg = images/train/a.png"),
    (change_copy, "duplicate across splits", "images/train/a.jpg = images/val/a.jpg"),
    (change_compressed, "near duplicate", "images/train/a.jpg = images/train/b.jpg"),
    (change_scaled, "near duplicate across splits", "images/train/a.jpg = images/val/b.jpg"),
    (change_polygons, "other task", "labels/train/a.txt"),
    (change_oriented, "other task", "labels/train/a.txt"),
    (change_pose, "other task", "labels/train/a.txt"),
]


@pytest.mark.parametrize(("change", "kind", "place"), CHANGES, ids=[change.__name__[7:] for change, _, _ in CHANGES])
def test_what_is_doubtful_is_told_alone_with_its_place(root: Path, change, kind: str, place: str) -> None:
    change(root)
    found = check_data("data.yaml", imgsz=2048)
    findings = told(found)
    assert set(findings) == {kind} and found.ok
    assert findings[kind].places == ((place,) if place else ())


@pytest.mark.parametrize(
    ("change", "words"),
    [(change_polygons, "--task segment"), (change_oriented, "--task obb"), (change_pose, "kpt_shape")],
    ids=["polygons", "oriented boxes", "keypoints"],
)
def test_labels_of_another_task_are_named_as_such(root: Path, change, words: str) -> None:
    change(root)
    assert words in told(check_data("data.yaml"))["other task"].message


def test_keypoints_with_visibility_are_one_error_a_file(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .5 .5 .4 .4 .4 .4 2 .6 .6 1\n" * 3)
    (error,) = check_data("data.yaml").of("error")
    assert error.message.startswith("labels/train/a.txt: expected boxes") and "kpt_shape: [2, 3]" in error.message


def test_small_boxes_are_told_with_what_to_do(root: Path) -> None:
    (root / "labels/train/a.txt").write_text("0 .5 .5 .1 .1\n")
    message = told(check_data("data.yaml", imgsz=64))["small boxes"].message
    assert message == "25 % of boxes are under 8 px at 64: use 128 or tiles"


def test_counts_are_judged(root: Path) -> None:
    lines = [f"0 {0.1 + 0.03 * index:.2f} .5 .1 .9\n" for index in range(25)]
    (root / "labels/train/a.txt").write_text("".join(lines))
    (root / "labels/val/b.txt").write_text("")
    found = {finding.kind: finding.message for finding in check_data("data.yaml").findings}
    assert found["imbalance"].startswith("train has 25 times as many objects of scratch (25) as of pit (1)")
    assert found["missing class"] == "val shows no object of 1 classes: pit"
    assert "scratch 1, pit 1;" in found["few pictures"]


def test_a_split_that_is_not_there_is_an_error(root: Path) -> None:
    (root / "data.yaml").write_text("train: images/train\nnames: [scratch, pit]\n")
    (error,) = check_data("data.yaml").of("error")
    assert "expected a split 'val'" in error.message


def test_without_imagehash_the_rest_is_checked_and_it_says_so(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    change_copy(root)
    findings = told(check_data("data.yaml"))
    assert "visionlora[data]" in findings["near duplicate"].message and "duplicate across splits" in findings


def test_a_folder_of_classes_is_checked(root: Path) -> None:
    for index, place in enumerate(("train/x/1", "train/y/2", "val/x/3", "val/z/4")):
        write_noise(root / "sorted" / f"{place}.jpg", index)
    found = check_data("sorted")
    assert (found.task, found.names) == ("classify", ("x", "y"))
    assert [error.message.split(":")[0] for error in found.of("error")] == ["sorted/val/z"]


def test_the_command_exits_by_errors_alone_and_writes_json(root: Path, capsys) -> None:
    assert cli.main(["data", "check", "data.yaml", "--json", "check.json"]) == 0
    (root / "labels/train/a.txt").write_text("7 .5 .5 .5 .5\n")
    assert cli.main(["data", "check", "data.yaml", "--json", "check.json", "--overwrite"]) == 1
    assert "error: labels/train/a.txt:1: expected a class id from 0 to 1, got 7" in capsys.readouterr().out
    kept = json.loads((root / "check.json").read_text())
    assert kept["counts"]["error"] == 1 and not kept["ok"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"task": "count"}, UsageError),
        ({"imgsz": 0}, UsageError),
        ({"task": "pose"}, DataError),
        ({"task": "classify"}, DataError),
        ({"json": "data.yaml"}, OutputError),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_wrong_usage_is_refused(root: Path, arguments, error) -> None:
    with pytest.raises(error):
        check_data("data.yaml", **arguments)


@settings(max_examples=25)
@given(arrays(bool, (6, 256)), st.lists(st.integers(0, 255), max_size=30, unique=True))
def test_near_pairs_are_those_whose_bits_differ_in_few(bits, flipped) -> None:
    bits = np.concatenate([bits, bits[:1]])
    bits[-1, flipped] ^= True
    expected = {(a, b) for a in range(7) for b in range(a + 1, 7) if np.count_nonzero(bits[a] != bits[b]) <= NEAR * 256}
    assert set(near_pairs(bits)) == expected


def test_coco_files_and_zips_are_checked(root: Path) -> None:
    dataset = load_dataset("data.yaml")
    for split in ("train", "val"):
        truth = to_coco(dataset.split(split), dataset.names)
        truth["annotations"][0]["bbox"] = [0, 0, 64, 1] if split == "train" else [0, 0, 0, 9]
        (root / f"images/{split}/_annotations.coco.json").write_text(json.dumps(truth))
    shutil.make_archive("made", "zip", root / "images")

    found = check_data("made.zip")

    (error,) = found.of("error")
    assert "_annotations.coco.json: annotation 1 of a.jpg: expected bbox" in error.message
    assert told(found)["degenerate box"].places[0].endswith("train/a.jpg")
    assert found.splits["train"].objects == {"scratch": 1, "pit": 1}
