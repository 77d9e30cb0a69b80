"""One ruler for every kind of model: scores by pycocotools, time, bytes, and a report with provenance."""

from __future__ import annotations

import os

from visionlora.isolation import matplotlib_folder

os.environ.setdefault("MPLCONFIGDIR", matplotlib_folder())

from visionlora.evaluation.coco import ClassScores, Scores, coco_scores, mean_precision
from visionlora.evaluation.compare import ModelScores, score_model
from visionlora.evaluation.comparison import comparison_markdown
from visionlora.evaluation.evaluate import evaluate
from visionlora.evaluation.markdown import report_markdown
from visionlora.evaluation.models import ModelSpec, open_network, parse_spec
from visionlora.evaluation.pictures import Column, before_after, telling_images
from visionlora.evaluation.report import Budget, Report, Row, Verdict, read_report
from visionlora.evaluation.timing import Timing, time_networks
from visionlora.evaluation.writing import refuse_existing_report, report_files, write_report

__all__ = [
    "Budget",
    "ClassScores",
    "Column",
    "ModelScores",
    "ModelSpec",
    "Report",
    "Row",
    "Scores",
    "Timing",
    "Verdict",
    "before_after",
    "coco_scores",
    "comparison_markdown",
    "evaluate",
    "mean_precision",
    "open_network",
    "parse_spec",
    "read_report",
    "refuse_existing_report",
    "report_files",
    "report_markdown",
    "score_model",
    "telling_images",
    "time_networks",
    "write_report",
]
