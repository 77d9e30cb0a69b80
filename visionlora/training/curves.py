"""Curves of a training run as a picture."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from visionlora.files import atomic_output
from visionlora.isolation import matplotlib_folder


def draw_curves(results: Path | str, out: Path | str) -> Path:
    """Draw the losses and the validation scores in a `results.csv` over epochs into the PNG `out`; return `out`.

    Example:
        >>> draw_curves("runs/steel/results.csv", "runs/steel/curves.png")  # doctest: +SKIP
    """
    os.environ.setdefault("MPLCONFIGDIR", matplotlib_folder())
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with Path(results).open(newline="") as file:
        rows = list(csv.DictReader(file))
    epochs = [float(row["epoch"]) for row in rows]
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    names = list(rows[0]) if rows else []
    kinds: dict[str, int] = {}
    for name in names:
        values = [float(row[name]) for row in rows]
        if "/" not in name or name.startswith("lr/"):
            continue
        group, _, label = name.partition("/")
        if group == "metrics":
            scores.plot(epochs, values, marker=".", label=label.replace("(B)", ""))
        else:
            colour = f"C{kinds.setdefault(label, len(kinds))}"  # of one loss, in train and val
            losses.plot(epochs, values, linestyle="-" if group == "train" else "--", color=colour, label=name)
    for axes, title in ((losses, "losses"), (scores, "validation scores")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))  # hides no curve
    scores.set_ylim(0, 1)
    with atomic_output(out) as partial:
        figure.savefig(partial, dpi=110)
    return Path(out)
