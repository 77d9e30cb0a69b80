"""All that is wrong with a data set, told at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visionlora.errors import DataError

MAX_SHOWN = 20
"""Problems that a message spells out; the rest is counted."""


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one error for all problems, or return if there are none.

    Args:
        problems: one line each, `path:line: expected ..., got ...; hint`.

    Raises:
        DataError: there are problems; its message has one line a problem.

    Example:
        >>> raise_problems([])
    """
    if not problems:
        return
    lines = list(problems[:MAX_SHOWN])
    hidden = len(problems) - len(lines)
    if hidden:
        lines.append(f"... and {hidden} more problem{'s' if hidden > 1 else ''}")
    raise DataError("\n".join(lines))


def shown(path: Path | str) -> str:
    """Return a path as a user would type it: relative to the working directory if it lies below it.

    Example:
        >>> shown(Path.cwd() / "labels" / "1.txt")
        'labels/1.txt'
    """
    path = Path(path)
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.as_posix()
