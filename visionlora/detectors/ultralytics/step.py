"""One training step's pass: network and loss, forward and backward, as one CUDA graph where the shapes allow.

A step of a small detector is bound by the CPU, which launches thousands of short kernels; a graph launches them all at
once. A graph needs fixed shapes: batches of another size get a graph of their own, up to a few, then run as usual.
"""

from __future__ import annotations

import gc
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER

from visionlora.adapters.torch import BatchedWeights, kept_statistics, live_statistics
from visionlora.detectors.checkpoints import reason_of
from visionlora.detectors.ultralytics.again import kept_once
from visionlora.detectors.ultralytics.fallback import not_running_away
from visionlora.detectors.ultralytics.fused import FusedPass
from visionlora.detectors.ultralytics.heads import HEADS
from visionlora.detectors.ultralytics.layout import module_inputs
from visionlora.detectors.ultralytics.loss import FixedShapeCriterion, head_weights, pad_targets
from visionlora.detectors.ultralytics.precision import fastest_convolutions
from visionlora.detectors.ultralytics.qat_detector import QatDetector, distillation, raw_predictions
from visionlora.fake_quant import GraphNetwork

MOST_GRAPHS = 4  # shapes of a batch that get a graph: the usual one, the last of an epoch, and a few more
MOST_OBJECTS = 256  # in one image; with more, computing every pair costs more than a graph saves
_FEWEST_OBJECTS = 32
ALL_MODULES = 1000
"""To recompute."""
_CHEAP = 1  # the first is one short convolution with the largest tensors of all
_WARM_UP = 3  # passes before a capture, as torch has them
_TRIES = 2  # captures of one shape that may fail; the first may lack memory that a graph before still holds
CAPTURE_OPTIONS: Mapping[str, Any] = (
    {"capture_error_mode": "thread_local"}
    if "capture_error_mode" in inspect.signature(torch.cuda.make_graphed_callables).parameters
    else {}
)
"""Lets other threads use CUDA during a capture. Empty for torch before 2.14, where no thread may pin memory then."""


def network_pass(
    model: DetectionModel,
    images: torch.Tensor,
    *,
    recompute: int = 0,
    around: AbstractContextManager[Any] | None = None,
    around_recomputed: AbstractContextManager[Any] | None = None,
) -> Any:
    """Return the model's output for `images`, bytes or floats in [0, 1].

    Of the first `recompute` modules only the inputs are kept for the backward pass. What they computed inside is
    computed again when its gradient is needed (gradient checkpointing): less memory, more time. `around_recomputed` is
    entered for each of these, both times, and `around` for each of the others.
    """

    def run(context: AbstractContextManager[Any] | None, module: nn.Module, x: Any) -> Any:
        with nullcontext() if context is None else context:
            # Nothing else holds the images as floats; half precision at once is what autocast would round them to.
            return module(to_unit(x, compute_dtype(x.device.type)) if module is model.model[0] else x)

    def again() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), kept_statistics(model)

    outputs: list[Any] = []
    x: Any = images
    for module in model.model:
        x = module_inputs(module, x, outputs)
        if module.i < recompute and torch.is_grad_enabled():
            with set_checkpoint_early_stop(False):  # it would raise through an operation that is written in Python
                x = checkpoint(
                    run,
                    around_recomputed,
                    module,
                    x,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    context_fn=again,
                )
        else:
            x = run(around, module, x)
        outputs.append(x if module.i in model.save else None)
    return x


