"""All that `--data` may name gives the same data set."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from visionlora.data import content_hash, image_paths, load_dataset, read_description, to_coco
from visionlora.errors import DataError
from visionlora.isolation import cache_folder
from visionlora.tasks import TASKS


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setenv("VISIONLORA_CACHE", str(tmp_path_factory.mktemp("cache")))


def as_folder(root: Path) -> Path:
    return root


def as_yml(root: Path) -> Path:
    (root / "data.yaml").rename(root / "steel.yml")
    return root


def as_zip(root: Path) -> Path:
    return Path(shutil.make_archive(str(root / "made"), "zip", root))


def as_zip_of_a_folder(root: Path) -> Path:
    return Path(shutil.make_archive(str(root / "made"), "zip", root.parent, root.name))


def as_coco(root: Path, place: str = "annotations/instances_{}2017.json", val: str = "val") -> Path:
    dataset = load_dataset(root / "data.yaml")
    for split, word in (("train", "train"), ("val", val)):
        path = root / place.format(word)
        path.parent.mkdir(parents=True, exist_ok=True)
        truth = to_coco(dataset.split(split), dataset.names)
        for image in truth["images"] if path.parent.name == "annotations" else ():
            image["file_name"] = f"{split}/{image['file_name']}"
        path.write_text(json.dumps(truth))
        for labelled in dataset.split(split) if path.parent.name != "annotations" else ():
            shutil.copy(labelled.path, path.parent)
    (root / "data.yaml").unlink()
    return root / place.format("train")


def as_coco_folder(root: Path) -> Path:
    as_coco(root)
    return root


def as_roboflow(root: Path) -> Path:
    as_coco(root, "{}/_annotations.coco.json", val="valid")
    return root


def as_zip_of_coco(root: Path) -> Path:
    as_roboflow(root)
    return as_zip(root)


FORMS = (as_folder, as_yml, as_zip, as_zip_of_a_folder, as_coco, as_coco_folder, as_roboflow, as_zip_of_coco)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__[3:])
def test_each_form_is_the_same_data_set(root: Path, form) -> None:
    expected = load_dataset(root / "data.yaml")
    hashes = {split: content_hash(expected.split(split)) for split in ("train", "val")}

    data = form(root)
    found = load_dataset(data)

    assert found.names == expected.names
    assert {split: content_hash(found.split(split)) for split in ("train", "val")} == hashes
    assert [path.name for path in image_paths(data, "val")] == ["a.jpg", "b.jpg"]


def test_a_zip_is_unpacked_once(root: Path) -> None:
    data = as_zip(root)
    first = read_description(data).path
    written = first.stat().st_mtime_ns
    assert read_description(data).path == first and first.stat().st_mtime_ns == written
    assert [path.name[:5] for path in cache_folder().iterdir()] == ["data-"]


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "..\\out.txt", "C:\\out.txt", "a/../../out.txt"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(root: Path, name: str) -> None:
    with zipfile.ZipFile(root / "bad.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "out")
    with pytest.raises(DataError, match="files below the data set's folder"):
        load_dataset(root / "bad.zip")
    assert not cache_folder().exists() or not list(cache_folder().iterdir())


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    archive.writestr(info, "/etc")


def twice(archive: zipfile.ZipFile) -> None:
    archive.writestr("a/b", "1")
    archive.writestr(zipfile.ZipInfo("a//b"), "2")


def bomb(archive: zipfile.ZipFile) -> None:
    for index in range(2):
        archive.writestr(f"{index}.bmp", bytes(1 << 20), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("write", "words"),
    [(link, "below the data set"), (twice, "once"), (bomb, "unpack it yourself")],
    ids=["link", "twice", "bomb"],
)
def test_a_hostile_zip_is_refused(root: Path, write, words: str, monkeypatch) -> None:
    monkeypatch.setattr("visionlora.data.zipped._SMALL", 1 << 20)
    with zipfile.ZipFile(root / "bad.zip", "w") as archive:
        write(archive)
    with pytest.raises(DataError, match=words):
        load_dataset(root / "bad.zip")


def test_a_damaged_zip_is_refused_and_leaves_nothing(root: Path) -> None:
    data = as_zip(root)
    content = bytearray(data.read_bytes())
    middle = content.find(b"\xff\xd8\xff") + 400 if b"\xff\xd8\xff" in content else len(content) // 3
    content[middle : middle + 50] = bytes(50)
    data.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"expected a data set in a \.zip"):
        load_dataset(data)
    assert not list(cache_folder().iterdir())
    data.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"expected a data set in a \.zip"):
        load_dataset(data)


def test_coco_files_must_name_the_same_classes(root: Path) -> None:
    data = as_coco(root)
    val = root / "annotations/instances_val2017.json"
    val.write_text(val.read_text().replace("pit", "dent"))
    with pytest.raises(DataError, match=r"instances_val2017.json: expected the categories of .*instances_train2017"):
        load_dataset(data)


def test_a_coco_file_alone_has_no_val(root: Path) -> None:
    data = as_coco(root).rename(root / "all.json")
    with pytest.raises(DataError, match="expected a split 'val', got train; add a COCO file"):
        load_dataset(data)
    with pytest.raises(DataError, match="expected a folder of classes"):
        load_dataset(data, splits=("train",), task=TASKS["classify"])


def test_a_folder_of_coco_files_may_lack_train(root: Path) -> None:
    as_roboflow(root)
    shutil.rmtree(root / "train")
    assert list(read_description(root).splits) == ["val"]


def test_a_folder_with_several_yaml_files_is_refused(root: Path) -> None:
    (root / "data.yaml").rename(root / "a.yaml")
    shutil.copy(root / "a.yaml", root / "b.yaml")
    with pytest.raises(DataError, match=r"expected one data.yaml, got a.yaml, b.yaml; name the file"):
        load_dataset(root)


def test_a_path_may_count_from_the_working_directory(root: Path) -> None:
    (root / "configs").mkdir()
    text = (root / "data.yaml").read_text()
    (root / "configs/steel.yaml").write_text(f"path: ../{root.name}\n{text}")
    assert len(load_dataset("configs/steel.yaml").split("train")) == 2
