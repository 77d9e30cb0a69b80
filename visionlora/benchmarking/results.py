"""What a benchmark says: numbers a model, ratios to the first, warnings; as JSON and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from visionlora.machine import Machine
from visionlora.reporting import code, markdown_table, megabytes

FORMAT = 1


@dataclass(frozen=True)
class Spread:
    """Milliseconds of many calls: the median, the quartiles, and where the middle 90 % lie."""

    median: float
    low5: float
    low25: float
    high75: float
    high95: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Return the spread of times in seconds.

        Example:
            >>> Spread.of([0.001, 0.002, 0.003]).median
            2.0
        """
        low5, low25, median, high75, high95 = 1000 * np.quantile(seconds, [0.05, 0.25, 0.5, 0.75, 0.95])
        return cls(*(round(float(value), 4) for value in (median, low5, low25, high75, high95)))


@dataclass(frozen=True)
class Measured:
    """One model with one count of threads.

    Attributes:
        label, file, runtime: what it is called, its path, and what executed it.
        sha256: of the file.
        threads: how many threads a call could use.
        image_size: side of its input in pixels.
        bytes: of its files.
        network: milliseconds of the network alone, one picture a call.
        frame: milliseconds from the picture's file to boxes.
        parts: the median milliseconds of each part of a frame.
        peak_bytes: the most memory that its process held.
        before_bytes: what the process held before the runtime and the model: Python, NumPy, OpenCV.
        turns_ms: the network's median in each turn, in the order of the turns.
        frame_turns_ms: the same of whole frames.
        other_load: cores that other processes used during each turn, as far as the system counts them.
        faster: how many times as fast as the first model with as many threads the network is: the median over
            rounds of the ratio of the two turns of one round, so that a slow spell of the machine cancels.
        faster_range: the middle 90 % of these ratios.
        frame_faster: the same of the whole frame.
        bytes_ratio: bytes against the first model's.
        batch: pictures a call, where the file takes several at once; the network's time is for one of them.
        precision: what the runtime computes in here, such as `bf16`; None where it does not say.
    """

    label: str
    file: str
    runtime: str
    sha256: str
    threads: int
    image_size: int
    bytes: int
    network: Spread
    frame: Spread
    parts: Mapping[str, float]
    peak_bytes: int
    before_bytes: int
    turns_ms: tuple[float, ...]
    frame_turns_ms: tuple[float, ...]
    other_load: tuple[float, ...]
    faster: float = 1.0
    faster_range: tuple[float, float] = (1.0, 1.0)
    frame_faster: float = 1.0
    bytes_ratio: float = 1.0
    batch: int = 1
    precision: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """Several models measured in turns on one machine.

    Attributes:
        rows: one a model and count of threads.
        machine, versions: where, and with what.
        pictures: how many, and the sizes that they have.
        calls: timed calls of each row; as many whole frames.
        noise: what disturbed the measurement, a sentence each; empty if nothing did.
        command: the command line that measures it again.
        created: when (ISO 8601, UTC).
    """

    rows: tuple[Measured, ...]
    machine: Machine
    versions: Mapping[str, str]
    pictures: str
    calls: int
    noise: tuple[str, ...]
    command: str
    created: str

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        where = f"{self.machine.cpu}, {self.machine.cores} cores; {self.pictures}; {self.calls} calls of each, in turns"
        lines = [where, "", table(self.rows)]
        fixed = {row.label: row.batch for row in self.rows if row.batch > 1}
        lines += [f"{code(name)} takes {batch} pictures a call: times are a share." for name, batch in fixed.items()]
        if self.noise:
            lines += ["", *(f"NOISY: {sentence}" for sentence in self.noise)]
        return "\n".join(lines)


def table(rows: Sequence[Measured]) -> str:
    """Return the rows as a Markdown table; ratios are to the first model with as many threads."""
    heads = ["model", "runtime", "px", "threads", "network, ms (5-95 %)", "faster", "frame, ms", "faster"]
    heads += ["read + letterbox + network + decode", "peak MB", "file MB", "of the first"]
    return markdown_table(heads, [_cells(row) for row in rows])


def _cells(row: Measured) -> list[str]:
    return [
        code(row.label),
        " ".join([row.runtime, *([row.precision] if row.precision else [])]),
        str(row.image_size),
        str(row.threads),
        f"{row.network.median:.1f} ({row.network.low5:.1f}-{row.network.high95:.1f})",
        f"{row.faster:.2f}x",
        f"{row.frame.median:.1f}",
        f"{row.frame_faster:.2f}x",
        " + ".join(f"{milliseconds:.1f}" for milliseconds in row.parts.values()),
        f"{row.peak_bytes / 1e6:.0f}",
        megabytes(row.bytes),
        f"{row.bytes_ratio:.2f}",
    ]
