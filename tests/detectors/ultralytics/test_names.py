"""The class names of a checkpoint are those of its class outputs, however the file writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visionlora.detectors.ultralytics import load_base, set_classes
from visionlora.errors import ModelError
from visionlora.exporting import export
from visionlora.runtime import open_exported

NAMES = tuple(f"class {index}" for index in range(14))


@pytest.fixture
def named(checkpoint: Path, tmp_path: Path):
    """Return who writes the checkpoint with other names."""

    def write(names: Any) -> Path:
        content = torch.load(checkpoint, weights_only=False)
        content["model"].names = names
        torch.save(content, tmp_path / "named.pt")
        return tmp_path / "named.pt"

    return write


@pytest.mark.parametrize(
    "names",
    [
        list(NAMES),
        NAMES,
        {str(index): name for index, name in enumerate(NAMES)},
        dict(reversed([*enumerate(NAMES)])),
    ],
    ids=["a list", "a tuple", "text keys", "another order"],
)
def test_names_are_in_the_order_of_their_numbers(names, named) -> None:
    base = load_base(named(names))
    assert base.names == NAMES and base.model.names == dict(enumerate(NAMES))
    assert set_classes(base.model, NAMES) == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:2], "got 2 names for 14"),
        ((*NAMES, "one more"), "got 15 names for 14"),
        ((*NAMES[:13], NAMES[0]), "got 'class 0' more than once"),
        ((*NAMES[:13], "\ud800"), "name of class 13 to be text"),
        ((*NAMES[:13], 7), "name of class 13 to be text, got 7"),
        ((*NAMES[:13], " "), "name of class 13 to be text"),
        ({**dict(enumerate(NAMES[:13])), 14: "late"}, "got none for 13"),
        ({**dict(enumerate(NAMES)), "0": "again"}, "one name for class 0, got two"),
        ({}, "class names"),
        (None, "class names"),
        ("fourteen names", "class names"),
    ],
    ids=["fewer", "more", "twice", "no unicode", "a number", "blank", "a gap", "two keys", "none", "nothing", "a text"],
)
def test_names_that_do_not_fit_the_outputs_are_refused(names, message: str, named) -> None:
    with pytest.raises(ModelError, match=message):
        load_base(named(names))


def test_an_export_carries_the_names_of_the_outputs(named, tmp_path: Path) -> None:
    path = named({str(index): name for index, name in enumerate(NAMES)})
    exported = export(path, tmp_path / "model.onnx", imgsz=96)
    assert exported.names == NAMES == open_exported(exported.path, "onnxruntime").names
