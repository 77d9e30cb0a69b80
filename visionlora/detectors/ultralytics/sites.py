"""Where a method can add modules to an Ultralytics detector."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from visionlora.adapters.methods import Addition, AttentionSite, BlockSite, InputSite, LayerSite, Method, Site
from visionlora.detectors.ultralytics.checkpoint import raw_prediction
from visionlora.detectors.ultralytics.heads import TOWERS, last_layers


def sites_of(model: DetectionModel, method: Method) -> tuple[Site, ...]:
    """Return where a method can add modules to a model in eval mode; nowhere for one that changes weights."""
    if not isinstance(method, Addition):
        return ()
    return {LayerSite: _layers, BlockSite: _blocks, AttentionSite: _attentions, InputSite: _input}[method.site](model)


def _layers(model: DetectionModel) -> tuple[Site, ...]:
    """Return the convolutions, but for those whose outputs are predictions: what ships is cut behind them."""
    last = model.model[-1]
    names = [name for tower in TOWERS for name in (tower, f"one2one_{tower}")]
    raw = [last.get_submodule(layer) for name in names for layer in last_layers(last, name)]
    return tuple(
        LayerSite(
            name,
            module.in_channels,
            module.out_channels,
            cast(Any, module.kernel_size),
            cast(Any, module.stride),
            cast(Any, module.padding),
            cast(Any, module.dilation),
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not any(module is each for each in raw)
    )


@torch.no_grad()
def _blocks(model: DetectionModel) -> tuple[Site, ...]:
    """Return the modules of several convolutions before the head; a small picture shows the output of each."""
    blocks = {
        f"model.{index}": module
        for index, module in enumerate(model.model[:-1])
        if sum(isinstance(each, nn.Conv2d) for each in module.modules()) > 1
    }
    shapes: dict[str, torch.Size] = {}
    hooks = [
        module.register_forward_hook(lambda _, args, output, name=name: shapes.update({name: output.shape}))
        for name, module in blocks.items()
    ]
    try:
        side = max(64, int(max(model.stride)))
        raw_prediction(model, torch.zeros(1, 3, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(BlockSite(name, shape[1], side // shape[2]) for name, shape in shapes.items())


def _attentions(model: DetectionModel) -> tuple[Site, ...]:
    """Return the attentions of C2PSA and of areas: both compute queries, keys and values by one convolution."""
    return tuple(
        AttentionSite(
            name,
            module.num_heads,
            getattr(module, "key_dim", module.head_dim),
            module.head_dim,
            source=f"{name}.qkv",
            sink=f"{name}.proj",
        )
        for name, module in cast("list[tuple[str, Any]]", list(model.named_modules()))
        if all(hasattr(module, each) for each in ("qkv", "proj", "num_heads", "head_dim"))
    )


def _input(model: DetectionModel) -> tuple[Site, ...]:
    return (InputSite("model.0"),)
