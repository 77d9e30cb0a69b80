"""The heads of the tasks: what a checkpoint's head finds, and giving a detector the head of another task.

A head has towers of convolutions for boxes (`cv2`) and classes (`cv3`); where its task is not detection, it has a third
(`cv4`) for mask factors, keypoints or the angle, and for segmentation it makes prototypes (`proto`). In YOLO26 it has
parts that serve the loss alone: the classes of pixels (`proto.semseg`), the spread of keypoints (`cv4_sigma`) and the
distribution of their errors (`flow_model`). That of classification is a convolution, a mean over the picture and a
linear layer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from ultralytics.nn.modules.head import OBB, OBB26, Classify, Detect, Pose, Pose26, Segment, Segment26, v10Detect
from ultralytics.nn.tasks import DetectionModel, OBBModel, PoseModel, SegmentationModel

from visionlora.errors import UsageError
from visionlora.tasks import Pose as Keypoints
from visionlora.tasks import Segment as Masks
from visionlora.tasks import Task, task_of

HEADS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "detect": (Detect, v10Detect),
    "segment": (Segment, Segment26),
    "pose": (Pose, Pose26),
    "obb": (OBB, OBB26),
    "classify": (Classify,),
}
"""Ultralytics' heads that this room knows, by their task."""
_MODELS: Mapping[str, tuple[type[DetectionModel], str]] = {
    "segment": (SegmentationModel, "Segment"),
    "pose": (PoseModel, "Pose"),
    "obb": (OBBModel, "OBB"),
}
TOWERS = ("cv2", "cv3", "cv4")
"""Of a head, in the order of the rows of its predictions: boxes, classes, and what its task finds beside."""
_LEFT_OUT = ("one2one_", "proto.semseg.", "cv4_sigma.", "flow_model.")


def task_of_model(model: Any) -> Task:
    """Return what a detector finds, with the sizes that its head has.

    Raises:
        ModelError: its task is not known, or its sizes have no meaning.
    """
    head, settings = model.model[-1], {}
    if isinstance(head, Segment):
        settings = {"coefficients": int(head.nm)}
    elif isinstance(head, Pose):
        settings = {"keypoints": int(head.kpt_shape[0]), "dims": int(head.kpt_shape[1])}
    return task_of(model.task, getattr(model, "pt_path", None) or type(head).__name__, settings)


def towers(head: Detect) -> tuple[str, ...]:
    """Return the towers of the head that ships, one-to-many."""
    return tuple(tower for tower in TOWERS if getattr(head, tower, None) is not None)


def last_layers(head: Detect, tower: str) -> tuple[str, ...]:
    """Return the names in a head of the convolutions that end a tower, by level; none where it has no such tower."""
    keypoints = getattr(head, f"{tower}_kpts", None)  # of YOLO26: convolutions of their own behind the tower
    if keypoints is not None:
        return tuple(f"{tower}_kpts.{level}" for level in range(len(keypoints)))
    branches = getattr(head, tower, None) or ()
    return tuple(f"{tower}.{level}.{len(branch) - 1}" for level, branch in enumerate(branches))


def is_left_out(model: DetectionModel, layer: str) -> bool:
    """Whether no exported graph has a layer: one of an end-to-end head, or what serves the loss of a task alone."""
    head = f"model.{len(model.model) - 1}."
    return layer.startswith(tuple(head + part for part in _LEFT_OUT))


def with_task(model: DetectionModel, task: Task) -> tuple[DetectionModel, tuple[str, ...]]:
    """Return a detector with the head of a task, and the names of its layers that are new; `model` may be changed.

    Keypoints of other sizes than the base's get new outputs; the towers before them keep their width. A detection base
    keeps its backbone, its neck and the towers of boxes and classes; the others of a new task begin untrained. They
    have batch normalization that changes nothing, to be an ordinary head, and weights that keep the size of what
    passes through them (arXiv 1502.01852).

    Raises:
        UsageError: the base is of another task, neither detection nor this one, or has a head that cannot be extended.
    """
    own = task_of_model(model)
    if task == own:
        return model, ()
    if isinstance(task, Keypoints) and isinstance(own, Keypoints):
        return model, _set_keypoints(model, task)
    if own.name != "detect" or task.name not in _MODELS:
        raise UsageError(
            f"--task {task.name}: expected a base of that task or of detection, got one of task {own.name}"
        )
    head = model.model[-1]
    if getattr(head, "one2one_cv2", None) is not None:
        raise UsageError(f"--task {task.name}: expected a base such as yolo11n.pt, got one with an end-to-end head")
    return _extended(model, task)


