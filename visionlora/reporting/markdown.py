"""The report as a page of GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from visionlora.formats.text import class_words, printable
from visionlora.reporting.confusion import CONFUSED, frequent_confusions
from visionlora.reporting.formatting import (
    FEWEST_OBJECTS,
    NO_SCORE,
    alarms_words,
    change_words,
    code,
    count_words,
    fraction,
    list_words,
    markdown_table,
    misses_words,
    name_words,
    size_words,
)
from visionlora.reporting.header import header_markdown
from visionlora.reporting.report import Report
from visionlora.reporting.row import Row
from visionlora.reporting.summary import summary_table


def report_markdown(report: Report, *, pictures: Sequence[tuple[str, str, str]] = ()) -> str:
    """Return the report as Markdown: what was measured, the models, what each stage changed, the classes.

    Args:
        report: the numbers.
        pictures: title, relative path and caption of each picture to show.
    """
    parts = [
        header_markdown(report.header),
        _verdict(report),
        "\n\n".join(f"**Take care**: {sentence}" for sentence in report.warnings),
        "\n\n".join(f"Note: {sentence}" for sentence in report.notes),
        _what_was_measured(report),
        summary_table(report.rows, report.data, report.against, words=report.measured.words),
        _notes(report),
        "\n".join(["## What each stage changed", "", *(f"- {line}" for line in stage_sentences(report))]),
        _retention(report),
        _operating(report),
        *_confusions(report),
        _folded(f"{report.measured.words[2]} of each class", _class_table(report)),
        "\n\n".join(f"![{title}]({path})\n\n{caption}" for title, path, caption in pictures),
        _folded("Provenance", _provenance(report)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def stage_sentences(report: Report) -> list[str]:
    """Return a sentence for each model: what it lost or gained, or on which classes alone it was scored."""
    sentences = []
    previous: Row | None = None
    for row in report.rows:
        if row not in report.complete_rows:
            sentences.append(_partial_sentence(row, report))
            continue
        sentences.append(_complete_sentence(row, previous, report))
        previous = row
    return sentences


def _complete_sentence(row: Row, previous: Row | None, report: Report) -> str:
    score = row.scores.map50_95 if row.scores else None
    label = code(row.label)
    if row is report.reference or report.reference is None:
        everything = set(report.data.names) <= set(row.classes)
        classes = f"{class_words(len(row.classes))}{'' if everything else ' that have objects'}"
        what = f"{report.measured.words[0]}{report.measured.of}"
        return f"{label} is the reference: {what} {fraction(score)} on all {classes}."
    to_reference = _against(row, report.reference, role="the reference ")
    if previous is None or previous is report.reference or _against(previous, report.reference).startswith("the same"):
        return f"{label}: {fraction(score)}, {to_reference}."
    return f"{label}: {fraction(score)}; {_against(row, previous)}; {to_reference}."


def _partial_sentence(row: Row, report: Report) -> str:
    label, total = code(row.label), len(report.data.names)
    if row.scores is None:
        return f"{label} knows none of the {class_words(total)}, so it has no score."
    known = list_words(row.classes, most=len(row.classes))
    on = "it" if len(row.classes) == 1 else "them"
    sentence = (
        f"{label} knows {len(row.classes)} of {class_words(total)} ({known}): {fraction(row.scores.map50_95)} on {on}"
    )
    reference = report.reference
    if reference is None or reference.scores is None:
        return sentence + "."
    there = reference.scores.mean_over(row.classes)
    difference = row.difference_to(reference.label)
    words = f"; against that {change_words(difference.map50_95)}" if difference is not None else ""
    return f"{sentence}; {code(reference.label)} has {fraction(there)} on the same{words}."


def _against(row: Row, other: Row, *, role: str = "") -> str:
    difference, there = row.difference_to(other.label), f"{role}{code(other.label)}"
    if difference is None:
        return f"not comparable with {there}"
    words = change_words(difference.map50_95)
    return f"{words} as {there}" if words == "the same" else f"against {there} {words}"


def _verdict(report: Report) -> str:
    if report.verdict is None:
        return ""
    head, _, rest = report.verdict.sentence.partition(":")
    return f"**{head}**:{rest}"


def _retention(report: Report) -> str:
    if report.retention is None:
        return ""
    data = report.retention.data
    return f"## Retention\n\n{report.retention.sentence} ({data.images} images of {code(data.path)}, classes by name.)"


def _operating(report: Report) -> str:
    points = [(row, row.operating) for row in report.rows if row.operating is not None]
    if not points:
        return ""
    rows = [
        [
            code(row.label) + star(row, report),
            fraction(point.precision),
            fraction(point.recall),
            fraction(point.f1),
            misses_words(point),
            alarms_words(point),
            fraction(point.best_confidence),
            fraction(row.calibration.error if row.calibration else None),
            fraction(row.scores.recall if row.scores else None),
            " / ".join(sizes(row)),
            count_words(row.parameters),
        ]
        for row, point in points
    ]
    starred = any(star(row, report) for row, _ in points)
    header = ["model", "precision", "recall", "F1", "misses", "false alarms", "best threshold", "calibration error"]
    return "\n".join(
        [
            f"## At score {points[0][1].confidence:g}",
            "",
            markdown_table([*header, "AR", "AP S/M/L", "parameters"], rows),
            "",
            f"An object is found from {_from(report)} on. Misses are of the objects of the classes that the model "
            "knows; the best threshold gives the highest F1 on these images; the calibration error (ECE) is how far "
            "scores are "
            "from precision; AR is average recall; AP S/M/L is mAP50-95 of objects below 32, up to 96 and above 96 "
            f"pixels squared, left out for fewer than {FEWEST_OBJECTS} objects."
            + (" A star: on some of the classes alone, not comparable." if starred else ""),
        ]
    )


def _confusions(report: Report) -> list[str]:
    """Return the confusions of each classifier, the most frequent first."""
    return [
        _folded(f"Confusions of <code>{escape(printable(row.label))}</code>", markdown_table(CONFUSED, lines))
        for row in report.rows
        if row.confusion is not None and (lines := _confused(row))
    ]


def _confused(row: Row) -> list[list[str]]:
    return [[name_words(truth), name_words(found), str(count)] for truth, found, count in frequent_confusions(row)]


def star(row: Row, report: Report) -> str:
    """Return the mark of a model that is judged on some of the classes alone."""
    return "" if row in report.complete_rows else "*"


def sizes(row: Row) -> list[str]:
    """Return the scores of small, medium and large objects, as `size_words` says them."""
    scores = row.scores
    if scores is None:
        return [NO_SCORE] * 3
    counts = scores.sizes or (None, None, None)
    return list(map(size_words, (scores.map_small, scores.map_medium, scores.map_large), counts))


def _folded(title: str, text: str) -> str:
    """Return text that GitHub shows when its title is clicked."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _class_table(report: Report) -> str:
    by_row = [row.class_scores() for row in report.rows]
    rows = []
    for count in report.data.classes:
        scores = [fraction(known.get(count.name)) for known in by_row]
        rows.append([name_words(count.name), str(count.images), str(count.objects), *scores])
    return markdown_table(["class", "images", "objects", *(code(row.label) for row in report.rows)], rows)


