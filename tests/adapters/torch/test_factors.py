"""What A begins with: directions of the weight, or of its gradient; the model computes as before. How fast B learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from visionlora.adapters import AdapterSettings
from visionlora.adapters.factors import FACTORED, FactorTraining
from visionlora.adapters.methods import DoRA, LoRA
from visionlora.adapters.torch import (
    attach,
    factored_layers,
    frozen_weights,
    plan_adapter,
    rate_left_factors,
    start_factors,
    weight_gradients,
)
from visionlora.errors import UsageError, VisionLoraError


def plain_model() -> nn.Sequential:
    """A convolution with batch normalization, a depthwise, a grouped and a linear layer; the last has few weights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 6, 1, groups=2),
        nn.Flatten(),
        nn.Linear(96, 5),
        nn.Linear(5, 2),
    )
    model(torch.randn(8, 3, 8, 8))
    return model.eval()


def attached(method, normalization: str = "frozen") -> nn.Module:
    model = plain_model()
    attach(model, plan_adapter(model, AdapterSettings(method, normalization=normalization), norms={"0": "1"}))
    return model.to(memory_format=torch.channels_last)


def folded() -> nn.Sequential:
    """The same computed by plain layers whose weights are free."""
    model = plain_model()
    fused = nn.utils.fuse_conv_bn_eval(model[0], model[1])
    return nn.Sequential(fused, nn.Identity(), *model[2:])


def projector(right: torch.Tensor) -> np.ndarray:
    """Return what projects onto the rows of A, (inputs, inputs)."""
    rows = right.detach().double().reshape(len(right), -1).numpy()
    return np.linalg.pinv(rows) @ rows


def nearest(matrix: torch.Tensor, rank: int) -> np.ndarray:
    """Return the nearest matrix of a rank."""
    u, values, v = np.linalg.svd(matrix.detach().double().reshape(len(matrix), -1).numpy(), full_matrices=False)
    return (u[:, :rank] * values[:rank]) @ v[:rank]


def assert_begins_with(model: nn.Module, matrices: dict[str, torch.Tensor]) -> None:
    """Projected onto the rows of A, each matrix is the nearest of A's rank."""
    layers = factored_layers(model)
    assert set(layers) == set(matrices)
    for name, (layer, _) in layers.items():
        matrix = matrices[name].detach().double().reshape(len(matrices[name]), -1).numpy()
        expected = nearest(matrices[name], len(layer.lora_A))
        np.testing.assert_allclose(matrix @ projector(layer.lora_A), expected, atol=1e-4 * np.abs(matrix).max())


@pytest.mark.parametrize("method", [LoRA(rank=2), LoRA(rank=2, full=15), DoRA(rank=2)], ids=repr)
def test_principal_start_spans_the_largest_directions_and_changes_nothing(method) -> None:
    model, x = attached(method), torch.randn(2, 3, 8, 8)
    start_factors(model, frozen_weights(model))
    torch.testing.assert_close(model(x), plain_model()(x), atol=1e-5, rtol=1e-5)
    free = {f"{name}.weight": layer.weight for name, layer in folded().named_modules() if hasattr(layer, "weight")}
    assert_begins_with(model, {name: free[name] for name in factored_layers(model)})
    assert len(factored_layers(model)) == (4 if method.full else 5)


@pytest.mark.parametrize("method", [LoRA(rank=2), DoRA(rank=2)], ids=repr)
def test_gradient_start_spans_where_full_fine_tuning_would_go(method) -> None:
    model, free = attached(method), folded()
    batches = torch.randn(3, 4, 3, 8, 8)
    with weight_gradients(model) as gradients:
        for x in batches:
            model(x).square().sum().backward()
    for x in batches:
        free(x).square().sum().backward()
    for name, gradient in gradients.items():
        expected = free.get_submodule(name.removesuffix(".weight")).weight.grad
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)
    start_factors(model, gradients)
    assert_begins_with(model, gradients)
    torch.testing.assert_close(model(batches[0]), plain_model()(batches[0]), atol=1e-5, rtol=1e-5)
    model(batches[0]).sum().backward()
    assert len(gradients) == 5 and all(torch.equal(gradient, gradients[name]) for name, gradient in gradients.items())


