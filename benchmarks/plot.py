"""Draw the committed results: `python benchmarks/plot.py` writes the pictures of training, accuracy and int8."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
OURS, RIVAL = "#1b6ca8", "#9aa5b1"


def draw_step(results: list[dict], out: Path) -> None:
    """Draw milliseconds and memory of each variant beside full fine-tuning."""
    models = list(dict.fromkeys(run["model"] for run in results))
    panels = [(model, *what) for model in models for what in (("ms", "ms a step"), ("memory_gib", "memory, GiB"))]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 2.8), constrained_layout=True)
    for axis, (model, field, title) in zip(axes, panels, strict=True):
        runs = [run for run in results if run["model"] == model]
        labels = list(dict.fromkeys(run["label"] for run in runs))
        rounds = [[run[field] for run in runs if run["label"] == label] for label in labels]
        values = [each[-1] if field == "memory_gib" else statistics.median(each) for each in rounds]
        colors = [OURS if label.startswith("lora") else RIVAL for label in labels]
        bars = axis.barh(labels, values, color=colors)
        axis.bar_label(bars, [f"{value:.1f}" if field == "ms" else f"{value:.2f}" for value in values], padding=3)
        axis.set_title(f"{model}: {title}", fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(out, dpi=110)


def draw_accuracy(results: list[dict], out: Path) -> None:
    """Draw every seed of full fine-tuning and of rank 8 that counts, a panel a data set."""
    sets = list(dict.fromkeys(run["data"] for run in results))
    figure, axes = plt.subplots(1, len(sets), figsize=(2.1 * len(sets), 2.9), constrained_layout=True)
    for axis, data in zip(axes, sets, strict=True):
        for place, (method, rank, color) in enumerate((("full", None, RIVAL), ("lora", 8, OURS))):
            scores = kept_scores(results, data, method, rank)
            if not scores:
                continue
            axis.scatter([place] * len(scores), scores, color=color, s=28, zorder=3)
            axis.hlines(statistics.mean(scores), place - 0.25, place + 0.25, color=color, linewidth=2.5)
        axis.set_title(data, fontsize=10)
        axis.set_xticks([0, 1], ["full", "LoRA"])
        axis.set_xlim(-0.6, 1.6)
        axis.margins(y=0.25)
        axis.grid(axis="y", color="#e5e8ec")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mAP50-95")
    figure.savefig(out, dpi=110)


def kept_scores(results: list[dict], data: str, method: str, rank: int | None) -> list[float]:
    """Return the scores of one method on one data set that count, a value a seed."""
    from accuracy.run import kept_runs

    return [run["map50_95"] for run in kept_runs(results, data, method, rank)]


def draw_latency(results: list[dict], out: Path) -> None:
    """Draw the milliseconds of every file of the cases that were timed, with one thread and with two."""
    cases = [case for case in results if {"1", "2"} <= set(case.get("latency", {}))]
    panels = [(case, threads) for case in cases for threads in ("1", "2")]
    figure, axes = plt.subplots(len(cases), 2, figsize=(8.5, 2.3 * len(cases)), constrained_layout=True, squeeze=False)
    for axis, (case, threads) in zip(axes.flat, panels, strict=True):
        rows = case["latency"][threads]["rows"]
        colors = [OURS if row["label"].startswith("visionlora") else RIVAL for row in rows]
        bars = axis.barh([row["label"] for row in rows], [row["network"]["median"] for row in rows], color=colors)
        axis.bar_label(bars, [f"{row['network']['median']:.1f}" for row in rows], padding=3)
        axis.set_title(f"{case['case']}: ms, {threads} thread{'s' if threads != '1' else ''}", fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(out, dpi=110)


def draw_drops(results: list[dict], out: Path) -> None:
    """Draw what each INT8 file loses in mAP50-95, with its interval, a panel a case."""
    cases = [case for case in results if case.get("accuracy")]
    columns = 3
    height = -(-len(cases) // columns)
    figure, axes = plt.subplots(height, columns, figsize=(9.5, 1.7 * height), constrained_layout=True, squeeze=False)
    for axis in axes.flat[len(cases) :]:
        axis.set_visible(False)
    for axis, case in zip(axes.flat, cases, strict=False):
        rows = [row for row in case["accuracy"] if "INT8" in row["label"] and row["difference"] is not None]
        for place, row in enumerate(rows):
            color = OURS if row["label"].startswith("visionlora") else RIVAL
            low, high = (100 * value for value in row["difference"]["interval"])
            axis.hlines(place, low, high, color=color, linewidth=2)
            axis.plot(100 * row["difference"]["value"], place, "o", color=color, markersize=6)
        axis.axvline(0, color="#e5e8ec", zorder=0)
        axis.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=8)
        axis.set_title(case["case"], fontsize=9)
        axis.set_xlabel("points of mAP50-95", fontsize=8)
        axis.invert_yaxis()
        axis.margins(y=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw_step(json.loads((HERE / "training" / "results.json").read_text()), HERE / "training" / "step.png")
    draw_accuracy(json.loads((HERE / "accuracy" / "results.json").read_text()), HERE / "accuracy" / "accuracy.png")
    int8 = json.loads((HERE / "int8" / "results.json").read_text())
    draw_latency(int8, HERE / "int8" / "latency.png")
    draw_drops(int8, HERE / "int8" / "drops.png")
