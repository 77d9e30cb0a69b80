"""Pascal VOC annotations: one XML file an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError, ParserCreate

import numpy as np
from numpy.typing import NDArray

from visionlora.data.problems import excerpt, raise_problems, shown
from visionlora.data.reading import read_bytes
from visionlora.errors import DataError

MAX_XML_BYTES = 16 << 20
MAX_DEPTH = 64
"""Elements inside each other that an annotation may have."""
_NAMES = 20  # classes that a message shows
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc_boxes(xml_path: Path | str, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read the objects of a VOC annotation.

    Coordinates are taken as they stand: as left, top, right and bottom edge in pixels, without the correction by one
    pixel that VOC's counting from 1 would ask for, because NEU-DET and most later data sets do not follow it.

    Args:
        xml_path: the annotation.
        names: class names; a class id is an index into them.

    Returns:
        (N, 4) boxes xyxy in pixels and (N,) class ids; identical objects once.

    Raises:
        DataError: the file is missing, no XML, no VOC annotation, or declares entities, or an object has no known name
            or no right box; all of these are listed.
    """
    path = Path(xml_path)
    root = _parse(path)
    if root.tag != "annotation":
        raise DataError(f"{shown(path)}: expected a VOC <annotation>, got <{excerpt(root.tag)[1:-1]}>; convert it")
    class_of: dict[str, int] = {}
    for class_id, name in enumerate(names):
        class_of.setdefault(name, class_id)
    objects, problems = {}, []
    for index, element in enumerate(root.iter("object"), start=1):
        try:
            objects[_object(element, class_of)] = True
        except ValueError as error:
            problems.append(f"{shown(path)}: object {index}: {error}")
    raise_problems(problems)
    boxes = np.array([box for _, box in objects], dtype=np.float64).reshape(-1, 4)
    return boxes, np.array([class_id for class_id, _ in objects], dtype=np.int64)


def _parse(path: Path) -> ElementTree.Element:
    """Return the root of an XML file that declares no entities and nests no deeper than an annotation does."""
    content = read_bytes(path, "an annotation", most=MAX_XML_BYTES)
    try:
        _check(content)
        return ElementTree.fromstring(content)
    except (ExpatError, ElementTree.ParseError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{shown(path)}:{line}: expected XML, got a syntax error; {error}") from error
    except (ValueError, LookupError) as error:  # entities or depth; an encoding that Python does not know
        raise DataError(f"{shown(path)}: expected a VOC annotation, got XML that is none; {error}") from error


def _check(content: bytes) -> None:
    """Refuse entities, by which a few bytes become gigabytes or another file, and deep nesting, or raise ValueError."""
    parser, depth = ParserCreate(), 0

    def entity(name: str, *_: object) -> None:
        raise ValueError(f"it declares the entity {excerpt(name)}; write the text itself")

    def start(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it has more than {MAX_DEPTH} elements inside each other")

    def end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser.EntityDeclHandler, parser.StartElementHandler, parser.EndElementHandler = entity, start, end
    parser.Parse(content, True)


def _object(element: ElementTree.Element, class_of: Mapping[str, int]) -> tuple[int, tuple[float, ...]]:
    """Return class id and xyxy of an object, or raise ValueError."""
    name = _text(element, "name")
    if name not in class_of:
        raise ValueError(
            f"expected a class among {', '.join(list(class_of)[:_NAMES])}, got {excerpt(name)}; check the names"
        )
    texts = [_text(element, f"bndbox/{corner}") for corner in _CORNERS]
    try:
        left, top, right, bottom = map(_number, texts)
    except ValueError:
        raise ValueError(f"expected numbers {', '.join(_CORNERS)}, got {excerpt(texts)}; correct the bndbox") from None
    if not (0 <= left < right < float("inf") and 0 <= top < bottom < float("inf")):
        raise ValueError(f"expected xmin < xmax and ymin < ymax from 0 up, got {excerpt(texts)}; correct the bndbox")
    return class_of[name], (left, top, right, bottom)


def _text(element: ElementTree.Element, path: str) -> str:
    """Return the text at a path in an element; nothing where there is none; or raise ValueError."""
    found = element.findall(path)
    if len(found) > 1 or any(len(child) for child in found):
        raise ValueError(
            f"expected one <{path}> of plain text, got {'several' if len(found) > 1 else 'elements in it'}"
        )
    return (found[0].text or "").strip() if found else ""


def _number(text: str) -> float:
    """Return a number in digits that everybody reads, or raise ValueError."""
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return float(text)
