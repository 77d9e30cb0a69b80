"""What the user sees of a training: a bar while an epoch runs on a terminal, and a line when it has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ultralytics.data.base as ultralytics_data
import ultralytics.engine.trainer as ultralytics_trainer
from tqdm import tqdm

from visionlora.detectors.ultralytics.checkpoint import quiet
from visionlora.progress import counting, current_level

_SCORES = {"mAP50-95": "mAP50-95", "mAP50": "mAP50", "accuracy_top1": "top-1", "accuracy_top5": "top-5"}
_WARNINGS = 30  # logging's level


class _Batches:
    """Batches of one epoch, reported; the line that follows them says the rest."""

    def __init__(self, batches: Iterable[Any], total: int) -> None:
        self._batches, self._total, self._message = batches, total, "epoch"

    def __iter__(self) -> Iterator[Any]:
        with counting("epoch", self._total, "batch", self._message) as advance:
            for batch in self._batches:
                yield batch
                advance(message=self._message)

    def set_description(self, desc: str) -> None:
        """Keep the first word of Ultralytics' row of numbers: the epoch."""
        self._message = f"epoch {desc.split()[0]}"


def _no_bar(rows: Any, total: int | None = None, **_: Any) -> tqdm:
    """Return a bar that shows nothing: that of caching pictures asks for no log level."""
    return tqdm(rows, total=total, disable=True)


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Hold back Ultralytics' lines and bars unless the level is `verbose`, and report the batches of an epoch.

    Answers ultralytics/engine/trainer.py, whose `TQDM` writes to standard output and shows a row of unnamed numbers.
    """
    if current_level() == "verbose":
        yield
        return
    originals = ultralytics_trainer.TQDM, ultralytics_data.TQDM
    ultralytics_trainer.TQDM = _Batches
    ultralytics_data.TQDM = _no_bar
    try:
        with quiet(_WARNINGS):
            yield
    finally:
        ultralytics_trainer.TQDM, ultralytics_data.TQDM = originals


def without_graph_dump(callbacks: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return a trainer's callbacks but for TensorBoard's drawing of the model.

    It traces the model, cannot follow ours, and prints all tensors of the batch as the reason. The curves stay.
    """
    kept = {name: list(calls) for name, calls in callbacks.items()}
    kept["on_train_start"] = [call for call in kept.get("on_train_start", []) if "tensorboard" not in _home(call)]
    return kept


def _home(call: Any) -> str:
    return str(getattr(call, "__module__", ""))


def epoch_line(
    epoch: int, epochs: int, losses: Mapping[str, float], scores: Mapping[str, float], seconds: float
) -> str:
    """Return the line of an epoch.

    Args:
        epoch: from 1.
        epochs: of the run.
        losses: means over the epoch, by name.
        scores: of the validation behind it, by Ultralytics' names; empty if there was none.
        seconds: of training and validation.

    Example:
        >>> epoch_line(3, 50, {"box_loss": 1.33, "cls_loss": 4.0}, {"metrics/mAP50-95(B)": 0.0768}, 1.24)
        'epoch  3/50  loss 5.33 (box 1.33, cls 4.00)  val mAP50-95 0.077  1.2 s'
    """
    parts = ", ".join(f"{name.removesuffix('_loss')} {value:.2f}" for name, value in losses.items())
    found = {name.removeprefix("metrics/").removesuffix("(B)"): value for name, value in scores.items()}
    shown = ", ".join(f"{words} {found[name]:.3f}" for name, words in _SCORES.items() if name in found)
    words = [f"epoch {epoch:>{len(str(epochs))}}/{epochs}", f"loss {sum(losses.values()):.2f} ({parts})"]
    return "  ".join([*words, *([f"val {shown}"] if shown else []), f"{seconds:.1f} s"])
