"""JSON and Python literals of files that may be damaged or hostile: a value, or a ValueError, in little time."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from visionlora.formats.text import is_unicode

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(content: bytes | str) -> Any:
    """Return the value in a JSON text, in UTF-8 with or without a byte order mark.

    Raises:
        ValueError: it is no JSON, nested deeper than Python can follow, or has text that cannot be written as UTF-8.

    Example:
        >>> parse_json(b'{"names": ["zebra"]}')
        {'names': ['zebra']}
    """
    try:
        text = (content.decode("utf-8") if isinstance(content, bytes) else content).removeprefix("\ufeff")
        value = json.loads(text)
        if _SURROGATE.search(text) and not is_unicode(json.dumps(value, ensure_ascii=False)):
            raise ValueError("expected text in Unicode, got half of a surrogate pair")
    except RecursionError:
        raise ValueError("expected few lists inside each other, got too many") from None
    return value


def parse_literal(text: str) -> Any:
    """Return the value of a Python literal, as Ultralytics writes names and sizes into the metadata of a file.

    Raises:
        ValueError: it is none, or nested or long beyond what Python can follow.

    Example:
        >>> parse_literal("{0: 'zebra'}")
        {0: 'zebra'}
    """
    try:
        return ast.literal_eval(text)
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"expected a Python literal, got something else: {type(error).__name__}") from None
