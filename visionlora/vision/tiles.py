"""A picture in overlapping tiles: where they lie, and what was found in them as detections of the picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.vision.detections import IOU_THRESHOLD, MAX_DETECTIONS, Detections, Timing
from visionlora.vision.masks import Masks, Region, RleMasks, encode_rle

OVERLAP = 0.2
"""Share of a tile that the next one has too: SAHI's default."""
SAME_OBJECT = 0.5
"""Overlap of two boxes of different views, above which they are one object: each saw it at another scale, so its boxes
differ more than those of one view."""
_LEAST = 32  # pixels: the largest stride of a detector
_EDGE = 0.01  # of a tile: a box that ends so near to an inner edge may go on behind it


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut into tiles.

    Attributes:
        size: side of a tile in pixels of the picture.
        overlap: share of a tile that the next one has too.

    Raises:
        UsageError: a number is out of range.

    Example:
        >>> Tiling(64, 0.5).views((128, 40))
        ((0, 0, 128, 40), (0, 0, 64, 40), (32, 0, 96, 40), (64, 0, 128, 40))
    """

    size: int
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < _LEAST:
            raise UsageError(f"--tile: expected a side of at least {_LEAST} px, got {self.size}")
        if not 0 <= self.overlap <= 0.9:
            raise UsageError(f"--overlap: expected a share of a tile from 0 to 0.9, got {self.overlap:g}")

    def views(self, size_wh: tuple[int, int]) -> tuple[Region, ...]:
        """Return the whole picture, and behind it the tiles, row by row; none where the picture is no larger than one.

        The last tile of a row or a column ends with the picture, so each has its full size where the picture has.
        """
        columns, rows = (self._spans(side) for side in size_wh)
        tiles = [(left, top, right, bottom) for top, bottom in rows for left, right in columns]
        return ((0, 0, *size_wh), *(tiles if len(tiles) > 1 else ()))

    def _spans(self, side: int) -> list[tuple[int, int]]:
        step = max(int(self.size * (1 - self.overlap)), 1)
        count = 1 + max(math.ceil((side - self.size) / step), 0)
        starts = [min(index * step, max(side - self.size, 0)) for index in range(count)]
        return [(start, min(start + self.size, side)) for start in starts]


def tiling_of(tile: int | None, overlap: float | None) -> Tiling | None:
    """Return what `--tile` and `--overlap` ask for; None for no tiles.

    Raises:
        UsageError: a number is out of range, or `overlap` is given without `tile`.
    """
    if tile is None:
        if overlap is not None:
            raise UsageError("--overlap: expected --tile beside it, got none; give the side of a tile in pixels")
        return None
    return Tiling(tile, OVERLAP if overlap is None else overlap)


def detect_in_tiles(
    find: Callable[[NDArray[np.uint8]], Detections],
    image_bgr: NDArray[np.uint8],
    tiling: Tiling | None,
    *,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    agnostic: bool = False,
) -> Detections:
    """Find the objects in a picture and in each of its tiles, each object once.

    Args:
        find: what finds the objects in a picture.
        image_bgr: (H, W, 3) uint8.
        tiling: how it is cut; None for the whole picture alone.
        iou_threshold: see `merged`.
        max_detections: how many are returned at most.
        agnostic: whether boxes of different classes suppress each other too.

    Returns:
        Detections, best first, in pixels of the picture; their times are the sums over all views.
    """
    if tiling is None:
        return find(image_bgr)
    height, width = image_bgr.shape[:2]
    views = tiling.views((width, height))
    found = [find(np.ascontiguousarray(image_bgr[top:bottom, left:right])) for left, top, right, bottom in views]
    return merged(
        found,
        views,
        (width, height),
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        agnostic=agnostic,
    )


def merged(
    found: Sequence[Detections],
    views: Sequence[Region],
    size_wh: tuple[int, int],
    *,
    iou_threshold: float = IOU_THRESHOLD,
    max_detections: int = MAX_DETECTIONS,
    agnostic: bool = False,
) -> Detections:
    """Return what was found in several views of a picture as detections of the picture, each object once.

    A box that ends at an inner edge of its tile may be a part of an object. So whole boxes come first, best first, and
    remove those of other views whose IoU with them is above 0.5, or `iou_threshold` where that is lower; parts come
    after them and are removed where more than half of one, or of the smaller of two parts, lies in a kept box. No box
    is made that the network did not give. Boxes of one view do not remove each other: that has happened.

    Args:
        found: of each view, in its pixels.
        views: where each lies in the picture.
        size_wh: width and height of the picture.
        iou_threshold: of the suppression in a view.
        max_detections: how many are returned at most.
        agnostic: whether boxes of different classes suppress each other too.
    """
    boxes = np.concatenate(
        [each.boxes_xyxy + np.array(view[:2] * 2, dtype=np.float32) for each, view in zip(found, views, strict=True)]
    )
    scores, classes = (np.concatenate([getattr(each, name) for each in found]) for name in ("scores", "class_ids"))
    origin = np.repeat(np.arange(len(found)), [len(each) for each in found])
    within = np.concatenate([np.arange(len(each)) for each in found])
    cut = np.concatenate([_is_cut(each.boxes_xyxy, view, size_wh) for each, view in zip(found, views, strict=True)])
    kept: list[int] = []
    for class_id in [None] if agnostic else np.unique(classes).tolist():
        members = np.arange(len(boxes)) if class_id is None else np.flatnonzero(classes == class_id)
        order = members[np.lexsort((-scores[members], cut[members]))]
        kept += order[_kept(boxes[order], cut[order], origin[order], min(iou_threshold, SAME_OBJECT))].tolist()
    chosen = np.array(sorted(kept, key=lambda index: (-scores[index], index))[:max_detections], dtype=np.intp)
    return _joined(found, views, size_wh, origin[chosen], within[chosen], boxes[chosen])


def _is_cut(boxes: NDArray[np.float32], view: Region, size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (N,) whether each box of a view ends at an edge of it that is none of the picture."""
    left, top, right, bottom = view
    width, height = right - left, bottom - top
    near = np.stack(
        [
            boxes[:, 0] < _EDGE * width,
            boxes[:, 1] < _EDGE * height,
            boxes[:, 2] > (1 - _EDGE) * width,
            boxes[:, 3] > (1 - _EDGE) * height,
        ]
    )
    inner = np.array([left > 0, top > 0, right < size_wh[0], bottom < size_wh[1]])
    return (near & inner[:, None]).any(axis=0)


