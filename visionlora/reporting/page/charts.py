"""The charts of report.html: a model has the same colour everywhere, the class `m0`, `m1`... of the style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from visionlora.reporting.formatting import fraction
from visionlora.reporting.page.svg import WIDTH, Axes, chart, element, grid, join, path, shortened, text_width, ticks
from visionlora.reporting.report import Report
from visionlora.reporting.row import Row
from visionlora.scoring import RECALLS, Calibration, Matches

CHARTED_CLASSES = 20
"""More bars are no longer a picture; the most frequent classes are drawn."""
_FIFTHS = (0, 0.2, 0.4, 0.6, 0.8, 1)
_BAR, _ROW_GAP = 12, 12  # pixels
_NAME, _LONGEST_NAME = 11.0, 120.0  # pixels: size of the letters and width of a model's name beside its dot
_LOWEST_SCORE, _BIN = 0.1, 0.05  # of the histogram: below, false alarms would dwarf everything


def precision_recall(curves: Sequence[tuple[int, str, NDArray[np.float64]]], *, label: str) -> Markup:
    """Draw precision over recall.

    Args:
        curves: index and label of each model, and its (101,) precision at `RECALLS`.
        score: what they are called.
        label: what is drawn.
    """
    axes = Axes(300)
    lines = []
    for index, name, precision in curves:
        points = [(axes.x(float(r)), axes.y(float(p))) for r, p in zip(RECALLS, precision, strict=True)]
        line = path(points, class_="curve")
        lines.append(element("g", line + element("title", name), class_=f"m{index}"))
    return chart(
        axes, [grid(axes, x_ticks=_FIFTHS, y_ticks=_FIFTHS, x_title="recall", y_title="precision"), *lines], label=label
    )


def class_bars(report: Report, rows: Sequence[tuple[int, Row]]) -> Markup:
    """Draw the score of each class for each model as bars with their intervals."""
    names = charted_classes(report)
    block = _BAR * len(rows) + _ROW_GAP + 16
    axes = Axes(26 + block * len(names), left=8, right=44, top=22, bottom=4)
    parts = [
        element("text", f"{tick:g}", x=axes.x(tick), y=14, class_="tick middle")
        + element("line", x1=axes.x(tick), x2=axes.x(tick), y1=20, y2=axes.height, class_="grid")
        for tick in _FIFTHS
    ]
    for position, name in enumerate(names):
        top = 26 + block * position
        label = shortened(name, WIDTH - axes.left - 4, 12)
        parts.append(element("text", label, x=axes.left, y=top + 10, class_="label"))
        for line, (index, row) in enumerate(rows):
            parts.append(_bar(axes, index, row, name, top + 16 + _BAR * line))
    return chart(axes, parts, label=f"{report.measured.words[2]} of each class with its 95 % interval")


def charted_classes(report: Report) -> list[str]:
    """Return the classes that have objects, or the most frequent of many, in the data set's order."""
    present = [count for count in report.data.classes if count.objects]
    frequent = sorted(present, key=lambda count: -count.objects)[:CHARTED_CLASSES]
    return [count.name for count in present if count in frequent]


def score_histogram(matches: Matches, index: int, *, confidence: float, label: str) -> Markup:
    """Draw how many detections have which score: right ones above, false alarms below the line."""
    edges = np.arange(_LOWEST_SCORE, 1 + _BIN / 2, _BIN)
    right, counted = matches.right[:, 0], matches.counted[:, 0]
    good, _ = np.histogram(matches.scores[right], edges)
    bad, _ = np.histogram(matches.scores[counted & ~right], edges)
    most_good, most_bad = max(int(good.max()), 1), max(int(bad.max()), 1)
    axes = Axes(210, x_range=(_LOWEST_SCORE, 1.0), y_range=(-1.06 * most_bad, 1.06 * most_good), top=6)
    parts = [
        grid(
            axes,
            x_ticks=[0.2, 0.4, 0.6, 0.8, 1.0],
            y_ticks=ticks(-most_bad, most_good, 4),
            x_title="score",
            y_title="detections",
        )
    ]
    for low, high, up, down in zip(edges, edges[1:], good.tolist(), bad.tolist(), strict=False):
        left, wide = axes.x(float(low)) + 1, axes.x(float(high)) - axes.x(float(low)) - 2
        for count, kind, word in ((up, "good", "right"), (-down, "bad", "false alarms")):
            if count:
                top = min(axes.y(count), axes.y(0))
                said = element("title", f"score {low:.2f} to {high:.2f}: {abs(count)} {word}")
                tall = abs(axes.y(count) - axes.y(0))
                parts.append(element("rect", said, x=left, width=wide, y=top, height=tall, class_=kind))
    zero, limit = axes.y(0), axes.x(max(confidence, _LOWEST_SCORE))
    parts.append(element("line", x1=axes.left, x2=WIDTH - axes.right, y1=zero, y2=zero, class_="zero"))
    parts.append(element("line", x1=limit, x2=limit, y1=axes.top, y2=axes.height - axes.bottom, class_="limit"))
    return chart(axes, parts, label=f"{label}: scores of right detections and of false alarms")


