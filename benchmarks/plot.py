"""Draw the committed results: `python benchmarks/plot.py` writes the pictures of training, accuracy and int8."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
OURS, RIVAL, DEFAULT = "#1b6ca8", "#9aa5b1", "#d9822b"


def draw_step(results: list[dict], out: Path) -> None:
    """Draw time and memory of a step, as shares of full fine-tuning's, against the size of the model."""
    sizes = {run["model"]: run["trainable"] / 1e6 for run in results if run["label"] == "full"}
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), constrained_layout=True)
    ways = {"lora": (OURS, "o"), "lora, lean": (DEFAULT, "s"), "PEFT": (RIVAL, "^"), "freeze=10": (RIVAL, "v")}
    for axis, field, title in zip(axes, ("ms", "memory_gib"), ("time of a step", "memory of a step"), strict=True):
        costs = {
            key: statistics.median(run[field] for run in results if (run["model"], run["label"]) == key)
            for key in {(run["model"], run["label"]) for run in results}
        }
        axis.axhline(1, color="#c5ccd3", linestyle="--", linewidth=1)
        for way, (color, marker) in ways.items():
            shares = {model: costs[model, way] / costs[model, "full"] for model in sizes if (model, way) in costs}
            line = [model for model in shares if model.startswith("yolo11")]
            axis.plot([sizes[m] for m in line], [shares[m] for m in line], color=color, linewidth=1, zorder=1)
            for model, share in shares.items():
                face = color if model in line else "white"
                axis.scatter(sizes[model], share, color=color, facecolor=face, marker=marker, s=32, zorder=2)
            axis.scatter([], [], color=color, marker=marker, s=32, label=way)
        axis.set_title(f"{title}, full fine-tuning = 1", fontsize=10)
        axis.set_xscale("log")
        axis.set_xticks(
            *zip(*((size, model) for model, size in sizes.items() if model.startswith("yolo11")), strict=True)
        )
        axis.xaxis.minorticks_off()
        axis.set_ylim(0)
        axis.grid(axis="y", color="#e5e8ec")
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False, fontsize=8, loc="center right")
    axes[0].set_xlabel("parameters, log scale; hollow: YOLOv8n, YOLOv8s, YOLO26n", fontsize=8)
    figure.savefig(out, dpi=110)


