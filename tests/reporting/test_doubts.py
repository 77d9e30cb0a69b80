"""What a signed report must not hide: pictures that were trained on, copies, empty pictures, broken networks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from visionlora.errors import ModelError
from visionlora.reporting.doubts import data_doubts, training_doubts
from visionlora.scoring.split import load_split
from visionlora.tasks import DETECT
from visionlora.workflows.evaluating import evaluate

LEAK = "Pictures that are in the split train too"


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Four different pictures in train, and four other ones in val."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "set" / kind / split).mkdir(parents=True)
        for index in range(4):
            picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "set" / "images" / split / f"{index}.png"), picture)
            (tmp_path / "set" / "labels" / split / f"{index}.txt").write_text("0 0.25 0.3125 0.3125 0.375\n")
    path = tmp_path / "set" / "data.yaml"
    path.write_text("train: images/train\nval: images/val\nnames: [scratch, pit]\n")
    return path


def doubts(data: Path, split: str = "val") -> tuple[str, ...]:
    domain = load_split(data, split, task=DETECT)
    return data_doubts(data, split, domain.images, domain.hashes)


def test_different_pictures_raise_no_doubt(splits) -> None:
    assert doubts(splits) == () and doubts(splits, "train") == ()


def test_copied_pictures_are_counted_and_named_by_both_names(splits) -> None:
    folder = splits.parent / "images"
    shutil.copy(folder / "train" / "2.png", folder / "val" / "1.png")

    assert doubts(splits) == (
        f"{LEAK}: 1 of 4, such as images/val/1.png (images/train/2.png there); a model that was trained on them looks "
        "better than it is.",
    )


def test_val_that_is_train_is_told(splits) -> None:
    splits.write_text(splits.read_text().replace("images/val", "images/train"))

    assert doubts(splits)[0].startswith(f"{LEAK}: 4 of 4, such as images/train/0.png; a model")


def test_picture_that_is_there_twice_is_told(splits) -> None:
    folder = splits.parent / "images" / "val"
    shutil.copy(folder / "0.png", folder / "3.png")

    (told,) = doubts(splits)

    assert told.startswith(
        "Pictures that are copies of others among them: 1 of 4, such as images/val/3.png of images/val/0"
    )


def test_training_pictures_that_are_not_here_are_no_error(splits) -> None:
    shutil.rmtree(splits.parent / "images" / "train")

    assert doubts(splits) == ()


@pytest.mark.parametrize(("suffix", "noise", "told"), [(".jpg", 0, 1), (".bmp", 0, 1), (".png", 3, 1), (".png", 40, 0)])
def test_pictures_of_one_colour_are_told(splits, suffix, noise, told) -> None:
    folder = splits.parent / "images" / "val"
    (folder / "0.png").unlink()
    dark = np.random.default_rng(1).integers(0, noise + 1, (480, 640, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / f"0{suffix}"), dark)

    found = doubts(splits)

    assert len(found) == told
    assert not told or found == (f"Pictures of one colour and nothing else: 1 of 4, such as images/val/0{suffix}.",)


def test_report_and_console_say_it(splits, onnx_model, tmp_path, capsys) -> None:
    from visionlora import cli

    splits.write_text(splits.read_text().replace("images/val", "images/train"))
    model = onnx_model(("scratch", "pit"), [(16, 20, 20, 24), (44, 40, 24, 20)])
    command = ["eval", "--model", str(model), "--data", str(splits), "--out", str(tmp_path / "out"), "--html"]

    assert cli.main(command) == 0
    assert f"Take care: {LEAK}: 4 of 4" in capsys.readouterr().out
    for name in ("report.json", "report.md", "report.html"):
        assert f"{LEAK}: 4 of 4" in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_model_whose_card_names_the_very_pictures_is_told_with_what_was_made_of_it(report) -> None:
    base, merged, int8, _ = report.rows
    adapter = replace(base, label="adapter", kind="adapter", sha256="b" * 64, parents={"adapter": "a" * 64})
    rows = (base, adapter, replace(merged, parents={"adapter": "a" * 64}), int8)
    known = replace(report, rows=rows)

    assert training_doubts(known, {"adapter": report.data.content_hash, "int8": "0" * 64, "base": None}) == (
        "`adapter` and `merged` were trained on these very pictures, as the card says: the scores flatter.",
    )
    assert training_doubts(known, {"adapter": "0" * 64}) == ()


@pytest.mark.slow
def test_adapter_judged_on_its_training_pictures_is_told(checkpoint, adapter, surface, tmp_path) -> None:
    elsewhere = tmp_path / "moved"  # the card knows the content, not the place or the name of the split
    for kind in ("images", "labels"):
        shutil.copytree(surface.parent / kind / "train", elsewhere / kind / "val")
    (elsewhere / "data.yaml").write_text(surface.read_text().replace("images/train", "images/val"))

    warnings = evaluate([f"adapter={checkpoint}+{adapter}"], elsewhere / "data.yaml", imgsz=96).warnings

    assert any(told.startswith("`adapter` was trained on these very pictures") for told in warnings)
    assert evaluate([f"adapter={checkpoint}+{adapter}"], surface, imgsz=96).warnings == ()


def test_network_that_gives_no_numbers_ends_the_evaluation_by_name(data, onnx_model) -> None:
    good, path = (onnx_model(("scratch", "pit"), [(16, 20, 20, 24)], file=f"{name}.onnx") for name in ("good", "bad"))
    model = onnx.load(path)
    prediction = numpy_helper.to_array(model.graph.initializer[0]).copy()
    prediction[0, 4, 3] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(prediction, "prediction"))
    onnx.save(model, path)

    with pytest.raises(ModelError, match="bad"):
        evaluate([f"good={good}", f"bad={path}"], data)


def test_network_that_does_not_look_is_told(splits, onnx_model) -> None:
    blind = onnx_model(("scratch", "pit"), file="blind.onnx")
    fixed = onnx_model(("scratch", "pit"), [(16, 20, 20, 24)], file="fixed.onnx")

    warnings = evaluate([f"blind={blind}", f"fixed={fixed}"], splits).warnings

    assert [told.split(",")[0] for told in warnings] == [
        "`blind` finds nothing on any of the 4 pictures",
        "`fixed` gives the same scores on all of the 4 pictures",
    ]
    assert all(told.endswith(": the file may be broken.") for told in warnings)


def test_networks_that_all_find_nothing_are_trained_too_little(splits, onnx_model) -> None:
    blind = onnx_model(("scratch", "pit"), file="blind.onnx")
    poor = onnx_model(("scratch", "pit"), [(2, 2, 3, 3)], file="poor.onnx")

    warnings = evaluate([f"float={poor}", f"int8={blind}"], splits).warnings

    assert warnings[1].startswith("`int8` finds nothing on any of the 4 pictures")
    assert all(told.endswith("it has learned too little yet: train for more epochs.") for told in warnings)
    assert evaluate([f"int8={blind}"], splits).warnings[0].endswith(": the file may be broken.")
