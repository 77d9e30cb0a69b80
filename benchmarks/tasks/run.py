"""Adapters against full fine-tuning for masks, keypoints and oriented boxes: each data set, method and seed a process.

    python benchmarks/tasks/run.py --segment-model yolov8n-seg.pt --pose-model yolo11n-pose.pt --model yolo11n.pt \
        --crack-seg datasets/crack-seg/data.yaml --tiger-pose datasets/tiger-pose/data.yaml \
        --hit-uav datasets/hit-uav-obb/data.yaml --out benchmarks/tasks/results.json

Oriented boxes begin with a detection model on either side: `--task obb` here, and Ultralytics' description of such a
model with the detection model's weights there. Each method is swept over the learning rates of `RATES` with seed 0; the
best one then runs with the other seeds. Results are written as soon as they exist; runs that are in the file are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from accuracy.run import BATCH, ONE, SHOWN, Rates, Run, summary, unfinished
from jobs import Job, ResultsFile, run_jobs, visible

METHODS: Mapping[str, int | None] = {"full": None, "lora": 8, "auto": 8}
"""Their ranks."""
RATES: Rates = {
    "full": (None, 0.0005, 0.001, 0.002, 0.004),  # None: Ultralytics' automatic choice
    "lora": (0.001, 0.002, 0.004),
    "auto": (None,),
}


@dataclass(frozen=True)
class Pictures:
    """A data set: the options of its data.yaml and its model, how long it is trained on, and for what."""

    data: str
    model: str
    epochs: int
    task: str | None = None


SETS = {
    "crack-seg": Pictures("crack_seg", "segment_model", 40),
    "tiger-pose": Pictures("tiger_pose", "pose_model", 50),
    "hit-uav-obb": Pictures("hit_uav", "model", 40, task="obb"),
}


def job_of(run: Run, folder: Path, options: argparse.Namespace, results: ResultsFile) -> Job:
    """Return the process that trains one run."""
    pictures = SETS[run.data]
    command = [sys.executable, str(ONE), "--method", run.method, "--model", getattr(options, pictures.model)]
    command += ["--data", str(getattr(options, pictures.data)), "--out", str(folder / run.file)]
    command += ["--epochs", str(max(1, round(options.scale * pictures.epochs))), "--seed", str(run.seed)]
    command += ["--imgsz", str(options.imgsz), "--batch", str(BATCH), "--device", visible(options.devices[0])]
    command += ["--workers", str(options.workers), *([] if pictures.task is None else ["--task", pictures.task])]
    more = {"fraction": options.fraction} if options.fraction < 1 else {}
    if run.lr0 is not None:
        command += ["--lr0", str(run.lr0)]
        more |= {"nbs": BATCH} if run.method == "full" else {}  # an update every batch
    command += ["--set", json.dumps(more)] if more else []
    command += ["--rank", str(run.rank)] if run.rank else []

    def keep(result: dict) -> None:
        found = {"data": run.data, **result}
        results.add(found)
        print({name: found[name] for name in SHOWN if name in found}, flush=True)

    return Job(run.name, command, keep)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segment-model", help="a checkpoint of task segment")
    parser.add_argument("--pose-model", help="a checkpoint of task pose")
    parser.add_argument("--model", help="a checkpoint of task detect, for oriented boxes")
    parser.add_argument("--crack-seg", type=Path, help="data.yaml of cracks with polygons")
    parser.add_argument("--tiger-pose", type=Path, help="data.yaml of a tiger with keypoints")
    parser.add_argument("--hit-uav", type=Path, help="data.yaml of infrared pictures with oriented boxes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS), help="only these data sets")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--devices", nargs="+", default=["0"], help="numbers of GPUs, or cpu")
    parser.add_argument("--jobs", type=int, default=6, help="processes at once on each")
    parser.add_argument("--workers", type=int, default=2, help="of the loader of each process")
    parser.add_argument("--minutes", type=float, help="begin nothing new after so many")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all epochs, to try the command")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the training pictures, to try it")
    options = parser.parse_args()
    for name in options.sets:
        for option in (SETS[name].data, SETS[name].model):
            if getattr(options, option) is None:
                parser.error(f"--{option.replace('_', '-')}: expected for {name}")
    results = ResultsFile(options.out, [])
    cases = [(name, method, METHODS[method]) for name in options.sets for method in options.methods]

    with tempfile.TemporaryDirectory() as folder:

        def wanted(ended: Set[str]) -> list[Job]:
            left = unfinished(cases, results.content, ended, rates=RATES)
            return [job_of(run, Path(folder), options, results) for run in left]

        run_jobs(wanted, devices=options.devices, at_once=options.jobs, minutes=options.minutes)
    print(summary(results.content))


if __name__ == "__main__":
    main()
