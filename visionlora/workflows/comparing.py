"""Two reports side by side: last week's models against today's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from visionlora.errors import UsageError
from visionlora.files import atomic_output, refuse_existing
from visionlora.reporting import (
    ImageResults,
    Report,
    Row,
    comparison_markdown,
    list_words,
    read_image_results,
    read_report,
)
from visionlora.scoring import Difference, Draws, difference, paired_draws


@dataclass(frozen=True)
class ComparedModel:
    """A model of one label in both reports; None where a report lacks it.

    `difference` is the second minus the first, on the classes that both know; None where they cannot be compared.
    """

    label: str
    first: Row | None
    second: Row | None
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """Two reports, and their models paired by label.

    Attributes:
        first: the older report.
        second: the newer one.
        models: in the order of the second report, then those that only the first has.
        same_data: whether both are of the same images, labels and task; without it there are no differences.
        text: the comparison as a page of Markdown.
    """

    first: Report
    second: Report
    models: tuple[ComparedModel, ...]
    same_data: bool
    text: str


def compare(
    first: Path | str, second: Path | str, *, out: Path | str | None = None, overwrite: bool = False
) -> Comparison:
    """Put two reports side by side, with intervals where both have the matches of every image beside them.

    Models are paired by their labels; the only models of two reports are paired whatever they are called. Reports of
    different images or labels, or of two tasks, are shown without differences.

    Args:
        first: a report.json or the folder of one, the older one.
        second: another, the newer one.
        out: a Markdown file to write; None writes nothing.
        overwrite: replace it.

    Raises:
        DataError: a report cannot be read, or the file beside it is another report's.
        OutputError: `out` exists, or cannot be written.
        UsageError: the reports share no model, or `out` does not end in .md.

    Example:
        >>> import visionlora as vl
        >>> print(vl.compare("monday/report.json", "friday/report.json").text)  # doctest: +SKIP
    """
    if out is not None:
        if Path(out).suffix != ".md":
            raise UsageError(f"--out {out}: expected a name that ends in .md")
        refuse_existing(out, overwrite=overwrite)
    first, second = (Path(path) / "report.json" if Path(path).is_dir() else Path(path) for path in (first, second))
    reports = read_report(first), read_report(second)
    results = tuple(
        read_image_results(path, report.per_image) for path, report in zip((first, second), reports, strict=True)
    )
    same_data = reports[0].data.content_hash == reports[1].data.content_hash and reports[0].task == reports[1].task
    models = _models(reports, results if same_data else (None, None), same_data=same_data)
    text = comparison_markdown(
        *reports, [(model.label, model.first, model.second, model.difference) for model in models]
    )
    if out is not None:
        with atomic_output(out) as path:
            path.write_text(text, encoding="utf-8")
    return Comparison(*reports, models, same_data, text)


def _models(
    reports: tuple[Report, Report], results: tuple[ImageResults | None, ...], *, same_data: bool
) -> tuple[ComparedModel, ...]:
    old, new = ({row.label: row for row in report.rows} for report in reports)
    pairs = [(label, label) for label in new if label in old]
    if not pairs and len(old) == len(new) == 1:
        pairs = [(next(iter(old)), next(iter(new)))]
    if not pairs:
        raise UsageError(
            f"expected a model that both reports have; the first has {list_words(list(old))}, the second "
            f"has {list_words(list(new))}; name them alike with --model label=path"
        )
    paired = [
        ComparedModel(
            theirs if theirs == ours else f"{theirs} / {ours}",
            old[theirs],
            new[ours],
            _difference(old[theirs], new[ours], results) if same_data else None,
        )
        for theirs, ours in pairs
    ]
    known = {theirs for theirs, _ in pairs}, {ours for _, ours in pairs}
    gone = [ComparedModel(label, row, None, None) for label, row in old.items() if label not in known[0]]
    alone = [ComparedModel(label, None, row, None) for label, row in new.items() if label not in known[1]]
    return (*paired, *alone, *gone)


def _difference(old: Row, new: Row, results: tuple[ImageResults | None, ...]) -> Difference | None:
    if old.scores is None or new.scores is None:
        return None
    old_draws, new_draws = _draws(old.label, new.label, results, pooled=new.scores.pooled)
    return difference(new.scores, old.scores, draws=new_draws, other_draws=old_draws, to=old.label)


def _draws(
    old: str, new: str, results: tuple[ImageResults | None, ...], *, pooled: bool
) -> tuple[Draws, Draws] | tuple[None, None]:
    """Return the scores of both models on the same draws; None where a report has no matches of its images."""
    first, second = results
    if first is None or second is None or old not in first.matches or new not in second.matches:
        return None, None
    hashes = first.image_hashes, second.image_hashes
    return paired_draws(first.matches[old], second.matches[new], *hashes, pooled=pooled)
