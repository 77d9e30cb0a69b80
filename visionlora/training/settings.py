"""The settings of a training: frozen values, checked when they are made, before anything is removed or trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.adapters.base_precision import FLOAT32
from visionlora.adapters.factors import STARTS, FactorTraining
from visionlora.adapters.methods import Addition, method_for, setting_names
from visionlora.data import Dataset
from visionlora.detectors.device import check_batch, check_device, check_gpu, default_device
from visionlora.detectors.family import Base, Family
from visionlora.errors import UsageError
from visionlora.training.recipes import AUTO, Recipe, RecipeChoice, recipe_of
from visionlora.training.target import check_task

AUTO_BATCH = "auto"
"""In place of a batch: the largest that fits into a GPU's memory."""
RANGES = ("learned", "fixed")
MAX_SEED = 2**32 - 1025  # NumPy takes 32 bits, and each process adds its number
QAT_EPOCHS = 10
QAT_RATES: Mapping[str, float] = {"int8": 0.0002, "int4": 0.001}
"""Learning rates of quantization-aware training, by what the weights become."""


def check_count(value: Any, option: str, *, least: int = 1, most: int | None = None) -> None:
    """Refuse what is no whole number of at least `least`, and of at most `most` where there is such a bound.

    Raises:
        UsageError: it is none; `option` is named.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{option}: expected a whole number, got {value!r}")
    if value < least or (most is not None and value > most):
        above = "" if most is None else f" and at most {most}"
        raise UsageError(f"{option}: expected a whole number of at least {least}{above}, got {value}")


def check_learning_rate(rate: Any, option: str) -> float:
    """Return a learning rate.

    Raises:
        UsageError: it is not in (0, 1].
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        raise UsageError(f"{option}: expected a learning rate above 0 and at most 1, such as 0.001, got {rate!r}")
    return float(rate)


@dataclass(frozen=True)
class Schedule:
    """How long a phase trains, and in what steps.

    Attributes:
        epochs: passes over the training images.
        imgsz: side of the network's square input in pixels.
        batch: images a step, over all devices.
        seed: of everything drawn at random.
        lr0: learning rate after warm-up.

    Raises:
        UsageError: a count or the rate is none.
    """

    epochs: int = 50
    imgsz: int = 640
    batch: int = 16
    seed: int = 0
    lr0: float = 0.001

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "imgsz"):
            check_count(getattr(self, name), f"--{name}")
        check_count(self.seed, "--seed", least=0, most=MAX_SEED)
        object.__setattr__(self, "lr0", check_learning_rate(self.lr0, "--lr0"))

    @classmethod
    def asked(cls, *, epochs: int, imgsz: int | None, batch: int | str, seed: int, lr0: float | None) -> Schedule:
        """Return the schedule; without a size or a rate, or with a batch that is to be found, the usual for now."""
        rate, size = cls.lr0 if lr0 is None else lr0, cls.imgsz if imgsz is None else imgsz
        return cls(epochs=epochs, imgsz=size, batch=batch_or_usual(batch), seed=seed, lr0=rate)


def batch_or_usual(batch: int | str) -> int:
    """Return a batch as a schedule has it, which is the usual one until that of `auto` is found.

    Raises:
        UsageError: it is another text.
    """
    if batch == AUTO_BATCH:
        return Schedule.batch
    if isinstance(batch, str):
        raise UsageError(f"--batch: expected a whole number or {AUTO_BATCH}, got {batch!r:.40}")
    return batch


def check_memory(memory: Any, *, auto: bool) -> None:
    """Refuse GiB to fit a batch into that are no number above 0, or where no batch is looked for.

    Raises:
        UsageError: they are.
    """
    if memory is None:
        return
    if isinstance(memory, bool) or not isinstance(memory, (int, float)) or not 0 < memory < math.inf:
        raise UsageError(f"--memory: expected GiB above 0, such as 24, got {memory!r}")
    if not auto:
        raise UsageError("--memory: only with --batch auto; add it or drop --memory")


