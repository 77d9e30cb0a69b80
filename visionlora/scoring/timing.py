"""How long networks take for a picture: in turns, with the spread, and with what disturbed the measurement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import psutil
from numpy.typing import NDArray

from visionlora.data import LabelledImage, read_labelled
from visionlora.vision.inference import Network, placed

ROUNDS = 10
"""Turns of each network."""
CALLS = 3
"""Timed calls of a turn: short turns, so that a slow spell hits all alike."""
_WARM_UP_CALLS = 2  # at the start of each turn
_PAUSE_SECONDS = 0.1  # longer than the threads of onnxruntime and OpenMP spin for new work
SPREAD_LIMIT = 0.1
"""Distance of the quartiles that calls may have, as a fraction of the median; beyond it a time is marked as noisy."""
OTHER_LOAD_LIMIT = 0.1
"""Cores that other processes may use meanwhile."""
_LEAST_RATIO = 0.05
"""A network against itself differs this much now and then, by where its memory lies."""


@dataclass(frozen=True)
class Ratio:
    """How many times as long a network takes as another."""

    to: str
    """The other model's label."""
    median: float
    """Over rounds, of the quotient of the two turns of a round, so that a slow spell of the machine cancels."""
    low: float
    """The lowest quotient of a round but one."""
    high: float
    """The highest but one."""

    @property
    def measurable(self) -> bool:
        """Whether one is faster in nearly every round, and by more than noise makes of a network against itself."""
        return not self.low <= 1 <= self.high and abs(self.median - 1) > _LEAST_RATIO


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the network alone for one picture, over all timed calls."""

    median: float
    low: float
    """Where the middle 90 % of the calls begin."""
    high: float
    """Where they end."""
    noisy: bool
    """Whether half of the calls lie more than 10 % of the median apart, or other processes kept the machine busy."""
    other_load: float
    """Cores that other processes used meanwhile."""
    batch: int = 1
    """Pictures a call: what the file demands. The times are for one picture of them."""
    ratio: Ratio | None = None
    """To the reference; None where there is none, or it is this one."""


@dataclass(frozen=True, eq=False)
class Turns:
    """What was measured of one network.

    Attributes:
        milliseconds: (rounds, calls) for one picture.
        other_load: (rounds,) cores that other processes used during each turn.
        batch: pictures a call.
    """

    milliseconds: NDArray[np.float64]
    other_load: NDArray[np.float64]
    batch: int = 1

    @property
    def median(self) -> float:
        """Milliseconds for one picture, over all calls."""
        return float(np.median(self.milliseconds))


def time_networks(
    networks: Sequence[Network], images: Sequence[LabelledImage], *, rounds: int = ROUNDS
) -> tuple[Turns, ...]:
    """Time the network call alone, one picture a call, or as many as the file demands.

    The networks take turns in short blocks, every other round backwards, so that a slow spell of the machine hits all
    alike. A turn begins with a pause and calls that are not counted: the threads of the network before keep a core busy
    for a while.

    Args:
        networks: the networks to compare.
        images: as many as a turn needs are taken; fewer are taken again.
        rounds: turns of each network.

    Raises:
        DataError: an image cannot be read.
        ModelError: a network fails.
    """
    pixels = [read_labelled(image) for image in islice(cycle(images), CALLS)]
    batches = [network.batch or 1 for network in networks]
    inputs = [
        [np.repeat(placed(network.task, image, network.image_size)[0][None], batch, axis=0) for image in pixels]
        for network, batch in zip(networks, batches, strict=True)
    ]
    seconds, loads = np.zeros((len(networks), rounds, CALLS)), np.zeros((len(networks), rounds))
    for number in range(rounds):
        for index in range(len(networks))[:: -1 if number % 2 else 1]:
            seconds[index, number], loads[index, number] = _turn(networks[index], inputs[index])
    return tuple(
        Turns(1000 * taken / batch, load, batch) for taken, load, batch in zip(seconds, loads, batches, strict=True)
    )


def _turn(network: Network, tensors: Sequence[NDArray[np.float32]]) -> tuple[list[float], float]:
    """Return the seconds of each call, and the cores that other processes used meanwhile."""
    measured = []
    began, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    time.sleep(_PAUSE_SECONDS)
    for tensor in (*tensors[:_WARM_UP_CALLS], *tensors):  # (batch, 3, S, S)
        started = time.perf_counter()
        network(tensor)
        measured.append(time.perf_counter() - started)
    others = busy_seconds() - busy - (time.process_time() - own)
    return measured[_WARM_UP_CALLS:], others / max(time.perf_counter() - began, 1e-9)


def timing_of(turns: Turns, reference: Turns | None = None, *, to: str = "") -> Timing:
    """Return what a report says of a network's times.

    Args:
        turns: of the network.
        reference: of the network that it is compared with, from the same rounds; None where there is none.
        to: the reference's label.

    Example:
        >>> turns = Turns(np.full((10, 3), 8.0), np.zeros(10))
        >>> timing_of(turns).median, timing_of(turns).noisy
        (8.0, False)
    """
    low, low25, median, high75, high = np.quantile(turns.milliseconds, [0.05, 0.25, 0.5, 0.75, 0.95])
    load = float(np.mean(turns.other_load))
    return Timing(
        median=round(float(median), 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        noisy=bool(high75 - low25 > SPREAD_LIMIT * median or load > OTHER_LOAD_LIMIT),
        other_load=round(max(load, 0.0), 3),
        batch=turns.batch,
        ratio=None if reference is None else _ratio(turns, reference, to),
    )


def _ratio(turns: Turns, reference: Turns, to: str) -> Ratio:
    quotients = np.sort(
        np.median(turns.milliseconds, axis=1) / np.maximum(np.median(reference.milliseconds, axis=1), 1e-9)
    )
    spare = 1 if len(quotients) > 4 else 0  # one round may be hit by anything
    return Ratio(
        to,
        round(float(np.median(quotients)), 4),
        round(float(quotients[spare]), 4),
        round(float(quotients[-1 - spare]), 4),
    )


def busy_seconds() -> float:
    """Return the processor time that the whole machine has spent on anything, also for other machines (steal)."""
    times = psutil.cpu_times()
    # guest time is in user time already
    return times.user + times.system + sum(getattr(times, name, 0.0) for name in ("nice", "irq", "softirq", "steal"))
