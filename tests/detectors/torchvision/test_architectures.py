"""Architectures by name and by the keys of a state dict, against torchvision's own builders."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import detection

from tests.detectors.torchvision.conftest import FCOS, SSDLITE
from visionlora.detectors.torchvision.architectures import named, recognised

BUILDERS = ("fcos_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", SSDLITE)


def built(name: str, outputs: int) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=outputs).state_dict()


@pytest.mark.parametrize("name", BUILDERS)
def test_names_build_what_torchvision_builds_and_its_tensors_tell_the_name(name: str) -> None:
    expected = built(name, 7)
    with torch.device("meta"):
        own = named(name).build(7).state_dict()
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in expected.items()}
    assert recognised(expected) == (named(name), 7) and named(name).name == name


def test_another_width_and_backbone_are_in_the_name() -> None:
    with torch.device("meta"):
        assert recognised(named(FCOS).build(4).state_dict())[0].name == FCOS


@pytest.mark.parametrize("name", ["fcos_resnet50", "fcos_resnet50_fpn_v2", "fcos_vgg_fpn", "fcos_resnet18_fpn_33", "x"])
def test_a_name_of_no_architecture_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected fcos_BACKBONE_fpn, .*, got '{name}'"):
        named(name)


@pytest.mark.parametrize(
    ("name", "reason"), [("fasterrcnn_resnet50_fpn", "Faster R-CNN .*RoIAlign"), ("ssd300_vgg16", "SSD: VGG")]
)
def test_other_detectors_are_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"no support for {reason}"):
        recognised(built(name, 7))
