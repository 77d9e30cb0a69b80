"""Tensors of no sense end in an error of ours, and take no memory; LyCORIS itself: tests/exporting/test_lycoris.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.torch import from_lycoris, plan_adapter
from visionlora.errors import AdapterError

FORMS = {
    "locon": {"lora_up.weight": (8, 2, 1, 1), "lora_down.weight": (2, 4, 3, 3), "alpha": ()},
    "locon with a core": {
        "lora_up.weight": (8, 2, 1, 1),
        "lora_down.weight": (2, 4, 1, 1),
        "lora_mid.weight": (2, 2, 3, 3),
        "dora_scale": (8, 1, 1, 1),
    },
    "loha": {"hada_w1_a": (8, 2), "hada_w1_b": (2, 36), "hada_w2_a": (8, 2), "hada_w2_b": (2, 36), "alpha": ()},
    "lokr": {
        "lokr_w1_a": (2, 1),
        "lokr_w1_b": (1, 2),
        "lokr_w2_a": (1, 4),
        "lokr_w2_b": (1, 2),
        "lokr_t2": (1, 1, 3, 3),
    },
    "lokr, whole": {"lokr_w1": (2, 2), "lokr_w2": (4, 2, 3, 3), "alpha": ()},
    "ia3 of inputs": {"weight": (1, 4, 1, 1), "on_input": ()},
    "full": {"diff": (8, 4, 3, 3), "diff_b": (8,)},
}
SHAPES = ((), (0,), (1,), (2, 0), (300_000, 2), (2, 300_000), (1, 2, 3, 4, 5), (0, 0, 3, 3))


def read(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3))
    plan = plan_adapter(model, AdapterSettings())
    return from_lycoris(model, plan, tensors, lambda settings: plan_adapter(model, settings))[1]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_and_a_tensor_of_another_shape_is_refused(form) -> None:
    tensors = {f"lycoris_0.{name}": torch.ones(shape) for name, shape in FORMS[form].items()}
    assert read(tensors)
    for name in tensors.keys() - {"lycoris_0.alpha", "lycoris_0.on_input"}:
        for shape in SHAPES:
            with pytest.raises(AdapterError):
                read({**tensors, name: torch.ones(shape)})


def test_a_layer_without_a_scale_has_that_of_its_rank() -> None:
    factors = {"lora_up.weight": torch.ones(8, 2, 1, 1), "lora_down.weight": torch.ones(2, 4, 3, 3)}
    made = [
        read({f"lycoris_0.{name}": tensor for name, tensor in {**factors, **alpha}.items()})["0.lora_B.weight"]
        for alpha in ({}, {"alpha": torch.tensor(2.0)}, {"alpha": torch.tensor(6.0)})
    ]
    assert torch.equal(made[0], made[1]) and torch.allclose(made[2], 3 * made[0])
