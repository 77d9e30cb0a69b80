"""All that is wrong with a data set, told at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visionlora.errors import DataError
from visionlora.formats.text import printable

MAX_SHOWN = 5
"""Problems that a message spells out; the rest is counted."""
_LONGEST = 60
"""Characters of a value that a message shows."""
_LONGEST_LINE = 1000


def raise_problems(problems: Sequence[str], *, hint: str = "", most: int = MAX_SHOWN) -> None:
    """Raise one error for all problems, or return if there are none.

    Args:
        problems: one line each, `path:line: expected ..., got ...; hint`.
        hint: a last line for all of them.
        most: how many are spelled out; the rest is counted.

    Raises:
        DataError: there are problems; its message has one line for each of the first `most`.

    Example:
        >>> raise_problems([])
    """
    if not problems:
        return
    lines = [_shortened(problem) for problem in problems[:most]]
    hidden = len(problems) - len(lines)
    if hidden:
        lines.append(f"and {hidden} more")
    if hint:
        lines.append(hint)
    raise DataError("\n".join(lines))


def _shortened(line: str) -> str:
    """Return a line without the middle of a path or a value that fills pages; its ends say where and what to do."""
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def shown(path: Path | str) -> str:
    """Return a path as a user would type it: relative to the working directory if it lies below it.

    Example:
        >>> shown(Path.cwd() / "labels" / "1.txt")
        'labels/1.txt'
    """
    path = Path(path)
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):  # OSError: the working directory was deleted
        return path.as_posix()


def excerpt(value: object) -> str:
    """Return a value from a file as a message can show it: on one line, and the beginning of a long one.

    Example:
        >>> excerpt("scratch"), excerpt([1, 2])
        ("'scratch'", '[1, 2]')
    """
    if isinstance(value, str | list | tuple) and len(value) > _LONGEST:  # not all of it is put into words first
        value = value[:_LONGEST]
    text = printable(repr(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
