"""The table and the picture of all that was measured of the methods."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from accuracy.run import kept_runs
from ways import COMPARED, OWN, is_ranked

SETS = ("wildlife", "steel", "boards")
ROWS = ("full", *(way for way in COMPARED if way in OWN), *(way for way in COMPARED if way not in OWN))
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
SAME = {("boards", "lora"): "auto"}
"""LoRA with the recipe that the pictures ask for, where that is not `near`."""


def trained_as(data: str, way: str) -> str:
    """Return the way that a row of the table was trained as on a data set."""
    return SAME.get((data, way), way)


def step_of(way: str) -> str:
    """Return the way whose training step a way has: how LoRA's factors are trained changes none."""
    return "lora" if way.startswith("lora-") else way


def counted_runs(runs: list[dict], data: str, way: str) -> list[dict]:
    """Return the runs that count of a row of the table on a data set, by seed."""
    return kept_runs(runs, data, trained_as(data, way), 8 if is_ranked(way) else None)


def table(runs: list[dict], steps: list[dict], int8: list[dict]) -> str:
    """Return all of it as Markdown, a row each method that was trained; a dash is what was not measured."""
    head = ["method", "trained", "file, kB", *SETS, *(f"INT8, {data}" for data in SETS), "ms a step", "memory, GiB"]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for way in ROWS:
        step = next((found for found in steps if found["method"] == step_of(way)), None)
        scores = [_score(runs, data, way) for data in SETS]
        if set(scores) == {"-"}:
            continue
        cells = [way, f"{step['trainable']:,}" if step else "-", _kilobytes(runs, way), *scores]
        cells += [_lost(int8, data, way) for data in SETS]
        cells += [f"{step['ms']:.1f}" if step else "-"]
        cells += [f"{step['memory_gib']:.2f}" if step and step["memory_gib"] else "-"]
        lines.append(_line(cells))
    return "\n".join([*lines, "", *_refusals(runs)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _kilobytes(runs: list[dict], way: str) -> str:
    """Return the size of the file of a method on the first data set that it was trained on."""
    sizes = [run["bytes"] for data in SETS for run in counted_runs(runs, data, way) if run["bytes"]]
    return f"{sizes[0] / 1e3:,.0f}" if sizes else "-"


def _score(runs: list[dict], data: str, way: str) -> str:
    """Return mean and spread of a method's mAP50-95; with one seed alone, which that is said."""
    scores = [run["map50_95"] for run in counted_runs(runs, data, way)]
    if len(scores) < 2:
        return f"{scores[0]:.3f} (1 seed)" if scores else "-"
    spread = f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}"
    return spread if len(scores) > 2 else f"{spread} (2 seeds)"


def _lost(int8: list[dict], data: str, way: str) -> str:
    """Return what the int8 file has more of mAP50-95 than the float one, in points."""
    found = [one for one in int8 if (one["data"], one["method"]) == (data, trained_as(data, way))]
    return f"{100 * (found[0]['int8'] - found[0]['float']):+.1f}" if found else "-"


def _refusals(runs: list[dict]) -> list[str]:
    """Return a line for each method that its library refused, with its words."""
    refused = {run["method"]: run["refused"] for run in runs if "refused" in run}
    return [f"`{way}` is refused: {words}" for way, words in refused.items()]


def draw(runs: list[dict], out: Path) -> None:
    """Draw mAP50-95 against the bytes of the file, a panel a data set; bars are the spread over seeds."""
    import matplotlib.pyplot as plt
    from plot import OURS, RIVAL

    sets = [data for data in SETS if any(run["data"] == data and run["method"] in COMPARED for run in runs)]
    figure, axes = plt.subplots(
        1, len(sets), figsize=(5.2 * len(sets), 4.6), constrained_layout=True, squeeze=False, sharex=True
    )
    for axis, data in zip(axes.flat, sets, strict=True):
        for way in ROWS:
            kept = [run for run in counted_runs(runs, data, way) if run["bytes"]]
            if not kept:
                continue
            scores = [run["map50_95"] for run in kept]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0
            place = kept[0]["bytes"] / 1e6, statistics.mean(scores)
            axis.errorbar(*place, yerr=spread, color=OURS if way in OWN else RIVAL, marker="o", markersize=4, capsize=2)
            axis.annotate(way, place, (5, 3), textcoords="offset points", fontsize=7)
        axis.set_title(data, fontsize=10)
        axis.set_xscale("log")
        axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.xaxis.minorticks_off()
        axis.set_xlabel("file, MB")
        axis.grid(color="#e5e8ec")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[0].set_ylabel("mAP50-95")
    figure.savefig(out, dpi=110)
