"""SiLU that becomes ReLU while training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionlora.detectors.ultralytics.activation_swap import SiLUToReLU, fade

X = torch.linspace(-6, 6, 101)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.2 * torch.relu(X) + 0.8 * nn.functional.silu(X)), (4, torch.relu(X)), (9, torch.relu(X))],
    ids=["first", "half way", "last"],
)
def test_mixture_goes_to_relu_by_half_of_the_run(epoch, expected) -> None:
    model = nn.Sequential(SiLUToReLU(), SiLUToReLU()).train()
    fade(model, epoch, 10)
    for layer in model:
        torch.testing.assert_close(layer(X), expected)
        torch.testing.assert_close(layer(X.bfloat16()).float(), expected, rtol=0.02, atol=0.02)


def test_what_is_judged_and_shipped_has_relu_alone() -> None:
    assert torch.equal(SiLUToReLU().eval()(X), torch.relu(X))


def test_the_mixture_is_no_part_of_a_checkpoint() -> None:
    assert not SiLUToReLU().state_dict()
