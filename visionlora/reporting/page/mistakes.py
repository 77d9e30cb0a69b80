"""The pictures that classifiers took for another class, the most confident first."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from visionlora.data import LabelledImage
from visionlora.reporting.confusion import FOREIGN
from visionlora.reporting.page import gallery
from visionlora.reporting.report import Report
from visionlora.scoring import ModelScores

MOST = 12
"""Pictures of a model that are shown."""

MistakePictures = tuple[str, int, list[tuple[str, Markup, str, str, float]]]
"""A model's label, how many mistakes it made, and of those shown file name, picture, class, what it said, score."""


def mistake_pictures(
    report: Report, images: Sequence[LabelledImage], judgements: Sequence[ModelScores | None]
) -> list[MistakePictures]:
    """Return the gallery of the reference and of the last model, where these are classifiers that made mistakes.

    Raises:
        DataError: a picture cannot be read.
    """
    last = len(report.rows) - 1
    first = last if report.reference is None else report.rows.index(report.reference)
    shown = []
    for index in dict.fromkeys((first, last)):
        judgement = judgements[index]
        if judgement is None or not judgement.mistakes:
            continue
        pictures = [
            (
                images[one.image].path.name,
                gallery.whole_picture(images[one.image], f"mistake{index}-{one.image}"),
                one.truth,
                one.found or FOREIGN,
                one.score,
            )
            for one in judgement.mistakes[:MOST]
        ]
        shown.append((report.rows[index].label, len(judgement.mistakes), pictures))
    return shown
