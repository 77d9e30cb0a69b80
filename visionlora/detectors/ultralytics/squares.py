"""Validation pictures as the device sees them: letterboxed into the square that the exported network takes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from ultralytics.data.augment import Format
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import LOGGER, IterableSimpleNamespace
from ultralytics.utils.instance import Instances
from ultralytics.utils.ops import resample_segments

from visionlora.data import LabelledImage, read_labelled
from visionlora.detectors.ultralytics.sampling import training_label
from visionlora.tasks import DETECT, Task
from visionlora.vision.preprocess import Placement

_READERS = 8
_POINTS = 100  # of an outline, which Ultralytics wants to be the same for all


class SquareDataset(Dataset):
    """Checked pictures, letterboxed as `visionlora eval` does, with their labels for the loss.

    A sample holds `img` (3, S, S) uint8 RGB, `cls` (n, 1), `bboxes` (n, 4) centres and sizes as fractions of the
    square, `batch_idx` (n,), `index` and `placement` of the picture; where the task is not detection, what
    Ultralytics' `Format` makes of its labels.

    Args:
        images: the pictures with their labels.
        image_size: side of the square in pixels.
        task: what is labelled in them.
        hyp: Ultralytics' settings: how masks are drawn.
        in_memory: keep all squares in memory.

    Raises:
        DataError: a picture that is kept in memory can no longer be read, or has another size than when it was checked.
    """

    collate_fn = staticmethod(YOLODataset.collate_fn)

    def __init__(
        self,
        images: Sequence[LabelledImage],
        image_size: int,
        *,
        task: Task = DETECT,
        hyp: IterableSimpleNamespace | None = None,
        in_memory: bool = False,
    ) -> None:
        self.images, self.image_size, self._task = tuple(images), image_size, task
        self.labels = [training_label(image, task) for image in self.images]  # Ultralytics counts the objects
        self._format: Format | None = None
        if task != DETECT and hyp is not None:
            kinds = {"return_mask": "segment", "return_keypoint": "pose", "return_obb": "obb"}
            returned = {name: task.name == kind for name, kind in kinds.items()}
            self._format = Format(mask_ratio=hyp.mask_ratio, mask_overlap=hyp.overlap_mask, **returned)
        self._placements: list[Placement] = []
        self._squares: torch.Tensor | None = None
        if in_memory and self._fits():
            self._squares = torch.empty((len(self.images), image_size, image_size, 3), dtype=torch.uint8)
            with ThreadPoolExecutor(_READERS) as pool:
                self._placements = list(pool.map(self._keep, range(len(self.images))))

    def __len__(self) -> int:
        """Return how many pictures there are."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a sample."""
        if self._squares is None:
            square, placement = self._read(index)
        else:
            square, placement = self._squares[index].numpy(), self._placements[index]
        if self._format is not None:
            return {**self._format(self._objects(index, square, placement)), "index": index, "placement": placement}
        boxes = self.images[index].boxes_xyxy[~self.images[index].is_crowd]
        within = (boxes * (placement.scale_xy * 2) + placement.offset_xy * 2) / self.image_size
        centres, sizes = (within[:, :2] + within[:, 2:]) / 2, within[:, 2:] - within[:, :2]
        return {
            "img": torch.from_numpy(np.ascontiguousarray(square[:, :, ::-1].transpose(2, 0, 1))),  # BGR -> RGB
            "cls": torch.from_numpy(self.labels[index]["cls"]),
            "bboxes": torch.from_numpy(np.concatenate([centres, sizes], axis=1).astype(np.float32)),
            "batch_idx": torch.zeros(len(boxes)),
            "index": index,
            "placement": placement,
        }

    def _objects(self, index: int, square: NDArray[np.uint8], placement: Placement) -> dict[str, Any]:
        """Return a square with its labels in fractions of it, as Ultralytics' transforms have them."""
        label, size = self.labels[index], np.array(self.images[index].size_wh)
        scale, offset = (np.array(each) for each in (placement.scale_xy, placement.offset_xy))

        def within(points: NDArray[Any]) -> NDArray[np.float32]:
            return ((points * size * scale + offset) / self.image_size).astype(np.float32)

        boxes, keypoints, outlines = label["bboxes"], label["keypoints"], label["segments"]
        sizes = (boxes[:, 2:] * size * scale / self.image_size).astype(np.float32)
        points = max([_POINTS, *(len(outline) + 1 for outline in outlines)])
        segments = np.zeros((0, points, 2), dtype=np.float32)
        if outlines:
            segments = np.stack(resample_segments([within(outline) for outline in outlines], n=points))
        if keypoints is not None:
            keypoints = np.concatenate([within(keypoints[..., :2]), keypoints[..., 2:]], axis=-1)
        instances = Instances(np.concatenate([within(boxes[:, :2]), sizes], axis=1), segments, keypoints)
        return {"img": square, "cls": label["cls"], "instances": instances}

    def _read(self, index: int) -> tuple[NDArray[np.uint8], Placement]:
        return self._task.place(read_labelled(self.images[index]), self.image_size)

    def _keep(self, index: int) -> Placement:
        square, placement = self._read(index)
        assert self._squares is not None
        self._squares[index] = torch.from_numpy(square)
        return placement

    def _fits(self) -> bool:
        """Whether memory holds all squares, and as much again stays free; say so where it does not."""
        needed, free = len(self.images) * self.image_size**2 * 3, psutil.virtual_memory().available
        if 2 * needed > free:
            LOGGER.warning(f"val: {needed / 2**30:.1f} GiB of pictures are read anew each time: memory is short")
        return 2 * needed <= free