@dataclass(frozen=True)
class QatSettings:
    """How a training goes on under the rounding of the file that is to be shipped.

    Attributes:
        weights: `int8` or `int4`.
        epochs: its length.
        lr0: its learning rate; None for the usual one of the weights.
        ranges: `learned` trains the ranges of the activations too, `fixed` keeps the calibrated ones.

    Raises:
        UsageError: one of them is not of these.
    """

    weights: str
    epochs: int = QAT_EPOCHS
    lr0: float | None = None
    ranges: str = RANGES[0]

    def __post_init__(self) -> None:
        if self.weights not in QAT_RATES:
            raise UsageError(f"--quantize: expected {' or '.join(QAT_RATES)}, got {self.weights!r}")
        if self.ranges not in RANGES:
            raise UsageError(f"--ranges: expected {' or '.join(RANGES)}, got {self.ranges!r}")
        check_count(self.epochs, "--qat-epochs")
        rate = QAT_RATES[self.weights] if self.lr0 is None else check_learning_rate(self.lr0, "--qat-lr0")
        object.__setattr__(self, "lr0", rate)

    @classmethod
    def asked(cls, weights: str | None, *, epochs: int, lr0: float | None, ranges: str) -> QatSettings | None:
        """Return the settings; None where no weights are given, and then nothing else may have been chosen either."""
        made = cls("int8" if weights is None else weights, epochs, lr0, ranges)
        if weights is None and (epochs, lr0, ranges) != (QAT_EPOCHS, None, RANGES[0]):
            raise UsageError(
                "--qat-epochs, --qat-lr0 and --ranges: only with --quantize int8 or int4; add it or drop them"
            )
        return None if weights is None else made

    def schedule(self, before: Schedule) -> Schedule:
        """Return the schedule of this phase behind another one's."""
        return replace(before, epochs=self.epochs, lr0=cast(float, self.lr0))