def reliability(result: Calibration, index: int, *, label: str) -> Markup:
    """Draw the share of right detections over their score; a larger dot is more detections."""
    axes = Axes(216, top=12)
    most = max((bin_.detections for bin_ in result.bins), default=1) or 1
    parts = [
        grid(axes, x_ticks=_FIFTHS, y_ticks=_FIFTHS, x_title="score", y_title="share that is right"),
        element("line", x1=axes.x(0), y1=axes.y(0), x2=axes.x(1), y2=axes.y(1), class_="ideal"),
    ]
    for bin_ in result.bins:
        if bin_.mean_score is None or bin_.precision is None:
            continue
        x, y, radius = axes.x(bin_.mean_score), axes.y(bin_.precision), 3 + 8 * (bin_.detections / most) ** 0.5
        said = f"{bin_.detections} detections of score {bin_.mean_score:.2f}: {bin_.precision:.0%} right"
        parts.append(element("line", x1=x, x2=x, y1=axes.y(bin_.mean_score), y2=y, class_="gap"))
        parts.append(element("circle", element("title", said), cx=x, cy=y, r=radius, class_="dot"))
    return chart(axes, [element("g", join(parts), class_=f"m{index}")], label=f"{label}: calibration")


def forest(row: Row, to: str, span: float) -> Markup:
    """Return a difference and its interval as a dot on a line around zero, `span` to either side."""
    difference = row.difference_to(to)
    if difference is None or span <= 0:
        return Markup("")
    change, half, middle = difference.map50_95, 52.0, 9.0

    def x(value: float) -> float:
        return 60 + half * max(min(value / span, 1.0), -1.0)

    parts = [element("line", x1=60, x2=60, y1=1, y2=17, class_="zero")]
    if change.interval is not None:
        low, high = change.interval.low, change.interval.high
        parts.append(element("line", x1=x(low), x2=x(high), y1=middle, y2=middle, class_="whisker"))
    parts.append(element("circle", cx=x(change.difference), cy=middle, r=3.5, class_="dot"))
    kind = "same" if not change.measurable else "worse" if change.difference < 0 else "better"
    return element("svg", join(parts), viewBox="0 0 120 18", class_=f"forest {kind}", aria_hidden="true")


def trade_off(
    rows: Sequence[tuple[int, Row]], costs: Sequence[float], *, x_title: str, y_title: str = "mAP50-95"
) -> Markup:
    """Draw the mean score with its interval over a cost; the stepped line joins the models that no other beats in both.

    Args:
        rows: index and row of each model, all of them scored.
        costs: of each, in the unit of `x_title`.
        x_title: of the cost.
        y_title: what the score is called.
    """
    scores = [_score(row) for _, row in rows]
    spread = [value for _, row in rows for value in _whisker(row)]
    low, high = min(spread), max(spread)
    pad = max(0.08 * (high - low), 0.01)
    axes = Axes(270, x_range=(0.0, 1.12 * max(costs)), y_range=(max(low - pad, 0.0), min(high + pad, 1.0)), left=56)
    y_ticks = ticks(*axes.y_range)
    parts = [
        grid(axes, x_ticks=ticks(0, 1.12 * max(costs)), y_ticks=y_ticks, x_title=x_title, y_title=y_title),
        _front(axes, costs, scores),
    ]
    labels = [shortened(row.label, _LONGEST_NAME, _NAME) for _, row in rows]
    spots = [(axes.x(cost), axes.y(score)) for cost, score in zip(costs, scores, strict=True)]
    places = _label_places(axes, spots, labels)
    for (index, row), cost, score, label, place in zip(rows, costs, scores, labels, places, strict=True):
        bottom, top = _whisker(row)
        at = axes.x(cost)
        said = element("title", f"{row.label}: {fraction(score)} at {cost:.3g} {x_title}")
        mark = element("line", x1=at, x2=at, y1=axes.y(bottom), y2=axes.y(top), class_="spread")
        mark += element("circle", said, cx=at, cy=axes.y(score), r=5, class_="dot")
        if place is not None:
            mark += element("line", x1=at, y1=axes.y(score), x2=place.x, y2=place.y - 3.5, class_="leader")
            mark += element("text", label, x=place.x, y=place.y, class_=f"name {place.anchor}")
        parts.append(element("g", mark, class_=f"m{index}"))
    return chart(axes, parts, label=f"{y_title} over {x_title}")


