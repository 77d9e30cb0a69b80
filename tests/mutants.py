"""Damaged copies of a file, the same ones each time: what a reader must end with an error or a result for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    "",
    "\ud800",
    "../x",
    [],
    [[]],
    {},
    {"a": {}},
)


def damaged(content: bytes, count: int, *, seed: int = 0) -> Iterator[bytes]:
    """Yield copies of some bytes: with bits flipped, with bytes changed, cut off, cut out, doubled, zeroed, swapped."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        data = bytearray(content)
        # Half of the damage is near the ends, where most formats have their headers.
        size = len(data) if number % 2 else min(len(data), 512)
        start = (
            int(generator.integers(size)) if generator.random() < 0.5 else len(data) - 1 - int(generator.integers(size))
        )
        length = int(generator.integers(1, 64))
        match number % 7:
            case 0:
                data[start] ^= 1 << int(generator.integers(8))
            case 1:
                data[start : start + 4] = generator.bytes(4)
            case 2:
                del data[start:]
            case 3:
                del data[start : start + length]
            case 4:
                data[start:start] = data[start : start + length]
            case 5:
                data[start : start + length] = bytes(length)
            case _:
                data[start : start + length] = b"\xff" * length
        yield bytes(data)


def damaged_json(value: Any, count: int, *, seed: int = 0) -> Iterator[bytes]:
    """Yield a JSON value as text with one value in it, at any depth, replaced by one of another kind, or taken out."""
    generator = np.random.default_rng(seed)
    places = list(_places(value, ()))
    for _ in range(count):
        copied = json.loads(json.dumps(value))
        *way, last = places[int(generator.integers(len(places)))]
        holder = copied
        for key in way:
            holder = holder[key]
        choice = int(generator.integers(len(_VALUES) + 1))
        if choice == len(_VALUES):
            del holder[last]
        else:
            holder[last] = _VALUES[choice]
        yield json.dumps(copied).encode()


def _places(value: Any, way: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*way, key)
        yield from _places(inner, (*way, key))
