"""What the user sees of an epoch while it runs: a bar on a terminal, in place of Ultralytics' own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ultralytics.data.base as ultralytics_data
import ultralytics.engine.trainer as ultralytics_trainer
from tqdm import tqdm

from visionlora.detectors.ultralytics.checkpoint import quiet
from visionlora.progress import counting, current_level

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
