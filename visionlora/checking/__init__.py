"""All that is wrong or doubtful with a data set, told at once."""

from visionlora.checking.checking import check_data
from visionlora.checking.findings import DataCheck, Finding, SplitSummary

__all__ = ["DataCheck", "Finding", "SplitSummary", "check_data"]
