"""Two reports as one page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from visionlora.formats.text import printable
from visionlora.reporting.formatting import (
    NO_SCORE,
    change_words,
    code,
    fraction,
    markdown_table,
    megabytes,
    name_words,
    signed,
)
from visionlora.reporting.report import Report
from visionlora.reporting.row import Row
from visionlora.scoring import Difference

Pair = tuple[str, Row | None, Row | None, Difference | None]
"""Label, the model in the first report, in the second, and the second minus the first."""


def comparison_markdown(first: Report, second: Report, models: Sequence[Pair]) -> str:
    """Return two reports side by side: what each model scored in both, and how sure the difference is."""
    same = first.data.content_hash == second.data.content_hash and first.task == second.task
    apart = "on different images" if first.task == second.task else "between tasks"
    mean, other, of_class = second.measured.words
    parts = [
        "# Comparison",
        _what(first, second, same=same),
        markdown_table(
            ["model", f"{mean} before", "now", "difference (95%)", f"{other} before", "now", "MB before", "now"],
            [_line(*pair) for pair in models],
        ),
        "\n".join(f"- {_sentence(*pair, same=same, apart=apart)}" for pair in models),
        *(_classes(*pair, of_class=of_class) for pair in models if pair[3] is not None),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(first: Report, second: Report, *, same: bool) -> str:
    dates = " and ".join(name_words(report.created[:10] or "an unknown day") for report in (first, second))
    if same:
        return f"Reports of {dates}, on the same {second.data.images} images of {code(second.data.path)}."
    if first.task != second.task:
        return (
            f"Reports of {dates}, one of {first.measured.noun}, the other of {second.measured.noun}, so their scores "
            "have no difference; compare reports of one task."
        )
    return (
        f"Reports of {dates}, on different images or boxes ({first.data.images} of {code(first.data.path)} and "
        f"{second.data.images} of {code(second.data.path)}), so their scores have no difference; "
        "evaluate both on one data set."
    )


def _line(label: str, old: Row | None, new: Row | None, difference: Difference | None) -> list[str]:
    before, now = ((row.scores if row else None) for row in (old, new))
    return [
        code(label),
        fraction(before.map50_95 if before else None),
        fraction(now.map50_95 if now else None),
        NO_SCORE if difference is None else _cell(difference),
        fraction(before.map50 if before else None),
        fraction(now.map50 if now else None),
        megabytes(old.bytes) if old else NO_SCORE,
        megabytes(new.bytes) if new else NO_SCORE,
    ]


def _cell(difference: Difference) -> str:
    change = difference.map50_95
    if change.interval is None:
        return signed(change.difference)
    return f"{signed(change.difference)} [{signed(change.interval.low)}, {signed(change.interval.high)}]"


def _sentence(
    label: str, old: Row | None, new: Row | None, difference: Difference | None, *, same: bool, apart: str
) -> str:
    name = code(label)
    if old is None or new is None:
        return f"{name} is in the {'first' if new is None else 'second'} report only."
    if old.sha256 == new.sha256:
        return f"{name} is the same file in both."
    if difference is None:
        return f"{name} cannot be compared{'' if same else f' {apart}'}."
    if difference.map50_95.interval is None:
        return (
            f"{name}: {signed(difference.map50_95.difference)}; no interval, as a report has no matches of its images."
        )
    return f"{name}: {change_words(difference.map50_95)}."


def _classes(label: str, old: Row | None, new: Row | None, difference: Difference | None, *, of_class: str) -> str:
    """Return the classes of one model, those that lost most first."""
    if difference is None or (old is not None and new is not None and old.sha256 == new.sha256):
        return ""
    rows = [
        [name_words(change.name), signed(change.change.difference), change_words(change.change)]
        for change in sorted(difference.per_class, key=lambda change: change.change.difference)
    ]
    table = markdown_table(["class", f"difference of {of_class}", "in words"], rows)
    return f"<details><summary>Classes of <code>{escape(printable(label))}</code></summary>\n\n{table}\n\n</details>"
