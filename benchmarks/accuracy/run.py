"""Adapters against full fine-tuning and others: every data set, method and seed, a process each.

    python benchmarks/accuracy/run.py --model yolo11n.pt --steel datasets/neu-det/data.yaml \
        --wildlife datasets/african-wildlife/data.yaml --out benchmarks/accuracy/results.json --suites main

Each method is swept over the learning rates of `RATES` with seed 0; the best one then runs with the other seeds. Each
result is written as soon as it exists; runs that are in the file already are kept. Several GPUs: `--devices 0 1`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

sys.path.insert(0, str(Path(__file__).parents[1]))
from jobs import Job, ResultsFile, run_jobs, visible
from ways import COMPARED, RIVALS, is_ranked

from visionlora.detectors.job import ADAPTER_FILE

ONE = Path(__file__).with_name("one.py")
SEEDS = (0, 1, 2)
BATCH = 16
SHOWN = ("data", "method", "rank", "lr0", "seed", "map50_95", "seconds", "refused")
Rates: TypeAlias = Mapping[str, tuple[float | None, ...]]
RATES: Rates = {
    "full": (None, 0.0005, 0.001),  # None: Ultralytics' automatic choice, updates every 64 images
    "lora": (0.001, 0.002),  # the recipe `near`
    "lora-fp16": (0.001, 0.002),
    "lora-int8": (0.001, 0.002),
    "lora-nf4": (0.001, 0.002),
    "lora-principal": (0.001, 0.002),
    "lora-gradient": (0.0005, 0.001),
    "lora-plus": (0.0005, 0.001),
    "lora-plus16": (0.0002, 0.0005),
    "lora-gradient-plus": (0.0005, 0.001),
    "auto": (None,),  # all of `train` at its defaults
    "dora": (0.001, 0.002),
    "loha": (0.002, 0.004),
    "lokr": (0.002, 0.004),
    "oft": (0.0002, 0.0005),
    "ia3": (0.002, 0.005),
    "bitfit": (0.002, 0.01),
    "conv-adapter": (0.002, 0.004),
    "conv-adapter-serial": (0.002, 0.004),
    "mona": (0.002, 0.004),
    "feature-prompt": (0.002, 0.004),
    "prompt": (0.002, 0.005),
    "prefix": (0.002, 0.005),
    "freeze10": (0.0005, 0.001),
    "head": (0.001, 0.002),
    "peft": (0.001, 0.002),
    "peft-dora": (0.001, 0.002),
    "peft-loha": (0.002, 0.004),
    "peft-lokr": (0.002, 0.004),
    "peft-oft": (0.0005, 0.002),
    "peft-boft": (0.002,),
    "peft-ia3": (0.005, 0.01),
    "lycoris-locon": (0.001, 0.002),
    "lycoris-dora": (0.001, 0.002),
    "lycoris-loha": (0.0005, 0.001),
    "lycoris-lokr": (0.002, 0.004),
    "lycoris-oft": (0.0005, 0.002),
    "lycoris-ia3": (0.005, 0.01),
}


@dataclass(frozen=True)
class Pictures:
    """A data set of the benchmark: a given one, or one that sets.py makes of it."""

    source: str
    epochs: int
    look: str | None = None
    train: int | None = None


SETS = {
    "steel": Pictures("steel", 25),
    "wildlife": Pictures("wildlife", 50),
    "far-steel": Pictures("steel", 60, "threshold", 300),
    "far-wildlife": Pictures("wildlife", 60, "lines", 300),
    "wildlife-10": Pictures("wildlife", 150, train=10),
    "wildlife-50": Pictures("wildlife", 100, train=50),
    "wildlife-200": Pictures("wildlife", 60, train=200),
    "boards": Pictures("boards", 60),
    "bccd": Pictures("bccd", 50),
    "math-symbols": Pictures("math_symbols", 60),
    "hit-uav": Pictures("hit_uav", 60),
}


@dataclass(frozen=True)
class Run:
    """One training of the benchmark."""

    data: str
    method: str
    lr0: float | None
    seed: int
    rank: int | None = None

    @property
    def key(self) -> tuple:
        """What tells one result from another."""
        return (self.data, self.method, self.rank, self.lr0, self.seed)

    @property
    def name(self) -> str:
        """The same for people."""
        return " ".join(str(part) for part in self.key if part is not None)

    @property
    def file(self) -> str:
        """The same as the name of a file or folder."""
        return self.name.replace(" ", "-")


SUITES: Mapping[str, tuple[tuple[str, str, int | None], ...]] = {  # data set, method, rank
    "main": tuple((data, *side) for data in tuple(SETS)[:4] for side in (("full", None), ("lora", 8))),
    "rivals": (("wildlife", "freeze10", None), ("wildlife", "head", None), ("wildlife", "peft", 8)),
    "ranks": tuple(("wildlife", "lora", rank) for rank in (2, 4, 16, 32, 64)),
    "few": tuple((data, *side) for data in tuple(SETS)[4:7] for side in (("full", None), ("lora", 8))),
    "methods": tuple(
        (data, way, 8 if is_ranked(way) else None)
        for data in ("wildlife", "steel", "boards")
        for way in ("auto" if (data, way) == ("boards", "lora") else way for way in COMPARED)
        if (data, way) != ("wildlife", "peft")  # in the suite `rivals`
    ),
    "qlora": tuple((data, way, 8) for data in ("wildlife", "steel") for way in ("lora", "lora-int8", "lora-nf4")),
    "starts": tuple(
        (data, way, 8)
        for data in ("wildlife", "steel", "boards")
        for way in ("lora", "lora-principal", "lora-gradient", "lora-plus", "lora-plus16", "lora-gradient-plus")
    ),
    "small": tuple((data, *side) for data in tuple(SETS)[7:] for side in (("full", None), ("lora", 8), ("auto", 8))),
}


GRID = "grid"
"""The suite of the adapter at every learning rate with every seed, on the sets of the suite `main`."""


def cases_of(suites: Iterable[str], sets: Iterable[str]) -> list[tuple[str, str, int | None]]:
    """Return data set, method and rank of everything in `suites` that is on one of `sets`."""
    return [case for suite in suites for case in SUITES.get(suite, ()) if case[0] in sets]


def grid(suites: Iterable[str], sets: Iterable[str]) -> list[Run]:
    """Return the runs of the suite `grid`, if it is in `suites`."""
    cases = [case for case in SUITES["main"] if case[1] == "lora" and case[0] in sets] if GRID in suites else []
    return [
        Run(data, method, rate, seed, rank) for data, method, rank in cases for rate in RATES[method] for seed in SEEDS
    ]


def sweep(cases: Iterable[tuple[str, str, int | None]], rates: Rates = RATES) -> list[Run]:
    """Return the runs with the first seed, at every learning rate."""
    return [Run(data, method, rate, SEEDS[0], rank) for data, method, rank in cases for rate in rates[method]]


def rest(cases: Iterable[tuple[str, str, int | None]], results: list[dict]) -> list[Run]:
    """Return the runs with the other seeds, at the learning rate that was best with the first."""
    runs = []
    for data, method, rank in cases:
        found = scored(results, data, method, rank)
        if any(run["seed"] == SEEDS[0] for run in found):  # none where every rate diverged
            runs += [Run(data, method, best_rate(found), seed, rank) for seed in SEEDS[1:]]
    return runs


def unfinished(
    cases: Iterable[tuple[str, str, int | None]],
    results: list[dict],
    ended: Set[str],
    extra: Iterable[Run] = (),
    *,
    rates: Rates = RATES,
) -> list[Run]:
    """Return the runs without a result: of each case the sweep, and once that has ended, the other seeds.

    Args:
        cases: data set, method and rank.
        results: so far.
        ended: names of runs that have ended, broken off ones too.
        extra: runs beside them.
        rates: what each method is swept over.
    """
    done = {key_of(found) for found in results}
    runs: list[Run] = []
    for case in cases:
        swept = sweep([case], rates)
        complete = all(run.key in done or run.name in ended for run in swept)
        runs += rest([case], results) if complete else swept
    return [run for run in dict.fromkeys([*runs, *extra]) if run.key not in done]


def scored(results: list[dict], data: str, method: str, rank: int | None) -> list[dict]:
    """Return the runs of one method on one data set, but for those that its library refused."""
    return [
        run
        for run in results
        if (run["data"], run["method"], run["rank"]) == (data, method, rank) and "refused" not in run
    ]


def best_rate(runs: list[dict]) -> float | None:
    """Return the learning rate of the best run with the first seed."""
    return max((run for run in runs if run["seed"] == SEEDS[0]), key=lambda run: run["map50_95"])["lr0"]


def kept_runs(results: list[dict], data: str, method: str, rank: int | None) -> list[dict]:
    """Return the runs of one method on one data set that count, by seed; none if all broke off.

    Those at the learning rate with the most seeds; among equals, at the one that was best with the first seed.
    """
    runs = scored(results, data, method, rank)
    if not any(run["seed"] == SEEDS[0] for run in runs):
        return []
    best = best_rate(runs)
    rates = list(dict.fromkeys(run["lr0"] for run in runs))
    rate = max(rates, key=lambda rate: (sum(run["lr0"] == rate for run in runs), rate == best))
    return sorted((run for run in runs if run["lr0"] == rate), key=lambda run: run["seed"])


def job_of(run: Run, data: Path, folder: Path, options: argparse.Namespace, results: ResultsFile) -> Job:
    """Return the process that trains one run."""
    command = [sys.executable, str(ONE), "--method", run.method, "--model", options.model, "--data", str(data)]
    out = folder / run.file
    command += ["--out", str(out), "--seed", str(run.seed)]
    command += ["--epochs", str(max(1, round(options.scale * SETS[run.data].epochs)))]
    command += ["--batch", str(BATCH), "--device", visible(options.devices[0]), "--workers", str(options.workers)]
    if run.lr0 is not None:
        command += ["--lr0", str(run.lr0)]
        command += ["--set", json.dumps({"nbs": BATCH})] if run.method in RIVALS else []  # an update every batch
    if run.rank:
        command += ["--rank", str(run.rank)]

    def keep(result: dict) -> None:
        found = {"data": run.data, **result}
        results.add(found)
        print({name: found[name] for name in SHOWN if name in found}, flush=True)
        if options.keep is not None and (out / ADAPTER_FILE).exists():
            options.keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(out / ADAPTER_FILE, options.keep / f"{run.file}.safetensors")

    return Job(run.name, command, keep)


def summary(results: list[dict]) -> str:
    """Return mean and spread over seeds of the runs of each method that count (`kept_runs`), as a Markdown table."""
    lines = [
        "| data set | method | learning rate (swept, seed 0) | seeds | mAP50-95 | each seed | mAP50 | file, MB |",
        "| --- | --- | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for data, method, rank in dict.fromkeys((run["data"], run["method"], run["rank"]) for run in results):
        runs = scored(results, data, method, rank)
        swept = {run["lr0"]: run["map50_95"] for run in runs if run["seed"] == SEEDS[0]}
        rates = ", ".join(f"{rate or 'auto'}: {score:.3f}" for rate, score in swept.items())
        kept = kept_runs(results, data, method, rank)
        if not kept:
            continue
        scores = [run["map50_95"] for run in kept]
        spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        name = f"{method}, rank {rank}" if rank else method
        size = f"{kept[0]['bytes'] / 1e6:.2f}" if kept[0]["bytes"] else "-"
        cells = [data, name, f"**{kept[0]['lr0'] or 'auto'}** ({rates})", f"{len(kept)}"]
        cells += [f"{statistics.mean(scores):.3f}{spread}", ", ".join(f"{score:.3f}" for score in scores)]
        cells += [f"{statistics.mean(run['map50'] for run in kept):.3f}", size]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--steel", type=Path, help="data.yaml of NEU-DET")
    parser.add_argument("--wildlife", type=Path, help="data.yaml of African wildlife")
    parser.add_argument("--boards", type=Path, help="data.yaml of boards.py; drawn if not given")
    parser.add_argument("--bccd", type=Path, help="data.yaml of BCCD blood cells")
    parser.add_argument("--math-symbols", type=Path, help="data.yaml of the symbols of printed formulas")
    parser.add_argument("--hit-uav", type=Path, help="data.yaml of infrared pictures from the air")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--suites", nargs="+", choices=(*SUITES, GRID), default=["main"])
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS), help="only these data sets")
    parser.add_argument("--methods", nargs="+", choices=tuple(RATES), default=tuple(RATES), help="only these methods")
    parser.add_argument("--devices", nargs="+", default=["0"], help="numbers of GPUs, or cpu")
    parser.add_argument("--jobs", type=int, default=6, help="processes at once on each")
    parser.add_argument(
        "--workers", type=int, default=4, help="of the loader of each process; with fewer the GPU waits"
    )
    parser.add_argument("--keep", type=Path, help="folder for the adapter files of visionlora's methods")
    parser.add_argument("--minutes", type=float, help="begin nothing new after so many")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all epochs, to try the command")
    options = parser.parse_args()
    results = ResultsFile(options.out, [])
    cases = [case for case in cases_of(options.suites, options.sets) if case[1] in options.methods]
    extra = grid(options.suites, options.sets)

    with tempfile.TemporaryDirectory() as folder:
        used = dict.fromkeys(run.data for run in [*sweep(cases), *extra])
        paths = {name: made_set(name, options, Path(folder)) for name in used}

        def wanted(ended: Set[str]) -> list[Job]:
            left = unfinished(cases, results.content, ended, extra)
            left.sort(key=lambda run: (list(paths).index(run.data), run.seed))  # first something of every method
            return [job_of(run, paths[run.data], Path(folder), options, results) for run in left]

        run_jobs(wanted, devices=options.devices, at_once=options.jobs, minutes=options.minutes)
    print(summary(results.content))


def key_of(found: dict) -> tuple:
    """Return the key of the run that a result is of."""
    return Run(*(found[field] for field in ("data", "method", "lr0", "seed", "rank"))).key


def made_set(name: str, options: argparse.Namespace, folder: Path) -> Path:
    """Return the data.yaml of a data set, made first where it has to be."""
    import boards
    from sets import write_set

    pictures = SETS[name]
    source = getattr(options, pictures.source)
    if source is None and name == "boards":
        return boards.write_set(folder / name, {"train": 300, "val": 150}, seed=0)
    if source is None:
        raise SystemExit(f"--{pictures.source.replace('_', '-')}: expected its data.yaml, for {name}")
    if pictures.train is None:
        return source
    return write_set(source, folder / name, look=pictures.look, train=pictures.train, seed=0)


if __name__ == "__main__":
    main()