class TrainingStep(nn.Module):
    """Wraps a detector for Ultralytics' trainer: `step(batch)` returns its loss, from a CUDA graph where that fits.

    Args:
        model: the detector in training mode; `.module`, by which Ultralytics finds it.
        graph: use CUDA graphs, where the loss has fixed shapes.
        lean: keep only what passes between the modules for the backward pass, of a packed base no weights either: less
            memory, more time.
        precision: of autocast, as the trainer sets it around each step; None for float32.
        objects: expected most objects in one picture; with more, the graphs are captured anew.
        teacher: a network whose raw predictions count as goals too, on the model's device.
        distill: how much they count.
    """

    def __init__(
        self,
        model: DetectionModel,
        *,
        graph: bool,
        lean: bool = False,
        precision: torch.dtype | None = None,
        objects: int = 0,
        teacher: GraphNetwork | None = None,
        distill: float = 1.0,
    ) -> None:
        super().__init__()
        self.module = model
        self.lean = lean
        self.precision = precision
        self._graph = graph and has_fixed_shapes(model)
        self._graphs: dict[tuple[Any, ...], nn.Module] = {}
        self._images: dict[tuple[Any, ...], torch.Tensor] = {}  # what each graph reads
        self._failures: Counter[tuple[Any, ...]] = Counter()
        self._pool: Any = None
        self._objects = power_of_two(max(_FEWEST_OBJECTS, min(objects, MOST_OBJECTS)))
        self._counted: tuple[tuple[float, ...], torch.Tensor] = ((), torch.empty(0))
        self._fixed: FixedShapeCriterion | None = None
        self.weights = BatchedWeights(model, leave_packed=lean)
        self.fused, self.fused_again = FusedPass(), FusedPass(remembers=False)
        self._teacher, self._distill = (teacher,), distill  # in a tuple: no submodule
        for module in model.modules():
            if isinstance(module, nn.SiLU):
                module.inplace = False  # in place it would keep a copy of its input besides

    @property
    def uses_graphs(self) -> bool:
        """Whether batches run in CUDA graphs, as far as is known."""
        return self._graph and bool(self._graphs or not self._failures)

    def forward(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss (terms,) of a collated batch and its terms by name, as Ultralytics' model does.

        `img` is (n, 3, H, W): uint8, or float in [0, 1]. The batch went through `prepare` before it was moved.
        """
        model = self.module
        if getattr(model, "criterion", None) is None:
            model.criterion = model.init_criterion()
        step = self._graphed(batch)
        if step is None:
            try:
                if not self.lean:  # recomputing modules compute their own
                    self.compute_weights()
                predictions = self.predictions(batch["img"], recompute=ALL_MODULES if self.lean else 0)
            finally:
                self.weights.clear()
            loss, terms = model.loss(batch, predictions)
            return self.whole_loss(loss, tuple(terms), batch["img"], predictions), terms
        _unshare(model)
        targets = batch["targets"]
        loss, terms = step(batch["img"], targets, self._head_weights(targets.device))
        return loss, dict(zip(cast(FixedShapeCriterion, self._fixed).names, terms.detach().clone(), strict=True))

    def predictions(self, images: torch.Tensor, *, recompute: int) -> Any:
        """Return the model's raw predictions for `images`, bytes or in [0, 1]; `recompute` as in `network_pass`."""
        if isinstance(self.module, QatDetector):
            return self.module.raw(to_unit(images))
        once = images.is_cuda and not self.lean
        around = self.fused if once else self.fused_again
        with kept_once() if once else nullcontext():
            return network_pass(
                self.module, images, recompute=recompute, around=around, around_recomputed=self.fused_again
            )

    def compute_weights(self) -> None:
        """Compute all weights now: in the precision of autocast, or in float32 where they are rounded to int8 next."""
        exact = isinstance(self.module, QatDetector)
        with torch.autocast("cuda", enabled=False) if exact else nullcontext():
            self.weights.compute()

    def whole_loss(
        self, loss: torch.Tensor, names: Sequence[str], images: torch.Tensor, predictions: Any
    ) -> torch.Tensor:
        """Return the loss (terms,), named by `names`, with what a teacher adds; NaNs where the training runs away."""
        scores = _scores(predictions)
        added = self.from_teacher(images, predictions)
        zero = torch.zeros((), device=loss.device)
        return not_running_away(loss + torch.stack([added.get(name, zero) for name in names]), *scores)

    def from_teacher(self, images: torch.Tensor, predictions: Any) -> dict[str, torch.Tensor]:
        """Return what the distance from the teacher adds to the terms of the loss of `images`; nothing without one.

        Boxes and classes are learned from it; what a task finds beside is learned from the labels alone.
        """
        (teacher,) = self._teacher
        if teacher is None:
            return {}
        with torch.no_grad():
            goals = raw_predictions(teacher(to_unit(images).to(next(teacher.buffers()).dtype)))
        boxes, classes = distillation(
            predictions.get("one2many", predictions), goals, self.module.model[-1].reg_max
        ).unbind()
        gains, counts = self.module.args, len(images) * self._distill
        sides = "dfl_loss" if self.module.model[-1].reg_max > 1 else "l1_loss"
        return {"cls_loss": counts * gains.cls * classes, sides: counts * gains.dfl * boxes}

    def prepare(self, batch: dict[str, Any]) -> None:
        """Add the padded objects to a batch that still lies on the CPU, if it can run in a graph."""
        if not self._graph:
            return
        most = int(torch.bincount(batch["batch_idx"].long().view(-1), minlength=1).max())
        if most > MOST_OBJECTS:
            self._give_up(f"an image with {most} objects")
        elif most > self._objects:
            self._objects = power_of_two(most)
            self.drop_graphs()  # they hold fewer objects
        if self._graph:
            batch["targets"] = pad_targets(batch, self._objects)

    def place_images(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the images of a prepared batch where the graph of its shape reads them, or as they are without one.

        A copy on the device besides, which only waits to be copied there, would be as large as the images.
        """
        images: torch.Tensor = batch["img"]
        place = self._images.get(self._key(batch)) if self._graph else None
        return images if place is None else place.copy_(images, non_blocking=True)

    def drop_graphs(self) -> None:
        """Let go of the graphs; the next ones get a pool of their own, as torch demands.

        The memory of the last one is free when the loss of the step before is.
        """
        self._graphs.clear()
        self._images.clear()
        self._pool = None
        gc.collect()  # torch's graphed modules refer to themselves
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _head_weights(self, device: torch.device) -> torch.Tensor:
        """Return how much each head counts, on the GPU; copied there when it changes, once an epoch."""
        weights = head_weights(self.module.criterion)
        if self._counted[0] != weights:
            self._counted = weights, torch.tensor(weights, device=device)
        return self._counted[1]

    def _graphed(self, batch: Mapping[str, Any]) -> nn.Module | None:
        """Return the graph for this batch, captured now if it is new; None where it runs as usual."""
        if not (self._graph and self.training):
            return None
        key = self._key(batch)
        if key in self._graphs or self._failures[key] >= _TRIES:
            return self._graphs.get(key)
        if len(self._graphs) >= MOST_GRAPHS:
            self._give_up(f"batches of more than {MOST_GRAPHS} shapes")
            return None
        reason = ""
        try:
            self._graphs[key], self._images[key] = self._capture(batch)
        except RuntimeError as error:  # no driver, no memory, an operation that a graph cannot hold
            reason = reason_of(error)
        if reason:
            self._failures[key] += 1
            LOGGER.warning(
                f"no CUDA graph for batches of {len(batch['img'])} images: {reason}; their steps take longer"
            )
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return self._graphs.get(key)

    @staticmethod
    def _key(batch: Mapping[str, Any]) -> tuple[Any, ...]:
        return (*batch["img"].shape, batch["img"].dtype, batch["targets"].shape[1])

    def autocast(self) -> torch.autocast:
        """Return the trainer's autocast, but without the cache of rounded weights, which a graph cannot hold."""
        return torch.autocast("cuda", dtype=self.precision, enabled=self.precision is not None, cache_enabled=False)

    def _capture(self, batch: Mapping[str, Any]) -> tuple[nn.Module, torch.Tensor]:
        """Return the graph for batches like this one, and the memory from which it reads their images."""
        if self._fixed is None:
            self._fixed = FixedShapeCriterion(self.module)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()  # one for all: only one of them runs at a time
        # Gradients of a graph come from another stream than the pass that made their nodes: known, and waited for.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        weights = torch.ones(len(self._fixed.heads), device=batch["img"].device)
        sample = (batch["img"].clone(), batch["targets"].clone(), weights)
        whole = _Pass(self, self._fixed)
        unused = isinstance(self.module, QatDetector)  # an end-to-end detector's other head
        statistics = live_statistics(self.module)
        before = {name: tensor.clone() for name, tensor in statistics.items()}
        try:
            with self.autocast(), fastest_convolutions():
                graphed = captured(whole, sample, pool=self._pool, allow_unused_input=unused)
        finally:
            self.weights.clear()
            for name, tensor in before.items():  # statistics, which the passes before the capture moved
                statistics[name].copy_(tensor)
        torch.cuda.empty_cache()  # what the passes before the capture took
        return graphed, sample[0]

    def _give_up(self, reason: str) -> None:
        LOGGER.warning(f"no CUDA graph from here on, because of {reason}: steps take longer, results do not change")
        self._graph = False
        self.drop_graphs()


class _Pass(nn.Module):
    """Images and objects in, loss out: what a graph holds."""

    def __init__(self, step: TrainingStep, criterion: FixedShapeCriterion) -> None:
        super().__init__()
        self.model = step.module  # its parameters are this module's
        self._step, self._criterion = (step,), criterion  # in a tuple: no submodule

    def forward(
        self, images: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        (step,) = self._step
        with step.autocast():
            step.compute_weights()  # until the backward pass is captured too
            predictions = step.predictions(images, recompute=ALL_MODULES if step.lean else _CHEAP)
            loss, terms = self._criterion(predictions, targets, weights)
            return step.whole_loss(loss, self._criterion.names, images, predictions), terms


def _scores(predictions: Any) -> list[torch.Tensor]:
    """Return the class outputs of each head, before the sigmoid or softmax."""
    if isinstance(predictions, torch.Tensor):  # a classifier's
        return [predictions]
    heads = predictions.values() if "one2many" in predictions else [predictions]
    return [head["scores"] for head in heads]


def has_fixed_shapes(model: nn.Module) -> bool:
    """Whether a detector's loss can be computed with shapes that no label decides: that of detection (see `loss.py`).

    Ultralytics' losses of masks, keypoints and oriented boxes choose anchors by masks, which no graph can follow.
    """
    return type(cast(DetectionModel, model).model[-1]) in HEADS["detect"]


def captured(whole: nn.Module, sample: tuple[torch.Tensor, ...], *, pool: Any, allow_unused_input: bool) -> nn.Module:
    """Return the graph of a module and its gradients, as `torch.cuda.make_graphed_callables` makes it.

    The passes before, in which libraries choose and load what they run, are taken apart from it: what cuBLAS works in
    then lies in the graph's pool, and stays while the graph does.
    """
    trained = [parameter for parameter in whole.parameters() if parameter.requires_grad]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(_WARM_UP):
            outputs = [output for output in whole(*sample) if output.requires_grad]
            torch.autograd.grad(outputs, trained, [torch.ones_like(output) for output in outputs], allow_unused=True)
    torch.cuda.synchronize()
    clear_workspaces()
    graphed = torch.cuda.make_graphed_callables(
        whole, sample, num_warmup_iters=0, pool=pool, allow_unused_input=allow_unused_input, **CAPTURE_OPTIONS
    )
    return cast(nn.Module, graphed)


def clear_workspaces() -> None:
    """Free what cuBLAS works in on every stream; it takes it anew when it needs to.

    A graph that was captured with a workspace from outside its pool would write into freed memory from then on.
    """
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None:
        clear()


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


def to_unit(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return bytes as numbers in [0, 1] of a type that holds all bytes exactly; floats as they are."""
    return images.to(dtype).div_(255) if images.dtype == torch.uint8 else images


def compute_dtype(device: str) -> torch.dtype:
    """Return what convolutions compute in on a kind of device: autocast's type, or float32 without autocast."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def _unshare(model: nn.Module) -> None:
    """Copy gradients that wait for more (accumulation): they lie in the graph's memory, which is written next."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()
