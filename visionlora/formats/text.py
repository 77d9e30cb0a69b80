"""Text that comes from files: what a terminal, a spreadsheet and a font can take of it; sizes in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def is_unicode(text: str) -> bool:
    r"""Return whether a text can be written as UTF-8: it has no lone half of a surrogate pair.

    Example:
        >>> is_unicode("caf\u00e9"), is_unicode("\ud83d")
        (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in text)


def printable(text: object, *, lines: bool = False) -> str:
    r"""Return a text whose control characters are written as escapes, so that it cannot steer a terminal.

    Bytes of a file name that are no UTF-8, which Python holds as lone surrogates, are escaped too; so are marks that
    change the direction of what follows.

    Args:
        text: anything; its `str` is taken.
        lines: whether line breaks stay.

    Example:
        >>> printable("a\x1b[31m\nb")
        'a\\x1b[31m\\nb'
    """

    def escape(match: re.Match[str]) -> str:
        found = match.group()
        if lines and found == "\n":
            return found
        return found.encode("unicode_escape", "backslashreplace").decode("ascii")

    return _CONTROL.sub(escape, str(text))


def size_words(size: int) -> str:
    """Return bytes as a sentence says them: in MB (10^6 bytes), or as they are where that would be next to nothing.

    Example:
        >>> size_words(2_880_000), size_words(9_999)
        ('2.88 MB', '9,999 bytes')
    """
    return f"{size / 1e6:.2f} MB" if size >= 10_000 else f"{size:,} bytes"


def class_words(count: int) -> str:
    """Return a number of classes as a sentence says it.

    Example:
        >>> class_words(1), class_words(80)
        ('1 class', '80 classes')
    """
    return "1 class" if count == 1 else f"{count} classes"


def csv_cell(text: str) -> str:
    """Return a text that a spreadsheet shows and does not compute: what looks like a formula gets a quote before it.

    Source: OWASP, CSV injection.

    Example:
        >>> csv_cell("=1+1"), csv_cell("zebra")
        ("'=1+1", 'zebra')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def class_names(value: Any) -> tuple[str, ...]:
    """Return the class names of a model or a data set in the order of their ids.

    Args:
        value: a list of names, or a mapping from the ids 0 to n - 1, as whole numbers or as text, to names.

    Raises:
        ValueError: it is neither, a number is missing, or a name is no text that can be written; the message says
            what was expected and what came.

    Example:
        >>> class_names({"1": "zebra", "0": "rhino"})
        ('rhino', 'zebra')
    """
    if isinstance(value, Mapping):
        value = _in_order(value)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"expected class names as a list or a mapping, got {_shown(value)}")
    for index, name in enumerate(value):
        if not isinstance(name, str) or not name.strip() or not is_unicode(name):
            raise ValueError(f"expected the name of class {index} to be text, got {_shown(name)}")
    return tuple(value)


def _in_order(names: Mapping[Any, Any]) -> list[Any]:
    by_id: dict[int, Any] = {}
    for key, name in names.items():
        whole = isinstance(key, int) and not isinstance(key, bool)
        if not whole and not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10):
            raise ValueError(f"expected class names to be numbered from 0, got the number {_shown(key)}")
        if int(key) in by_id:
            raise ValueError(f"expected one name for class {int(key)}, got two")
        by_id[int(key)] = name
    missing = next((index for index in range(len(by_id)) if index not in by_id), None)
    if missing is not None:
        raise ValueError(f"expected class names numbered 0 to {len(by_id) - 1}, got none for {missing}")
    return [by_id[index] for index in range(len(by_id))]


def _shown(value: object) -> str:
    text = printable(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
