"""Modules that an adapter adds to a network, by hooks on the modules of the base, which stay in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from visionlora.adapters.methods import Addition, AttentionSite, InputSite, LayerSite, Site
from visionlora.adapters.torch.plan import AdapterPlan


class ScaledOutputs(nn.Module):
    """Parametrization of a weight (outputs, ...) whose outputs count `scale` times, and the gain of a folded norm.

    Args:
        scale: (outputs,) a factor that is trained.
        gain: (outputs,) factor of the batch normalization folded into the layer beside; None for none.
    """

    def __init__(self, scale: torch.Tensor, gain: torch.Tensor | None) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)
        self.gain: torch.Tensor | None
        self.register_buffer("gain", gain)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the scaled weight."""
        factor = self.scale if self.gain is None else self.scale * self.gain
        return weight * factor.reshape(-1, *(1 for _ in weight.shape[1:]))


class Added(nn.Module):
    """What a method adds at one site; its parts are its attributes.

    Args:
        method: whose parts these are.
        site: where.
        gain: (outputs,) of the batch normalization folded into the layer beside; None for none.
    """

    def __init__(self, method: Addition, site: Site, gain: torch.Tensor | None = None) -> None:
        super().__init__()
        self.method, self.site = method, site
        for name, part in method.parts(site).items():
            setattr(self, name, part)
        if method.scaled:
            scale = ScaledOutputs(method.scale(site), gain)
            parametrize.register_parametrization(self.get_submodule(method.scaled), "weight", scale)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return what is added (see `Addition.added`)."""
        return self.method.added(self, given)

    def tensors(self) -> dict[str, nn.Parameter]:
        """Return the parameters by their names in the adapter file, without the site's."""
        return {_short(name): parameter for name, parameter in self.named_parameters()}


class _Adds:
    """A hook that adds to what a module gives."""

    def __init__(self, added: Added) -> None:
        self.added = added

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + self.added(output if self.added.method.reads_output else args[0])


class _AddsBefore:
    """A hook that adds to what a module reads."""

    def __init__(self, added: Added) -> None:
        self.added = added

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] + self.added(args[0]), *args[1:])


class _Source:
    """A hook that computes, of what the source of an attention gives, what is to be added before its sink."""

    def __init__(self, added: Added) -> None:
        self.added = added
        self.found: torch.Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        self.found = self.added(output)


class _Sink:
    """A hook that adds what a `_Source` found to what a module reads."""

    def __init__(self, source: _Source) -> None:
        self.source = source

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        found, self.source.found = self.source.found, None
        return (args[0] + found, *args[1:])


def insert(model: nn.Module, plan: AdapterPlan, gains: Mapping[str, torch.Tensor]) -> set[int]:
    """Add the modules of a plan to a model whose norms are folded or live; return the ids of their parameters.

    Args:
        model: any module; every site's module gets what is added as a child, so that it moves and is copied with it.
        plan: of this model.
        gains: (outputs,) factor of the batch normalization folded into a layer, by layer name.
    """
    trained: set[int] = set()
    method = plan.settings.method
    for site in plan.sites:
        assert isinstance(method, Addition)
        module = model.get_submodule(site.name)
        beside = isinstance(site, LayerSite) and not method.reads_output
        added = Added(method, site, gains.get(site.name) if beside else None)
        like = next(iter([*module.parameters(), *module.buffers()]))
        module.add_module(_attribute(method), added.to(like.device))
        if isinstance(site, AttentionSite):
            source = _Source(added)
            model.get_submodule(site.source).register_forward_hook(source)
            model.get_submodule(site.sink).register_forward_pre_hook(_Sink(source))
        elif isinstance(site, InputSite):
            module.register_forward_pre_hook(_AddsBefore(added))
        else:
            behind = module if beside else model.get_submodule(plan.norms.get(site.name, site.name))
            behind.register_forward_hook(_Adds(added))
        trained |= {id(parameter) for parameter in added.parameters()}
    return trained


def added_parameters(model: nn.Module, plan: AdapterPlan) -> dict[str, nn.Parameter]:
    """Return the parameters of what was added to a model, by their names in the adapter file."""
    found: dict[str, nn.Parameter] = {}
    for site in plan.sites:
        prefix = f"{site.name}.{_attribute(plan.settings.method)}"
        added = model.get_submodule(prefix)
        assert isinstance(added, Added)
        found |= {f"{prefix}.{name}": parameter for name, parameter in added.tensors().items()}
    return found


def added_shapes(plan: AdapterPlan) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what a plan adds, as the adapter file has them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for site in plan.sites:
        assert isinstance(plan.settings.method, Addition)
        with torch.device("meta"):
            tensors = Added(plan.settings.method, site).tensors()
        prefix = f"{site.name}.{_attribute(plan.settings.method)}"
        shapes |= {f"{prefix}.{name}": tuple(tensor.shape) for name, tensor in tensors.items()}
    return shapes


@torch.no_grad()
def settle(model: nn.Module) -> None:
    """Put computed weights and biases in place of what they are computed from; nothing can be trained afterwards."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                value = getattr(module, name).detach().clone()
                parametrize.remove_parametrizations(module, name, leave_parametrized=False)
                delattr(module, name)  # codes, where the base is rounded
                module.register_parameter(name, nn.Parameter(value))
    model.requires_grad_(False)


def _attribute(method: Any) -> str:
    return str(method.name).replace("-", "_")


def _short(name: str) -> str:
    """Return the name in the file of a parameter: that of a scaled weight, and of its scale, without the nesting."""
    return name.replace(".parametrizations.weight.original", ".weight").replace(".parametrizations.weight.0", "")
