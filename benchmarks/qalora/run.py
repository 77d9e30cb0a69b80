"""QA-LoRA against calibration alone: every data set, seed and way, a process each, several at once.

    python benchmarks/qalora/run.py --model yolo11n.pt --steel datasets/neu-det/data.yaml \
        --wildlife datasets/african-wildlife/data.yaml --out benchmarks/qalora/results.json

one.py trains a float adapter for each data set and seed, and every variant from it. Each result is written as soon as
it exists; what is in the file already is not run again. `--parts steps --adapter FILE` times the training steps, one
after another. `--variants full-qat` and `--rival`, Ultralytics' own `quantize=8`, need nvidia-modelopt.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import Job, ResultsFile, run_jobs, visible

ONE = Path(__file__).with_name("one.py")
STEP = Path(__file__).parents[1] / "training" / "step.py"
EPOCHS = {  # float, with ReLU, int8
    "steel": (16, 12, 5),
    "wildlife": (40, 30, 12),
    "boards": (60, 60, 16),
}
SETS = tuple(EPOCHS)
WAYS = ("ptq", "qalora", "qalora-teacher", "relu-early", "relu-backbone", "relu", "int4-ptq", "int4")
RIVAL = "full-qat"
STEPS = {  # label: arguments of step.py
    "lora": ("lora",),
    "qalora": ("qalora",),
    "qalora with teacher": ("qalora", "--distill", "1"),
    "full": ("full",),
    RIVAL: (RIVAL,),
}


def step_jobs(options: argparse.Namespace, results: ResultsFile) -> list[Job]:
    """Return the processes that time the training step of each method at each size, but for those done already."""
    done = {(step["label"], step["imgsz"]) for step in results.content["steps"]}
    jobs = []
    for imgsz in options.step_sizes:
        for label, arguments in STEPS.items():
            if (label, imgsz) in done or (label == RIVAL and not options.rival):
                continue
            command = [sys.executable, str(STEP), "--method", *arguments, "--label", label, "--model", options.model]
            command += ["--data", str(options.wildlife), "--imgsz", str(imgsz), "--steps", str(options.steps)]
            command += ["--batch", str(options.batch), "--device", visible(options.devices[0])]
            command += ["--adapter", str(options.adapter)] if arguments[0] == "qalora" else []
            jobs.append(Job(f"step {label} {imgsz}", command, lambda result: keep(results, "steps", result)))
    return jobs


def training_jobs(options: argparse.Namespace, results: ResultsFile, folder: Path) -> list[Job]:
    """Return the processes that could run now: float adapters, and every variant whose float adapter is there."""
    done = {(run["data"], run["seed"], run["variant"]) for run in results.content["runs"]}
    floats, variants = {}, []
    for variant in options.variants:
        for seed in options.seeds:
            for name in options.sets:
                out = folder / f"{name}-{seed}"
                if (name, seed, variant) in done:
                    continue
                if (out / "float.json").exists():
                    variants.append(variant_job(options, results, out, name, seed, variant))
                else:
                    floats[out] = Job(f"{name} {seed} float", one(options, out, name, seed), lambda result: None)
    return [*floats.values(), *variants]


def variant_job(options, results: ResultsFile, out: Path, name: str, seed: int, variant: str) -> Job:
    """Return the process of one variant that begins with a trained float adapter."""
    command = [*one(options, out, name, seed), variant]
    return Job(f"{name} {seed} {variant}", command, lambda result: keep(results, "runs", {"data": name, **result}))


def one(options: argparse.Namespace, out: Path, name: str, seed: int) -> list[str]:
    """Return the command of one.py for a data set and a seed."""
    epochs, relu, int8 = (max(1, round(options.scale * number)) for number in EPOCHS[name])
    command = [sys.executable, str(ONE), "--model", options.model, "--data", str(getattr(options, name))]
    command += ["--out", str(out), "--seed", str(seed), "--device", visible(options.devices[0])]
    command += ["--epochs", str(epochs), "--relu-epochs", str(relu), "--qat-epochs", str(int8)]
    command += ["--rank", str(options.rank), "--batch", str(options.batch), "--imgsz", str(options.imgsz)]
    command += ["--qat-lr0", str(options.qat_lr0), "--workers", str(options.workers)]
    return [*command, "--variants"]


def keep(results: ResultsFile, part: str, result: dict) -> None:
    """Write a result and show its figures."""
    results.add(result, part)
    names = ("label", "imgsz", "ms", "memory_gib", "graph", "data", "variant", "seed", "float", "own_float", "int8")
    print({name: result[name] for name in names if name in result}, flush=True)


def table(content: dict) -> str:
    """Return the means over seeds as Markdown."""
    lines = [
        "| data set | way | runs | float, SiLU | INT8 | INT8 minus float, points | each run | its float form |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    runs = content["runs"]
    order = (*WAYS, RIVAL, *(run["variant"] for run in runs))
    found = {(run["data"], run["variant"]) for run in runs}
    for data, variant in sorted(found, key=lambda pair: (SETS.index(pair[0]), order.index(pair[1]))):
        kept = sorted((r for r in runs if (r["data"], r["variant"]) == (data, variant)), key=lambda r: r["seed"])
        mean = {name: statistics.mean(run[name] for run in kept) for name in ("float", "own_float", "int8")}
        drops = [
            f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            for value, low, high in (run["int8_minus_float"] for run in kept)
        ]
        cells = [data, variant, str(len(kept)), f"{mean['float']:.3f}", f"{mean['int8']:.3f}"]
        cells += [f"{100 * (mean['int8'] - mean['float']):+.1f}", ", ".join(drops), f"{mean['own_float']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| step | image size | ms | against LoRA | memory, GiB |", "| --- | ---: | ---: | ---: | ---: |"]
    for step in content["steps"]:
        lora = next((s["ms"] for s in content["steps"] if (s["label"], s["imgsz"]) == ("lora", step["imgsz"])), None)
        ratio = f"{step['ms'] / lora:.2f}" if lora else "-"
        lines.append(f"| {step['label']} | {step['imgsz']} | {step['ms']:.1f} | {ratio} | {step['memory_gib']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--steel", type=Path, help="data.yaml of NEU-DET")
    parser.add_argument("--wildlife", type=Path, help="data.yaml of African wildlife")
    parser.add_argument("--boards", type=Path, help="data.yaml of what benchmarks/accuracy/boards.py draws")
    parser.add_argument("--adapter", type=Path, help="a float adapter of wildlife, for the timing of steps")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=("steps", "train", "table"), default=("train", "table"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--variants", nargs="+", default=WAYS)
    parser.add_argument("--step-sizes", nargs="+", type=int, default=(640, 320))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rival", action="store_true", help="time the step of Ultralytics' quantize=8 too")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--qat-lr0", type=float, default=0.0002)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all epochs")
    parser.add_argument("--work", type=Path, help="folder for adapters and files, gone on with; temporary if not given")
    parser.add_argument("--minutes", type=float, help="begin nothing new after so many")
    parser.add_argument("--devices", nargs="+", default=["0"], help="numbers of GPUs, or cpu")
    parser.add_argument("--jobs", type=int, default=6, help="processes at once on each, but for the steps")
    parser.add_argument(
        "--workers", type=int, default=4, help="of the loader of each process; with fewer the GPU waits"
    )
    options = parser.parse_args()
    for name in options.sets if "train" in options.parts else ():
        if getattr(options, name) is None:
            parser.error(f"--sets {name}: expected --{name}, its data.yaml")
    results = ResultsFile(options.out, {"runs": [], "steps": []})
    where = {"devices": options.devices, "minutes": options.minutes}
    if "steps" in options.parts:
        if options.adapter is None or options.wildlife is None:
            parser.error("the part steps: expected --wildlife and --adapter, a float one of it")
        alone = {**where, "devices": options.devices[:1]}
        run_jobs(lambda ended: step_jobs(options, results), at_once=1, **alone)
    if "train" in options.parts:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.work or Path(temporary)
            run_jobs(lambda ended: training_jobs(options, results, folder), at_once=options.jobs, **where)
    if "table" in options.parts:
        print(table(results.content))


if __name__ == "__main__":
    main()
