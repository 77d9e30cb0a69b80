"""Pascal VOC annotations: one XML file an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from visionlora.data.problems import raise_problems, shown
from visionlora.errors import DataError

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
        DataError: the file is missing or no XML, or an object has no known name or no right box; all are listed.
    """
    path = Path(xml_path)
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(
            f"{shown(path)}: expected an annotation, got none that can be read; {error.strerror or error}"
        ) from error
    except ElementTree.ParseError as error:
        raise DataError(f"{shown(path)}:{error.position[0]}: expected XML, got a syntax error; {error}") from error
    objects, problems = {}, []
    for index, element in enumerate(root.iter("object"), start=1):
        try:
            objects[_object(element, names)] = True
        except ValueError as error:
            problems.append(f"{shown(path)}: object {index}: {error}")
    raise_problems(problems)
    boxes = np.array([box for _, box in objects], dtype=np.float64).reshape(-1, 4)
    return boxes, np.array([class_id for class_id, _ in objects], dtype=np.int64)


def _object(element: ElementTree.Element, names: Sequence[str]) -> tuple[int, tuple[float, ...]]:
    """Return class id and xyxy of an object, or raise ValueError."""
    name = (element.findtext("name") or "").strip()
    if name not in names:
        raise ValueError(f"expected a class among {', '.join(names)}, got {name!r}; check the names")
    texts = [(element.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
    try:
        left, top, right, bottom = (float(text) for text in texts)
    except ValueError:
        raise ValueError(f"expected numbers {', '.join(_CORNERS)}, got {texts}; correct the bndbox") from None
    if not (0 <= left < right < float("inf") and 0 <= top < bottom < float("inf")):
        raise ValueError(f"expected xmin < xmax and ymin < ymax from 0 up, got {texts}; correct the bndbox")
    return list(names).index(name), (left, top, right, bottom)
