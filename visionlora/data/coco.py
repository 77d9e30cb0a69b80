"""Labels as COCO ground truth, the form that pycocotools reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visionlora.data.dataset import LabelledImage
from visionlora.errors import UsageError
from visionlora.tasks import coco_segmentation


def to_coco(images: Sequence[LabelledImage], names: Sequence[str]) -> dict[str, Any]:
    """Return images and their objects as a COCO detection ground truth.

    Category ids are class ids (from 0), image ids are 1 to n in the order given, annotation ids start at 1 (pycocotools
    takes an annotation 0 for none). Boxes are x, y, width, height in pixels. Masks and keypoints, where they are
    labelled, are written as COCO has them; oriented boxes are not.

    Raises:
        UsageError: a class id has no name.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> image = LabelledImage(Path("a.jpg"), (64, 48), np.array([[8, 8, 24, 40]]), np.array([1]))
        >>> to_coco([image], ["pit", "scratch"])["annotations"][0]["bbox"]
        [8.0, 8.0, 16.0, 32.0]
    """
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, start=1):
        columns = (image.boxes_xyxy, image.class_ids, image.is_crowd, image.object_areas)
        more = _more(image)
        for index, (box, class_id, crowd, area) in enumerate(zip(*(each.tolist() for each in columns), strict=True)):
            if not 0 <= class_id < len(names):
                raise UsageError(f"{image.path}: expected class ids from 0 to {len(names) - 1}, got {class_id}")
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                    "iscrowd": int(crowd),
                    **{name: values[index] for name, values in more.items()},
                }
            )
    return {
        "images": [
            {"id": image_id, "file_name": image.path.name, "width": image.size_wh[0], "height": image.size_wh[1]}
            for image_id, image in enumerate(images, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": class_id, "name": name} for class_id, name in enumerate(names)],
    }


def _more(image: LabelledImage) -> dict[str, list[Any]]:
    """Return COCO's fields of masks and keypoints, an entry an object."""
    more: dict[str, list[Any]] = {}
    if image.segments is not None:
        more["segmentation"] = [coco_segmentation(segment) for segment in image.segments]
    if image.keypoints is not None:
        more["keypoints"] = [points.ravel().tolist() for points in image.keypoints]
        more["num_keypoints"] = (image.keypoints[..., 2] > 0).sum(axis=1).tolist()
    return more
