from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from visionlora.data import load_dataset
from visionlora.data.description import read_description
from visionlora.data.preparing import SplitCounts, run_prepare
from visionlora.errors import DataError

NAMES = ["crazing_1", "crazing_240", "crazing_241", "rolled-in_scale_7", "pitted_surface_300"]
VOC = "<annotation>{}</annotation>"
OBJECT = "<object><name>{}</name><bndbox><xmin>2</xmin><ymin>{}</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>"
TINY = {
    "train": SplitCounts(3, {"crazing": 2, "rolled-in_scale": 1, "scratches": 3}),
    "val": SplitCounts(2, {"crazing": 1, "pitted_surface": 1, "scratches": 2}),
}


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("neu-det")


def _write_voc(folder: Path, write_image, layout: str = "original") -> Path:
    """Each image shows its own defect and a scratch, the own one annotated twice."""
    for seed, name in enumerate(NAMES):
        kind = name.rsplit("_", 1)[0]
        image, annotation = {
            "original": (f"IMAGES/{name}.jpg", f"ANNOTATIONS/{name}.xml"),
            "sorted": (f"validation/images/{kind}/{name}.jpg", f"train/annotations/{name}.xml"),
        }[layout]
        write_image(folder / image, seed)
        (folder / annotation).parent.mkdir(parents=True, exist_ok=True)
        own = OBJECT.format(kind, 3)
        (folder / annotation).write_text(VOC.format(own + OBJECT.format("scratches", 4) + own))
    return folder


def _write_yolo(folder: Path, script: ModuleType, write_image) -> Path:
    for seed, name in enumerate(NAMES):
        class_id = script.NAMES.index(name.rsplit("_", 1)[0])
        write_image(folder / f"images/all/{name}.jpg", seed)
        (folder / "labels/all").mkdir(parents=True, exist_ok=True)
        (folder / f"labels/all/{name}.txt").write_text(f"{class_id} 0.55 0.575 0.9 0.85\n5 0.55 0.6 0.9 0.8\n")
    return folder


@pytest.mark.parametrize("layout", ["original", "sorted", "yolo"])
def test_each_layout_gives_the_same_split_and_boxes(
    script: ModuleType, tmp_path: Path, write_image, layout: str
) -> None:
    download = tmp_path / "download"
    if layout == "yolo":
        _write_yolo(download, script, write_image)
    else:
        _write_voc(download, write_image, layout)

    arguments = [str(download), "--out", str(tmp_path / "out")]
    code = run_prepare(script.collect, script.FOLDER, expected=TINY, arguments=arguments)

    dataset = load_dataset(tmp_path / "out" / "data.yaml")
    assert code == 0
    assert [image.path.stem for image in dataset.split("train")] == ["crazing_1", "crazing_240", "rolled-in_scale_7"]
    assert [image.path.stem for image in dataset.split("val")] == ["crazing_241", "pitted_surface_300"]
    assert dataset.split("train")[2].boxes_xyxy.round(4).tolist() == [[2, 3, 20, 20], [2, 4, 20, 20]]
    assert dataset.split("train")[2].class_ids.tolist() == [4, 5]


def test_a_download_with_other_counts_is_refused_with_the_differences(tmp_path: Path, write_image) -> None:
    repository = Path(__file__).resolve().parents[2]
    command = [sys.executable, "datasets/neu-det/prepare.py", str(_write_voc(tmp_path / "download", write_image))]
    environment = {"PYTHONPATH": str(repository), "PATH": ""}

    run = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=repository,
        env=environment,
        check=False,
    )

    assert run.returncode == 1
    assert run.stdout == ""
    assert "train: expected 1440 images, got 3" in run.stderr.splitlines()
    assert "val: expected 121 objects of class 'scratches', got 2" in run.stderr.splitlines()
    assert not (tmp_path / "out" / "images").exists()


def test_all_wrong_files_of_a_download_are_told_at_once(script: ModuleType, tmp_path: Path, write_image) -> None:
    download = _write_voc(tmp_path / "download", write_image)
    write_image(download / "IMAGES" / "holiday.jpg", 9)
    (download / "ANNOTATIONS" / "crazing_1.xml").unlink()
    (download / "ANNOTATIONS" / "crazing_240.xml").write_text(VOC.format(OBJECT.format("dent", 3)))
    (download / "ANNOTATIONS" / "crazing_241.xml").write_text(
        VOC.format(OBJECT.format("crazing", 3).replace("20", "21"))
    )

    with pytest.raises(DataError) as caught:
        script.collect(download)

    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "crazing_1.jpg: expected crazing_1.xml or" in lines[0]
    assert "crazing_240.xml: object 1: expected a class among crazing," in lines[1]
    assert "crazing_241.xml: box 1: expected 0 <= left < right <= 20" in lines[2]
    assert lines[3].startswith("holiday: expected a name such as crazing_1, got another")


def test_the_readme_and_the_data_yaml_agree_with_the_script(script: ModuleType, readme_counts) -> None:
    table = readme_counts("neu-det")

    train, val = script.EXPECTED["train"], script.EXPECTED["val"]
    assert read_description(script.FOLDER / "data.yaml").names == script.NAMES
    assert table.pop("images") == (train.images, val.images) == (1440, 360)
    assert table.pop("all objects") == (sum(train.objects.values()), sum(val.objects.values())) == (3332, 854)
    assert table == {name: (train.objects[name], val.objects[name]) for name in script.NAMES}
