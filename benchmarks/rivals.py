"""What visionlora is compared with, trained by Ultralytics' own trainer: everything, parts of it, others' adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ultralytics.engine.trainer as ultralytics_trainer
from injected import INJECTED, inject
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.utils.torch_utils import unwrap_model

FREEZE = {
    "full": 0,
    "freeze10": 10,
    "head": 23,
}  # modules that Ultralytics' `freeze` leaves as they are; the head is 23


TRAINERS = {"segment": SegmentationTrainer, "pose": PoseTrainer, "obb": OBBTrainer}


class RivalTrainer(DetectionTrainer):
    """Ultralytics' trainer as it is, without the two things that need a network or polars."""

    def read_results_csv(self) -> dict:
        """Leave the results out of the checkpoint."""
        return {}


class InjectedTrainer(RivalTrainer):
    """Another library's adapter on the convolutions, the class outputs trained whole.

    The base and its batch normalization are frozen, as users of these libraries do it; the optimizer sees what is
    trained alone.
    """

    method = "peft"

    def setup_model(self) -> Any:
        """Load the model as usual, then put the adapter into it."""
        checkpoint = super().setup_model()
        last = len(self.model.model) - 1
        whole = re.compile(rf"model\.{last}\.(one2one_)?cv3\.\d+\.2")
        layers = [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Conv2d)
            and module.groups == 1  # PEFT takes few groups, and merges none
            and ".dfl" not in name
            and not whole.fullmatch(name)
        ]
        outputs = {name for name, _ in self.model.named_parameters() if whole.fullmatch(name.rpartition(".")[0])}
        self.trained = outputs | inject(self.method, self.model, layers)
        return checkpoint

    def build_optimizer(self, model, *args, **options):
        """Freeze what Ultralytics woke, and build the optimizer over the rest."""
        for name, parameter in unwrap_model(model).named_parameters():
            parameter.requires_grad_(name in self.trained)
        optimizer = super().build_optimizer(model, *args, **options)
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
        return optimizer

    def save_model(self) -> bool:
        """Save nothing: the wrapped model is judged in memory."""
        return False

    def final_eval(self) -> None:
        """Nothing was saved."""

    def _model_train(self) -> None:
        super()._model_train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def rival(method: str, overrides: Mapping[str, Any], base: type = RivalTrainer, *, task: str = "detect") -> Any:
    """Return the trainer of `method`: full, freeze10, head or one of `INJECTED`.

    Args:
        method: its name.
        overrides: Ultralytics' hyperparameters.
        base: a class to mix in before the trainer's own, to measure it.
        task: what is trained.
    """
    # its own check downloads a checkpoint; this is what it answers on a sound GPU and on a CPU
    ultralytics_trainer.check_amp = lambda model: next(model.parameters()).device.type == "cuda"
    own = InjectedTrainer if method in INJECTED else RivalTrainer
    if task != "detect":
        own = type("TaskRival", (own, TRAINERS[task]), {})
    kind = type("Rival", (base, own) if base is not RivalTrainer else (own,), {"method": method})
    more: dict[str, Any] = {"freeze": FREEZE[method]} if method in FREEZE else {}
    if method == "peft-dora":
        more["channels_last"] = False  # it views the factors of convolutions as rows
    return kind(overrides={**overrides, "plots": False, "exist_ok": True, **more})


def write_untrained(description: str, out: Path) -> Path:
    """Write a detector of Ultralytics' description (such as yolo11s.yaml) with random weights as a checkpoint."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel(description, verbose=False)
    model.args = {"task": "detect", "imgsz": 640, "model": description}
    torch.save({"model": model, "ema": None, "epoch": -1, "train_args": dict(model.args)}, out)
    return out
