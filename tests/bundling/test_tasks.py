"""Bundles of masks, keypoints and oriented boxes: the self-test looks at them too, within what the manifest allows."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import visionlora as vl
from tests.bundling.test_bundle import run
from tests.mutants import damaged_json
from tests.tiny_onnx import write_detector
from visionlora.bundling.manifest import read_manifest
from visionlora.errors import ModelError, VisionLoraError
from visionlora.tasks import OrientedBoxes, Pose, Segment, Task
from visionlora.vision.preprocess import read_image

TASKS: tuple[Task, ...] = (Segment(coefficients=8), Pose(keypoints=4, dims=2), OrientedBoxes())
FIELDS = {"segment": "segmentation", "pose": "keypoints", "obb": "obb"}


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.name)
def made(request, tmp_path_factory) -> tuple[Task, Path]:
    """Return a task and the folder of a bundle of a tiny detector."""
    folder = tmp_path_factory.mktemp(request.param.name)
    model = write_detector(folder / "model.onnx", task=request.param)
    return request.param, vl.bundle(model, folder / "line").path


def runner(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("detect", folder / "detect.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        spec.loader.exec_module(module)
    return module


def test_device_says_ok_and_an_opened_bundle_finds_the_same(made) -> None:
    task, folder = made
    assert run(folder, "--self-test").stdout == "OK\n"
    opened = vl.open_bundle(folder)
    test = opened.manifest.selftest
    found = opened.detector().predict(read_image(folder / test.picture), confidence=test.confidence)
    expected = json.loads((folder / "manifest.json").read_bytes())["selftest"]["detections"]
    assert found.to_dict()["detections"][:10] == expected and expected
    assert all(FIELDS[task.name] in one for one in expected)
    assert read_manifest(opened.manifest.to_json().encode(), "a").to_json() == opened.manifest.to_json()


def test_what_differs_in_a_mask_keypoints_or_an_angle_is_told(made, tmp_path) -> None:
    task, folder = made
    copied = Path(shutil.copytree(folder, tmp_path / "line"))
    manifest = json.loads((copied / "manifest.json").read_bytes())
    detection = manifest["selftest"]["detections"][0]
    if task.name == "segment":
        size_wh = detection["segmentation"]["size"][::-1]
        detection["segmentation"] = runner(folder).to_rle(0, 0, np.ones((2, 2), bool), size_wh)
    elif task.name == "pose":
        detection["keypoints"] = [[x + 5, y, visible] for x, y, visible in detection["keypoints"]]
    else:
        detection["obb"][2:] = [40, 10, (detection["obb"][4] + 0.7) % 1.5]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    done = run(copied, "--self-test")
    words = {"segment": "a mask with an IoU of 0.0", "pose": "of the box's side off", "obb": "an angle of "}
    assert done.returncode == 1 and done.stdout.count("expected ") == 1 and words[task.name] in done.stdout


def test_manifest_of_another_task_is_refused_here_and_on_the_device(made, tmp_path) -> None:
    task, folder = made
    copied = Path(shutil.copytree(folder, tmp_path / "line"))
    manifest = json.loads((copied / "manifest.json").read_bytes())
    for lie in ({"task": "detect", "task_settings": {}}, {"task": "pose", "task_settings": {"keypoints": 9}}):
        (copied / "manifest.json").write_text(json.dumps({**manifest, **lie}))
        with pytest.raises(ModelError, match=r"says of the model: task .*the model itself: "):
            vl.open_bundle(copied)
    assert f"expected another task, the model is of {task.name} with " in run(copied, "--self-test").stdout


def test_damaged_expectations_end_in_an_error_of_ours(made, tmp_path, monkeypatch, capsys) -> None:
    copied = Path(shutil.copytree(made[1], tmp_path / "line"))
    script = runner(copied)
    monkeypatch.setattr("sys.argv", ["detect.py", "--self-test", str(copied)])
    manifest = json.loads((copied / "manifest.json").read_bytes())
    for mutant in damaged_json(manifest["selftest"]["detections"][0], 30):
        manifest["selftest"]["detections"] = [json.loads(mutant)]
        (copied / "manifest.json").write_text(json.dumps(manifest))
        with suppress(VisionLoraError):
            vl.open_bundle(copied)
        assert script.main() in (0, 1)
        told = capsys.readouterr()
        assert told.out or told.err.startswith("error: ")


BOX = {"name": "a", "class_id": 0, "score": 0.5, "box_xyxy": [10, 10, 50, 30]}
KEYPOINTS = [[20, 20, 0.9], [40, 20, 0.5], [0, 0, 0.4]]


@pytest.mark.parametrize(
    ("wanted", "found", "tolerance", "differs_by"),
    [
        ({"keypoints": KEYPOINTS}, {"keypoints": [[23, 20, 1], [40, 15, 1], [90, 90, 1]]}, "keypoint_tolerance", 0.1),
        ({"obb": [30, 20, 40, 20, 0.1]}, {"obb": [30, 20, 40, 20, 0.3]}, "angle_tolerance", 0.1),
        ({"obb": [30, 20, 40, 20, 0.02]}, {"obb": [30, 20, 20, 40, np.pi / 2 - 0.08]}, "angle_tolerance", 0.05),
        ({"obb": [30, 20, 40, 40, 0.1]}, {"obb": [30, 20, 40, 40, 0.8]}, "angle_tolerance", 0),
    ],
    ids=["keypoints that are seen", "an angle", "an angle on the other side", "a square has none"],
)
def test_differences_are_those_that_a_hand_computes(made, wanted, found, tolerance, differs_by) -> None:
    difference = runner(made[1]).difference
    for allowed, told in ((differs_by + 0.001, False), (differs_by - 0.001, True)):
        test = {"box_tolerance": 1, "score_tolerance": 0.1, tolerance: allowed}
        distance, text = difference({**BOX, **wanted}, {**BOX, **found}, test)
        assert distance == 0 and bool(text) == told


def test_iou_of_a_mask_is_held_to_what_is_allowed(made) -> None:
    script = runner(made[1])
    whole, part = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    whole[5:15, 10:20], part[5:13, 10:20] = True, True
    masks = [{**BOX, "segmentation": script.to_rle(0, 0, mask, (40, 30))} for mask in (whole, part)]
    for allowed, told in ((0.21, ""), (0.19, "a mask with an IoU of 0.80")):
        test = {"box_tolerance": 1, "score_tolerance": 0.1, "mask_tolerance": allowed}
        assert script.difference(*masks, test) == (0, told)
