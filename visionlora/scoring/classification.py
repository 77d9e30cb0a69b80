"""Top-1 and top-5 accuracy of classifiers, as shares of the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visionlora.data import LabelledImage
from visionlora.scoring.coco import ClassScores, MeanPrecision, Scores
from visionlora.scoring.matches import IOU_THRESHOLDS, Matches
from visionlora.scoring.operating import Confusion
from visionlora.vision.classification import SHOWN
from visionlora.vision.detections import Detections


@dataclass(frozen=True)
class Mistake:
    """A picture that was taken for another class; `image` is its place in the split, `found` None for a foreign one."""

    image: int
    truth: str
    found: str | None
    score: float


def top_accuracy(found: Sequence[Detections], images: Sequence[LabelledImage], names: Sequence[str]) -> MeanPrecision:
    """Return the two numbers of `classification_scores` that a training is steered by."""
    scores, _ = classification_scores(found, images, names, classes=names)
    return MeanPrecision(scores.map50_95, scores.map50)


def classification_scores(
    found: Sequence[Detections], images: Sequence[LabelledImage], names: Sequence[str], *, classes: Sequence[str]
) -> tuple[Scores, Matches]:
    """Return the accuracy on the pictures of the classes that a model knows, and which of them are right.

    In place of mAP50-95 stands top-1, the share of the pictures whose class is the model's first, over all pictures
    alike; in place of mAP50 top-5. Of a class they are those of its pictures. The matches have a row a picture: right
    at the first threshold where its class is among the first five, at the others where it is the first.

    Args:
        found: of each picture all classes, best first; ids index `names`, -1 for a class that is none of them.
        images: the pictures, each with its class.
        names: of the data set's classes.
        classes: those that the model knows.

    Example:
        >>> from pathlib import Path
        >>> truth = [LabelledImage(Path("a.jpg"), (4, 4), [[0, 0, 4, 4]], [class_id]) for class_id in (0, 1, 1)]
        >>> says = [Detections([[0, 0, 4, 4]] * 2, [0.9, 0.1], ids) for ids in ([0, 1], [0, 1], [1, 0])]
        >>> scores, _ = classification_scores(says, truth, ("rust", "fine"), classes=("rust", "fine"))
        >>> round(scores.map50_95, 3), scores.map50, [each.ap50_95 for each in scores.per_class]
        (0.667, 1.0, [1.0, 0.5])
    """
    known = [index for index, name in enumerate(names) if name in set(classes)]
    truth = np.array([int(image.class_ids[0]) for image in images], dtype=np.int64)
    objects = truth[:, None] == np.array(known, dtype=np.int64)  # (images, classes)
    first = np.array([(one.class_ids[:1] == label).any() for one, label in zip(found, truth, strict=True)], dtype=bool)
    five = np.array(
        [(one.class_ids[:SHOWN] == label).any() for one, label in zip(found, truth, strict=True)], dtype=bool
    )
    best = np.array([float(one.scores[0]) if len(one) else 0.0 for one in found], dtype=np.float32)
    pictures, columns = np.nonzero(objects)
    order = np.lexsort((-best[pictures], columns))
    pictures, columns = pictures[order], columns[order]
    right = np.repeat(first[pictures, None], len(IOU_THRESHOLDS), axis=1)
    right[:, 0] = five[pictures]
    matches = Matches(
        names=tuple(names[index] for index in known),
        objects=objects.astype(np.int32),
        images=pictures.astype(np.int32),
        columns=columns.astype(np.int32),
        scores=best[pictures],
        right=right,
        counted=np.ones_like(right),
    )
    counts = objects.sum(axis=0)
    per_class = tuple(
        ClassScores(
            name=name,
            ap50_95=float(first[objects[:, column]].mean()) if counts[column] else None,
            ap50=float(five[objects[:, column]].mean()) if counts[column] else None,
            images=int(counts[column]),
            objects=int(counts[column]),
        )
        for column, name in enumerate(matches.names)
    )
    some = len(pictures) > 0
    scores = Scores(
        map50_95=float(first[pictures].mean()) if some else None,
        map50=float(five[pictures].mean()) if some else None,
        map75=None,
        per_class=per_class,
        pooled=True,
    )
    return scores, matches


def confusion_of(
    found: Sequence[Detections], images: Sequence[LabelledImage], names: Sequence[str], *, classes: Sequence[str]
) -> tuple[tuple[Confusion, ...], tuple[Mistake, ...]]:
    """Return the cells of the confusion matrix that are not zero, and the mistakes, the most confident first.

    The arguments are those of `classification_scores`; a class of the model that the data set does not have is None.
    """
    cells: Counter[tuple[str, str | None]] = Counter()
    mistakes = []
    for index, (one, image) in enumerate(zip(found, images, strict=True)):
        truth = names[int(image.class_ids[0])]
        if truth not in classes or not len(one):
            continue
        best = int(one.class_ids[0])
        took = names[best] if best >= 0 else None
        cells[truth, took] += 1
        if took != truth:
            mistakes.append(Mistake(index, truth, took, float(one.scores[0])))
    mistakes.sort(key=lambda mistake: -mistake.score)
    return tuple(Confusion(truth, took, count) for (truth, took), count in cells.items()), tuple(mistakes)
