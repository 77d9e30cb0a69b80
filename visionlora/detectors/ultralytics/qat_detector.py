"""A detector that is trained as the graph that ships: its exported graph, int8 in the places where the file is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import onnx
import torch
from torch import nn
from ultralytics.nn.modules.head import OBB, OBB26, Detect, Pose, Pose26, Segment, Segment26
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import (
    PoseLoss26,
    SegmentLoss26,
    v8DetectionLoss,
    v8OBBLoss,
    v8PoseLoss,
    v8SegmentationLoss,
)

from visionlora.detectors.ultralytics.heads import TOWERS, last_layers, towers
from visionlora.errors import QuantizationError
from visionlora.fake_quant import FakeQuantSpec, GraphNetwork
from visionlora.fake_quant.graph import Constants

_PREFIX = "model."  # of a weight's name in an exported graph: the detector is an attribute of what is exported
_LOSSES = {
    Segment26: SegmentLoss26,
    Segment: v8SegmentationLoss,
    Pose26: PoseLoss26,
    Pose: v8PoseLoss,
    OBB: v8OBBLoss,
}  # the first that fits
_SAME_WEIGHT = 1e-3  # largest difference of a weight, as a share of the largest of its layer


def raw_outputs(graph: onnx.GraphProto, head: Detect, index: int, towers: Sequence[str] = TOWERS[:2]) -> list[str]:
    """Return the tensors that the last convolutions of a head's towers give in an exported graph, each by level.

    Args:
        graph: of a model that visionlora exported.
        head: module `index` of the detector.
        index: its number.
        towers: whose; boxes and classes if not said otherwise.

    Raises:
        QuantizationError: a convolution is not in the graph.
    """
    made = {node.input[1]: node.output[0] for node in graph.node if node.op_type == "Conv"}
    names = [f"{_PREFIX}model.{index}.{layer}.weight" for part in towers for layer in last_layers(head, part)]
    missing = [name for name in names if name not in made]
    if missing:
        raise QuantizationError(
            f"expected the exported graph of this detector, got one without {', '.join(missing[:3])}"
        )
    return [made[name] for name in names]


def raw_predictions(outputs: Sequence[torch.Tensor], head: Detect | None = None) -> dict[str, Any]:
    """Return what Ultralytics' head gives in training, from what its last convolutions give: boxes, scores, by level.

    With a `head`, what its task finds beside too: a third tower, and behind it prototypes, where it has such.
    """
    wide = head is not None and len(towers(head)) == len(TOWERS)
    parts = len(TOWERS) if wide else 2
    levels = len(outputs) // parts
    joined = [
        torch.cat([part.flatten(2) for part in outputs[first : first + levels]], -1)
        for first in range(0, parts * levels, levels)
    ]
    raw = {"boxes": joined[0], "scores": joined[1], "feats": list(outputs[:levels])}
    if isinstance(head, Segment):
        raw |= {"mask_coefficient": joined[2], "proto": outputs[-1]}
    elif isinstance(head, Pose):
        raw["kpts"] = joined[2]
    elif isinstance(head, OBB):
        raw["angle"] = joined[2] if isinstance(head, OBB26) else (joined[2].sigmoid() - 0.25) * math.pi
    return raw


class QatDetector(DetectionModel):
    """Shares the modules of a detector that `attach` prepared, and computes its exported graph with their weights.

    An end-to-end detector is trained by the head that ships, the one-to-many one.

    Args:
        detector: adapted, folded; it is not changed.
        graph: its export.
        spec: what is int8.
        learned: whether the ranges are parameters.

    Raises:
        QuantizationError: the graph is not this detector's, or holds what cannot be trained through.
    """

    def __init__(
        self, detector: DetectionModel, graph: onnx.GraphProto, spec: FakeQuantSpec, *, learned: bool = True
    ) -> None:
        nn.Module.__init__(self)
        state = dict(detector.__dict__)
        self.__dict__.update({**state, "_modules": dict(state["_modules"])})
        head = cast(Detect, self.model[-1])
        head.end2end = False
        outputs = raw_outputs(graph, head, len(self.model) - 1, towers(head))
        outputs += [graph.output[1].name] if isinstance(head, Segment) else []
        self.shipped = GraphNetwork(graph, outputs, spec, learned=learned)
        self._layers = tuple(name.removeprefix(_PREFIX).removesuffix(".weight") for name in self.shipped.weights)
        self._check_weights()

    def raw(self, images: torch.Tensor) -> dict[str, Any]:
        """Return what the head gives in training, before decoding, for `images` (n, 3, S, S) in [0, 1]."""
        return raw_predictions(self.shipped(images, self._constants()), cast(Detect, self.model[-1]))

    def predict(self, x: torch.Tensor, *unused: Any, **unused_too: Any) -> Any:
        """Return what Ultralytics expects of a detector: raw predictions in training, else decoded ones and these."""
        raw = self.raw(x)
        if self.training:
            return raw
        decoded = self.model[-1]._inference(raw)
        return ((decoded, raw["proto"]) if "proto" in raw else decoded), raw

    def init_criterion(self) -> v8DetectionLoss:
        """Return the loss of the one-to-many head."""
        head = self.model[-1]
        found = (loss for kind, loss in _LOSSES.items() if isinstance(head, kind))
        return next(found, v8DetectionLoss)(self)

    def _constants(self) -> Constants:
        layers = [self.get_submodule(name) for name in self._layers]
        return [cast(torch.Tensor, layer.weight) for layer in layers], [
            cast("torch.Tensor | None", layer.bias) for layer in layers
        ]

    @torch.no_grad()
    def _check_weights(self) -> None:
        """Refuse a graph that was made from other weights: the names would agree, the meaning would not."""
        try:
            live, _ = self._constants()
        except AttributeError as error:
            raise QuantizationError(f"the exported graph has a layer that the detector has not: {error}") from error
        wrong = []
        for name, mine, theirs in zip(self._layers, live, self.shipped.constants()[0], strict=True):
            theirs = theirs.to(mine.device)
            same = mine.shape == theirs.shape
            if not (same and bool((mine - theirs).abs().max() <= _SAME_WEIGHT * theirs.abs().max() + 1e-6)):
                wrong.append(name)
        if wrong:
            raise QuantizationError(
                f"expected the exported graph of this adapter, got one with other weights in {len(wrong)} layers "
                f"({', '.join(wrong[:3])})"
            )


def distillation(student: Mapping[str, Any], teacher: Mapping[str, Any], bins: int) -> torch.Tensor:
    """Return how far raw predictions are from a teacher's, (2,): boxes and classes, as a mean over likely objects.

    Classes: cross entropy with the teacher's scores, on every anchor. Boxes: cross entropy with the teacher's
    distribution of each side (arXiv 2102.12252), or the distance of the sides where a head has no distribution,
    weighted by the teacher's best score.

    Args:
        student, teacher: `boxes` (n, 4 * bins, anchors) and `scores` (n, classes, anchors), before decoding.
        bins: of a side's distribution; 1 for none.
    """
    logits, wanted = student["scores"].float(), teacher["scores"].float().sigmoid()
    weight = wanted.amax(1)
    total = weight.sum().clamp(min=1)
    classes = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum() / total
    boxes, goal = student["boxes"].float(), teacher["boxes"].float()
    if bins > 1:
        sides, goals = (each.view(len(each), 4, bins, -1) for each in (boxes, goal))
        distance = -(goals.softmax(2) * sides.log_softmax(2)).sum(2).mean(1)
    else:
        distance = (boxes - goal).abs().mean(1)
    return torch.stack(((distance * weight).sum() / total, classes))
