"""The loss with fixed shapes equals Ultralytics' own, in value and in gradient."""

from __future__ import annotations

import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from visionlora.detectors.ultralytics.loss import FixedShapeCriterion, head_weights, pad_targets

CONFIGURATIONS = ("yolo11n.yaml", "yolo26n.yaml", "yolov10n.yaml", "yolov8n.yaml")


def labelled_batch(counts: list[int], *, classes: int, size: int, seed: int) -> dict[str, torch.Tensor]:
    """Return a collated batch of noise with so many random objects in each image, tiny and overlapping ones too."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    centre = 0.2 + 0.6 * torch.rand(total, 2, generator=generator)
    extent = 0.01 + 0.38 * torch.rand(total, 2, generator=generator) ** 2
    return {
        "img": torch.rand(len(counts), 3, size, size, generator=generator),
        "batch_idx": torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).float(),
        "cls": torch.randint(classes, (total, 1), generator=generator).float(),
        "bboxes": torch.cat((centre, extent), 1),
    }


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def detector(request) -> DetectionModel:
    torch.manual_seed(0)
    model = DetectionModel(request.param, nc=5, verbose=False).train()
    model.args = get_cfg()
    model.args.epochs = 10
    return model


@pytest.mark.parametrize(
    "counts", [[3, 1, 2], [0, 7, 1], [0, 0, 0], [31, 0, 1]], ids=["some", "one empty", "none", "crowded"]
)
def test_loss_and_gradient_equal_those_of_ultralytics(detector, counts) -> None:
    batch = labelled_batch(counts, classes=5, size=96, seed=3)
    criterion = detector.init_criterion()
    results = []
    for fixed in (False, True):
        detector.zero_grad()
        torch.manual_seed(1)
        predictions = detector(batch["img"])
        if fixed:
            weights = torch.tensor(head_weights(criterion))
            loss, terms = FixedShapeCriterion(detector)(predictions, pad_targets(batch, 32), weights)
        else:
            loss, named = criterion(predictions, batch)
            terms = torch.stack(list(named.values()))
        loss.sum().backward()
        gradients = [parameter.grad.clone() for parameter in detector.parameters() if parameter.grad is not None]
        results.append((loss.detach(), terms.detach(), gradients))
    (expected, expected_terms, expected_gradients), (got, got_terms, got_gradients) = results
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_terms, expected_terms, rtol=1e-4, atol=1e-5)
    assert len(got_gradients) == len(expected_gradients) > 100
    norm = torch.cat([gradient.flatten() for gradient in expected_gradients]).norm()
    difference = torch.cat([(a - b).flatten() for a, b in zip(got_gradients, expected_gradients, strict=True)]).norm()
    assert difference < 1e-3 * norm


def test_padding_does_not_change_the_loss(detector) -> None:
    batch = labelled_batch([2, 0, 3], classes=5, size=96, seed=4)
    predictions = detector(batch["img"])
    criterion = FixedShapeCriterion(detector)
    weights = torch.ones(len(criterion.heads))
    few, many = (criterion(predictions, pad_targets(batch, objects), weights)[0] for objects in (8, 64))
    torch.testing.assert_close(many, few, rtol=1e-5, atol=0)


def test_class_weights_count_as_in_ultralytics(detector) -> None:
    detector.class_weights = torch.tensor([0.2, 0.5, 1.0, 1.3, 2.0])
    try:
        batch = labelled_batch([3, 2], classes=5, size=96, seed=6)
        predictions = detector(batch["img"])
        criterion = detector.init_criterion()
        weights = torch.tensor(head_weights(criterion))
        got, _ = FixedShapeCriterion(detector)(predictions, pad_targets(batch, 32), weights)
        expected, _ = criterion(predictions, batch)
    finally:
        detector.class_weights = None
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_loss_in_half_precision_is_near_that_of_ultralytics(detector) -> None:
    batch = labelled_batch([3, 1, 2], classes=5, size=96, seed=7)
    criterion = detector.init_criterion()
    weights = torch.tensor(head_weights(criterion))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = detector(batch["img"])
        got, _ = FixedShapeCriterion(detector)(predictions, pad_targets(batch, 32), weights)
        expected, _ = criterion(predictions, batch)
    torch.testing.assert_close(got.float(), expected.float(), rtol=0.02, atol=0.02)


def test_padded_targets_keep_every_object_in_order() -> None:
    batch = labelled_batch([2, 0, 1], classes=5, size=32, seed=5)
    padded = pad_targets(batch, 4)
    assert padded.shape == (3, 4, 5)
    rows = torch.cat((batch["cls"], batch["bboxes"]), 1)
    assert torch.equal(padded[0, :2], rows[:2]) and torch.equal(padded[2, :1], rows[2:])
    assert not padded[0, 2:].any() and not padded[1].any() and not padded[2, 1:].any()