def test_rows_of_a_are_as_long_as_drawn_ones() -> None:
    drawn, model = attached(LoRA(rank=2)), attached(LoRA(rank=2))
    start_factors(model, frozen_weights(model))
    for (mine, _), (theirs, _) in zip(factored_layers(model).values(), factored_layers(drawn).values(), strict=True):
        lengths = mine.lora_A.detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 3**-0.5))
        assert 0.4 < lengths.norm() / theirs.lora_A.detach().flatten(1).norm() < 2.5


def test_a_layer_without_gradient_keeps_what_was_drawn_and_a_broken_one_is_an_error() -> None:
    model, drawn = attached(LoRA(rank=2)), attached(LoRA(rank=2))
    start_factors(model, {"6.weight": torch.zeros(5, 96)})
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, drawn.get_parameter(name))
    with pytest.raises(VisionLoraError, match=r"6\.weight: expected finite numbers"):
        start_factors(model, {"6.weight": torch.full((5, 96), torch.nan)})


def test_gradient_start_fits_a_change_of_its_rank_sooner() -> None:
    """What is to be learned has rank 2; the drawn A sees little of it, the gradient's A all."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 40, generator=generator)
    wanted = x @ torch.randn(40, 2, generator=generator) @ torch.randn(2, 12, generator=generator)
    losses = {}
    for start in ("default", "gradient"):
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(40, 12))
        goal = base(x).detach() + wanted
        attach(base, plan_adapter(base, AdapterSettings(LoRA(rank=2))))
        if start == "gradient":
            with weight_gradients(base) as gradients:
                (base(x) - goal).square().mean().backward()
            start_factors(base, gradients)
        optimizer = torch.optim.AdamW(base.parameters(), lr=0.01)
        for _ in range(50):
            optimizer.zero_grad()
            loss = (base(x) - goal).square().mean()
            loss.backward()
            optimizer.step()
        losses[start] = loss.item()
    assert losses["gradient"] < losses["default"]


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop"])
def test_left_factors_learn_at_the_ratio_of_rates_and_all_parameters_are_there_once(name) -> None:
    model = attached(LoRA(rank=2))
    biases = [parameter for each, parameter in model.named_parameters() if "bias" in each]
    others = [parameter for each, parameter in model.named_parameters() if "bias" not in each]
    groups = [{"params": others, "weight_decay": 0.1, "param_group": "weight"}, {"params": biases, "lr": 0.02}]
    optimizer = getattr(torch.optim, name)(groups, lr=0.01)
    rate_left_factors(optimizer, model, 4.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.02, 0.04]
    left = optimizer.param_groups[2]
    assert (left["weight_decay"], left["param_group"]) == (0.1, "weight")
    assert {id(each) for each in left["params"]} == {id(each.lora_B) for each, _ in factored_layers(model).values()}
    held = [id(each) for group in optimizer.param_groups for each in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()


def test_settings_out_of_range_or_without_effect_are_refused() -> None:
    with pytest.raises(UsageError, match="--start: expected one of default, principal, gradient, got 'pissa'"):
        FactorTraining("pissa")
    for plus in (0.5, -1, float("inf"), float("nan"), True, "4"):
        with pytest.raises(UsageError, match="--lora-plus: expected a number of at least 1"):
            FactorTraining(plus=plus)
    assert FACTORED == ("lora", "dora")
    FactorTraining().check_method("ia3")
    for factors, option in ((FactorTraining("gradient"), "--start"), (FactorTraining(plus=2), "--lora-plus")):
        with pytest.raises(UsageError, match=f"{option}: only with --method lora or dora, not ia3"):
            factors.check_method("ia3")