def training_curve(
    index: int, epochs: Sequence[float], scores: Sequence[float], *, best: float | None, score: str, label: str
) -> Markup:
    """Draw the score of a training over its epochs.

    Args:
        index: of the model.
        epochs: their numbers.
        scores: on the validation images while training, of each epoch.
        best: the epoch that the file is from, marked with a dot; None for none.
        score: what they are called.
        label: what is drawn.
    """
    high = max(*scores, 0.01)
    axes = Axes(210, x_range=(min(epochs), max(epochs)), y_range=(0.0, 1.08 * high), left=48, top=12)
    points = [(axes.x(epoch), axes.y(score)) for epoch, score in zip(epochs, scores, strict=True)]
    across = [tick for tick in ticks(*axes.x_range) if tick == round(tick)]
    parts = [
        grid(axes, x_ticks=across, y_ticks=ticks(*axes.y_range), x_title="epoch", y_title=score),
        path(points, class_="curve"),
    ]
    for epoch, reached, (x, y) in zip(epochs, scores, points, strict=True):
        said = element("title", f"epoch {epoch:g}: {fraction(reached)}")
        kind = {"r": 5, "class_": "dot"} if epoch == best else {"r": 6, "class_": "point"}
        parts.append(element("circle", said, cx=x, cy=y, **kind))
    return chart(axes, [element("g", join(parts), class_=f"m{index}")], label=label)


def _bar(axes: Axes, index: int, row: Row, name: str, top: float) -> Markup:
    """Return one bar with its interval and its number."""
    score = next((score for score in row.scores.per_class if score.name == name), None) if row.scores else None
    if score is None or score.ap50_95 is None:
        said = f"{row.label} does not know {name}"
        dash = element("text", "-", x=axes.x(0) + 3, y=top + 9, class_="tick")
        return element("g", element("title", said) + dash, class_=f"m{index}")
    end, middle = axes.x(score.ap50_95), top + _BAR / 2
    parts = [
        element("title", f"{row.label}, {name}: {fraction(score.ap50_95)}"),
        element("rect", x=axes.x(0), y=top + 1, width=max(end - axes.x(0), 0.5), height=_BAR - 2, rx=2, class_="bar"),
    ]
    right = end
    if score.interval is not None:
        low, right = axes.x(score.interval.low), axes.x(score.interval.high)
        parts.append(element("line", x1=low, x2=right, y1=middle, y2=middle, class_="whisker"))
        parts += [element("line", x1=x, x2=x, y1=middle - 3, y2=middle + 3, class_="whisker") for x in (low, right)]
    parts.append(element("text", fraction(score.ap50_95), x=max(right, end) + 5, y=top + 10, class_="tick"))
    return element("g", join(parts), class_=f"m{index}")


def _front(axes: Axes, costs: Sequence[float], scores: Sequence[float]) -> Markup:
    """Return the Pareto front: a step up at every model that is better than all cheaper ones."""
    points: list[tuple[float, float]] = []
    best = -1.0
    for cost, score in sorted(zip(costs, scores, strict=True), key=lambda pair: (pair[0], -pair[1])):
        if score > best:
            if points:
                points.append((axes.x(cost), axes.y(best)))
            points.append((axes.x(cost), axes.y(score)))
            best = score
    points.append((WIDTH - axes.right, axes.y(best)))
    return path(points, class_="front")


def _label_places(axes: Axes, spots: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[_Place | None]:
    """Return where each label stands: beside its dot, or near it where another stands; None where there is no room.

    Args:
        axes: of the chart.
        spots: x and y of each dot in pixels.
        labels: what to write.
    """
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in spots]  # no label hides a dot
    places: list[_Place | None] = [None] * len(spots)
    for i in sorted(range(len(spots)), key=lambda i: spots[i][1]):
        (x, y), wide = spots[i], text_width(labels[i], _NAME)
        for down, to_left in _steps():
            start = x - 11 - wide if to_left else x + 11
            box = (start, y + down - _NAME * 0.6, start + wide, y + down + _NAME * 0.6)
            inside = box[0] > axes.left and box[2] < WIDTH - 2 and box[1] > 0 and box[3] < axes.height - axes.bottom
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                places[i] = _Place(x - 11 if to_left else x + 11, y + down + 3.5, "end" if to_left else "")
                break
    return places


@dataclass(frozen=True)
class _Place:
    """Of a label: its end towards the dot, its baseline, and which end that is."""

    x: float
    y: float
    anchor: str


def _steps() -> list[tuple[float, bool]]:
    """Return how far below its dot a label may stand, and whether to the left, the nearest first."""
    downs = [sign * step for step in range(0, 240, 4) for sign in ((1, -1) if step else (1,))]
    return [(float(down), to_left) for down in downs for to_left in (False, True)]


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (left, top, right, bottom) share a place."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _score(row: Row) -> float:
    return (row.scores.map50_95 if row.scores else None) or 0.0


def _whisker(row: Row) -> tuple[float, float]:
    interval = row.scores.interval if row.scores else None
    return (interval.low, interval.high) if interval is not None else (_score(row), _score(row))
