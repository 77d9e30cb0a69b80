"""Masks of objects: computed from prototypes, or kept run by run; numpy and OpenCV only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.errors import UsageError
from visionlora.vision.preprocess import Placement

Region = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels; right and bottom are outside."""


class Masks(ABC):
    """The masks of several objects in one image, each computed when it is asked for.

    Attributes:
        size_wh: width and height of the image in pixels.

    Example:
        >>> masks = RleMasks(({"size": [2, 3], "counts": "132"},), (3, 2))  # one pixel, then three of the object
        >>> masks.dense(0).astype(int).tolist(), masks.crop(0)[0]
        ([[0, 1, 0], [1, 1, 0]], (0, 0, 2, 2))
    """

    size_wh: tuple[int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: NDArray[np.integer]) -> Masks:
        """Return the masks of these objects, in this order; `index` as numpy takes it."""

    @abstractmethod
    def crop(self, index: int) -> tuple[Region, NDArray[np.bool_]]:
        """Return the region around an object, inside the image, and its mask (height, width) there."""

    @abstractmethod
    def rle(self, index: int) -> dict[str, Any]:
        """Return a mask as COCO's compressed RLE: `size`, height and width, and `counts`, text."""

    def dense(self, index: int) -> NDArray[np.bool_]:
        """Return a mask (H, W) of the whole image."""
        (left, top, right, bottom), inside = self.crop(index)
        mask = np.zeros(self.size_wh[::-1], dtype=np.bool_)
        mask[top:bottom, left:right] = inside
        return mask

    def kept(self) -> RleMasks:
        """Return the same masks run by run, which take little memory."""
        return RleMasks(tuple(self.rle(index) for index in range(len(self))), self.size_wh)


@dataclass(frozen=True, eq=False)
class PrototypeMasks(Masks):
    """Masks from prototypes (arXiv 1904.02689, section 3.2): where their sum by coefficients is above 0, in the box.

    The sum is taken to the image's resolution before it is compared with 0, as in Ultralytics' `process_mask_native`.

    Attributes:
        coefficients: (N, C).
        prototypes: (C, h, w); they cover the whole input.
        boxes_xyxy: (N, 4) in pixels of the image.
        placement: where the image lies in the input.
        image_size: side of the input in pixels.
    """

    coefficients: NDArray[np.float32]
    prototypes: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    placement: Placement
    image_size: int

    @property
    def size_wh(self) -> tuple[int, int]:  # type: ignore[override]
        """Width and height of the image in pixels."""
        return self.placement.size_wh

    def __len__(self) -> int:
        return len(self.coefficients)

    def __getitem__(self, index: NDArray[np.integer]) -> PrototypeMasks:
        return PrototypeMasks(
            self.coefficients[index], self.prototypes, self.boxes_xyxy[index], self.placement, self.image_size
        )

    @cached_property
    def _places(self) -> tuple[list[list[int]], list[list[int]], NDArray[np.float64]]:
        """Of each object: its region in the image, that of the prototypes which it needs, and how to map them.

        All at once: in small arrays, numpy takes longer to begin than to compute.
        """
        _, rows, columns = self.prototypes.shape
        # A pixel counts by its left top corner, as in Ultralytics' `crop_mask`.
        regions = np.clip(np.ceil(self.boxes_xyxy), 0, self.size_wh * 2).astype(np.int64)
        # Of prototypes, by pixels of the image: place = steps * pixel + shift, both counted from centres of pixels.
        cells = np.array([columns, rows]) / self.image_size
        steps = np.array(self.placement.scale_xy) * cells
        shift = steps * 0.5 + np.array(self.placement.offset_xy) * cells - 0.5
        low, high = steps * regions[:, :2] + shift, steps * (regions[:, 2:] - 1) + shift
        first = np.clip(np.floor(low), 0, (columns - 1, rows - 1)).astype(np.int64)
        end = np.clip(np.floor(high).astype(np.int64) + 2, first + 1, (columns, rows))
        back = np.zeros((len(regions), 2, 3))
        back[:, (0, 1), (0, 1)] = steps
        back[:, :, 2] = low - first
        return regions.tolist(), np.concatenate([first, end], axis=1).tolist(), back

    def crop(self, index: int) -> tuple[Region, NDArray[np.bool_]]:
        """Return the region around an object, inside the image, and its mask (height, width) there."""
        regions, needed, back = self._places
        (left, top, right, bottom), (x, y, x_end, y_end) = regions[index], needed[index]
        if left >= right or top >= bottom:
            return (left, top, left, top), np.zeros((0, 0), dtype=np.bool_)
        rows = self.prototypes[:, y:y_end]  # whole rows: to copy a part of each takes longer than to multiply them
        logits = (self.coefficients[index] @ rows.reshape(len(rows), -1)).reshape(rows.shape[1:])[:, x:x_end]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = right - left, bottom - top
        large = cv2.warpAffine(logits, back[index], size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return (left, top, right, bottom), np.asarray(large > 0)

    def rle(self, index: int) -> dict[str, Any]:
        """Return a mask as COCO's compressed RLE."""
        region, inside = self.crop(index)
        return encode_rle(region, inside, self.size_wh)


@dataclass(frozen=True, eq=False)
class RleMasks(Masks):
    """Masks that are kept as COCO's compressed RLE.

    Attributes:
        rles: of each object, with `size` and `counts`.
        size_wh: width and height of the image in pixels.
    """

    rles: tuple[Mapping[str, Any], ...]
    size_wh: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: NDArray[np.integer]) -> RleMasks:
        return RleMasks(tuple(self.rles[i] for i in np.arange(len(self))[index].tolist()), self.size_wh)

    def crop(self, index: int) -> tuple[Region, NDArray[np.bool_]]:
        """Return the region around an object, inside the image, and its mask (height, width) there."""
        mask = self.dense(index)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return (0, 0, 0, 0), np.zeros((0, 0), dtype=np.bool_)
        region = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        return region, mask[region[1] : region[3], region[0] : region[2]]

    def dense(self, index: int) -> NDArray[np.bool_]:
        """Return a mask (H, W) of the whole image."""
        return decode_rle(self.rles[index])

    def rle(self, index: int) -> dict[str, Any]:
        """Return a mask as COCO's compressed RLE."""
        return dict(self.rles[index])


