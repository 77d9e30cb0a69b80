"""One of two CPU processes that train one adapter together: `torchrun ... ddp_worker.py JOB OUT`."""

from __future__ import annotations

import pickle
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from ultralytics.utils import RANK
from ultralytics.utils.callbacks import get_default_callbacks

from visionlora.adapters.torch import trained_state
from visionlora.detectors.ultralytics.parallel import agree
from visionlora.detectors.ultralytics.sampling import SeededDataset
from visionlora.detectors.ultralytics.step import TrainingStep
from visionlora.detectors.ultralytics.trainer import _JOB, AdapterTrainer


class TwoCpuTrainer(AdapterTrainer):
    """The trainer as Ultralytics' launcher would start it on two GPUs, with gloo on the CPU instead."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.world_size = 2
        self.exchanged: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.batches: list[dict] = []
        self.alone = torch.empty(0)

    def preprocess_batch(self, batch):
        """Keep the first batch."""
        moved = super().preprocess_batch(batch)
        self.batches = self.batches or [moved]
        return moved

    def gradient_of_all(self) -> torch.Tensor:
        """What one process would have got from the first batches of both, one after the other."""
        own = [parameter.grad for parameter in self.model.parameters()]
        halves: list = [None, None]
        distributed.all_gather_object(halves, self.batches[0])
        self.model.zero_grad()
        for half in halves:
            self.model(half)[0].sum().backward()
        found = gradients(self.model)
        for parameter, gradient in zip(self.model.parameters(), own, strict=True):
            parameter.grad = gradient
        return found

    def optimizer_step(self) -> None:
        """Note the gradients before and after their exchange."""
        assert isinstance(self.model, TrainingStep)
        average = self.exchange.average
        if not self.exchanged:
            self.alone = self.gradient_of_all()
            assert agree(True, self.device) and not agree(RANK == 0, self.device)

        def noted(model) -> None:
            before = gradients(model)
            average(model)
            for parameter in model.parameters():
                assert parameter.grad.stride() == parameter.stride()  # else a fused optimizer mixes them up
            self.exchanged.append((before, gradients(model)))

        self.exchange.average = noted  # type: ignore[method-assign]
        super().optimizer_step()
        self.exchange.average = average  # type: ignore[method-assign]

    def _setup_ddp(self) -> None:
        self.device = torch.device("cpu")
        distributed.init_process_group("gloo", rank=RANK, world_size=2, timeout=timedelta(seconds=60))


def gradients(model) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten().clone() for parameter in model.parameters()])


def main(job_file: str, out: str) -> None:
    """Train, and write what this rank saw and what it ended with."""
    torch.set_num_threads(1)
    seen: list[int] = []
    draw = SeededDataset.__getitem__

    def record(dataset: SeededDataset, index: int) -> dict:
        seen.append(index)
        return draw(dataset, index)

    SeededDataset.__getitem__ = record  # type: ignore[method-assign]
    job = pickle.loads(Path(job_file).read_bytes())
    overrides = {**job.hyperparameters, "model": job.model, "save_dir": str(job.out), "exist_ok": True, "plots": False}
    trainer = TwoCpuTrainer(overrides=overrides, _callbacks={**get_default_callbacks(), _JOB: [job]})
    trainer.train()
    assert not distributed.is_initialized()
    state, average = (
        {name: tensor.detach() for name, tensor in trained_state(model).items()}
        for model in (trainer.model, trainer.ema.ema)
    )
    result = {"seen": seen, "model": state, "ema": average, "exchanged": trainer.exchanged, "alone": trainer.alone}
    torch.save(result, Path(out) / f"rank{RANK}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
