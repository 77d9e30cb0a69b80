"""Ultralytics' detection trainer, training an adapter instead of a model.

Augmentation, schedule, AMP, early stopping, DDP launch and loggers are Ultralytics'. What is overridden here, and why,
stands in a table in docs/training.md.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import time
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.utils import parametrize
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import ClassificationModel, DetectionModel
from ultralytics.utils import DEFAULT_CFG, RANK
from ultralytics.utils.callbacks import get_default_callbacks
from ultralytics.utils.dist import ddp_cleanup, generate_ddp_command
from ultralytics.utils.loss import E2ELoss
from ultralytics.utils.patches import override_configs
from ultralytics.utils.torch_utils import ModelEMA, unset_deterministic, unwrap_model

from visionlora.adapters import AdapterCard
from visionlora.adapters.torch import (
    Adapter,
    AdapterPlan,
    adapter_tensors,
    freeze_norms,
    frozen_weights,
    load_adapter,
    load_adapter_tensors,
    rate_left_factors,
    save_adapter,
    start_factors,
    trained_state,
)
from visionlora.detectors.checkpoints import out_of_memory
from visionlora.detectors.job import ADAPTER_FILE, RESULTS_FILE, RESUME_FILE, TrainingJob
from visionlora.detectors.lines import describe, epoch_line
from visionlora.detectors.resume import read_resume_state, restore_results, write_resume_state
from visionlora.detectors.ultralytics.activation_swap import SiLUToReLU, fade
from visionlora.detectors.ultralytics.augmenting import ClassifiedDataset
from visionlora.detectors.ultralytics.checkpoint import FAMILY, load_base, quiet
from visionlora.detectors.ultralytics.fallback import MOST_HALVINGS, FallBack, is_finite, take_rates
from visionlora.detectors.ultralytics.layout import adapted
from visionlora.detectors.ultralytics.loggers import only_chosen_loggers
from visionlora.detectors.ultralytics.parallel import (
    GradientExchange,
    agree,
    ending_at_once,
    launch,
    leave_together,
    unwrapped,
)
from visionlora.detectors.ultralytics.precision import exact_convolutions, no_fill, own_amp_check
from visionlora.detectors.ultralytics.progress import reporting, without_graph_dump
from visionlora.detectors.ultralytics.qat_detector import QatDetector, raw_outputs
from visionlora.detectors.ultralytics.sampling import (
    EpochSampler,
    SeededDataset,
    keeps_in_memory,
    keypoint_entries,
    seed_everything,
    train_loader,
)
from visionlora.detectors.ultralytics.squares import SquareDataset
from visionlora.detectors.ultralytics.starting import BATCHES, start_from_gradients
from visionlora.detectors.ultralytics.step import CAPTURE_OPTIONS, TrainingStep
from visionlora.detectors.ultralytics.validating import RulerValidator
from visionlora.errors import DataError, ModelError, VisionLoraError
from visionlora.fake_quant import GraphNetwork, RangeSpec
from visionlora.progress import level, report
from visionlora.tasks import task_fields
from visionlora.trust import trusted

_JOB = "visionlora_job"  # Ultralytics hands callbacks, and nothing else of ours, to its DDP processes


def run_job(job: TrainingJob) -> AdapterTrainer | None:
    """Train the adapter of `job`; return the trainer, or None where other processes trained (DDP).

    Raises:
        DataError: a picture was changed or removed since the job was made.
        VisionLoraError: the training diverged, a step does not fit into memory, or the base changed since the job was
            made.
    """
    callbacks = {**get_default_callbacks(), _JOB: [job]}
    overrides = {**job.hyperparameters, "model": job.model, "data": job.training["data"], "save_dir": str(job.out)}
    overrides |= {"exist_ok": True, "plots": False}
    trainer = AdapterTrainer(overrides=overrides, _callbacks=callbacks)
    try:
        trainer.train()
    except DataError as error:  # from a process that reads pictures it comes with that one's traceback
        raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error
    except subprocess.CalledProcessError as error:
        raise VisionLoraError(f"{job.out}: a training process failed; its error stands above") from error
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise VisionLoraError(
            f"{job.out}: --batch {trainer.asked_batch} at --imgsz {trainer.args.imgsz} does not fit into memory; "
            f"train with a smaller one{'' if job.lean or job.int8 else ' or with --lean'}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            trainer.wdir.rmdir()  # for Ultralytics' checkpoints; empty here
    return None if trainer.ddp else trainer


class AdapterEMA(ModelEMA):
    """Moving average of the trained tensors alone, over about the last twentieth of the run's updates.

    Ultralytics' average is made for long runs: its decay is still ramping up after 2000 updates.
    """

    def __init__(self, model: nn.Module, *, updates: int) -> None:
        super().__init__(model)
        window = max(0.05 * updates, 10.0)
        self.decay = lambda x: min(1 - 1 / window, 0.9999) * (1 - math.exp(-x / window))
        trained = [tensor.detach() for tensor in trained_state(unwrap_model(model)).values()]
        self._pairs = (list(trained_state(self.ema).values()), trained)


class AdapterTrainer(DetectionTrainer):
    """DetectionTrainer whose model is a frozen base with an adapter."""

    plan: AdapterPlan
    best_fitness: float | None

    def __init__(self, cfg=DEFAULT_CFG, overrides=None, _callbacks=None) -> None:
        self.job: TrainingJob = _callbacks[_JOB][0]
        with quiet(30), only_chosen_loggers():  # no dump of all hyperparameters; they are in args.yaml
            super().__init__(cfg, overrides, _callbacks)
        self.csv = self.job.out / RESULTS_FILE
        self.best = self.job.out / ADAPTER_FILE
        self.last = self.job.out / RESUME_FILE
        self.exchange = GradientExchange()
        self.callbacks: dict = without_graph_dump(self.callbacks)  # type: ignore[has-type]
        self.asked_batch = self.batch_size
        self._validated = -1  # the last epoch that was
        self._fallback = FallBack()

    # -- set-up

    def check_resume(self, overrides) -> None:
        """Take resuming from the job: Ultralytics would read a pickled model."""
        self.resume = self.args.resume = self.job.resume

    def train(self) -> None:
        """Train here, or launch Ultralytics' DDP processes without letting it delete the run's folder."""
        if self.ddp:
            self.resume = True
            command, file = generate_ddp_command(self)
            try:
                launch(command)
            finally:
                ddp_cleanup(self, file)
                unset_deterministic()
            return
        one_of_several = self.world_size > 1
        together = ending_at_once() if one_of_several else contextlib.nullcontext()
        with no_fill(), level(self.job.console), reporting(), together:
            super().train()
            if one_of_several:
                self.loss = None  # it holds the graphs
                leave_together(self.model)  # type: ignore[has-type]
        self.model = unwrap_model(self.model)  # type: ignore[has-type]

    def get_dataset(self) -> dict[str, Any]:
        """Return the checked data set as Ultralytics describes one; its own check reaches for a font on the network."""
        names = dict(enumerate(self.job.names))
        splits = {split: split for split in self.job.images}
        described = {"path": self.job.out, "names": names, "nc": len(names), "channels": 3}
        return {**splits, **described, **keypoint_entries(self.job.keypoints)}

    def setup_model(self) -> Mapping[str, Any] | None:
        """Load the base, give it the data set's classes and attach the adapter; return the state to resume from."""
        with trusted(self.job.trust):
            base = load_base(self.job.model)
        if base.fingerprint != self.job.fingerprint:
            raise ModelError(f"{self.job.model}: its weights changed since this run began; start a new run")
        base = replace(base, task=self.job.task)
        seed_everything(self.args.seed)
        # Trained in float, ReLU comes step by step; an int8 phase begins with what such a one ended with.
        relu = nn.ReLU if self.job.int8 else SiLUToReLU
        detector = adapted(base, self.job.names, self.job.settings, relu=relu)
        self.task, self.plan = base.task, detector.plan
        model = cast(DetectionModel, detector.model)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        detector.attach(None if self.job.start is None else load_adapter(self.job.start).tensors)
        if self.job.factors.start == "principal":
            start_factors(model, frozen_weights(model))
        if self.device.type == "cpu" and self.args.channels_last is not False:
            model.to(memory_format=torch.channels_last)  # Ultralytics does it on GPUs only; it pays here too
        self.model = model
        if self.job.int8 is not None:
            graph = load_graph(self.job.int8.graph)
            self.model = QatDetector(model, graph, self.job.int8.spec, learned=self.job.int8.learned)
        if RANK in {-1, 0}:
            title = f"{self.job.title}\n" if self.job.title else ""
            report("train", 0, self.epochs, title + describe(self.plan, model, parameters))
        return read_resume_state(self.last, run=self.job.run) if self.job.resume else None

    def _setup_train(self) -> None:
        with own_amp_check(self.args.imgsz), unwrapped():
            super()._setup_train()
        if isinstance(self.model, DetectionModel | ClassificationModel):  # not compiled
            self.args.compile = False  # it may have been asked for where it does not work
            half = torch.bfloat16 if self.args.amp == "bf16" else torch.float16
            self.model = TrainingStep(
                self.model,
                graph=self.device.type == "cuda" and not self.args.multi_scale,
                lean=self.job.lean,
                precision=half if self.amp else None,
                objects=2 * max(len(label["cls"]) for label in self.train_loader.dataset.labels),  # of a mosaic
                teacher=self._teacher(),
                distill=self.job.distill,
            )
        if self.device.type == "cuda" and not getattr(self.model, "uses_graphs", False) and RANK in {-1, 0}:
            slow = "no CUDA graph: it needs detection, a fixed image size and no torch.compile; steps take longer"
            report("train", self.start_epoch, self.epochs, slow)

    def _build_train_pipeline(self) -> None:
        """Refuse Ultralytics' halving of a batch that does not fit: it would train another than was asked for."""
        if self.batch_size != self.asked_batch:
            raise torch.OutOfMemoryError(f"a batch of {self.asked_batch} does not fit")
        if self.job.task.boxes:
            super()._build_train_pipeline()
        else:  # DetectionTrainer's goes on to tell the head how many boxes there may be
            BaseTrainer._build_train_pipeline(self)

    def _teacher(self) -> GraphNetwork | None:
        """Return the network to learn from, on the device and in the precision of the training."""
        if self.job.teacher is None:
            return None
        graph, model = load_graph(self.job.teacher), unwrap_model(self.model)
        network = GraphNetwork(graph, raw_outputs(graph, model.model[-1], len(model.model) - 1))
        network = network.to(self.device).to(memory_format=torch.channels_last)
        return network.to(torch.bfloat16 if self.args.amp == "bf16" else torch.float16) if self.amp else network

    def preprocess_batch(self, batch):
        """Move a batch to the device; for a training step of fixed shape the images stay bytes."""
        if not isinstance(self.model, TrainingStep) or self.args.multi_scale:
            return super().preprocess_batch(batch)
        self.model.prepare(batch)
        batch = {**batch, "img": self.model.place_images(batch)}
        cuda = self.device.type == "cuda"
        return {
            name: value.to(self.device, non_blocking=cuda) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }

    def resume_training(self, ckpt: Mapping[str, Any] | None) -> None:
        """Average the trained tensors only, and go on exactly where the last finished epoch ended.

        A new training may take what it begins with from its first batches, which it draws again then.
        """
        if ckpt is None and self.job.factors.start == "gradient":
            batches = (self.preprocess_batch(batch) for batch in islice(self.train_loader, BATCHES))
            start_from_gradients(unwrap_model(self.model), batches, processes=self.world_size)
            self.train_loader.sampler.restart(self.start_epoch)
            self.train_loader.reset()
        updates = max(len(self.train_loader) // self.accumulate, 1) * self.epochs
        self.ema = AdapterEMA(self.model, updates=updates)
        self.bias_rate = self.args.warmup_bias_lr
        if ckpt is not None:
            self._restore(ckpt)
        self._fallback.keep(self.ema, self.scaler, self.best_fitness)

    def _restore(self, ckpt: Mapping[str, Any]) -> None:
        self.start_epoch = ckpt["epoch"] + 1
        model = unwrap_model(self.model)
        for module, state in ((model, ckpt["model"]), (self.ema.ema, ckpt["ema"])):
            for name, tensor in trained_state(module).items():
                tensor.data.copy_(state[name])
        self.ema.updates = ckpt["updates"]
        for saved, group in zip(ckpt["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            saved["fused"] = group.get("fused")  # this device's kernels, not those of the device before
        self.optimizer.load_state_dict(ckpt["optimizer"])
        take_rates(self.scheduler, self.optimizer)
        self._fallback.halvings = ckpt["halvings"]
        if ckpt["scaler"]:
            self.scaler.load_state_dict(ckpt["scaler"])
        self.best_fitness = ckpt["best_fitness"]
        self.stopper.best_fitness, self.stopper.best_epoch = ckpt["stopper"]
        self._weigh_heads(self.start_epoch)
        self.train_loader.sampler.restart(self.start_epoch)
        if RANK in {-1, 0}:
            restore_results(ckpt, self.csv)

    def _weigh_heads(self, epoch: int) -> None:
        """Weigh the two heads of an end-to-end detector in the loss as before an epoch."""
        model = unwrap_model(self.model)
        criterion = model.init_criterion()
        if isinstance(criterion, E2ELoss):  # not in int8, where the head that ships is trained alone
            criterion.updates = epoch - 1
            criterion.update()
            model.criterion = criterion

    def set_model_attributes(self) -> None:
        """Tell the model its hyperparameters, and the loss of keypoints their spread."""
        super().set_model_attributes()
        if "kpt_oks_sigmas" in self.data:
            self.model.kpt_oks_sigmas = self.data["kpt_oks_sigmas"]

    def build_optimizer(self, model, *args, **options):
        """Let the factors learn at rates of their own."""
        optimizer = super().build_optimizer(model, *args, **options)
        if self.job.factors.plus != 1:
            rate_left_factors(optimizer, unwrap_model(model), self.job.factors.plus)
        return optimizer

    # -- data

    def get_dataloader(self, dataset_path, batch_size=16, rank=0, mode="train"):
        """Return a loader of seeded samples for training, of squares for validation; `dataset_path` is a split."""
        # Not "deterministic" here: it would warn of a cache in memory, which seeded samples make harmless.
        with override_configs(self.args, {"deterministic": False}):
            if mode != "train":
                return super().get_dataloader(dataset_path, batch_size, rank, mode)
            dataset = self.build_dataset(dataset_path, mode, batch_size)
        seed = self.args.seed
        sampler = EpochSampler(len(dataset), seed=seed, rank=rank, ranks=self.world_size, epoch=self.start_epoch)
        pin = self.device.type == "cuda" and bool(CAPTURE_OPTIONS)
        return train_loader(dataset, sampler, batch=batch_size, workers=self.args.workers, pin_memory=pin)

    def build_dataset(self, img_path, mode="train", batch=None):
        """Return the checked pictures of the split `img_path`: augmented, or in squares for validation."""
        images, args = self.job.images[img_path], self.args
        if mode != "train":
            cached = keeps_in_memory(args.cache)
            return SquareDataset(images, args.imgsz, task=self.task, hyp=args, in_memory=cached)
        if not self.job.task.boxes:
            return ClassifiedDataset(images, hyp=args, seed=args.seed)
        stride = max(int(unwrap_model(self.model).stride.max()), 32)
        return SeededDataset(
            images,
            task=self.task,
            names=self.job.names,
            keypoints=self.job.keypoints,
            hyp=args,
            imgsz=args.imgsz,
            batch=batch,
            stride=stride,
            seed=args.seed,
        )

    def get_validator(self):
        """Return a validator under the project's own ruler."""
        validator = RulerValidator(
            self.test_loader, save_dir=self.save_dir, args=copy(self.args), _callbacks=self.callbacks
        )
        validator.begin(self.job.task, self.job.images["val"], self.job.names, self.job.ruler)
        return validator

    def _close_dataloader_mosaic(self) -> None:
        super()._close_dataloader_mosaic()
        self.train_loader.sampler.restart(self.epoch)  # the loader is reset after this: draw this epoch anew

    # -- the loop

    def _model_train(self) -> None:
        """Set training mode, but for batch normalization that could not be folded; seed what this process draws.

        The rate with which biases warm up is read anew in every step; the optimizer does not hold it.
        """
        seed_everything(self.args.seed, self.epoch)
        self.args.warmup_bias_lr = self.bias_rate / 2**self._fallback.halvings
        fade(self.model, self.epoch, self.epochs)
        self.model.train()
        freeze_norms(self.model)

    def optimizer_step(self) -> None:
        """Average the gradients of all processes first: a step of one process holds no exchange."""
        if self.world_size > 1 and isinstance(self.model, TrainingStep):
            self.exchange.average(self.model)
        super().optimizer_step()

    def save_model(self) -> bool:
        """Write the adapter if it is the best so far, and the state that a resumed run needs; then report the epoch."""
        if self.best_fitness == self.fitness:
            save_adapter(self._adapter(), self.best)
        state = {
            "run": self.job.run,
            "epochs": self.epochs,
            "epoch": self.epoch,
            "finished": bool(self.stop),
            "results": self.csv.read_text(encoding="utf-8"),
            "recipe": "" if self.job.int8 is None else json.dumps(self.job.int8.recipe),
            "model": trained_state(unwrap_model(self.model)),
            "ema": trained_state(self.ema.ema),
            "updates": self.ema.updates,
            "halvings": self._fallback.halvings,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best_fitness": None if self.best_fitness is None else float(self.best_fitness),  # None with val=false
            "stopper": (float(self.stopper.best_fitness), self.stopper.best_epoch),
        }
        write_resume_state(state, self.last)
        losses = {name: float(value) for name, value in self.tloss.items()}
        scores = self.metrics if self._validated == self.epoch else {}
        done, seconds = self.epoch + 1, time.time() - self.epoch_time_start
        report("train", done, self.epochs, epoch_line(done, self.epochs, losses, scores, seconds))
        return True

    def _adapter(self) -> Adapter:
        scores = {name: float(value) for name, value in self.metrics.items() if name.startswith("metrics/")}
        card = AdapterCard(
            settings=self.job.settings,
            names=self.job.names,
            base={"name": Path(self.job.model).name, "fingerprint": self.job.fingerprint, "family": FAMILY},
            preprocessing=self.job.preprocessing,
            training={**self.job.training, "epoch": self.epoch + 1, "lr0_halved": self._fallback.halvings},
            scores=scores,
            **task_fields(self.task),
            version=version("visionlora"),
            quantization=self._recipe(),
        )
        return Adapter(card, adapter_tensors(self.ema.ema, self.plan))

    def _recipe(self) -> Mapping[str, Any]:
        """Return how the averaged model becomes int8, with the ranges as they are trained now."""
        phase = self.job.int8
        if phase is None:
            return {}
        values = self.ema.ema.shipped.ranges.values()
        ranges = {
            name: list(replace(spec, scale=scale, zero_point=zero).bounds)
            for spec, (scale, zero) in zip(phase.spec.ranges, values, strict=True)
            for name in spec.tensors
            if spec.learned
        }
        return {"format": 1, "recipe": {**phase.recipe, "ranges": {**phase.recipe["ranges"], **ranges}}}

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Repeat an epoch that ended without numbers, from the average before it and at half the learning rate."""
        finite = self.loss is None or bool(self.loss.isfinite())
        finite &= self.fitness is None or bool(np.isfinite(self.fitness))
        finite &= is_finite(self.ema.ema)
        if agree(finite, self.device) if self.world_size > 1 else finite:
            self._fallback.keep(self.ema, self.scaler, self.best_fitness)
            return False
        option = "--lr0" if self.job.int8 is None else "--qat-lr0"
        if self._fallback.halvings == MOST_HALVINGS:
            raise VisionLoraError(
                f"{self.job.out}: the loss is not finite in epoch {epoch + 1}, though the learning rate was halved "
                f"{MOST_HALVINGS} times; train with a lower {option} than {self.args.lr0} or a lower --alpha"
            )
        self._fallback.go_back(unwrap_model(self.model), self.ema, self.optimizer, self.scheduler, self.scaler)
        self.best_fitness = self._fallback.best_fitness
        self.scheduler.last_epoch = epoch - 1
        self._weigh_heads(epoch)
        self.train_loader.sampler.restart(epoch)
        self.train_loader.reset()
        if RANK in {-1, 0}:
            rate = self.args.lr0 / 2**self._fallback.halvings
            what = f"epoch {epoch + 1}: the loss is not finite; it begins again, from the average before it, at half"
            report("train", epoch, self.epochs, f"{what} the learning rate ({option} {rate:g})")
        return True

    def validate(self):
        """Validate the averaged model as its file will hold it, in float32, as `visionlora eval` does.

        Its adapted weights are computed once and not for every batch.
        """
        self._validated = self.epoch
        average = [tensor.detach().clone() for tensor in trained_state(self.ema.ema).values()]
        saved = {name: tensor.half() for name, tensor in adapter_tensors(self.ema.ema, self.plan).items()}
        load_adapter_tensors(self.ema.ema, self.plan, saved)
        amp, self.amp = self.amp, False  # type: ignore[has-type]
        try:
            with parametrize.cached(), exact_convolutions():
                return super().validate()
        finally:
            self.amp = amp
            for tensor, before in zip(trained_state(self.ema.ema).values(), average, strict=True):
                tensor.data.copy_(before)

    def final_eval(self) -> None:
        """Validate the adapter as it stands in the file, on the base that it belongs to."""
        if self.epoch + 1 < self.epochs and RANK in {-1, 0}:
            stopped = f"stopped: {self.args.patience} epochs without a better score"
            report("train", self.epoch + 1, self.epochs, stopped)
        adapter = load_adapter(self.best)
        load_adapter_tensors(self.ema.ema, self.plan, adapter.tensors)
        if self.job.int8 is not None:
            self.ema.ema.shipped.ranges.calibrate(self._trained_ranges(adapter.card))
        self.metrics, self.fitness = self.validate()

    def _trained_ranges(self, card: AdapterCard) -> list[RangeSpec]:
        """Return the ranges of an adapter that this run saved."""
        found = []
        for spec in self.job.int8.spec.ranges if self.job.int8 else ():
            low, high = card.quantization["recipe"]["ranges"][spec.tensors[0]]
            found.append(spec.between(low, high) if spec.learned else spec)
        return found


def load_graph(path: Path) -> onnx.GraphProto:
    """Read an exported float graph; what is constant is an initializer, as `visionlora export` writes it."""
    return onnx.load(path).graph