def draw_accuracy(results: list[dict], out: Path) -> None:
    """Draw every seed that counts of full fine-tuning, of rank 8 and of the defaults where these differ from it."""
    sets = list(dict.fromkeys(run["data"] for run in results))
    across = -(-len(sets) // 2)
    figure, axes = plt.subplots(2, across, figsize=(2.1 * across, 5.6), constrained_layout=True)
    sides = (("full", None, RIVAL), ("lora", 8, OURS), ("auto", 8, DEFAULT))
    for axis in axes.flat[len(sets) :]:
        axis.set_axis_off()
    for axis, data in zip(axes.flat, sets, strict=False):
        for place, (method, rank, color) in enumerate(sides):
            scores = kept_scores(results, data, method, rank)
            if not scores:
                continue
            axis.scatter([place] * len(scores), scores, color=color, s=28, zorder=3)
            axis.hlines(statistics.mean(scores), place - 0.25, place + 0.25, color=color, linewidth=2.5)
        axis.set_title(data, fontsize=10)
        axis.set_xticks([0, 1, 2], ["full", "near", "default"])
        axis.set_xlim(-0.6, 2.6)
        axis.margins(y=0.25)
        axis.grid(axis="y", color="#e5e8ec")
        axis.spines[["top", "right"]].set_visible(False)
    for row in axes:
        row[0].set_ylabel("mAP50-95")
    figure.savefig(out, dpi=110)


METHODS = {  # method and rank of the accuracy benchmark: its label here, and that of its training step
    ("full", None): ("full", "full"),
    ("freeze10", None): ("freeze=10", "freeze=10"),
    ("head", None): ("head only", "head only"),
    ("peft", 8): ("PEFT 8", "PEFT"),
    **{("lora", rank): (f"LoRA {rank}", "lora" if rank == 8 else None) for rank in (2, 4, 8, 16, 32, 64)},
}
COSTS = {"trainable": "trainable parameters", "ms": "ms a step, 640 px", "memory_gib": "memory of a step, GiB, 640 px"}


def draw_tradeoff(results: list[dict], steps: list[dict], out: Path) -> None:
    """Draw mAP50-95 on wildlife, mean and spread of the seeds, against what each way to train yolo11n costs."""
    figure, axes = plt.subplots(1, len(COSTS), figsize=(12.5, 3.6), constrained_layout=True, sharey=True)
    for (method, rank), (label, step) in METHODS.items():
        scores = kept_scores(results, "wildlife", method, rank)
        if not scores:
            continue
        mean, spread = statistics.mean(scores), statistics.stdev(scores) if len(scores) > 1 else 0
        for axis, field in zip(axes, COSTS, strict=True):
            rounds = [one[field] for one in steps if (one["model"], one["label"]) == ("yolo11n", step)]
            cost = statistics.median(rounds) if rounds else None
            if field == "trainable" and step is None:
                cost = trainable(results, steps, rank)
            if cost is not None:
                axis.errorbar(cost, mean, yerr=spread, color=OURS if method == "lora" else RIVAL, marker="o", capsize=3)
                place = (6, -10) if method == "peft" else (6, 4)
                axis.annotate(label, (cost, mean), place, textcoords="offset points", fontsize=8)
    for axis, title in zip(axes, COSTS.values(), strict=True):
        axis.set_xlabel(title)
        axis.grid(color="#e5e8ec")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xscale("log")
    axes[0].set_xticks([1e5, 3e5, 1e6, 3e6], ["0.1 M", "0.3 M", "1 M", "3 M"])
    axes[0].xaxis.minorticks_off()
    axes[0].set_ylabel("mAP50-95, African wildlife")
    figure.savefig(out, dpi=110)


def trainable(results: list[dict], steps: list[dict], rank: int | None) -> int:
    """Return the trainable parameters of an adapter: those of rank 8, and two bytes for each more in its file."""
    known = next(one["trainable"] for one in steps if (one["model"], one["label"]) == ("yolo11n", "lora"))
    own, eight = (
        next(run["bytes"] for run in results if (run["data"], run["method"], run["rank"]) == ("wildlife", "lora", each))
        for each in (rank, 8)
    )
    return known + (own - eight) // 2


def kept_scores(results: list[dict], data: str, method: str, rank: int | None) -> list[float]:
    """Return the scores of one method on one data set that count, a value a seed."""
    from accuracy.run import kept_runs

    return [run["map50_95"] for run in kept_runs(results, data, method, rank)]


FILES = {  # way of the qalora benchmark -> row of its latency.json
    "qalora": "int8, ReLU: none",
    "relu-early": "int8, ReLU: modules 0 to 4",
    "relu-backbone": "int8, ReLU: backbone",
    "relu": "int8, ReLU: all",
    "full-qat": "Ultralytics quantize=8",
}


def draw_activations(runs: list[dict], files: list[dict], out: Path) -> None:
    """Draw what each activation loses against its float adapter, over the milliseconds of its int8 file."""
    sets = list(dict.fromkeys(run["data"] for run in runs))
    figure, axes = plt.subplots(1, len(sets), figsize=(4.6 * len(sets), 3.3), constrained_layout=True, squeeze=False)
    for axis, data in zip(axes.flat, sets, strict=True):
        for way, row in FILES.items():
            lost = [100 * r["int8_minus_float"][0] for r in runs if (r["data"], r["variant"]) == (data, way)]
            ms = next((file["ms_1"] for file in files if file["layers"] == row), None)
            if not lost or ms is None:
                continue
            color = RIVAL if way == "full-qat" else OURS
            spread = statistics.stdev(lost) if len(lost) > 1 else 0
            axis.errorbar(ms, statistics.mean(lost), yerr=spread, color=color, marker="o", capsize=3)
            side = {"xytext": (-6, 4), "ha": "right"} if way.startswith("relu") else {"xytext": (6, 4)}
            axis.annotate(way, (ms, statistics.mean(lost)), textcoords="offset points", fontsize=8, **side)
        axis.axhline(0, color="#e5e8ec", zorder=0)
        axis.set_title(data, fontsize=10)
        axis.set_xlabel("ms at 640 px, 1 thread")
        axis.set_xscale("log")
        axis.set_xticks([20, 30, 50, 100], ["20", "30", "50", "100"])
        axis.xaxis.minorticks_off()
        axis.margins(x=0.25, y=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[0].set_ylabel("points of mAP50-95 against float")
    figure.savefig(out, dpi=110)


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
    steps = json.loads((HERE / "training" / "results.json").read_text())
    accuracy = json.loads((HERE / "accuracy" / "results.json").read_text())
    draw_step(steps, HERE / "training" / "step.png")
    draw_accuracy([run for run in accuracy if run["rank"] in (None, 8)], HERE / "accuracy" / "accuracy.png")
    draw_tradeoff(accuracy, steps, HERE / "accuracy" / "tradeoff.png")
    qalora = json.loads((HERE / "qalora" / "results.json").read_text())
    files = json.loads((HERE / "qalora" / "latency.json").read_text())["files"]
    draw_activations(qalora["runs"], files, HERE / "qalora" / "activations.png")
    int8 = json.loads((HERE / "int8" / "results.json").read_text())
    draw_latency(int8, HERE / "int8" / "latency.png")
    draw_drops(int8, HERE / "int8" / "drops.png")
