"""Reading and writing torchvision's detectors, and what they find, against torchvision's own `forward`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

import visionlora as vl
from tests.detectors.torchvision.conftest import CATEGORIES, DETECTORS, FCOS, RETINANET, SIZE, base_of, random_detector
from visionlora.detectors import family_of
from visionlora.detectors.torchvision.checkpoint import _EPS_0, load_base, pack_checkpoint
from visionlora.detectors.torchvision.classes import COCO
from visionlora.detectors.torchvision.family import TORCHVISION
from visionlora.detectors.torchvision.network import RawDetector, raw_prediction
from visionlora.errors import ModelError
from visionlora.models import open_network
from visionlora.tasks import DETECT


@torch.no_grad()
@pytest.mark.parametrize("name", DETECTORS)
def test_detections_are_those_of_torchvision(name: str) -> None:
    """As sets: of equal scores either may be the first."""
    model, images = random_detector(name), torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    model.transform.min_size, model.transform.max_size, model.transform.fixed_size = (SIZE,), SIZE, (SIZE, SIZE)
    model.score_thresh, model.nms_thresh, model.topk_candidates, model.detections_per_img = 0.0, 0.6, 10**6, 10**6
    (raw,) = raw_prediction(model, images)
    torch.testing.assert_close(RawDetector(model)(images)[0], raw, atol=2e-3, rtol=1e-4)
    for prediction, own in zip(raw.numpy(), model(list(images)), strict=True):
        found = DETECT.decode([prediction], nms=True, confidence=0.0, iou_threshold=0.6, max_detections=10**6)
        wanted = {1: 0, 3: 1, 4: 2}  # of CATEGORIES, those that are classes
        for label, class_id in wanted.items():
            theirs, ours = own["labels"] == label, found.class_ids == class_id
            expected = torch.cat([own["boxes"][theirs], own["scores"][theirs, None]], 1).numpy()
            got = np.concatenate([found.boxes_xyxy[ours], found.scores[ours, None]], 1)
            expected, got = (each[each[:, 4] > np.quantile(expected[:, 4], 0.5)] for each in (expected, got))
            assert len(got) == len(expected) > 5
            distance = np.abs(got[:, None] - expected[None]).max(2)
            assert max(distance.min(0).max(), distance.min(1).max()) < 1e-4


@pytest.mark.parametrize("name", DETECTORS)
def test_a_checkpoint_is_read_as_it_was_and_its_state_is_torchvisions(name: str, checkpoints) -> None:
    base, model = load_base(checkpoints(name)), random_detector(name)
    assert (base.names, base.image_size, base.model.categories) == (("one", "crack", "three"), SIZE, CATEGORIES)
    assert base.fingerprint == base_of(model, base.path).fingerprint and family_of(base.path) is TORCHVISION
    entries = torch.load(base.path, weights_only=True)
    assert entries["architecture"] == name
    if hasattr(detection, name):
        own = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=len(entries["categories"]))
        own.load_state_dict(entries["state_dict"])


def test_a_state_dict_alone_is_recognised_and_has_the_classes_of_coco(tmp_path: Path) -> None:
    model = random_detector(FCOS, COCO)
    state = {name: each for name, each in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "model.pth")  # as torchvision trains
    torch.save(state, tmp_path / "state.pt")  # with frozen norms, which have no counters
    torch.save({f"module.{name}": each for name, each in state.items()}, tmp_path / "parallel.pt")
    for path in (tmp_path / "model.pth", tmp_path / "state.pt", tmp_path / "parallel.pt"):
        base = family_of(path).load(path)
        assert (len(base.names), base.names[:2], base.names[-1]) == (80, ("person", "bicycle"), "toothbrush")
        assert base.image_size == 800 and raw_prediction(base.model, torch.rand(1, 3, 64, 64))[0].shape[1] == 84
    assert vl.inspect(tmp_path / "model.pth").kind == "checkpoint"


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    for path in (tmp_path / "mine.pth", tmp_path / "mine.pt"):
        torch.save(random_detector(RETINANET).state_dict(), path)
        assert family_of(path).load(path).names == ("class1", "class2", "class3", "class4")
        assert vl.inspect(path).kind == "checkpoint"


def test_the_published_file_whose_norms_have_no_eps_is_read_so(tmp_path: Path) -> None:
    model, images = random_detector(RETINANET), torch.rand(1, 3, 64, 64)
    torch.save(model.state_dict(), tmp_path / _EPS_0)
    base = load_base(tmp_path / _EPS_0)
    detection._utils.overwrite_eps(model, 0.0)  # torchvision's own: of frozen norms alone
    for module in model.modules():
        assert not isinstance(module, FrozenBatchNorm2d)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.0
    with torch.no_grad():
        assert torch.equal(raw_prediction(base.model, images)[0][:, :4], raw_prediction(model, images)[0][:, :4])
    (tmp_path / "again.pt").write_bytes(pack_checkpoint(base, image_size=64, card={}))
    assert next(m.eps for m in load_base(tmp_path / "again.pt").model.modules() if hasattr(m, "eps")) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": ["one", "two"]}, "expected 5 categories, __background__ the first"),
        ({"categories": ["__background__", "a", "a", "b", "c"]}, "others that differ"),
        ({"categories": 5}, "expected categories to be a list"),
        ({"architecture": "retinanet_resnet18_fpn"}, "its tensors are those of fcos_resnet18_fpn_64"),
        ({"architecture": "yolo"}, "expected fcos_BACKBONE_fpn"),
        ({"image_size": "large"}, "expected image_size to be pixels"),
        ({"norm_eps": 2}, "expected norm_eps"),
        ({"visionlora": "text"}, "expected visionlora's card"),
        ({"state_dict": {"backbone.body.conv1.weight": 1, "head.x": 2}}, "got other content"),
    ],
)
def test_a_damaged_checkpoint_is_an_error_that_names_it(change, message: str, checkpoints, tmp_path: Path) -> None:
    entries = torch.load(checkpoints(FCOS), weights_only=True)
    torch.save({**entries, **change}, tmp_path / "broken.pt")
    with pytest.raises(ModelError, match=rf"broken\.pt: cannot be read as a torchvision checkpoint: .*{message}"):
        load_base(tmp_path / "broken.pt")


def test_a_tensor_that_is_missing_or_of_another_shape_is_an_error(checkpoints, tmp_path: Path) -> None:
    entries = torch.load(checkpoints(FCOS), weights_only=True)
    box = "head.regression_head.bbox_reg.bias"
    for change, message in (
        (lambda state: state.pop(box), rf"1 missing \({box}\)"),
        (lambda state: state.update({"head.extra": torch.zeros(1)}), r"1 unknown \(head\.extra\)"),
        (lambda state: state.update({box: torch.zeros(7)}), rf"1 of another shape \({box}\)"),
        (lambda state: state[box].fill_(torch.nan), "values that are no numbers"),
    ):
        broken = {**entries, "state_dict": {name: each.clone() for name, each in entries["state_dict"].items()}}
        change(broken["state_dict"])
        torch.save(broken, tmp_path / "broken.pt")
        with pytest.raises(ModelError, match=rf"broken\.pt: .*{message}"):
            load_base(tmp_path / "broken.pt")
    torch.save({**entries, "transform": torch.nn.ReLU()}, tmp_path / "code.pt")
    with pytest.raises(ModelError, match=r"code\.pt: refused: .*, got torch\.nn\.\S+ReLU, which is code; save"):
        load_base(tmp_path / "code.pt")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ModelError, match=r"empty\.pth: .*: the file ends too early"):
        load_base(tmp_path / "empty.pth")
    (tmp_path / "cut.pth").write_bytes(checkpoints(FCOS).read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"cut\.pth: cannot be read"):
        load_base(tmp_path / "cut.pth")


def test_a_file_of_neither_family_is_refused_by_both(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"got weights without the model.*; or expected a torchvision checkpoint"):
        family_of(tmp_path / "other.pt")


def test_names_of_published_weights_are_known_and_others_refused(tmp_path: Path, monkeypatch) -> None:
    assert family_of("torchvision:fcos_resnet50_fpn") is TORCHVISION
    for name, message in (
        ("fasterrcnn_resnet50_fpn", "expected fcos_BACKBONE_fpn"),
        ("fcos_resnet18_fpn", "publishes no weights called fcos_resnet18_fpn"),
    ):
        with pytest.raises(ModelError, match=message):
            load_base(f"torchvision:{name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no net")))
    with pytest.raises(ModelError, match=r"fcos_resnet50_fpn_coco-99b0c9b7\.pth is not here, .*: no net; put it here"):
        load_base("torchvision:fcos_resnet50_fpn")


def test_a_checkpoint_is_opened_evaluated_and_predicts_as_any_other(checkpoints, surface: Path, tmp_path: Path) -> None:
    path = checkpoints(FCOS)
    network = open_network(path)
    assert network.names == ("one", "crack", "three") and network.image_size == SIZE
    found = vl.predict(path, surface.parent / "images" / "val", tmp_path / "found", conf=0.01)
    assert len(found.images) == 6
    report = vl.evaluate([path], surface)
    assert report.rows[0].kind == "checkpoint" and 0 <= report.rows[0].scores.map50_95 <= 1


def test_the_tests_that_the_page_of_families_names_are_there() -> None:
    page = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    here = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert len(named) >= 7 and all(f"def {name}(" in here for name in named)