@torch.no_grad()
def _set_keypoints(model: DetectionModel, task: Keypoints) -> tuple[str, ...]:
    head, last = model.model[-1], len(model.model) - 1
    numbers = task.keypoints * task.dims
    sizes = dict.fromkeys((*last_layers(head, "cv4"), *last_layers(head, "one2one_cv4")), numbers)
    if isinstance(head, Pose26):
        head.nk_sigma = 2 * task.keypoints
        spread = [name for name, _ in head.named_modules() if name.rpartition(".")[0].endswith("cv4_sigma")]
        sizes |= dict.fromkeys(spread, head.nk_sigma)
    for name, size in sizes.items():
        previous, (parent, _, index) = head.get_submodule(name), name.rpartition(".")
        head.get_submodule(parent)[int(index)] = nn.Conv2d(previous.in_channels, size, 1).to(previous.weight)
    shape = [task.keypoints, task.dims]
    head.kpt_shape, head.nk, model.kpt_shape, model.yaml["kpt_shape"] = shape, numbers, list(shape), list(shape)
    for beside in ("kpt_names", "kpt_oks_sigmas"):  # of the keypoints before
        model.__dict__.pop(beside, None)
    return tuple(f"model.{last}.{name}" for name in sizes)


@torch.no_grad()
def _extended(model: DetectionModel, task: Task) -> tuple[DetectionModel, tuple[str, ...]]:
    kind, word = _MODELS[task.name]
    old, last = model.model[-1], len(model.model) - 1
    yaml = copy.deepcopy(model.yaml)
    source, repeats, _, _ = yaml["head"][-1]
    extra: list[Any] = []
    if isinstance(task, Masks):
        extra = [task.coefficients, 256]  # prototypes' width: Ultralytics' own, scaled with the model
    elif isinstance(task, Keypoints):
        extra = [[task.keypoints, task.dims]]
        yaml["kpt_shape"] = [task.keypoints, task.dims]
    elif task.name == "obb":
        extra = [1]
    yaml["head"][-1] = [source, repeats, word, ["nc", *extra]]
    made = kind(yaml, ch=yaml.get("channels", 3), nc=len(model.names), verbose=False).to(next(model.parameters()))
    head = made.model[-1]
    for number in range(last):
        made.model[number] = model.model[number]
    for name in ("cv2", "cv3", "dfl", "stride"):
        setattr(head, name, getattr(old, name))
    made.stride, made.names, made.task = model.stride, model.names, task.name
    made.args = {**getattr(model, "args", {}), "task": task.name}
    kept = {f"model.{last}.{tower}." for tower in ("cv2", "cv3", "dfl")}
    new = tuple(
        name
        for name, module in made.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        and name.startswith(f"model.{last}.")
        and not any(name.startswith(prefix) for prefix in kept)
    )
    for name in new:
        _begin(made, name)
    return made.eval(), new


def _begin(model: nn.Module, name: str) -> None:
    """Start a layer so that its outputs are as large as its inputs, with a norm behind it that changes nothing."""
    layer = cast("nn.Conv2d | nn.ConvTranspose2d", model.get_submodule(name))
    parent = model.get_submodule(name.rpartition(".")[0])
    norm = getattr(parent, "bn", None)
    if isinstance(norm, nn.BatchNorm2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        cast(torch.Tensor, norm.running_var).fill_(1 - norm.eps)
    elif isinstance(layer, nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)  # one input position an output, at stride = kernel
        nn.init.zeros_(cast(torch.Tensor, layer.bias))