@dataclass(frozen=True)
class TrainingSettings:
    """What a training does, whatever the base of a family and the data set.

    Attributes:
        family: of the base.
        adapter: shape of the adapter.
        schedule: of the float phases.
        hyperparameters: any other of the family's trainer that were chosen.
        device: `cpu`, `0`, `0,1`, or torch's `cuda:0`; None for the first GPU, else the CPU.
        qat: training under the rounding of the shipped file; None for none.
        distill: how much the float model's predictions count beside the labels; None for the usual.
        lean: less memory, more time.
        factors: what the adapter's factors begin with, and how fast they learn.
        start: a float adapter of this shape to go on with; None trains one first.
        images: how many training images calibrate int8.
        recipe: what was chosen of the recipe, which `adapter` and `schedule` follow once the pictures are known.
        auto_batch: the schedule's batch is to be replaced by the largest that fits.
        task: what the adapter is to find, by name; None for what the base finds.

    Raises:
        UsageError: a setting is wrong in itself or with another.
        AdapterError: `start` cannot be read.
    """

    family: Family
    adapter: AdapterSettings
    schedule: Schedule
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    qat: QatSettings | None = None
    distill: float | None = None
    lean: bool = False
    factors: FactorTraining = field(default_factory=FactorTraining)
    start: Path | None = None
    images: int = 32
    recipe: RecipeChoice = field(default_factory=RecipeChoice)
    auto_batch: bool = False
    task: str | None = None

    def __post_init__(self) -> None:
        check_task(self.task)
        check_count(self.images, "--images")
        self.factors.check_method(self.adapter.method.name)
        if self.start is not None:
            if self.recipe.budget is not None:
                raise UsageError("--budget: the adapter of --adapter has its layers already; drop one of them")
            if self.factors.start != STARTS[0]:
                raise UsageError(
                    f"--start {self.factors.start}: the factors begin with those of --adapter; drop one of them"
                )
            recipe = recipe_of(read_adapter_card(self.start).settings)
            if self.recipe.name not in (AUTO, recipe.name):
                raise UsageError(
                    f"--adapter {self.start}: it has --recipe {recipe.name}, not {self.recipe.name}; pass what it has"
                )
            object.__setattr__(self, "adapter", self.recipe.adapter(self.adapter, recipe))
            _check_start(self.start, self.adapter)
        self._check_distill()
        if self.start is not None and not (self.qat or self.adapter.relu_targets):
            raise UsageError("--adapter: goes on with an adapter for --quantize or --activation; give one of them")
        device = check_device(default_device() if self.device is None else self.device)
        object.__setattr__(self, "device", device)
        if self.auto_batch:
            self._check_auto_batch(device)
        else:
            check_batch(self.schedule.batch, device)
        checked = self.family.check_hyperparameters(self.hyperparameters, device)
        object.__setattr__(self, "hyperparameters", checked)
        self._check_step(device)

    def _check_distill(self) -> None:
        """Refuse a weight of predictions that is none or would have no effect; put the usual one in its place."""
        if self.distill and not (self.qat or self.adapter.relu_targets):
            raise UsageError("--distill: only with --quantize or --activation; add one of them or drop it")
        if self.distill is None:
            usual = 1.0 if self.adapter.relu_targets or (self.qat and self.qat.weights == "int4") else 0.0
            object.__setattr__(self, "distill", usual)
        weight: Any = self.distill
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise UsageError(f"--distill: expected a number of at least 0, got {weight!r}")

    def _check_auto_batch(self, device: str) -> None:
        """Refuse to look for a batch where no measurement tells it."""
        check_gpu(device)
        if self.qat or self.adapter.relu_targets:
            raise UsageError(
                "--batch auto: measures training in float, and the phases of --quantize and --activation take more "
                "memory; give --batch a number"
            )

    def _check_step(self, device: str) -> None:
        """Refuse what the step of a phase could not do, before the first phase is trained."""
        self.family.check_step(
            self.hyperparameters,
            device,
            lean=self.lean,
            int8=self.qat is not None,
            relu=bool(self.adapter.relu_targets),
            rounded=self.adapter.base_precision != FLOAT32,
            teacher=bool(self.distill),
            fitted=self.auto_batch,
            addition=isinstance(self.adapter.method, Addition),
        )
        method = self.adapter.method
        if self.qat and isinstance(method, Addition) and not method.int8:
            raise UsageError(
                f"--quantize: trains the convolutions of an exported graph, and {method.name} learns numbers that are "
                "none of them; drop it: the float adapter is exported and calibrated as it is"
            )
        if "imgsz" in setting_names(method) and self.hyperparameters.get("multi_scale"):
            raise UsageError(f"--set multi_scale: {method.name} is of one image size; drop one of them")
        if self.lean and self.qat:
            raise UsageError(
                "--lean: has no effect on int8 training, which keeps little anyway; drop --lean or --quantize"
            )

    def under(self, recipe: Recipe) -> TrainingSettings:
        """Return the settings with a recipe in place of what was not chosen."""
        rate = recipe.lr0 if self.recipe.lr0 is None else self.recipe.lr0
        adapter = self.recipe.adapter(self.adapter, recipe)
        return replace(self, adapter=adapter, schedule=replace(self.schedule, lr0=rate))

    def at_size_of(self, model: Path | str) -> TrainingSettings:
        """Return the settings for images of the size that a model was trained at.

        Raises:
            ModelError: the model cannot be loaded.
        """
        size, method = self.family.load(model).image_size, self.adapter.method
        own = {name: getattr(method, name) for name in setting_names(method)}
        sized = method_for(method.name, own, imgsz=size)
        schedule = replace(self.schedule, imgsz=size)
        return replace(self, adapter=replace(self.adapter, method=sized), schedule=schedule)

    def check_belongs(self, base: Base, dataset: Dataset) -> None:
        """Refuse an adapter to go on with that is of another base or finds other classes, and what a task cannot have.

        Raises:
            AdapterError: it is of another base.
            UsageError: its classes are not those of the data set, in their order; or a classifier is to be trained as
                an int8 file computes, or with other activations.
        """
        if not base.task.boxes and (self.qat or self.adapter.relu_targets):
            option = "--quantize" if self.qat else "--activation"
            raise UsageError(
                f"{option}: for detectors alone yet, and {base.path} classifies pictures; train without it, and make "
                "the INT8 file with visionlora quantize --max-drop 0.005"
            )
        if self.start is None:
            return
        card = read_adapter_card(self.start)
        card.check_base(base.fingerprint, str(base.path), family=base.family)
        if card.names != dataset.names:
            own, asked = (", ".join(names) for names in (card.names, dataset.names))
            raise UsageError(
                f"--adapter {self.start}: it finds {own}; {dataset.yaml_path} names {asked}; pass its data set"
            )


def _check_start(path: Path, settings: AdapterSettings) -> None:
    """Refuse an adapter to go on with that has another shape than was asked for."""
    own = read_adapter_card(path).settings
    wanted, given = (
        {**each.to_fields(), "base_precision": each.base_precision, "activation": None} for each in (settings, own)
    )
    changed = [name for name, value in wanted.items() if given.get(name) != value]
    differ = [f"--{name.replace('_', '-')} {given.get(name)}, not {wanted[name]}" for name in changed]
    if differ:
        raise UsageError(f"--adapter {path}: it has {', '.join(differ)}; pass what it has")
    if own.activation not in ("silu", settings.activation):
        raise UsageError(f"--adapter {path}: it has --activation {own.activation}; pass the same")
