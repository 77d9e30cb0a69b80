"""One model in a process of its own, which stands still while it is not its turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from visionlora import errors
from visionlora.benchmarking.worker import PARTS
from visionlora.errors import ModelError
from visionlora.formats.parsing import parse_json
from visionlora.formats.text import printable
from visionlora.models import ModelSpec
from visionlora.scoring import busy_seconds
from visionlora.trust import is_trusted

_ROOT = Path(__file__).parents[2]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Turns:
    """What one contestant's turns gave: a list a turn, times in seconds; load is that of other processes, in cores."""

    network: list[list[float]] = field(default_factory=list)
    frames: list[list[list[float]]] = field(default_factory=list)
    other_load: list[float] = field(default_factory=list)


class Contestant:
    """A model under measurement.

    Its process is suspended between turns: whatever threads a runtime leaves spinning for new work cannot touch the
    turn of another, and each runtime keeps the settings that it has when deployed.

    Attributes:
        spec: the model.
        threads: how many threads a call may use.
        image_size: side of its input in pixels.
        batch: pictures that a call takes; times are for one of them.
        precision: what the runtime computes in here; None where it does not say.
        turns: what it has given so far.
    """

    def __init__(
        self, spec: ModelSpec, threads: int, images: Sequence[Path], *, image_size: int | None, confidence: float
    ) -> None:
        """Start the process and open the model.

        Raises:
            ModelError, AdapterError, UsageError, DataError: as the network does; or the process died.
        """
        self.spec, self.threads, self.turns = spec, threads, Turns()
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "visionlora.benchmarking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=environment,
            text=True,
        )
        self._handle = psutil.Process(self._process.pid)
        model = {
            "runtime": spec.runtime,
            "path": str(spec.path),
            "adapter": str(spec.adapter) if spec.adapter else None,
            "image_size": image_size,
            "trust": is_trusted(),
        }
        order = {"model": model, "threads": threads, "images": [str(path) for path in images], "confidence": confidence}
        try:
            opened = self._ask({"open": order})
            self.image_size, self.batch = (self._whole(opened, name) for name in ("image_size", "batch"))
            self.precision: str | None = opened.get("precision")
        except BaseException:
            self.close()
            raise
        self._handle.suspend()

    def take_turn(self, *, calls: int, warm_up: int) -> None:
        """Let the process run for a turn, and note what it gives.

        Raises:
            ModelError: the runtime fails on the graph, or the process died.
        """
        before, started = busy_seconds(), time.perf_counter()
        self._handle.resume()
        answer = self._ask({"turn": {"calls": calls, "warm_up": warm_up}})
        self._handle.suspend()
        busy, seconds = busy_seconds() - before, time.perf_counter() - started
        network, frames = (np.asarray(answer.get(name)) for name in ("network", "frames"))
        cpu = answer.get("cpu")
        numbers = all(
            array.dtype.kind in "if" and bool((array >= 0).all()) for array in (network, frames, np.asarray(cpu))
        )
        if not numbers or network.shape != (calls,) or frames.shape != (calls, len(PARTS)):
            raise ModelError(f"{self._who}: expected the times of {calls} calls, got something else: {answer!s:.80}")
        self.turns.network.append(network.tolist())
        self.turns.frames.append(frames.tolist())
        self.turns.other_load.append((busy - float(np.asarray(cpu))) / seconds)

    def memory(self) -> tuple[int, int]:
        """Return the peak of the process's memory, and what it held before the model and its runtime, in bytes."""
        self._handle.resume()
        answer = self._ask({"memory": {}})
        return self._whole(answer, "peak_bytes"), self._whole(answer, "before_bytes")

    def close(self) -> None:
        """End the process."""
        self._process.kill()  # works on a suspended process too
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._messages):
            if pipe is not None:
                pipe.close()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it died: told below
            print(json.dumps(order), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._messages.seek(0)
            last = self._messages.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ModelError(
                f"{self._who} died with code {self._process.wait()}: {printable(' '.join(last)) or 'no message'}"
            )
        try:
            answer = parse_json(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ModelError(f"{self._who}: expected an answer, got {printable(line.strip()):.80}")
        if "error" in answer:
            kind = getattr(errors, str(answer["error"]), None)
            if not isinstance(kind, type) or not issubclass(kind, errors.VisionLoraError):
                kind = ModelError
            raise kind(str(answer.get("message")))
        return answer

    @property
    def _who(self) -> str:
        return f"{self.spec.path}: the process that ran it in {self.spec.runtime}"

    def _whole(self, answer: dict[str, Any], name: str) -> int:
        """Return a whole number of an answer."""
        value = answer.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelError(f"{self._who}: expected {name} as a whole number, got {value!s:.80}")
        return value