def _what_was_measured(report: Report) -> str:
    data, sizes = report.data, sorted({row.image_size for row in report.rows})
    size = ", ".join(f"{size} px" for size in sizes)
    what = f"{data.images} images of {code(data.path)} (split {name_words(data.split)}), {size}. "
    if report.is_of_classes:
        return (
            f"{what}The shorter side is resized to the input and the middle cut out, for all models alike. Top-1 and "
            "top-5 are shares of the pictures whose class is the model's first, or among its first five."
        )
    return (
        f"{what}One letterbox, one decoding and one suppression for all; average precision{report.measured.of} by "
        f"pycocotools, as fractions of 1.{boxes_note(report)}"
    )


def boxes_note(report: Report) -> str:
    """Say what stands beside the scores of masks or keypoints; empty where nothing does."""
    if not any(row.boxes is not None for row in report.rows):
        return ""
    return f" Beside mAP{report.measured.of} stands mAP50-95 of the boxes of the same detections."


def _from(report: Report) -> str:
    return f"{report.measured.similarity} 0.50{report.measured.of if report.measured.similarity == 'IoU' else ''}"


def _notes(report: Report) -> str:
    machine = report.machine
    notes = [
        f"Differences of {report.measured.words[0]} are taken to the reference, with the 95% interval of a paired "
        "bootstrap over images.",
        f"Milliseconds: the network alone, median, and the middle 90% of the calls, models in turns, "
        f"{name_words(machine.cpu)}, {machine.cores} cores, {machine.threads} usable.",
        *batch_notes(report),
    ]
    if any(row.kind == "adapter" for row in report.rows):
        notes.append("MB of an adapter: its own file, which needs its base beside it.")
    partial = [row for row in report.rows if row.scores is not None and row not in report.complete_rows]
    if partial:
        notes.append(
            "A mean over fewer classes is not comparable with a mean over all; "
            "a difference with a star is on those alone."
        )
    return " ".join(notes)


def batch_notes(report: Report) -> list[str]:
    """Say which files take more than one picture at once, so that the time of one is a share."""
    fixed = {row.label: row.timing.batch for row in report.rows if row.timing is not None and row.timing.batch > 1}
    return [f"{code(label)} takes {batch} pictures a call: its time is a share." for label, batch in fixed.items()]


def _provenance(report: Report) -> str:
    rows = [
        [
            code(row.label),
            name_words(row.kind),
            code(row.file),
            code(row.sha256[:12]),
            ", ".join(f"{name_words(role)} {code(sha256[:12])}" for role, sha256 in row.parents.items()) or NO_SCORE,
        ]
        for row in report.rows
    ]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return "\n".join(
        [
            markdown_table(["model", "kind", "file", "SHA-256", "made from"], rows),
            "",
            f"Data set content {code(report.data.content_hash[:12])}. {versions}. "
            f"Made {report.created} in {report.seconds:.0f} s.",
            *(["", code(report.command)] if report.command else []),
        ]
    )
