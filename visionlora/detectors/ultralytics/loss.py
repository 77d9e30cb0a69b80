"""Ultralytics' detection loss with fixed shapes, so that a CUDA graph can hold it.

Ultralytics' own loss indexes by masks: how many anchors or pairs there are is only known on the GPU, which a graph
cannot follow and which makes the CPU wait. Here objects are padded to a fixed number an image, pairs of object and
anchor are all computed and masked, and the anchors of the box loss are chosen by `topk`: an object has no more of them
than the assigner's limit, so none is lost. The values are Ultralytics', to rounding. Answers ultralytics/utils/loss.py
and tal.py; may go when those are free of data-dependent shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss
from ultralytics.utils.metrics import bbox_iou
from ultralytics.utils.ops import xywh2xyxy, xyxy2xywh
from ultralytics.utils.tal import TaskAlignedAssigner, bbox2dist, make_anchors

Predictions = Mapping[str, Any]  # `boxes`, `scores` and `feats`, as Ultralytics' heads return them in training
_PAIRS = 1 << 21  # pairs of object and anchor whose overlap is computed at once: bounds the memory it takes


def pad_targets(batch: Mapping[str, torch.Tensor], objects: int) -> torch.Tensor:
    """Return the labels of a collated batch as (images, objects, 5): class, then centre and size as fractions.

    Rows without an object are zero. `batch` holds `batch_idx` (n,), `cls` (n, 1) and `bboxes` (n, 4) on the CPU,
    ordered by image; no image may have more than `objects`.
    """
    images = batch["batch_idx"].long().view(-1)
    counts = torch.bincount(images, minlength=len(batch["img"]))
    first = torch.cumsum(counts, 0) - counts
    padded = torch.zeros(len(batch["img"]), objects, 5)
    rows = torch.arange(len(images)) - first[images]
    padded[images, rows] = torch.cat((batch["cls"].view(-1, 1).float(), batch["bboxes"].float()), 1)
    return padded


class FixedShapeAssigner(TaskAlignedAssigner):
    """TaskAlignedAssigner that computes every pair of object and anchor instead of the list of candidates."""

    def get_box_metrics(self, pd_scores, pd_bboxes, gt_labels, gt_bboxes, mask_gt, **extra):
        """Return alignment and overlap, (images, objects, anchors) each, zero outside `mask_gt`."""
        mask = mask_gt.bool()
        labels = gt_labels.long().transpose(1, 2).expand(-1, pd_scores.shape[1], -1)
        scores = pd_scores.gather(2, labels).transpose(1, 2)
        images = max(1, _PAIRS // mask[0].numel())
        overlaps = torch.cat(
            [
                bbox_iou(objects.unsqueeze(2), boxes.unsqueeze(1), xywh=False, CIoU=True).squeeze(-1)
                for objects, boxes in zip(gt_bboxes.split(images), pd_bboxes.split(images), strict=True)
            ]
        )
        overlaps = overlaps.clamp_(0).masked_fill_(~mask, 0)
        align = (scores.pow(self.alpha) * overlaps.pow(self.beta)).masked_fill_(~mask, 0)
        return align, overlaps

    def select_candidates_in_gts(self, xy_centers, gt_bboxes, mask_gt, eps=1e-9):
        """Return which anchor centres lie in which object, objects smaller than a stride widened to it."""
        boxes = xyxy2xywh(gt_bboxes)
        small = (boxes[..., 2:] < self.stride_val) & mask_gt.bool()
        boxes = torch.cat((boxes[..., :2], boxes[..., 2:].masked_fill(small, self.stride_val)), -1)
        left_top, right_bottom = xywh2xyxy(boxes).unsqueeze(2).chunk(2, 3)  # (images, objects, 1, 2)
        inside = (xy_centers - left_top > eps) & (right_bottom - xy_centers > eps)
        return inside.all(-1)


class FixedShapeLoss(v8DetectionLoss):
    """The loss of one head: its terms for boxes, classes and box distributions, on padded objects."""

    def __init__(self, model: nn.Module, tal_topk: int = 10, tal_topk2: int | None = None) -> None:
        super().__init__(model, tal_topk, tal_topk2)
        like = self.assigner  # type: ignore[has-type]
        self.assigner = FixedShapeAssigner(
            topk=like.topk,
            num_classes=like.num_classes,
            alpha=like.alpha,
            beta=like.beta,
            stride=like.stride,
            topk2=like.topk2,
        )
        self._anchors: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def terms(self, predictions: Predictions, targets: torch.Tensor) -> torch.Tensor:
        """Return the weighted terms (3,): boxes, classes, distributions (or distances), as a mean over objects.

        Args:
            predictions: `boxes` (images, 4 * bins, anchors), `scores` (images, classes, anchors) and `feats`.
            targets: (images, objects, 5), as `pad_targets` returns them.
        """
        distances, scores = (predictions[name].permute(0, 2, 1).contiguous() for name in ("boxes", "scores"))
        anchors, strides = self._anchors_of(predictions["feats"])
        height, width = (side * float(self.assigner.stride[0]) for side in predictions["feats"][0].shape[2:])
        size = targets.new_zeros(4).fill_(width)
        size[1::2] = height
        labels, objects = targets[..., :1], xywh2xyxy(targets[..., 1:] * size)
        there = objects.sum(2, keepdim=True).gt(0.0)
        boxes = self.bbox_decode(anchors, distances)
        _, goals, goal_scores, foreground, _ = self.assigner(
            scores.detach().sigmoid(),
            (boxes.detach() * strides).type(objects.dtype),
            anchors * strides,
            labels,
            objects,
            there,
        )
        total = goal_scores.sum().clamp(min=1)
        bce = self.bce(scores, goal_scores.to(scores.dtype))
        if self.class_weights is not None:
            bce = bce * self.class_weights
        count = min(self.assigner.topk * objects.shape[1], foreground.shape[1])
        chosen, index = foreground.float().topk(count, dim=1, sorted=False)  # every anchor of an object, then others
        box, distribution = self._box_terms(
            _rows(distances, index),
            _rows(boxes, index),
            _rows(goals / strides, index),
            anchors[index],
            strides[index] / size if self.bbox_loss.dfl_loss is None else None,
            _rows(goal_scores, index).sum(-1, keepdim=True),
            chosen.unsqueeze(-1) > 0,
        )
        gains = (self.hyp.box, self.hyp.cls, self.hyp.dfl)
        terms = (box.sum() / total, bce.sum() / total, distribution.sum() / total)
        return torch.stack([gain * term for gain, term in zip(gains, terms, strict=True)])

    def _box_terms(self, distances, boxes, goals, anchors, scale, weight, chosen) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both box losses of the chosen rows, (images, rows, 1) each; the other rows count nothing."""
        unit = torch.cat((torch.zeros_like(goals[..., :2]), torch.ones_like(goals[..., 2:])), -1)
        overlap = bbox_iou(
            torch.where(chosen, boxes, unit.to(boxes.dtype)), torch.where(chosen, goals, unit), xywh=False, CIoU=True
        )
        weight = torch.where(chosen, weight, 0)
        if self.bbox_loss.dfl_loss is not None:
            bins = self.bbox_loss.dfl_loss.reg_max
            wanted = bbox2dist(anchors, goals, bins - 1)
            loss = self.bbox_loss.dfl_loss(distances.reshape(-1, bins), wanted.reshape(-1, 4))
            loss = loss.view(*weight.shape)
        else:
            wanted = bbox2dist(anchors, goals) * scale
            loss = (distances * scale - wanted).abs().mean(-1, keepdim=True)
        return (1.0 - overlap) * weight, torch.where(chosen, loss, 0) * weight

    def _anchors_of(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        key = (*(tuple(level.shape[2:]) for level in features), features[0].dtype)
        if key not in self._anchors:  # made outside a graph: it copies from the host
            self._anchors[key] = make_anchors(features, self.stride, 0.5)
        return self._anchors[key]


class FixedShapeCriterion:
    """The loss of a detector: that of its head, or the weighted sum over both heads of an end-to-end one."""

    def __init__(self, model: DetectionModel) -> None:
        self.heads: tuple[FixedShapeLoss, ...]
        if isinstance(model.init_criterion(), E2ELoss):
            self.heads = (FixedShapeLoss(model, tal_topk=10), FixedShapeLoss(model, tal_topk=7, tal_topk2=1))
        else:
            self.heads = (FixedShapeLoss(model),)
        self.names = self.heads[-1].loss_names

    def __call__(
        self, predictions: Mapping, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of the batch (3,) and its terms (3,) for the log, as Ultralytics' criterion does.

        Args:
            predictions: what the model returns in training mode.
            targets: (images, objects, 5), as `pad_targets` returns them.
            weights: (heads,), how much each head counts.
        """
        outputs = (predictions["one2many"], predictions["one2one"]) if len(self.heads) == 2 else (predictions,)
        terms = [head.terms(output, targets) for head, output in zip(self.heads, outputs, strict=True)]
        loss = torch.stack([weight * each for weight, each in zip(weights, terms, strict=True)]).sum(0)
        return loss * len(targets), terms[-1].detach()


def head_weights(criterion: object) -> tuple[float, ...]:
    """Return how much each head counts now in Ultralytics' `criterion`; the weights change by the epoch."""
    return (criterion.o2m, criterion.o2o) if isinstance(criterion, E2ELoss) else (1.0,)


def _rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows `index` (images, rows) of `values` (images, anchors, channels)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
