from __future__ import annotations

from pathlib import Path

import pytest

from visionlora.data.preparing import PreparedImage, SplitCounts, images_by_name, install, run_prepare
from visionlora.errors import DataError, OutputError

RIGHT = {"train": SplitCounts(2, {"scratch": 2, "pit": 0, "patch": 0})}


@pytest.fixture
def download(root: Path) -> list[PreparedImage]:
    return [
        PreparedImage(path, "train", f"new_{name}", "0 0.5 0.5 0.5 0.5\n")
        for name, path in images_by_name(root / "images/train").items()
    ]


def test_images_and_labels_are_put_into_place(root: Path, download: list[PreparedImage]) -> None:
    dataset = install(download, root / "out", data_yaml=root / "data.yaml", expected=RIGHT)

    assert [image.path.relative_to(root / "out").as_posix() for image in dataset.split("train")] == [
        "images/train/new_a.jpg",
        "images/train/new_b.jpg",
    ]
    assert sorted(path.name for path in (root / "out").iterdir()) == ["data.yaml", "images", "labels"]
    assert (root / "out/images/train/new_a.jpg").read_bytes() == (root / "images/train/a.jpg").read_bytes()


def test_wrong_counts_are_all_told_and_nothing_stays(root: Path, download: list[PreparedImage]) -> None:
    expected = {"train": SplitCounts(3, {"scratch": 2, "pit": 4, "patch": 0})}

    with pytest.raises(DataError) as caught:
        install(download, root / "out", data_yaml=root / "data.yaml", expected=expected)

    assert str(caught.value).splitlines() == [
        "train: expected 3 images, got 2",
        "train: expected 4 objects of class 'pit', got 0",
    ]
    assert list((root / "out").iterdir()) == []


def test_what_is_there_stays_without_overwrite(root: Path, download: list[PreparedImage]) -> None:
    with pytest.raises(OutputError, match="images: exists already"):
        install(download, root, data_yaml=root / "data.yaml", expected=RIGHT)

    assert (root / "images/val/a.jpg").exists()


def test_overwrite_replaces_what_is_there_only_if_the_counts_are_right(
    root: Path, download: list[PreparedImage]
) -> None:
    with pytest.raises(DataError):
        install(download, root, data_yaml=root / "data.yaml", expected={"train": SplitCounts(9, {})}, overwrite=True)
    assert (root / "images/val/a.jpg").exists()

    install(download, root, data_yaml=root / "data.yaml", expected=RIGHT, overwrite=True)

    assert sorted(path.name for path in (root / "images").rglob("*.jpg")) == ["new_a.jpg", "new_b.jpg"]


def test_a_folder_that_cannot_be_made_is_named(root: Path, download: list[PreparedImage]) -> None:
    (root / "file").write_text("")

    with pytest.raises(OutputError, match="file/out: cannot be written"):
        install(download, root / "file" / "out", data_yaml=root / "data.yaml", expected=RIGHT)


def test_images_are_found_by_name_anywhere(root: Path, write_image) -> None:
    write_image(root / "images/deep/er/c.png")
    write_image(root / "images/deep/.d.png")

    assert sorted(images_by_name(root / "images/deep")) == ["c"]


def test_two_images_of_one_name_are_refused(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"images/val/a\.jpg: expected one image of this name, got another, images/train/a\.jpg"
    ):
        images_by_name(root / "images")


@pytest.mark.parametrize(("folder", "message"), [("none", "got no folder"), ("labels", "expected images, got none")])
def test_a_download_without_images_is_refused(root: Path, folder: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        images_by_name(root / folder)


def test_a_script_says_what_is_there_or_what_is_wrong(
    root: Path, download: list[PreparedImage], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["download", "--out", str(root / "out")]

    assert run_prepare(lambda _: download, root, expected=RIGHT, arguments=arguments) == 0
    assert capsys.readouterr().out == "train: 2 images, 2 objects, as expected\n"

    assert run_prepare(lambda _: download, root, expected=RIGHT, arguments=arguments) == 1
    assert "out/images: exists already" in capsys.readouterr().err
