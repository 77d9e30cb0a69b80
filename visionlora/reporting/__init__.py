"""Reports: the numbers of several models with what they belong to, as JSON, Markdown and a page, and back."""

import os

from visionlora.isolation import matplotlib_folder

os.environ.setdefault("MPLCONFIGDIR", matplotlib_folder())

from visionlora.reporting.comparison import comparison_markdown
from visionlora.reporting.markdown import report_markdown
from visionlora.reporting.pictures import Column, before_after, representative_images
from visionlora.reporting.report import Report, read_report
from visionlora.reporting.row import Row
from visionlora.reporting.writing import ReportInputs, refuse_existing_report, report_files, write_report

__all__ = [
    "Column",
    "Report",
    "ReportInputs",
    "Row",
    "before_after",
    "comparison_markdown",
    "read_report",
    "refuse_existing_report",
    "report_files",
    "report_markdown",
    "representative_images",
    "write_report",
]
