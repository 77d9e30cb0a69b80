from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from visionlora.data import load_dataset
from visionlora.data.description import read_description
from visionlora.data.preparing import SplitCounts, run_prepare
from visionlora.errors import DataError

SELECTED = {"1_7": "train", "4_5": "train", "2_1": "val"}
TINY = {"train": SplitCounts(2, {"buffalo": 1, "zebra": 1}), "val": SplitCounts(1, {"elephant": 1})}
LAYOUTS = {
    "one folder a kind": ("images/{split}/{species} ({number}).jpg", "labels/{split}/{species} ({number}).txt"),
    "one folder a split": ("{split}/images/{species} ({number}).jpg", "{split}/labels/{species} ({number}).txt"),
    "plain names": ("images/{split}/{species}_{number}.jpg", "labels/{split}/{species}_{number}.txt"),
}


@pytest.fixture
def script(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with a selection of three images."""
    script = load_script("african-wildlife")
    monkeypatch.setattr(script, "selection", lambda: SELECTED)
    return script


def _write(folder: Path, write_image, layout: str = "one folder a kind") -> Path:
    """Write the selected images and one more."""
    for seed, name in enumerate([*SELECTED, "3_376"]):
        species, number = name.split("_")
        image, label = (
            folder / place.format(split=SELECTED.get(name, "test"), species=species, number=number)
            for place in LAYOUTS[layout]
        )
        write_image(image, seed)
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{int(species) - 1} 0.5 0.5 0.5 0.5\n")
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_selected_images_are_taken_from_any_layout(
    script: ModuleType, tmp_path: Path, write_image, layout: str
) -> None:
    download = _write(tmp_path / "download", write_image, layout)

    arguments = [str(download), "--out", str(tmp_path / "out")]
    code = run_prepare(script.collect, script.FOLDER, expected=TINY, arguments=arguments)

    dataset = load_dataset(tmp_path / "out" / "data.yaml")
    assert code == 0
    assert [image.path.name for image in dataset.split("train")] == ["1_7.jpg", "4_5.jpg"]
    assert dataset.count_objects("val") == {"buffalo": 0, "elephant": 1, "rhino": 0, "zebra": 0}


def test_other_counts_are_refused_with_the_differences(
    script: ModuleType, tmp_path: Path, write_image, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(_write(tmp_path / "download", write_image)), "--out", str(tmp_path / "out")]

    code = run_prepare(script.collect, script.FOLDER, expected=script.EXPECTED, arguments=arguments)

    lines = capsys.readouterr().err.splitlines()
    assert code == 1
    assert "train: expected 400 images, got 2" in lines
    assert "val: expected 74 objects of class 'zebra', got 0" in lines
    assert not (tmp_path / "out" / "images").exists()


def test_missing_images_and_labels_are_all_named(script: ModuleType, tmp_path: Path, write_image) -> None:
    download = _write(tmp_path / "download", write_image)
    (download / "images/train/1 (7).jpg").unlink()
    (download / "labels/val/2 (1).txt").unlink()

    with pytest.raises(DataError) as caught:
        script.collect(download)

    first, second = str(caught.value).splitlines()
    assert "expected image 1_7 (or its name with brackets), got none" in first
    assert "2 (1).jpg: expected its labels at" in second


def test_the_selection_has_the_images_of_the_counts(load_script: Callable[[str], ModuleType]) -> None:
    script = load_script("african-wildlife")

    splits = Counter(script.selection().values())

    assert splits == {split: counts.images for split, counts in script.EXPECTED.items()} == {"train": 400, "val": 150}


def test_the_readme_and_the_data_yaml_agree_with_the_script(script: ModuleType, readme_counts) -> None:
    table = readme_counts("african-wildlife")

    train, val = script.EXPECTED["train"], script.EXPECTED["val"]
    assert read_description(script.FOLDER / "data.yaml").names == script.NAMES
    assert table.pop("images") == (train.images, val.images)
    assert table.pop("all objects") == (sum(train.objects.values()), sum(val.objects.values())) == (689, 257)
    assert table == {name: (train.objects[name], val.objects[name]) for name in script.NAMES}
