"""The page of a report: what stands on it, and in which order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from visionlora.data import LabelledImage
from visionlora.formats.text import printable, size_words
from visionlora.reporting.confusion import confusion_tables
from visionlora.reporting.formatting import (
    FEWEST_OBJECTS,
    NO_DIFFERENCE,
    NO_SCORE,
    alarms_words,
    change_words,
    count_words,
    fraction,
    megabytes,
    misses_words,
    signed,
    speed_words,
)
from visionlora.reporting.markdown import batch_notes, sizes, stage_sentences, star
from visionlora.reporting.page import charts, gallery
from visionlora.reporting.page.headline import SHOWN, headline, reasons
from visionlora.reporting.page.making import makings
from visionlora.reporting.page.mistakes import mistake_pictures
from visionlora.reporting.page.style import model_style, paper_style
from visionlora.reporting.page.svg import join, shortened
from visionlora.reporting.report import Report
from visionlora.reporting.row import Row
from visionlora.scoring import ModelScores, Outcome, outcome_of, precision_at_recalls
from visionlora.tasks import TASKS, Task
from visionlora.vision.detections import Detections

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Pictures:
    """One gallery: how two models differ on single pictures."""

    before: str
    after: str
    changed: int
    groups: tuple[tuple[str, tuple[tuple[str, list[gallery.Panel]], ...]], ...]
    """Kind, then file name and panels of each picture."""


def report_page(
    report: Report,
    images: Sequence[LabelledImage],
    judgements: Sequence[ModelScores | None],
) -> str:
    """Return report.html: styles, script, charts and pictures are inside, so that it opens without a network.

    Args:
        report: the numbers.
        images: the ground truth, with the paths of the pictures.
        judgements: of each of the report's models; None where it knows no class.

    Raises:
        DataError: a picture of the gallery cannot be read.
    """
    scored = [(index, row) for index, row in enumerate(report.rows) if row.scores and row.scores.map50_95 is not None]
    known = [
        (i, row, judgement) for i, (row, judgement) in enumerate(zip(report.rows, judgements, strict=True)) if judgement
    ]
    operated = [(i, row, judgement) for i, row, judgement in known if judgement.operating is not None]
    definitions, galleries = ("", []) if report.is_of_classes else _galleries(report, images, judgements)
    page = _template().render(
        report=report,
        title=_title(report),
        headline=headline(report),
        reasons=reasons(report),
        makings=makings(report),
        facts=_facts(report),
        sentences=stage_sentences(report),
        batches=batch_notes(report),
        boxed=any(row.boxes is not None for row in report.rows),
        span=_span(report),
        curves=_curves(report, operated),
        mistakes=mistake_pictures(report, images, judgements),
        class_scores=[row.class_scores() for row in report.rows],
        bars=charts.class_bars(report, scored) if scored else None,
        charted=len(charts.charted_classes(report)),
        trade_offs=_trade_offs([pair for pair in scored if pair[1] in report.complete_rows], report.measured.words[0]),
        scores=[
            (
                row.label,
                index,
                row,
                charts.score_histogram(
                    judgement.matches, index, confidence=judgement.operating.confidence, label=row.label
                ),
                charts.reliability(judgement.calibration, index, label=row.label),
            )
            for index, row, judgement in operated
            if judgement.operating is not None and judgement.calibration is not None
        ],
        confusions=[(row.label, confusion_tables(row, report.data.names)) for _, row, _ in known],
        definitions=definitions,
        galleries=galleries,
        style=join(
            [
                Markup((_HERE / "page.css").read_text(encoding="utf-8")),
                model_style(len(report.rows)),
                paper_style(_title(report), report.created[:10]),
            ]
        ),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
    )
    # A name may hold bytes that are no text, or marks that turn what follows around: they are shown as escapes.
    return printable(page, lines=True)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "coded": coded,
        "count": count_words,
        "fraction": fraction,
        "megabytes": megabytes,
        "minus": lambda text: str(text).replace("-", "−"),
        "minus_in_numbers": lambda text: Markup(re.sub(r"(?<!\w)-(?=\d)", "−", text)),
        "same": lambda change: change_words(change) == "the same",
        "signed": lambda value: signed(value).replace("-", "−"),
    }
    environment.globals |= {
        "alarms_words": alarms_words,
        "fewest_objects": FEWEST_OBJECTS,
        "forest": charts.forest,
        "milliseconds": milliseconds,
        "misses_words": misses_words,
        "no_difference": NO_DIFFERENCE,
        "no_score": NO_SCORE,
        "shown_reasons": SHOWN,
        "sizes": sizes,
        "speed_words": speed_words,
        "star": star,
    }
    return environment.get_template("page.html.jinja")


def coded(text: str) -> Markup:
    """Return text with what stands between backticks as code.

    Example:
        >>> coded("`a<b` is new")
        Markup('<code>a&lt;b</code> is new')
    """
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def milliseconds(row: Row) -> tuple[str, str, bool]:
    """Return a model's time, the spread of it where it was measured, and whether the machine was too busy for it."""
    timing = getattr(row, "timing", None)
    if timing is None:
        return f"{row.ms_per_image:.1f}", "", False
    return f"{row.ms_per_image:.1f}", f"{timing.low:.1f} to {timing.high:.1f}", bool(timing.noisy)


