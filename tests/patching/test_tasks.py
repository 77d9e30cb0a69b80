"""Masks and keypoints are patched as boxes are; an adapter of another task is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.patching.conftest import IMAGE_SIZE, exported_merged, graph_bytes, random_adapter
from tests.turned import NAMES, POSE, TURNED, write_detector, write_turned
from visionlora.adapters import load_arrays, save_arrays
from visionlora.errors import AdapterError
from visionlora.exporting import export
from visionlora.patching import AdapterBank, patch
from visionlora.quantization import quantize
from visionlora.runtime import Detector
from visionlora.tasks import DETECT, Pose
from visionlora.vision.preprocess import read_image

SEGMENT = TURNED[0]


@pytest.fixture(scope="module")
def lines(checkpoint, tmp_path_factory) -> dict[str, tuple[Path, Path, Path]]:
    """Return a task's ONNX base, an adapter for it with other classes, and what the workstation makes of both."""
    made = {}
    for task in (SEGMENT, POSE):
        folder = tmp_path_factory.mktemp(task.name)
        base = write_detector(checkpoint, task, folder / "base.pt")
        adapter = random_adapter(base, folder / "adapter.safetensors", names=NAMES)
        exported = export(base, folder / "base.onnx", imgsz=IMAGE_SIZE).path
        made[task.name] = exported, adapter, exported_merged(base, adapter, folder)
    return made


@pytest.mark.parametrize("name", ["segment", "pose"])
def test_patched_graph_of_a_task_is_the_exported_one(name, lines, tmp_path) -> None:
    base, adapter, merged = lines[name]
    assert graph_bytes(patch(base, adapter, tmp_path / "line.onnx").path) == graph_bytes(merged)


def test_int8_graph_and_bank_of_masks_are_the_workstations(lines, tmp_path) -> None:
    base, adapter, merged = lines["segment"]
    data = write_turned(tmp_path / "data", SEGMENT)
    int8 = quantize(merged, data, tmp_path / "model.int8.onnx", images=4, adapter=adapter).path
    made = patch(base, adapter, tmp_path / "line.int8.onnx", int8=True).path
    assert graph_bytes(made) == graph_bytes(int8)

    picture = read_image(data.parent / "images/val/000.png")
    for detector, file in (
        (AdapterBank(base).add("line", adapter), merged),
        (AdapterBank(base, int8=True).add("line", adapter), int8),
    ):
        got, expected = (each.predict(picture, confidence=0.001) for each in (detector, Detector(file)))
        assert len(got.masks) > 0
        assert got.to_dict()["detections"] == expected.to_dict()["detections"]


@pytest.mark.parametrize("task", [DETECT, SEGMENT, Pose(keypoints=5, dims=2)], ids=lambda task: str(task))
def test_an_adapter_of_another_task_is_refused(task, lines, tmp_path) -> None:
    base, adapter, _ = lines["pose"]
    loaded, lie = load_arrays(adapter), tmp_path / "lie.safetensors"
    card = dataclasses.replace(loaded.card, task=task.name, task_settings=task.settings())
    save_arrays(dataclasses.replace(loaded, card=card), lie)
    message = rf"lie\.safetensors: the adapter is of task {task.name}.*base\.onnx of pose.*merge and export it"
    with pytest.raises(AdapterError, match=message):
        patch(base, lie, tmp_path / "line.onnx")
    with pytest.raises(AdapterError, match=message):
        AdapterBank(base).add("line", lie)
    assert list(tmp_path.iterdir()) == [lie]
