"""A report's files: the numbers as JSON, the page as Markdown, the pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from visionlora.detections import PREDICTION_CONFIDENCE
from visionlora.evaluation.chart import write_chart
from visionlora.evaluation.markdown import report_markdown
from visionlora.evaluation.report import Report, report_to_json
from visionlora.files import atomic_output, refuse_existing

JSON, PAGE, CHART, SHEET = "report.json", "report.md", "report_scores.png", "report_detections.png"

_CHART_CAPTION = "Scores of each model; the mean is pale where it knows only some of the classes."
_SHEET_CAPTION = (
    f"Ground truth, and the detections with a score above {PREDICTION_CONFIDENCE}. "
    "The images were chosen by their ground truth alone."
)


def refuse_existing_report(out_dir: Path | str, *, overwrite: bool = False) -> None:
    """Check that a report may be written into a folder, which may hold other files.

    Raises:
        OutputError: one of its files exists already and `overwrite` is false.
    """
    for name in (JSON, PAGE, CHART, SHEET):
        refuse_existing(Path(out_dir) / name, overwrite=overwrite)


def write_report(
    report: Report, out_dir: Path | str, *, sheet: NDArray[np.uint8] | None = None, overwrite: bool = False
) -> None:
    """Write report.json, report.md and its pictures into a folder; each file appears whole or not at all.

    Args:
        report: the numbers.
        out_dir: the folder, made if it is missing.
        sheet: the picture of `before_after`, (height, width, 3) uint8 BGR.
        overwrite: replace an earlier report.

    Raises:
        OutputError: a file exists already, or cannot be written.
    """
    refuse_existing_report(out_dir, overwrite=overwrite)
    folder = Path(out_dir)
    pictures = [("Scores", CHART, _CHART_CAPTION)]
    with atomic_output(folder / CHART) as path:
        write_chart(report, path)
    if sheet is None:
        (folder / SHEET).unlink(missing_ok=True)  # an earlier report's
    else:
        pictures.append(("Detections", SHEET, _SHEET_CAPTION))
        with atomic_output(folder / SHEET) as path:
            path.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())
    with atomic_output(folder / PAGE) as path:
        path.write_text(report_markdown(report, pictures=pictures), encoding="utf-8")
    with atomic_output(folder / JSON) as path:  # last: where it stands, the rest does too
        path.write_text(report_to_json(report), encoding="utf-8")
