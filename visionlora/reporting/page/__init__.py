"""report.html: one page that needs nothing beside it, neither a network nor another file."""

from visionlora.reporting.page.page import report_page

__all__ = ["report_page"]
