"""Reports: the numbers of several models with what they belong to, as JSON, Markdown and a page, and back.

Other rooms take what they need from here, never from a module inside.
"""

from visionlora.reporting.comparison import comparison_markdown
from visionlora.reporting.doubts import data_doubts, network_doubts, saturation_doubts, training_doubts
from visionlora.reporting.formatting import beside, change_words, code, list_words, markdown_table, megabytes
from visionlora.reporting.header import report_header
from visionlora.reporting.history import training_settings
from visionlora.reporting.lineage import find_notes, find_warnings
from visionlora.reporting.markdown import report_markdown
from visionlora.reporting.parameters import count_parameters
from visionlora.reporting.per_image import ImageResults, read_image_results
from visionlora.reporting.pictures import Column, before_after, representative_images
from visionlora.reporting.report import Report, read_report
from visionlora.reporting.retention import Retention, RetentionInput, check_base, measure_retention
from visionlora.reporting.row import Row
from visionlora.reporting.verdict import judge_budget
from visionlora.reporting.writing import ReportInputs, refuse_existing_report, report_files, write_report

__all__ = [
    "Column",
    "ImageResults",
    "Report",
    "ReportInputs",
    "Retention",
    "RetentionInput",
    "Row",
    "before_after",
    "beside",
    "change_words",
    "check_base",
    "code",
    "comparison_markdown",
    "count_parameters",
    "data_doubts",
    "find_notes",
    "find_warnings",
    "judge_budget",
    "list_words",
    "markdown_table",
    "measure_retention",
    "megabytes",
    "network_doubts",
    "read_image_results",
    "read_report",
    "refuse_existing_report",
    "report_files",
    "report_header",
    "report_markdown",
    "representative_images",
    "saturation_doubts",
    "training_doubts",
    "training_settings",
    "write_report",
]
