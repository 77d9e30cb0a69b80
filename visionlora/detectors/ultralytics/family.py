"""Ultralytics' detectors as a family: what each function of the protocol is in this room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from visionlora.detectors.family import Base, Family, StepCost, StepSample, StepSpec
from visionlora.detectors.network import CheckpointNetwork, check_image_size, with_adapter
from visionlora.detectors.ultralytics import checkpoint, folding, hyperparameters, layout, network, shift
from visionlora.tasks import TASKS

if TYPE_CHECKING:
    from visionlora.detectors.job import TrainingJob


class _Ultralytics:
    """See `Family`. What trains is imported where it is called: opening a detector needs none of it."""

    name = checkpoint.FAMILY

    refusal = staticmethod(checkpoint.refusal)
    load = staticmethod(checkpoint.load_base)
    pack = staticmethod(checkpoint.pack_checkpoint)
    raw_prediction = staticmethod(checkpoint.raw_prediction)
    statistics_shift = staticmethod(shift.statistics_shift)
    sample_pictures = staticmethod(checkpoint.sample_pictures)
    versions = staticmethod(checkpoint.versions)
    adapted = staticmethod(layout.adapted)
    fine_tunings = staticmethod(layout.fine_tunings)
    with_adapter = staticmethod(partial(with_adapter, layout.adapted))
    raw_detector = staticmethod(network.RawDetector)
    check_image_size = staticmethod(check_image_size)
    folded_base = staticmethod(folding.folded_base)
    tasks = tuple(name for name, task in TASKS.items() if task.boxes)
    lean = True
    partial_targets = ("from:5", "neck+head")
    free_hyperparameters = hyperparameters.FREE
    length_hyperparameters = hyperparameters.LENGTH
    check_step = staticmethod(hyperparameters.check_step)
    check_batches = staticmethod(hyperparameters.check_batches)
    check_hyperparameters = staticmethod(hyperparameters.check_hyperparameters)
    int8_hyperparameters = staticmethod(hyperparameters.int8_hyperparameters)
    hyperparameters = staticmethod(hyperparameters.hyperparameters)

    def open(
        self, path: Path | str, *, adapter: Path | str | None = None, image_size: int | None = None, device: str = "cpu"
    ) -> CheckpointNetwork:
        return CheckpointNetwork(self, path, adapter=adapter, image_size=image_size, device=device)

    def train(self, job: TrainingJob) -> object:
        from visionlora.detectors.ultralytics.trainer import run_job

        return run_job(job)

    def measure_steps(
        self, base: Base, steps: Sequence[StepSpec], sample: StepSample, *, rounds: int
    ) -> Iterator[tuple[StepCost, ...]]:
        from visionlora.detectors.ultralytics.measuring import measure_steps

        return measure_steps(base, steps, sample, rounds=rounds)

    def training_memory(
        self, base: Base, step: StepSpec, sample: StepSample, *, last: int, validated: int, limit: int
    ) -> int | None:
        from visionlora.detectors.ultralytics.memory import training_memory

        return training_memory(base, step, sample, last=last, validated=validated, limit=limit)


ULTRALYTICS: Family = _Ultralytics()
