"""What a family of detectors must do for the rest of the package, and the values that pass between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from visionlora.adapters import AdapterSettings, FoldedBase
from visionlora.adapters.torch import Adapter, AdapterPlan, attach, merge, settle
from visionlora.tasks import Task
from visionlora.vision.inference import Network

if TYPE_CHECKING:
    from visionlora.detectors.job import TrainingJob  # not for those who only open a detector


@dataclass(frozen=True)
class Base:
    """A detector as it was loaded: float32, eval mode, batch normalization in place.

    Attributes:
        model: the detection model.
        path: where it came from.
        names: class names in the order of the class outputs.
        image_size: pixels of the square that it was trained on.
        fingerprint: SHA-256 of its weights.
        stride: pixels of the input that one cell of its coarsest output spans.
        family: name of its family, by which `visionlora.detectors.FAMILIES` has it.
        task: what it finds; of one that adapters give another task to, or keypoints of other sizes, that one.
        card: what visionlora wrote into the checkpoint, or None for a foreign one.
    """

    model: nn.Module
    path: Path
    names: tuple[str, ...]
    image_size: int
    fingerprint: str
    stride: int
    family: str
    task: Task
    card: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class AdaptedDetector:
    """A copy of a base with the classes and activations that an adapter has, and what the adapter changes in it.

    It becomes trainable by `attach`, an ordinary detector with other weights by `merge`, or what is run and exported by
    `finish`.

    Attributes:
        model: the copy.
        plan: which layers are adapted, trained whole, or left as they are.
    """

    model: nn.Module
    plan: AdapterPlan

    def attach(self, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        """Make the adapter's tensors the only parameters of the model, in place; None starts them anew.

        Raises:
            AdapterError: the tensors do not fit.
        """
        attach(self.model, self.plan, tensors)

    def merge(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put the adapted weights in place of the model's own.

        Raises:
            AdapterError: the tensors do not fit; the model is unchanged then.
        """
        merge(self.model, self.plan, tensors)

    def finish(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Merge the adapter, or add its modules where it cannot be merged: batch normalization is folded then.

        Raises:
            AdapterError: the tensors do not fit.
        """
        if self.plan.settings.method.merges:
            self.merge(tensors)
        else:
            self.attach(tensors)
            settle(self.model)


@dataclass(frozen=True)
class StepSpec:
    """A training step to measure.

    Attributes:
        adapter: what is trained; None trains the detector itself.
        frozen: of a detector that is trained itself, how many of its first modules stay as they are.
        lean: of an adapter, less memory for more time.
    """

    adapter: AdapterSettings | None = None
    frozen: int = 0
    lean: bool = False


@dataclass(frozen=True)
class StepSample:
    """What steps are measured on: images of noise.

    Attributes:
        names: class names of the data set.
        objects: for each image an array (n, 5): class, then centre and size as fractions of the image.
        batch: images a step; `objects` is repeated to this many.
        image_size: side of the square images in pixels.
        device: the CPU or one GPU.
        most_objects: in one picture of the data set; an adapter's step makes room for twice as many at least.
    """

    names: tuple[str, ...]
    objects: Sequence[NDArray[np.floating]]
    batch: int
    image_size: int
    device: torch.device
    most_objects: int = 0


@dataclass(frozen=True)
class StepCost:
    """The cost of one training step.

    Attributes:
        trainable: parameters that are trained.
        milliseconds: median of a step: forward, loss, backward, clipping, optimizer; None if it does not fit.
        memory: on a GPU the peak of the step in bytes, everything but the CUDA context; on a CPU the bytes that are
            kept from the forward for the backward pass. None if it does not fit.
        turns_ms: the median of each turn, in their order; empty if it does not fit.
    """

    trainable: int
    milliseconds: float | None
    memory: int | None
    turns_ms: tuple[float, ...] = ()


class TorchNetwork(Network, Protocol):
    """A checkpoint, with or without an adapter, that `visionlora.vision.inference.detect` runs."""

    def adapter_off(self) -> Network:
        """Return the detector without its adapter, from the base's weights that this one was made from."""
        ...


class Family(Protocol):
    """Detectors of one framework: how they are read, adapted, trained, run and written.

    A raw prediction is (n, rows, anchors), as the task of a base lays it out. Images are (n, 3, S, S) RGB in [0, 1].

    """

    @property
    def name(self) -> str:
        """As cards have it."""

    def refusal(self, path: Path) -> str:
        """Return why a file, or the name of a published one, is none of this family; empty where it may be one.

        It is told from the name and from what the file says of itself: nothing is downloaded, no weights are read.
        """
        ...

    def load(self, path: Path | str) -> Base:
        """Load a checkpoint; a bare name may stand for a published one, which is downloaded.

        Raises:
            ModelError: it is missing, unreadable, or no detector of this family.
        """
        ...

    def pack(self, base: Base, *, image_size: int, card: Mapping[str, Any]) -> bytes:
        """Return a detector as the bytes of an ordinary checkpoint in float32, with `card` in its own entry."""
        ...

    def check_image_size(self, image_size: int, base: Base) -> None:
        """Refuse a side of the square input, in pixels, that does not fit the detector.

        Raises:
            UsageError: it does not.
        """
        ...

    def adapted(
        self,
        base: Base,
        names: Sequence[str],
        settings: AdapterSettings,
        *,
        relu: Callable[[], nn.Module] = nn.ReLU,
    ) -> AdaptedDetector:
        """Return a copy of `base` with class outputs for `names` and the activations of an adapter, and its plan.

        Args:
            base: the detector; it is not changed.
            names: class names. Outputs of new classes start at random, of torch's global generator.
            settings: shape of the adapter.
            relu: makes what stands in place of an activation function that the settings replace.

        Raises:
            UsageError: the settings name no layer of this detector.
        """
        ...

    def with_adapter(self, base: Base, adapter: Adapter) -> Base:
        """Return the base with the adapter's task, classes and weights in a copy of its model, with its modules.

        Raises:
            AdapterError: the adapter belongs to another base, or does not fit.
        """
        ...

    def raw_detector(self, model: nn.Module) -> nn.Module:
        """Return what is exported of a detector: images in, raw prediction out, batch normalization folded.

        The copy of `model` in it is its attribute `model`, so the name of a tensor there begins with `model.`.
        """
        ...

    def raw_prediction(self, model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the raw prediction of a detector as it stands, adapted or not, in eval mode: a tensor an output."""
        ...

    def folded_base(self, base: Base, constants: Mapping[str, NDArray[Any]]) -> FoldedBase:
        """Return how `base` was folded into an exported graph.

        Args:
            base: the checkpoint.
            constants: the exported weights and biases under their names in `base.model`.
        """
        ...

    def open(
        self, path: Path | str, *, adapter: Path | str | None = None, image_size: int | None = None, device: str = "cpu"
    ) -> TorchNetwork:
        """Open a checkpoint, with or without an adapter, to detect with.

        Raises:
            ModelError: the checkpoint cannot be used.
            AdapterError: the adapter cannot be read, or belongs to another base.
            UsageError: there is no such device, or the image size does not fit.
        """
        ...

    def statistics_shift(self, base: Base, squares: Sequence[NDArray[np.uint8]]) -> float:
        """Return how far pictures are from what a base has seen, by the statistics that its norms keep; 0 for alike.

        Args:
            base: as it was loaded.
            squares: (size, size, 3) BGR each, as `letterbox_pixels` gives them.
        """
        ...

    def sample_pictures(self) -> tuple[Path, ...]:
        """Return photographs to try a detector on."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that decide what a training gives."""
        ...

    @property
    def free_hyperparameters(self) -> tuple[str, ...]:
        """Those that change no number: a run may go on with other values."""
        ...

    @property
    def length_hyperparameters(self) -> tuple[str, ...]:
        """Those that may change where a run goes on for more epochs."""
        ...

    def check_hyperparameters(self, asked: Mapping[str, Any], device: str) -> dict[str, Any]:
        """Return `asked` if a user may set every name, and its trainer takes every value on `device`.

        Raises:
            UsageError: not; all problems are listed.
        """
        ...

    def check_step(
        self,
        asked: Mapping[str, Any],
        device: str,
        *,
        lean: bool,
        int8: bool,
        relu: bool,
        rounded: bool,
        teacher: bool,
        fitted: bool,
        addition: bool,
    ) -> None:
        """Refuse hyperparameters that the step of a phase cannot be taken with, before the first phase is trained.

        Args:
            asked: by the user; each is right in itself (see `check_hyperparameters`).
            device: names of devices, as `check_device` returns them.
            lean: less memory for more time.
            int8: a phase trains as the int8 file computes.
            relu: a phase puts ReLU in place of other activations.
            rounded: the frozen base is kept in fewer bits.
            teacher: a phase learns from a float graph too.
            fitted: the batch is found by `training_memory`, which does without `asked`.
            addition: the adapter has modules beside the weights.

        Raises:
            UsageError: it cannot.
        """
        ...

    def hyperparameters(
        self, asked: Mapping[str, Any], schedule: Mapping[str, Any], *, pictures: int, processes: int
    ) -> dict[str, Any]:
        """Return all hyperparameters that a training in float sets, under the names of its trainer.

        Args:
            asked: by the user.
            schedule: `epochs`, `imgsz`, `batch`, `seed`, `lr0`, as the command line names them; they are in the result.
            pictures: of all splits that are read.
            processes: how many train.
        """
        ...

    def check_batches(self, base: Base, chosen: Mapping[str, Any], *, pictures: int, processes: int) -> None:
        """Refuse hyperparameters that the trainer cannot take a step with on so many pictures.

        Args:
            base: the frozen detector.
            chosen: what `hyperparameters` returned.
            pictures: of the train split.
            processes: how many train.

        Raises:
            UsageError: a batch would be too small.
        """
        ...

    def int8_hyperparameters(
        self, chosen: Mapping[str, Any], asked: Mapping[str, Any], *, epochs: int, lr0: float
    ) -> dict[str, Any]:
        """Return those of an int8 phase behind a training in float with `chosen`."""
        ...

    def train(self, job: TrainingJob) -> object:
        """Train an adapter; leave `ADAPTER_FILE`, `RESULTS_FILE` and `RESUME_FILE` (see `resume`) in the job's folder.

        Raises:
            DataError: a picture was changed or removed since the job was made.
            VisionLoraError: the training diverged, a step does not fit into memory, or the base changed.
        """
        ...

    def fine_tunings(self, base: Base) -> Mapping[str, StepSpec]:
        """Return the usual ways to train the detector itself, by their labels; the first trains all of it."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that a detector of boxes can be given."""
        ...

    @property
    def lean(self) -> bool:
        """Whether a step can keep less in memory and compute it again."""
        ...

    @property
    def partial_targets(self) -> tuple[str, ...]:
        """Targets that leave out the first layers, and so need less memory; those with the most layers first."""
        ...

    def measure_steps(
        self, base: Base, steps: Sequence[StepSpec], sample: StepSample, *, rounds: int
    ) -> Iterator[tuple[StepCost, ...]]:
        """Measure steps in turns, so many rounds of them; yield what is known of each after every turn.

        Raises:
            UsageError: the images do not fit into memory, or an adapter's settings name no layer.
        """
        ...

    def training_memory(
        self, base: Base, step: StepSpec, sample: StepSample, *, last: int, validated: int, limit: int
    ) -> int | None:
        """Measure the most memory that a training takes on a GPU, in bytes; None where it does not fit.

        A few steps are taken, as many as it needs to see what an epoch holds at a time. All of it is freed in the end.

        Args:
            base: the detector.
            step: what is trained.
            sample: what is shown, on a GPU.
            last: images in the last step of an epoch, where these are fewer; 0 where they are not.
            validated: images in a step of the validation; 0 without one.
            limit: bytes that it may take.
        """
        ...


def check_targets(family: Family, base: Base, names: Sequence[str], settings: AdapterSettings) -> AdapterPlan:
    """Plan an adapter for these classes, to learn early whether its targets match.

    Raises:
        UsageError: they match nothing.
    """
    with torch.random.fork_rng(devices=[]):
        return family.adapted(base, names, settings).plan
