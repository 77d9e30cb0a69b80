"""What a report is about, as whoever orders it says: a title, a part, a customer."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from visionlora.errors import UsageError
from visionlora.formats.text import printable

LONGEST = 120  # characters, so that each is a line on paper


@dataclass(frozen=True)
class ReportHeader:
    """Lines above a report; an empty one is left out.

    Raises:
        UsageError: one is no single line of at most 120 characters.
    """

    title: str = ""
    part: str = ""
    """What the models are to look at."""
    customer: str = ""

    def __post_init__(self) -> None:
        wrong = [
            f"--{name}: expected one line of 1 to {LONGEST} characters, got {printable(repr(value[: LONGEST + 1]))}"
            for name, value in dataclasses.asdict(self).items()
            if len(value) > LONGEST or value != printable(value).strip() or "\t" in value
        ]
        if wrong:
            raise UsageError("; ".join(wrong))


def header_markdown(header: ReportHeader | None) -> str:
    r"""Return the top of report.md.

    Example:
        >>> header_markdown(ReportHeader("Release *3*", part="4711")), header_markdown(None)
        ('# Release \\*3\\*\n\nPart: 4711.', '# Evaluation')
    """
    if header is None:
        return "# Evaluation"
    about = [
        f"{name}: {_escaped(value)}." for name, value in (("Part", header.part), ("Customer", header.customer)) if value
    ]
    return "\n\n".join([f"# {_escaped(header.title) or 'Evaluation'}", *([" ".join(about)] if about else [])])


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&~\"$])", r"\\\1", text)


def report_header(title: str | None, part: str | None, customer: str | None) -> ReportHeader | None:
    """Return the lines above a report; None where none was given.

    Raises:
        UsageError: one is empty, or no single line.
    """
    given = {"title": title, "part": part, "customer": customer}
    empty = [f"--{name}" for name, value in given.items() if value == ""]
    if empty:
        raise UsageError(f"{', '.join(empty)}: expected one line of 1 to {LONGEST} characters, got nothing")
    lines = {name: value for name, value in given.items() if value is not None}
    return ReportHeader(**lines) if lines else None
