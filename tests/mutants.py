"""Damaged copies of a file, the same on any machine."""

from __future__ import annotations

import random
from collections.abc import Iterator


def mutants(content: bytes, count: int, *, seed: int = 0) -> Iterator[bytes]:
    """Yield `count` damaged copies: bits flipped, bytes replaced, cut short, a part left out, doubled or moved."""
    rng = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            _damage(changed, rng)
        yield bytes(changed)


def _damage(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice((1, 2, 4, 16, 256)))
    match rng.randrange(6):
        case 0 if content:
            content[min(start, len(content) - 1)] ^= 1 << rng.randrange(8)
        case 1:
            content[start:end] = rng.randbytes(end - start)
        case 2:
            del content[start:]
        case 3:
            del content[start:end]
        case 4:
            content[start:start] = content[start:end]
        case _:
            content[start:end] = rng.choice(
                (b"\xff" * (end - start), b"\0" * (end - start), b"9" * 20, b"-", b"[", b'"')
            )
