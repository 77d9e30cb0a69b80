"""Measuring several models in turns."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from visionlora.benchmarking.contestant import Contestant
from visionlora.benchmarking.results import Benchmark, Measured, Spread
from visionlora.benchmarking.worker import PARTS
from visionlora.data import image_paths
from visionlora.errors import DataError, ModelError, UsageError
from visionlora.files import atomic_output, refuse_existing, sha256_of
from visionlora.formats.text import printable
from visionlora.machine import installed_versions, this_machine
from visionlora.models import ModelSpec, parse_specs
from visionlora.progress import tracked
from visionlora.runtime.pictures import find_images
from visionlora.vision.detections import PREDICTION_CONFIDENCE
from visionlora.vision.preprocess import read_image

CALLS = 5
"""Timed calls of a turn: long enough that what was warmed up counts, short enough that a slow spell hits all alike."""
WARM_UP = 2
"""Calls at the start of a turn that do not count: caches and threads are cold after standing still."""
PICTURES = 16
"""Pictures that frames are made of; more change no number."""
OTHER_LOAD_LIMIT = 0.1
"""Cores that other processes may use during a turn; the system counts in steps of 10 ms, so short turns err."""
DISTURBED_LIMIT = 0.1
"""Turns in which they may use more, as a fraction of all."""
SPREAD_LIMIT = 0.1
"""Distance of the quartiles that calls may have, as a fraction of the median."""


def bench(
    models: Sequence[str | Path],
    *,
    image: Path | str | None = None,
    data: Path | str | None = None,
    split: str = "val",
    threads: Sequence[int] | None = None,
    imgsz: int | None = None,
    rounds: int = 10,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> Benchmark:
    """Measure latency and memory of models in turns: the network alone, and whole frames from file to boxes.

    Every model runs in a process of its own, for each count of threads, on the CPU. The processes take turns; one that
    is not at its turn stands still, so that threads that a runtime leaves spinning disturb nobody. Each round goes
    through the models in the other direction than the round before.

    Args:
        models: as for `evaluate`: .pt, .onnx, .xml, .param, `openvino:model.onnx`, with `label=` before; ratios are
            to the first.
        image: an image, a folder or a pattern of pictures to use; one is drawn if neither this nor `data` is given.
        data: the data.yaml whose pictures to use instead.
        split: which of its splits.
        threads: counts of threads to measure with; None takes as many as there are processors.
        imgsz: side of the input in pixels for checkpoints; exported files have their own.
        rounds: turns of each model, of 5 calls and 5 frames that count.
        out: a JSON file to write; None writes nothing.
        overwrite: replace `out` if it exists.

    Raises:
        UsageError: an option is wrong in itself, or a model is named wrongly.
        DataError: there is no picture, or one cannot be read.
        ModelError, AdapterError: a model cannot be used, or its runtime is not installed.
        OutputError: `out` exists, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> print(vl.bench(["model.onnx", "model.int8.onnx"], threads=[1, 2]))  # doctest: +SKIP
    """
    specs = parse_specs(models)
    machine = this_machine()
    counts = tuple(dict.fromkeys(threads if threads is not None else [machine.threads]))
    _check(specs, counts, image=image, data=data, rounds=rounds)
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    options = {
        "image": image,
        "data": data,
        "split": split if data else None,
        "threads": ",".join(map(str, counts)),
        "imgsz": imgsz,
        "rounds": rounds,
        "out": out,
    }
    with _pictures(image, data, split) as (pictures, described):
        rows, noise = _measure(specs, counts, pictures, image_size=imgsz, rounds=rounds)
    result = Benchmark(
        rows=rows,
        machine=machine,
        versions=installed_versions(),
        pictures=described,
        calls=rounds * CALLS,
        noise=noise,
        command=_command(models, options),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    if out is not None:
        with atomic_output(out) as partial:
            partial.write_text(result.to_json(), encoding="utf-8")
    return result


def _check(specs: Sequence[ModelSpec], counts: Sequence[int], *, image: object, data: object, rounds: int) -> None:
    """Refuse what cannot be measured before a process starts."""
    if image is not None and data is not None:
        raise UsageError("expected pictures from --image or from --data, got both")
    if not counts or min(counts) < 1:
        raise UsageError(f"--threads: expected counts of at least 1, got {list(counts)}")
    if rounds < 1:
        raise UsageError(f"--rounds: expected at least 1, got {rounds}")
    missing = [str(path) for spec in specs for path in spec.parts if not path.is_file()]
    if missing:
        raise ModelError(f"expected the files of all models, found none at {', '.join(missing)}")


@contextmanager
def _pictures(image: Path | str | None, data: Path | str | None, split: str) -> Iterator[tuple[list[Path], str]]:
    """Yield the pictures of the frames, and what they are in words."""
    with tempfile.TemporaryDirectory() as folder:
        if data is not None:
            found = list(image_paths(data, split))
            if not found:
                raise DataError(f"{data}: expected pictures in split {split!r}, found none")
        else:
            found = [_drawn(Path(folder))] if image is None else find_images(image)
        found = found[:PICTURES]
        shapes = [read_image(path).shape for path in found]
        sizes = sorted({f"{width} x {height}" for height, width, _ in shapes})
        some = sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes such as {sizes[0]}"
        kind = "drawn JPEG" if image is None and data is None else found[0].suffix[1:]
        yield found, f"{len(found)} {'picture' if len(found) == 1 else 'pictures'} ({kind}) of {some}"


def _drawn(folder: Path) -> Path:
    """Draw a picture of smooth coloured shapes, which costs a JPEG decoder what a photograph costs it."""
    coarse = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    path = folder / "drawn.jpg"
    path.write_bytes(cv2.imencode(".jpg", cv2.resize(coarse, (1280, 720), interpolation=cv2.INTER_CUBIC))[1].tobytes())
    return path


def _measure(
    specs: Sequence[ModelSpec],
    counts: Sequence[int],
    pictures: Sequence[Path],
    *,
    image_size: int | None,
    rounds: int,
) -> tuple[tuple[Measured, ...], tuple[str, ...]]:
    with ExitStack() as opened:
        contestants: list[Contestant] = []
        for count in counts:
            for spec in specs:
                contestant = Contestant(spec, count, pictures, image_size=image_size, confidence=PREDICTION_CONFIDENCE)
                opened.callback(contestant.close)
                contestants.append(contestant)
        for number in tracked(range(rounds), "bench", of=rounds, unit="round"):
            for contestant in contestants[:: -1 if number % 2 else 1]:
                contestant.take_turn(calls=CALLS, warm_up=WARM_UP)
        rows = [_row(contestant) for contestant in contestants]
    firsts = {row.threads: row for row in reversed(rows)}
    return tuple(_against(row, firsts[row.threads]) for row in rows), _noise(contestants)


def _row(contestant: Contestant) -> Measured:
    """Return what a contestant gave, its ratios not yet known."""
    network = [seconds for turn in contestant.turns.network for seconds in turn]
    frames = np.concatenate([np.asarray(turn) for turn in contestant.turns.frames])  # (frames, parts)
    peak, before = contestant.memory()
    return Measured(
        label=contestant.spec.label,
        file=printable(contestant.spec.file),
        runtime=contestant.spec.runtime,
        sha256=sha256_of(*contestant.spec.parts),
        threads=contestant.threads,
        image_size=contestant.image_size,
        bytes=sum(path.stat().st_size for path in contestant.spec.parts),
        network=Spread.of(network),
        frame=Spread.of(frames.sum(axis=1)),
        parts={
            name: round(1000 * float(seconds), 4)
            for name, seconds in zip(PARTS, np.median(frames, axis=0), strict=True)
        },
        peak_bytes=peak,
        before_bytes=before,
        turns_ms=tuple(round(1000 * float(np.median(turn)), 4) for turn in contestant.turns.network),
        frame_turns_ms=tuple(
            round(1000 * float(np.median(np.sum(turn, axis=1))), 4) for turn in contestant.turns.frames
        ),
        batch=contestant.batch,
        precision=contestant.precision,
        other_load=tuple(round(load, 3) for load in contestant.turns.other_load),
    )


def _against(row: Measured, first: Measured) -> Measured:
    """Return a row with its ratios to the first model with as many threads."""
    network = np.divide(first.turns_ms, row.turns_ms)
    frame = np.divide(first.frame_turns_ms, row.frame_turns_ms)
    low, high = np.quantile(network, [0.05, 0.95])
    return replace(
        row,
        faster=round(float(np.median(network)), 4),
        faster_range=(round(float(low), 4), round(float(high), 4)),
        frame_faster=round(float(np.median(frame)), 4),
        bytes_ratio=round(row.bytes / first.bytes, 4),
    )


def _noise(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """Return a sentence for each sign that something else ran on the machine."""
    sentences = []
    loads = np.asarray([value for contestant in contestants for value in contestant.turns.other_load])
    disturbed = float(np.mean(loads > OTHER_LOAD_LIMIT))
    if disturbed > DISTURBED_LIMIT:
        sentences.append(
            f"other processes used more than {OTHER_LOAD_LIMIT} cores in {disturbed:.0%} of the turns; "
            "close them and measure again"
        )
    for contestant in contestants:
        spread = Spread.of([seconds for turn in contestant.turns.network for seconds in turn])
        middle = (spread.high75 - spread.low25) / spread.median
        if middle > SPREAD_LIMIT:
            sentences.append(
                f"{contestant.spec.label} with {contestant.threads} thread{'s' * (contestant.threads > 1)}: "
                f"half of its calls lie {middle:.0%} apart; trust differences beyond that only"
            )
    return tuple(sentences)


def _command(models: Sequence[str | Path], options: Mapping[str, Any]) -> str:
    """Return the command line that measures the same; options that are None are left out."""
    words = [word for model in models for word in ("--model", str(model))]
    words += [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return printable(shlex.join(["visionlora", "bench", *words]))