def encode_rle(region: Region, inside: NDArray[np.bool_], size_wh: Sequence[int]) -> dict[str, Any]:
    """Return a mask as COCO's compressed RLE, without pycocotools: column by column, off and on in turns.

    Args:
        region: where `inside` lies in the image.
        inside: (bottom - top, right - left).
        size_wh: of the image.

    Example:
        >>> encode_rle((0, 0, 2, 2), np.array([[False, True], [True, True]]), (3, 2))
        {'size': [2, 3], 'counts': '132'}
    """
    (width, height), (left, top, _, _) = size_wh, region
    rows = inside.shape[0]
    padded = np.zeros((inside.shape[1], rows + 2), dtype=np.int8)  # a column of the picture each, with its ends
    padded[:, 1:-1] = inside.T
    changes = np.flatnonzero(np.diff(padded.ravel()))  # without pixels between columns, at the ends of their runs
    columns, within = np.divmod(changes, rows + 2)
    places = (columns + left) * height + top + within
    # A run that ends with a column of the picture goes on in the next one where that begins with a run.
    joined = np.flatnonzero(places[1:-1:2] == places[2::2]) * 2 + 1
    places = np.delete(places, [*joined, *(joined + 1)]) if len(joined) else places
    runs = np.diff(np.concatenate([[0], places, [width * height]]))
    runs = runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs
    return {"size": [int(height), int(width)], "counts": _to_text(runs)}


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the mask (H, W) of a compressed RLE.

    Raises:
        UsageError: the runs are not of this size.
    """
    height, width = rle["size"]
    runs = _from_text(rle["counts"])
    if runs.sum() != height * width or (runs < 0).any():
        raise UsageError(f"RLE: expected runs of {height} x {width} pixels together, got {int(runs.sum())}")
    on = np.arange(len(runs)) % 2 == 1
    return np.repeat(on, runs).reshape(width, height).T


def rle_area(rle: Mapping[str, Any]) -> int:
    """Return how many pixels a compressed RLE has."""
    return int(_from_text(rle["counts"])[1::2].sum())


def _to_text(runs: NDArray[np.integer]) -> str:
    """Write runs as pycocotools' `rleToString`: from the fourth on, what differs from the one before last.

    A character has 5 bits, the lowest first, and a sixth where more follow; 48 is added.
    """
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    pieces, left, active = [], values, np.ones(len(values), dtype=np.bool_)
    while active.any():
        low, rest = left & 0x1F, left >> 5
        more = np.where(low & 0x10, rest != -1, rest != 0)
        pieces.append(np.where(active, low + 0x20 * more + 48, 0))
        left, active = rest, active & more
    letters = np.stack(pieces, axis=1).ravel()
    return letters[letters > 0].astype(np.uint8).tobytes().decode("ascii")


def _from_text(text: str) -> NDArray[np.int64]:
    """Read what `_to_text` wrote.

    Raises:
        UsageError: the text is cut, or holds other characters.
    """
    letters = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64) - 48
    if not len(letters) or (letters < 0).any() or (letters > 63).any() or letters[-1] & 0x20:
        raise UsageError(f"RLE: expected runs as COCO writes them, got {text!r:.40}")
    ends = np.flatnonzero(letters & 0x20 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(letters)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((letters & 0x1F) << (5 * places), starts)
    values -= np.where(letters[ends] & 0x10, np.int64(1) << (5 * (ends - starts + 1)), 0)
    # From the fourth on, they are differences from the one before last.
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs
