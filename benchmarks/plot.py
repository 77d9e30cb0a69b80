"""Draw the committed results: `python benchmarks/plot.py` writes training/step.png and accuracy/accuracy.png."""

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
        values = [statistics.median(run[field] for run in runs if run["label"] == label) for label in labels]
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


if __name__ == "__main__":
    draw_step(json.loads((HERE / "training" / "results.json").read_text()), HERE / "training" / "step.png")
    draw_accuracy(json.loads((HERE / "accuracy" / "results.json").read_text()), HERE / "accuracy" / "accuracy.png")
