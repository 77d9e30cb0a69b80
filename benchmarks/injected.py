"""Adapters of PEFT and LyCORIS, each by the name that the benchmarks give it, put into a detector as their users do.

Their strength is that of visionlora's adapters, 4 / sqrt(rank), where they have one; all else is at their defaults.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

RANK, ALPHA, BLOCK = 8, 4.0, 32
PLAIN_ALPHA = ALPHA * math.sqrt(RANK)  # of libraries that divide it by the rank and not by its root


class Refusal(Exception):
    """A library cannot adapt a detector with one of its methods."""


@dataclass(frozen=True)
class Injected:
    """A method of another library.

    Attributes:
        library: `peft` or `lycoris`.
        settings: of PEFT's configuration, whose name is its `config`, or of LyCORIS' `create_lycoris`.
        takes: which convolutions it can adapt.
    """

    library: str
    settings: Mapping[str, Any]
    config: str = ""
    takes: Callable[[nn.Conv2d], bool] = lambda layer: True

    @property
    def ranked(self) -> bool:
        """Whether the rank sets its size."""
        return "r" in self.settings or self.settings.get("algo") in ("locon", "loha", "lokr")

    def put(self, model: nn.Module, layers: Sequence[str]) -> None:
        """Put it into a model, into the layers of these names."""
        if self.library == "lycoris":
            _put_lycoris(self.settings, model, layers)
            return
        import peft

        config = getattr(peft, self.config)(**self.settings, target_modules=list(layers))
        peft.inject_adapter_in_model(config, model)


def _put_lycoris(settings: Mapping[str, Any], model: nn.Module, layers: Sequence[str]) -> None:
    """Let LyCORIS compute beside the layers, its network a part of the model: so it is moved, averaged and copied.

    What its modules give as their state are products of their parameters, which no average reaches; here they give
    what any module does.
    """
    os.environ.setdefault("LYCORIS_KERNEL_BACKEND", "torch")  # else each process compiles for minutes
    import lycoris
    from lycoris import config

    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    preset = {"enable_conv": True, "target_module": [], "target_name": list(layers), "use_fnmatch": True}
    config.PRESET["benchmark"] = preset
    ranked = {"linear_dim": RANK, "linear_alpha": PLAIN_ALPHA}
    network = lycoris.create_lycoris(model, 1.0, **ranked, preset="benchmark", **settings)
    network.apply_to()
    for module in network.loras:
        module.custom_state_dict = _as_any_module
    model.lycoris = network


def _as_any_module() -> None:
    """Return what lets LyCORIS give the state that any module has."""


_LORA = {"r": RANK, "lora_alpha": ALPHA, "use_rslora": True}
_RANKED = {"r": RANK, "alpha": PLAIN_ALPHA}
INJECTED: Mapping[str, Injected] = {
    "peft": Injected("peft", _LORA, "LoraConfig"),
    "peft-dora": Injected(
        "peft",
        {**_LORA, "use_dora": True},
        "LoraConfig",
        takes=lambda layer: bool(layer.weight.flatten(1).any(dim=1).all()),  # it divides by the norms of the outputs
    ),
    "peft-loha": Injected("peft", _RANKED, "LoHaConfig"),
    "peft-lokr": Injected("peft", _RANKED, "LoKrConfig"),
    "peft-oft": Injected(
        "peft",
        {"oft_block_size": BLOCK},
        "OFTConfig",
        takes=lambda layer: layer.kernel_size == (1, 1),  # with others it does not begin with the base
    ),
    "peft-boft": Injected("peft", {}, "BOFTConfig"),
    "peft-ia3": Injected("peft", {"feedforward_modules": []}, "IA3Config"),
    "lycoris-locon": Injected("lycoris", {"algo": "locon"}),
    "lycoris-dora": Injected("lycoris", {"algo": "locon", "dora_wd": True}),
    "lycoris-loha": Injected("lycoris", {"algo": "loha"}),
    "lycoris-lokr": Injected("lycoris", {"algo": "lokr"}),
    "lycoris-oft": Injected("lycoris", {"algo": "diag-oft"}),
    "lycoris-ia3": Injected("lycoris", {"algo": "ia3"}),
}


def inject(method: str, model: nn.Module, layers: Sequence[str]) -> set[str]:
    """Put a method into a model, into those of the layers that it takes; return the names of its parameters.

    Raises:
        Refusal: it cannot be put there, with the library's error; or the model does not begin with what it was, or its
            parameters have no finite gradients or no place in its state.
    """
    how = INJECTED[method]
    before = {id(parameter) for parameter in model.parameters()}
    wanted = _outputs(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a line for each layer whose blocks do not fit
            how.put(model, [name for name in layers if how.takes(model.get_submodule(name))])
            got = _outputs(model)
            gradients = _gradients(model)
    except Exception as error:  # whatever a library raises is what is to be known
        raise Refusal(f"{type(error).__name__}: {error}"[:300]) from error
    if not torch.allclose(got, wanted, rtol=1e-3, atol=1e-2):
        raise Refusal(f"before training, outputs differ from the base's by up to {(got - wanted).abs().max():.3g}")
    parameters, state = dict(model.named_parameters()), model.state_dict()
    new = {name for name, one in parameters.items() if id(one) not in before and one.requires_grad}
    if any(state[name].data_ptr() != parameters[name].data_ptr() for name in new):
        raise Refusal("its state is not its parameters, so no average over the training would reach them")
    if not any(gradients[name] > 0 for name in new) or not all(math.isfinite(gradients[name]) for name in new):
        raise Refusal("its parameters have no finite gradients")
    return new


def _image() -> torch.Tensor:
    return torch.linspace(0, 1, 3 * 160 * 160).reshape(1, 3, 160, 160)


@torch.no_grad()
def _outputs(model: nn.Module) -> torch.Tensor:
    return copy.deepcopy(model).eval()(_image())[0]


def _gradients(model: nn.Module) -> dict[str, float]:
    """Return the size of each parameter's gradient, computed on a copy."""
    trial = copy.deepcopy(model).train()
    sum(tensor.square().sum() for tensor in _tensors(trial(_image()))).backward()
    return {
        name: 0.0 if one.grad is None else float(one.grad.norm())
        for name, one in trial.named_parameters()
        if one.requires_grad
    }


def _tensors(values: Any) -> list[torch.Tensor]:
    """Return the tensors of nested outputs."""
    if isinstance(values, torch.Tensor):
        return [values] if values.is_floating_point() else []
    nested = values.values() if isinstance(values, dict) else values if isinstance(values, (list, tuple)) else ()
    return [tensor for value in nested for tensor in _tensors(value)]