def _kept(
    boxes: NDArray[np.float32], cut: NDArray[np.bool_], origin: NDArray[np.intp], iou_threshold: float
) -> list[int]:
    """Return which boxes stay, whole ones before parts."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    alive = np.ones(len(boxes), dtype=np.bool_)
    kept = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        low = np.maximum(boxes[index, :2], boxes[index + 1 :, :2])
        high = np.minimum(boxes[index, 2:], boxes[index + 1 :, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        later = areas[index + 1 :]
        part = np.minimum(later, areas[index]) if cut[index] else later
        of = np.where(cut[index + 1 :], part, areas[index] + later - shared)
        limit = np.where(cut[index + 1 :], SAME_OBJECT, iou_threshold)
        alive[index + 1 :] &= (shared <= limit * of) | (origin[index + 1 :] == origin[index])
    return kept


def _joined(
    found: Sequence[Detections],
    views: Sequence[Region],
    size_wh: tuple[int, int],
    origin: NDArray[np.intp],
    within: NDArray[np.intp],
    boxes: NDArray[np.float32],
) -> Detections:
    """Return the detections `within` of the views `origin`, in pixels of the picture."""
    fields: dict[str, list[NDArray[np.float32]]] = {"keypoints": [], "obb": []}
    for each, view in zip(found, views, strict=True):
        for name, values in fields.items():
            given = getattr(each, name)
            if given is not None:
                moved = given.copy()
                moved[..., :2] += np.array(view[:2], dtype=np.float32)
                values.append(moved)
    starts = np.cumsum([0, *(len(each) for each in found)])[:-1]
    index = starts[origin] + within
    masks = None
    if all(each.masks is not None for each in found):
        rles = [_mask(found[view].masks, at, views[view], size_wh) for view, at in zip(origin, within, strict=True)]
        masks = RleMasks(tuple(rles), size_wh)
    times = [each.timing for each in found if each.timing is not None]
    return replace(
        found[0],
        boxes_xyxy=boxes,
        scores=np.concatenate([each.scores for each in found])[index],
        class_ids=np.concatenate([each.class_ids for each in found])[index],
        masks=masks,
        timing=Timing(*(sum(getattr(time, part) for time in times) for part in ("prepare", "network", "decode")))
        if times
        else None,
        **{name: np.concatenate(values)[index] if values else None for name, values in fields.items()},  # type: ignore[arg-type]
    )


def _mask(masks: Masks | None, index: int, view: Region, size_wh: tuple[int, int]) -> dict[str, object]:
    """Return a mask of a view as an RLE of the picture."""
    assert masks is not None
    (left, top, right, bottom), inside = masks.crop(int(index))
    x, y = view[:2]
    return encode_rle((left + x, top + y, right + x, bottom + y), inside, size_wh)
