"""torchvision's detectors as a family: what each function of the protocol is in this room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from visionlora.adapters import FoldedBase
from visionlora.detectors import folding
from visionlora.detectors.family import Base, Family, StepCost, StepSample, StepSpec
from visionlora.detectors.network import CheckpointNetwork, check_image_size, with_adapter
from visionlora.detectors.torchvision import checkpoint, hyperparameters, layout, network, shift
from visionlora.tasks import DETECT

if TYPE_CHECKING:
    from visionlora.detectors.job import TrainingJob


class _Torchvision:
    """See `Family`. What trains is imported where it is called: opening a detector needs none of it."""

    name = checkpoint.FAMILY

    refusal = staticmethod(checkpoint.refusal)
    load = staticmethod(checkpoint.load_base)
    pack = staticmethod(checkpoint.pack_checkpoint)
    sample_pictures = staticmethod(checkpoint.sample_pictures)
    versions = staticmethod(checkpoint.versions)
    statistics_shift = staticmethod(shift.statistics_shift)
    adapted = staticmethod(layout.adapted)
    fine_tunings = staticmethod(layout.fine_tunings)
    raw_prediction = staticmethod(network.raw_prediction)
    raw_detector = staticmethod(network.RawDetector)
    with_adapter = staticmethod(partial(with_adapter, layout.adapted))
    check_image_size = staticmethod(check_image_size)
    tasks = (DETECT.name,)
    lean = False
    partial_targets = ("neck+head", "head")
    free_hyperparameters = hyperparameters.FREE
    length_hyperparameters = hyperparameters.LENGTH
    check_step = staticmethod(hyperparameters.check_step)
    check_batches = staticmethod(hyperparameters.check_batches)
    check_hyperparameters = staticmethod(hyperparameters.check_hyperparameters)
    int8_hyperparameters = staticmethod(hyperparameters.int8_hyperparameters)
    hyperparameters = staticmethod(hyperparameters.hyperparameters)

    def folded_base(self, base: Base, constants: Mapping[str, NDArray[Any]]) -> FoldedBase:
        # Classes are folded with anchors and the background, and their number is in the graph: it has its own alone.
        return folding.folded_base(base, constants, norms=layout.norms_behind_layers(base.model), class_outputs=())

    def open(
        self, path: Path | str, *, adapter: Path | str | None = None, image_size: int | None = None, device: str = "cpu"
    ) -> CheckpointNetwork:
        return CheckpointNetwork(self, path, adapter=adapter, image_size=image_size, device=device)

    def train(self, job: TrainingJob) -> None:
        from visionlora.detectors.torchvision.trainer import run_job

        run_job(job)

    def measure_steps(
        self, base: Base, steps: Sequence[StepSpec], sample: StepSample, *, rounds: int
    ) -> Iterator[tuple[StepCost, ...]]:
        from visionlora.detectors.torchvision.measuring import measure_steps

        return measure_steps(base, steps, sample, rounds=rounds)

    def training_memory(
        self, base: Base, step: StepSpec, sample: StepSample, *, last: int, validated: int, limit: int
    ) -> int | None:
        from visionlora.detectors.torchvision.measuring import training_memory

        return training_memory(base, step, sample, last=last, validated=validated, limit=limit)


TORCHVISION: Family = _Torchvision()
