"""What is measured of a training's memory: the steps that an epoch takes, for real."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.detectors.family import StepSample, StepSpec
from visionlora.detectors.ultralytics import load_base, memory
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.detectors.ultralytics.memory import take_epoch

LORA = StepSpec(AdapterSettings(LoRA(rank=2)))
OBJECTS = [np.array([[0, 0.5, 0.5, 0.2, 0.3]])]


def sample(device: str) -> StepSample:
    return StepSample(("scratch", "pit"), OBJECTS, 4, 96, torch.device(device), most_objects=1)


@pytest.mark.parametrize(
    ("step", "shown"),
    [(LORA, [4, 4, 3, 6]), (StepSpec(LORA.adapter, lean=True), [4, 4, 3, 6]), (StepSpec(), [4, 4, 3])],
    ids=["adapter", "lean", "full"],
)
def test_an_epoch_is_its_steps_and_of_an_adapter_the_validation(checkpoint, monkeypatch, step, shown) -> None:
    seen = []
    made = memory.made_up_batch

    def noted(objects, *, batch, **options):
        seen.append(batch)
        return made(objects, batch=batch, **options)

    monkeypatch.setattr(memory, "made_up_batch", noted)
    model, graphed = take_epoch(load_base(checkpoint), step, sample("cpu"), last=3, validated=6)
    assert seen == shown and not graphed  # on a CPU
    begun = [parameter for name, parameter in model.named_parameters() if name.endswith("lora_B")]
    moved = any(parameter.abs().max() > 0 for parameter in begun)  # zero at first: the optimizer took steps
    assert moved == (step.adapter is not None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_larger_batch_takes_more_and_nothing_is_kept(checkpoint) -> None:
    base, place = load_base(checkpoint), sample("cuda:0")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()

    def measured(step: StepSpec, limit: int) -> int | None:
        return ULTRALYTICS.training_memory(base, step, place, last=3, validated=8, limit=limit)

    sizes = [measured(step, 2**34) for step in (LORA, StepSpec())]
    assert all(size is not None and 2**20 < size < 2**34 for size in sizes)
    assert measured(LORA, 2**22) is None
    assert torch.cuda.memory_reserved() == before and torch.cuda.get_per_process_memory_fraction() == 1
