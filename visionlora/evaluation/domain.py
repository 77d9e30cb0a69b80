"""A split that models are judged on: loaded once, asked of every model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionlora.data import LabelledImage, content_hash, load_coco, load_dataset
from visionlora.evaluation.bootstrap import FEWEST_IMAGES, draw_images
from visionlora.evaluation.cache import cache_key, image_hashes, keep_found, load_found
from visionlora.evaluation.coco import count_classes
from visionlora.evaluation.finding import Found, find_objects
from visionlora.evaluation.report import DataUsed
from visionlora.inference import Network


@dataclass(frozen=True, eq=False)
class Domain:
    """A split, loaded, with what is asked of every model.

    Attributes:
        images: the ground truth.
        hashes: SHA-256 of each image file.
        names: the class names.
        used: what a report says of it.
    """

    images: tuple[LabelledImage, ...]
    hashes: tuple[str, ...]
    names: tuple[str, ...]
    used: DataUsed

    @property
    def weights(self) -> NDArray[np.int64] | None:
        """The draws of the bootstrap; None where the images are too few."""
        return draw_images(len(self.images)) if len(self.images) >= FEWEST_IMAGES else None

    def find(
        self, network: Network, files: Sequence[Path], *, progress: str = "", runtime: str = "", cache: bool = True
    ) -> Found:
        """Run a network on the images, or read what it found there before.

        Args:
            network: the network.
            files: those that decide what it finds.
            progress: a word before the count of images on a terminal's last line.
            runtime: what executes the network, where its files do not say.
            cache: whether to look for an earlier result, and to keep this one.
        """
        if not cache:
            return find_objects(network, self.images, self.names, progress=progress)
        key = cache_key(
            files,
            self.hashes,
            names=self.names,
            sizes=[one.size_wh for one in self.images],
            model_names=network.names,
            imgsz=network.image_size,
            runtime=runtime,
        )
        kept = load_found(key)
        if kept is None:
            kept = find_objects(network, self.images, self.names, progress=progress)
            keep_found(key, kept)
        return kept


def leave_out_unused(domain: Domain, known: Collection[str]) -> tuple[Domain, tuple[str, ...]]:
    """Return the domain without the classes that have no object and that no model knows, and their names.

    There is nothing to score of such a class, and nothing to find: it is the parent category that Roboflow writes into
    every COCO file. With it among the names no model would know all classes.

    Args:
        domain: the domain.
        known: the names of all classes of all models.
    """
    used = set(np.unique(np.concatenate([np.empty(0, np.int64), *(one.class_ids for one in domain.images)])).tolist())
    kept = [index for index, name in enumerate(domain.names) if index in used or name in known]
    if len(kept) == len(domain.names) or not kept:
        return domain, ()
    new_ids = np.full(len(domain.names), -1)
    new_ids[kept] = np.arange(len(kept))
    names = tuple(domain.names[index] for index in kept)
    smaller = replace(
        domain,
        images=tuple(replace(one, class_ids=new_ids[one.class_ids]) for one in domain.images),
        names=names,
        used=replace(domain.used, classes=tuple(domain.used.classes[index] for index in kept)),
    )
    return smaller, tuple(name for name in domain.names if name not in set(names))


def load_domain(data: Path | str, split: str = "val") -> Domain:
    """Load a split of a data.yaml, or a COCO ground truth (.json).

    Raises:
        DataError: the data set or an image cannot be used.
    """
    is_coco = Path(data).suffix.lower() == ".json"
    dataset = load_coco(data, split=split) if is_coco else load_dataset(data, splits=(split,))
    images, names = dataset.split(split), dataset.names
    used = DataUsed(str(data), content_hash(images), split, len(images), count_classes(images, names))
    return Domain(images, image_hashes(images), names, used)
