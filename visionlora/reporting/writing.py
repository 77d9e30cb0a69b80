"""A report's files: the numbers as JSON, the page as Markdown, the pictures, the matches of every image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.data import LabelledImage
from visionlora.files import atomic_output, refuse_existing
from visionlora.reporting.chart import write_chart
from visionlora.reporting.markdown import report_markdown
from visionlora.reporting.per_image import FILE as MATCHES
from visionlora.reporting.per_image import PerImage, write_image_results
from visionlora.reporting.report import Report, report_to_json
from visionlora.scoring import ModelScores
from visionlora.vision.detections import PREDICTION_CONFIDENCE

JSON, PAGE, CHART, SHEET, HTML = (
    "report.json",
    "report.md",
    "report_scores.png",
    "report_detections.png",
    "report.html",
)

_CHART_CAPTION = "Scores of each model; the mean is pale where it knows only some of the classes."
_SHEET_CAPTION = (
    f"Ground truth, and the detections with a score above {PREDICTION_CONFIDENCE}. "
    "The images were chosen by their ground truth alone."
)
_CLASSES_CAPTION = "Ground truth, and the best classes. The images were chosen by their ground truth alone."


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """What a report's numbers were drawn from; the models in the order of the report's rows.

    Attributes:
        images: the ground truth.
        image_hashes: SHA-256 of each image file.
        judgements: of each model; None where it knows no class.
        sheet: the picture of `before_after`, (height, width, 3) uint8 BGR.
    """

    images: tuple[LabelledImage, ...]
    image_hashes: tuple[str, ...]
    judgements: tuple[ModelScores | None, ...]
    sheet: NDArray[np.uint8]


def report_files(out_dir: Path | str) -> tuple[Path, ...]:
    """Return the paths of all that `write_report` may leave in a folder, report.json last."""
    return tuple(Path(out_dir) / name for name in (CHART, SHEET, MATCHES, HTML, PAGE, JSON))


def refuse_existing_report(out_dir: Path | str, *, overwrite: bool = False) -> None:
    """Check that a report may be written into a folder, which may hold other files.

    Raises:
        OutputError: one of its files exists already and `overwrite` is false.
    """
    for path in reversed(report_files(out_dir)):
        refuse_existing(path, overwrite=overwrite)


def write_report(
    report: Report,
    out_dir: Path | str,
    *,
    evidence: ReportInputs | None = None,
    html: bool = False,
    overwrite: bool = False,
) -> Report:
    """Write report.json, report.md and what belongs to them into a folder; each file appears whole or not at all.

    Args:
        report: the numbers.
        out_dir: the folder, made if it is missing.
        evidence: for the pictures, the matches of every image, and report.html; None leaves all of them out.
        html: write report.html, which needs the evidence.
        overwrite: replace an earlier report.

    Returns:
        The report, with the name of the file that holds the matches.

    Raises:
        OutputError: a file exists already, or cannot be written.
    """
    refuse_existing_report(out_dir, overwrite=overwrite)
    folder = Path(out_dir)
    for name in (SHEET, HTML, MATCHES):
        (folder / name).unlink(missing_ok=True)  # an earlier report's
    pictures = [("Scores", CHART, _CHART_CAPTION)]
    with atomic_output(folder / CHART) as path:
        write_chart(report, path)
    if evidence is not None:
        caption = _CLASSES_CAPTION if report.is_of_classes else _SHEET_CAPTION
        pictures.append(("Detections", SHEET, caption))
        with atomic_output(folder / SHEET) as path:
            path.write_bytes(cv2.imencode(".png", evidence.sheet)[1].tobytes())
        report = replace(report, per_image=_write_matches(report, evidence, folder))
    if evidence is not None and html:
        from visionlora.reporting.page import report_page

        with atomic_output(folder / HTML) as path:
            _write_text(path, report_page(report, evidence.images, evidence.judgements))
    with atomic_output(folder / PAGE) as path:
        _write_text(path, report_markdown(report, pictures=pictures))
    with atomic_output(folder / JSON) as path:  # last: where it stands, the rest does too
        path.write_text(report_to_json(report), encoding="utf-8")
    return report


def _write_text(path: Path, text: str) -> None:
    """Write UTF-8; the bytes of a picture's name that are none, which Python holds as lone surrogates, are escaped."""
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def _write_matches(report: Report, evidence: ReportInputs, folder: Path) -> PerImage:
    matches = {
        row.label: judgement.matches
        for row, judgement in zip(report.rows, evidence.judgements, strict=True)
        if judgement is not None
    }
    return write_image_results(folder / MATCHES, evidence.image_hashes, matches)
