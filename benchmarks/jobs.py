"""Run the processes of a benchmark, several at once on each GPU, and hand over each result when it is printed."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "RESULT "
"""Begins each line of a process that is a result: a JSON object behind it."""


@dataclass(frozen=True)
class Job:
    """A process of a benchmark.

    Attributes:
        name: tells it from the others; each runs once.
        command: as `subprocess` takes it; it sees one GPU, as number 0.
        keep: what is called with each result.
    """

    name: str
    command: Sequence[str]
    keep: Callable[[dict], None]


class ResultsFile:
    """A JSON file of results that several threads add to; what is in it already stays."""

    def __init__(self, path: Path, empty: Any) -> None:
        self.path, self._lock = path, threading.Lock()
        self.content = json.loads(path.read_text()) if path.exists() else empty
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, result: dict, part: str | None = None) -> None:
        """Add a result, to the list named `part` where there are several, and write the file."""
        with self._lock:
            (self.content if part is None else self.content.setdefault(part, [])).append(result)
            self.path.write_text(json.dumps(self.content, indent=1) + "\n")


def run_jobs(
    wanted: Callable[[Set[str]], Iterable[Job]], *, devices: Sequence[str], at_once: int, minutes: float | None = None
) -> None:
    """Run jobs until none is left that could begin.

    Args:
        wanted: returns the jobs that could begin now, the most urgent first. It is given the names of those that have
            ended, and is asked again whenever one has.
        devices: numbers of GPUs, or `cpu`.
        at_once: processes on each of them.
        minutes: begin nothing new after so many.
    """
    until = time.monotonic() + 60 * minutes if minutes else float("inf")
    free = [device for _ in range(at_once) for device in devices]
    begun: set[str] = set()
    ended: set[str] = set()
    running: dict[Future, tuple[str, str]] = {}
    with ThreadPoolExecutor(len(free)) as pool:
        while True:
            for job in wanted(ended):
                if free and job.name not in begun and time.monotonic() < until:
                    begun.add(job.name)
                    device = free.pop(0)
                    running[pool.submit(run_job, job, device)] = (job.name, device)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                name, device = running.pop(future)
                ended.add(name)
                free.append(device)


def run_job(job: Job, device: str) -> None:
    """Run one process on a device; show the end of its output where it failed."""
    environment = os.environ if device == "cpu" else {**os.environ, "CUDA_VISIBLE_DEVICES": device}
    started = time.monotonic()
    process = subprocess.Popen(
        job.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    )
    tail: list[str] = []
    for line in process.stdout or ():
        if line.startswith(MARK):
            job.keep(json.loads(line.removeprefix(MARK)))
        tail = [*tail[-30:], line]
    failed = process.wait() != 0
    print(f"{'broke off' if failed else 'done'}: {job.name}, {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print("".join(tail), flush=True)


def report(result: dict) -> None:
    """Print a result, as `run_job` and `result_of` find it."""
    print(MARK + json.dumps(result), flush=True)


def result_of(command: Sequence[str]) -> dict:
    """Run a process alone; return the last result that it printed.

    Raises:
        RuntimeError: it printed none.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-1500:]}")
    return json.loads(lines[-1].removeprefix(MARK))


def visible(device: str) -> str:
    """Return what a job's command calls its device: it sees one GPU alone."""
    return "cpu" if device == "cpu" else "0"
