"""The largest batch whose training step fits into a GPU of so many GiB, by bisection with real steps.

    python benchmarks/training/largest.py --model yolo11x.yaml --data datasets/african-wildlife/data.yaml --gb 24 \
        --out benchmarks/training/largest.json

Every try is a process of its own, in its own trainer's loop (step.py): Ultralytics' for `full`, visionlora's for the
others. torch may reserve what a GPU of that size would have left beside CUDA's own. A batch fits if all steps are taken
with it: not with half of it, as Ultralytics goes on where it does not fit, nor without the CUDA graph. What is measured
is a step, without validation and the smaller last batch of an epoch, which `--batch auto` looks at too. Each try is
written as soon as it was made; what is in `--out` already is not tried again. The GPU must be free of other processes.
`--device cpu` limits the process, to rehearse.
"""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import MARK, ResultsFile
from provenance import provenance

from visionlora.data import load_dataset

STEP = Path(__file__).with_name("step.py")
VARIANTS = {
    "full": ["--method", "full"],
    "lora": ["--method", "lora"],
    "lora, lean": ["--method", "lora", "--lean"],
    "lora, nf4 base, lean": ["--method", "lora", "--base-precision", "nf4", "--lean"],
}
STEPS = 16  # a few more than step.py warms up with
NO_MEMORY = (
    *("out of memory", "does not fit into memory", "Cannot allocate memory"),
    *("DefaultCPUAllocator", "could not create a primitive"),  # on a CPU
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_INTERNAL_ERROR", "unable to find an engine"),
)
HALVED = "Reducing to batch="  # Ultralytics says so and trains on


def largest(fits: Callable[[int], bool], *, start: int, most: int) -> int:
    """Return the largest batch up to `most` that fits, 0 if none: doubled or halved from `start`, then bisected."""
    batch, good, bad = min(start, most), 0, most + 1
    while bad - good > 1:
        if fits(batch):
            good = batch
        else:
            bad = batch
        batch = min(2 * good, most) if bad > most else (good + bad) // 2
    return good


def attempt(variant: str, batch: int, options: argparse.Namespace) -> dict | None:
    """Take steps in a process of its own; return what step.py measured, or None where they do not fit.

    Raises:
        RuntimeError: it failed for another reason.
    """
    command = [sys.executable, __file__, "--limit", str(options.gb), *VARIANTS[variant], "--label", variant]
    command += ["--model", options.model, "--data", options.data, "--imgsz", str(options.imgsz)]
    command += ["--batch", str(batch), "--steps", str(STEPS), "--device", options.device]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        crashed = options.device == "cpu" and done.returncode < 0  # some libraries there do, for want of memory
        if crashed or any(words in said for words in NO_MEMORY):
            return None
        raise RuntimeError(f"{' '.join(command)}: {said[-1500:]}")
    result = json.loads(lines[-1].removeprefix(MARK))
    graphless = options.device != "cpu" and VARIANTS[variant][1] == "lora" and not result["graph"]
    return None if graphless or HALVED in said else result


def measure(variant: str, options: argparse.Namespace, results: ResultsFile) -> None:
    """Try batches of a variant until the largest is known; each try is a result, and none is made twice."""
    case = case_of(variant, options)

    def fits(batch: int) -> bool:
        known = next((each for each in results.content if {**case, "batch": batch}.items() <= each.items()), None)
        if known is None:
            step = attempt(variant, batch, options)
            known = {**case, "batch": batch, "fits": step is not None, "step": step, **provenance()}
            results.add(known)
            print(f"{variant}: batch {batch} {'fits' if known['fits'] else 'does not fit'}", flush=True)
        return bool(known["fits"])

    largest(fits, start=options.start, most=options.most)


def case_of(variant: str, options: argparse.Namespace) -> dict:
    """Return what tells the tries of one row of the table from those of another."""
    return {"variant": variant, "model": Path(options.model).stem, "imgsz": options.imgsz, "gb": options.gb}


def limited_step(gib: float, arguments: list[str]) -> None:
    """Run step.py here, in the memory of a GPU of so many GiB."""
    import torch

    device = arguments[arguments.index("--device") + 1]
    if device == "cpu":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
        limit = pages * resource.getpagesize() + int(gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    else:
        free, total = torch.cuda.mem_get_info(int(device))
        own = total - free  # CUDA's own, on a GPU that nobody else uses
        torch.cuda.set_per_process_memory_fraction((gib * 2**30 - own) / total, int(device))
    sys.argv = [str(STEP), *arguments]
    runpy.run_path(str(STEP), run_name="__main__")


def table(results: list[dict]) -> str:
    """Return the largest batches as a Markdown table."""
    lines = [
        "| model | GiB | variant | largest batch | against full | ms a step | pictures a second |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    full: dict[tuple, int] = {}
    for model, imgsz, gb, variant in dict.fromkeys(map(_row, results)):
        tries = [each for each in results if _row(each) == (model, imgsz, gb, variant)]
        best = max((each for each in tries if each["fits"]), key=lambda each: each["batch"], default=None)
        bound = min((each["batch"] for each in tries if not each["fits"]), default=None)
        if best is None:
            lines.append(f"| {model} | {gb:g} | {variant} | 0 | - | - | - |")
            continue
        batch, ms = best["batch"], best["step"]["ms"]
        if variant == "full":
            full[model, imgsz, gb] = batch
        of_full = full.get((model, imgsz, gb))
        more = "" if bound == batch + 1 else " or more"
        cells = (
            f"{batch}{more}",
            f"{batch / of_full:.2f}" if of_full else "-",
            f"{ms:.1f}",
            f"{1000 * batch / ms:.0f}",
        )
        lines.append(f"| {model} | {gb:g} | {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _row(result: dict) -> tuple:
    return tuple(result[key] for key in ("model", "imgsz", "gb", "variant"))


def main() -> None:
    if sys.argv[1:2] == ["--limit"]:
        limited_step(float(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="checkpoint, or a description: yolo11x.yaml")
    parser.add_argument("--data", required=True, help="its pictures of train bound --most")
    parser.add_argument("--gb", type=float, default=24.0, help="GiB of the GPU")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", default="full;lora;lora, lean", help=f"of {'; '.join(VARIANTS)}")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--start", type=int, default=16, help="the batch to try first")
    parser.add_argument("--most", type=int, default=256)
    parser.add_argument("--device", default="0")
    options = parser.parse_args()
    options.most = min(options.most, len(load_dataset(options.data, splits=("train",)).split("train")))
    results = ResultsFile(options.out, [])
    for variant in options.variants.split(";"):
        measure(variant, options, results)
    print(table(results.content))


if __name__ == "__main__":
    main()
