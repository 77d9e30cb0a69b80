"""YAML of files that may be damaged or hostile: text, lists and mappings, or a ValueError, in little time."""

from __future__ import annotations

from typing import Any

import yaml

from visionlora.formats.text import is_unicode

MAX_DEPTH = 64
"""Lists and mappings inside each other that a file may have."""
MAX_YAML_BYTES = 1 << 20
MAX_YAML_VALUES = 100_000
"""Values of a YAML file, those that its aliases repeat counted as often as they appear."""


def parse_yaml(content: bytes | str) -> Any:
    """Return the value in a YAML text: mappings, lists and text, nothing else.

    Scalars are text as written: `no`, `007` and `1.10` are no booleans or numbers here, because a file that calls a
    class so means the word; an empty scalar and `null` or `~` without quotes are None.

    Raises:
        ValueError: it is no YAML, has a key twice, is larger than any description, or nested or repeated by aliases
            beyond what it can hold; `line` of the error is the line from 1 where known.

    Example:
        >>> parse_yaml("names: {0: no, 1: 007}")
        {'names': {'0': 'no', '1': '007'}}
    """
    if len(content) > MAX_YAML_BYTES:
        raise ParseError(f"expected at most {MAX_YAML_BYTES} bytes, got {len(content)}")
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        text = text.removeprefix("\ufeff")
        _check_size(text)
        return yaml.load(text, Loader=_TextLoader)  # builds text, lists and mappings alone
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or (str(error).splitlines() or [repr(error)])[0]
        raise ParseError(str(reason), line=mark.line + 1 if mark else None) from None
    except RecursionError:
        raise ParseError("expected few lists inside each other, got too many") from None


class ParseError(ValueError):
    """A text that cannot be parsed, and the line where, from 1; None where it is not known."""

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class _TextLoader(yaml.BaseLoader):
    """Every scalar is text, but for an empty one, `~` and `null`; a key that comes twice is an error."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.style is None and node.value in ("", "~", "null"):
            return None
        value = super().construct_object(node, deep=True)
        return _joined(value) if isinstance(value, str) else value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                raise ParseError("expected keys to be text, got a list or a mapping", line=mark.line + 1)
            if key_node.value in mapping:
                raise ParseError(f"expected the key {key_node.value!r} once, got it twice", line=mark.line + 1)
            mapping[key_node.value] = self.construct_object(value_node, deep=True)
        return mapping


def _joined(text: str) -> str:
    """Return a text whose escapes of two halves of a character, as JSON writes one beyond 16 bits, are that character.

    PyYAML reads each half for itself. One without its other half stays, for `is_unicode` to find.
    """
    if is_unicode(text):
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return text


def _check_size(text: str) -> None:
    """Refuse what would take long to build, from the events of the parser, which are read one by one."""
    sizes: dict[str, int] = {}  # of what each anchor stands for
    open_nodes: list[tuple[str | None, int]] = []
    count = 0
    for event in yaml.parse(text, Loader=_TextLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            if len(open_nodes) > MAX_DEPTH:
                raise ParseError(f"expected at most {MAX_DEPTH} lists or mappings inside each other, got more")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:  # of a node that is not closed: it would hold itself
                raise ParseError(f"expected the alias {event.anchor!r} to name something before it, got nothing")
            count += sizes[event.anchor]
        count += 1
        if count > MAX_YAML_VALUES:
            raise ParseError(f"expected at most {MAX_YAML_VALUES} values, got more; aliases count as what they repeat")