def _title(report: Report) -> str:
    named = report.header.title if report.header is not None else ""
    return named or f"Evaluation of {report.rows[-1].label}"


def _span(report: Report) -> float:
    """Return the largest bound of the complete models' differences to the reference."""
    if report.reference is None:
        return 0.0
    bounds = [0.0]
    for row in report.complete_rows:
        difference = row.difference_to(report.reference.label)
        if difference is not None:
            interval = difference.map50_95.interval
            bounds += [
                abs(difference.map50_95.difference),
                *([abs(interval.low), abs(interval.high)] if interval else []),
            ]
    return max(bounds)


def _facts(report: Report) -> list[tuple[str, str, str]]:
    """Return name, value and note of what a reader wants to know first of the last model."""
    last, reference = report.rows[-1], report.reference
    facts = []
    if last.scores is not None:
        interval = last.scores.interval
        note = (
            f"95% interval {interval.low:.3f} to {interval.high:.3f}" if interval else "too few images for an interval"
        )
        mean, other, _ = report.measured.words
        at = "of the pictures" if report.is_of_classes else f"{report.measured.similarity} 0.50{report.measured.of}"
        facts += [(mean, fraction(last.scores.map50_95), note), (other, fraction(last.scores.map50), at)]
        if last.boxes is not None:
            facts.append(("of boxes", fraction(last.boxes.map50_95), "mAP50-95 of the same detections"))
    if last.operating is not None:
        point = last.operating
        at = f"at score {point.confidence:g}"
        known = ", of the classes that it knows" if star(last, report) else ""
        facts.append(("misses", misses_words(point), at + known))
        facts.append(("false alarms", alarms_words(point), at + known))
    versus = reference if reference is not None and reference is not last and reference.kind != "adapter" else None
    to = shortened(versus.label, 130, 12) if versus else ""
    size = f"{last.bytes / versus.bytes:.2f} of {to}" if versus else "of the file"
    facts.append(("size", size_words(last.bytes), size))
    time, _, noisy = milliseconds(last)
    facts.append(("time", f"{'~' * noisy}{time} ms", speed_words(last).replace("`", "") or "per image, network alone"))
    return facts


def _curves(report: Report, known: Sequence[tuple[int, Row, ModelScores]]) -> list[tuple[str, Markup]]:
    """Return the precision-recall chart over all classes, then those of single classes."""
    of = [(index, row, precision_at_recalls(judgement.matches)) for index, row, judgement in known]
    complete = [(index, row.label, np.nanmean(each, axis=1)) for index, row, each in of if not np.isnan(each).all()]
    if not complete:
        return []
    drawn = [("all classes", charts.precision_recall(complete, label="precision over recall, mean over the classes"))]
    for name in charts.charted_classes(report):
        lines = [(index, row.label, each[:, row.classes.index(name)]) for index, row, each in of if name in row.classes]
        if lines:
            drawn.append((name, charts.precision_recall(lines, label=f"precision over recall of {name}")))
    return drawn


def _trade_offs(scored: Sequence[tuple[int, Row]], score: str) -> list[Markup]:
    if not scored:
        return []
    milliseconds, sizes = [row.ms_per_image for _, row in scored], [row.bytes / 1e6 for _, row in scored]
    return [
        charts.trade_off(scored, milliseconds, x_title="ms per image", y_title=score),
        charts.trade_off(scored, sizes, x_title="MB", y_title=score),
    ]


def _galleries(
    report: Report, images: Sequence[LabelledImage], judgements: Sequence[ModelScores | None]
) -> tuple[Markup, list[Pictures]]:
    """Return the embedded pictures, and a gallery from the first model and one from the reference to the last."""
    last = len(report.rows) - 1
    starts = [0] if report.reference is None else [0, report.rows.index(report.reference)]
    used: set[int] = set()
    galleries = []
    for start in dict.fromkeys(index for index in starts if index != last):
        before, after = (_outcomes(judgements[index], images, TASKS[report.task]) for index in (start, last))
        shifts = [gallery.shift_between(was, now) for was, now in zip(before, after, strict=True)]
        titles = report.rows[start].label, report.rows[last].label
        groups = []
        for kind, chosen in gallery.choose_images(shifts):
            used.update(chosen)
            shown = [
                (
                    images[i].path.name,
                    gallery.panels(
                        images[i],
                        f"picture{i}",
                        report.data.names,
                        list(zip(titles, (before[i], after[i]), strict=True)),
                    ),
                )
                for i in chosen
            ]
            groups.append((kind, tuple(shown)))
        changed = sum(shift.total > 0 for shift in shifts)
        galleries.append(Pictures(*titles, changed, tuple(groups)))
    return join(gallery.embedded(images[i], f"picture{i}") for i in sorted(used)), galleries


def _outcomes(judgement: ModelScores | None, images: Sequence[LabelledImage], task: Task) -> list[Outcome]:
    """Return outcomes on all objects, those of classes that the model does not know being missed."""
    if judgement is None:
        nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
        return [outcome_of(nothing, image, confidence=0, task=task) for image in images]
    assert judgement.operating is not None  # of a detector
    confidence = judgement.operating.confidence
    return [
        outcome_of(outcome.detections, image, confidence=confidence, task=task)
        for outcome, image in zip(judgement.outcomes, images, strict=True)
    ]
