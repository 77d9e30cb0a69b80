"""Time the training step of one variant in its own trainer's loop, and print one JSON object.

The loop is the trainer's own (forward, loss, backward, clipping, optimizer, average, progress); only the loader is
replaced by one that repeats a few real batches from memory, and nothing is validated or saved.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import torch
from ultralytics.utils.torch_utils import unwrap_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from injected import Refusal
from jobs import report
from rivals import rival, write_untrained
from ways import OWN, RIVALS, is_ranked, own_settings

from visionlora.adapters.torch import frozen_bytes
from visionlora.detectors.ultralytics import trainer as adapter_trainer
from visionlora.detectors.ultralytics.trainer import AdapterTrainer
from visionlora.training import phase, training

DRAWN, WARM = 6, 12


class Replay:
    """A loader that repeats a few collated batches from memory."""

    def __init__(self, loader, *, steps: int, cuda: bool) -> None:
        self.dataset, self.sampler, self.num_workers, self.steps = loader.dataset, loader.sampler, 0, steps
        self.batch_size = loader.batch_size
        batches = []
        for batch in loader:
            if len(batch["img"]) == loader.batch_size:
                batches.append({name: self._pin(value, cuda) for name, value in batch.items()})
            if len(batches) == DRAWN:
                break
        self.batches = batches
        if hasattr(loader, "close"):
            loader.close()

    @staticmethod
    def _pin(value, cuda: bool):
        return value.pin_memory() if cuda and isinstance(value, torch.Tensor) else value

    def __len__(self) -> int:
        return self.steps

    def __iter__(self):
        return (dict(self.batches[i % len(self.batches)]) for i in range(self.steps))

    def reset(self) -> None:
        """Nothing to reset."""


class Timed:
    """Mixed into a trainer: repeats real batches, takes the time of each step, and stops without validating."""

    steps, threads, first_peak, parts = 60, 2, 0, False
    turns: Path | None = None
    made: ClassVar[list] = []

    def get_dataloader(self, *args, **options):
        """Return the trainer's loader, its training batches kept in memory."""
        loader = super().get_dataloader(*args, **options)
        mode = options.get("mode", args[3] if len(args) > 3 else "train")
        return Replay(loader, steps=self.steps, cuda=self.device.type == "cuda") if mode == "train" else loader

    def _do_train(self) -> None:
        self.ends: list[float] = []
        self.spent: list[dict[str, float]] = [{}]
        Timed.made.append(self)
        self.add_callback("on_train_batch_end", lambda trainer: trainer.tick())
        self.add_callback("on_train_start", lambda trainer: trainer.begin())
        super()._do_train()

    def begin(self) -> None:
        """Take the threads, and the turn until the epoch ends: others load and set up meanwhile."""
        torch.set_num_threads(Timed.threads)
        if self.turns is not None:
            held = (self.turns / os.environ.get("CUDA_VISIBLE_DEVICES", "any")).open("w")
            fcntl.flock(held, fcntl.LOCK_EX)
            self.add_callback("on_train_epoch_end", lambda trainer: fcntl.flock(held, fcntl.LOCK_UN))

    def preprocess_batch(self, batch):
        """Return the batch on the device."""
        return self.timed("batch to the GPU", super().preprocess_batch, batch)

    def optimizer_step(self) -> None:
        """Clip, step, average."""
        self.timed("clipping, optimizer, average", super().optimizer_step)

    def timed(self, part: str, function, *args):
        """Call a function; with `parts` alone on the GPU, its time noted."""
        if not self.parts:
            return function(*args)
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = function(*args)
        torch.cuda.synchronize()
        self.spent[-1][part] = 1000 * (time.perf_counter() - start)
        return result

    def tick(self) -> None:
        """Note the end of a step; the loop has read the loss, so the GPU is done with it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            if len(self.ends) == WARM:
                Timed.first_peak = (
                    torch.cuda.max_memory_reserved()
                )  # the capture of a graph takes more than its replays
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
        self.ends.append(time.perf_counter())
        self.spent.append({})
        self.step = self.model  # the trainer unwraps it at its end

    def validate(self):
        """Validate nothing."""
        return {"metrics/mAP50(B)": 0.0, "metrics/mAP50-95(B)": 0.0}, 0.0

    def save_model(self) -> bool:
        """Save nothing."""
        return False

    def final_eval(self) -> None:
        """Evaluate nothing."""


class TimedAdapterTrainer(Timed, AdapterTrainer):
    """visionlora's trainer, timed."""

    def save_model(self) -> bool:
        """Save the adapter, which `train` reads at its end."""
        self.best_fitness = self.fitness
        return AdapterTrainer.save_model(self)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--method", choices=(*OWN, *RIVALS, "qalora", "full-qat"), required=True)
    parser.add_argument("--model", required=True, help="checkpoint, or a description such as yolo11s.yaml")
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", default="all")
    parser.add_argument("--recipe", default="near", help="of visionlora: near or far")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", default="0")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU, where that trains")
    parser.add_argument("--base-precision", default="float32", help="of visionlora: float32, fp16, int8 or nf4")
    parser.add_argument("--lean", action="store_true")
    parser.add_argument("--eager", action="store_true", help="without a CUDA graph")
    parser.add_argument("--adapter", help="float adapter that qalora goes on with")
    parser.add_argument("--distill", type=float, default=0.0, help="of qalora")
    parser.add_argument(
        "--parts", action="store_true", help="wait for the GPU between the parts of a step, timed apart"
    )
    parser.add_argument(
        "--turns", type=Path, help="folder; of the processes given it, one at a time takes its steps on each GPU"
    )
    parser.add_argument("--label")
    options = parser.parse_args()
    Timed.steps = options.steps
    Timed.threads, Timed.parts, Timed.turns = options.threads, options.parts, options.turns
    ways = {"qalora": "lora", "full-qat": "full"}
    way = ways.get(options.method, options.method)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model.endswith(".yaml"):
            model = str(write_untrained(model, Path(folder) / f"{Path(model).stem}.pt"))
        shared = {"epochs": 1, "imgsz": options.imgsz, "batch": options.batch, "device": options.device}
        if way in OWN:

            class ChosenStep(adapter_trainer.TrainingStep):
                def __init__(self, module, *, graph: bool, **settings) -> None:
                    super().__init__(module, graph=graph and not options.eager, **settings)

            adapter_trainer.TrainingStep = ChosenStep
            adapter_trainer.AdapterTrainer = TimedAdapterTrainer
            training._summary = lambda *args, **kwargs: None
            training.warn_of_little = lambda trained: None
            phase.draw_curves = lambda *args: None
            extra = {"workers": 2, "warmup_epochs": 0, "close_mosaic": 0}
            int8 = {"quantize": "int8", "qat_epochs": 1, "adapter": options.adapter, "distill": options.distill}
            settings = {"base_precision": options.base_precision, **own_settings(way), "recipe": options.recipe}
            training.train(
                model,
                options.data,
                Path(folder) / "run",
                targets=options.targets,
                lean=options.lean,
                hyperparameters=extra,
                **settings,
                **({"rank": options.rank} if is_ranked(way) else {}),
                **shared,
                **(int8 if options.method == "qalora" else {}),
            )
        else:
            extra = {"model": model, "data": options.data, "workers": 2, "cache": "ram", "save_dir": f"{folder}/run"}
            extra = {**extra, "quantize": 8} if options.method == "full-qat" else extra
            try:
                rival(way, {**shared, **extra, "close_mosaic": 0}, Timed).train()
            except Refusal as refusal:
                report({"label": options.label or options.method, "method": options.method, "refused": str(refusal)})
                return
    (trainer,) = Timed.made
    times = [1000 * (b - a) for a, b in zip(trainer.ends[WARM:], trainer.ends[WARM + 1 :], strict=False)]
    cuda = options.device != "cpu"
    network = unwrap_model(trainer.model)
    graphed = getattr(trainer.step, "uses_graphs", False)
    peak = 0
    if cuda:
        peak = torch.cuda.max_memory_reserved() if graphed else torch.cuda.max_memory_allocated()
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    result = {
        "label": options.label or options.method,
        "method": options.method,
        "model": Path(options.model).stem,
        "imgsz": options.imgsz,
        "batch": options.batch,
        "rank": options.rank if is_ranked(way) else None,
        "ms": round(statistics.median(times), 2),
        "ms_quartiles": [round(quartile, 2) for quartile in statistics.quantiles(times, n=4)[::2]],
        "steps": len(times),
        "trainable": trained,
        "frozen_mb": round(frozen_bytes(network) / 1e6, 2) if options.method in OWN else None,
        "memory_gib": round(peak / 2**30, 3) if cuda else None,
        "capture_gib": round(Timed.first_peak / 2**30, 3) if cuda else None,
        "graph": graphed,
        "amp": bool(trainer.amp),
        "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    if options.parts:
        spent = trainer.spent[WARM + 1 : -1]
        apart = {part: statistics.median(each[part] for each in spent) for part in spent[0]}
        apart["network, loss, their gradients, the trainer's loop"] = statistics.median(times) - sum(apart.values())
        result["parts_ms"] = {part: round(ms, 2) for part, ms in apart.items()}
    report(result)


if __name__ == "__main__":
    main()
