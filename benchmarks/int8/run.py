"""INT8 files against each other: accuracy, latency in turns, and where the time goes, one case after another.

    python benchmarks/int8/run.py --case steel-640 --model yolo11n.pt --adapter runs/steel/adapter.safetensors \
        --data datasets/neu-det/data.yaml --imgsz 640 --out benchmarks/int8/results.json

A case is a checkpoint (with an adapter merged in, or plain), an image size, and the pictures that it is judged on.
Needs `pip install nncf openvino` beside visionlora. `--steps` allows measuring the time when the machine is idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path

ACCURACY, LATENCY, OPERATORS = STEPS = ("accuracy", "latency", "operators")
LIBRARIES = ("onnxruntime", "openvino", "ultralytics")
STOCK, OURS_INT8 = "Ultralytics FP32", "visionlora INT8"


def latency_table(results: list[dict]) -> str:
    """Return median milliseconds and ratios to the stock float file, at each count of threads."""
    lines = [
        "| case | file | MB | of stock | ms, 1 thread | faster | ms, 2 threads | faster | frame, ms | peak MB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in results:
        rows = _timed(case)
        for label in dict.fromkeys(label for label, _ in rows):
            one, two = rows[label, 1], rows[label, 2]
            cells = [case["case"], label, f"{one['bytes'] / 1e6:.2f}", f"{one['bytes_ratio']:.3f}"]
            for row in (one, two):
                low, high = row["faster_range"]
                cells += [f"{row['network']['median']:.1f}", f"{row['faster']:.2f} ({low:.2f}-{high:.2f})"]
            cells += [f"{two['frame']['median']:.1f}", f"{one['peak_bytes'] / 1e6:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def against_table(results: list[dict]) -> str:
    """Return how many times as fast as each other file our int8 file is."""
    lines = ["| case | our INT8 against | 1 thread | 2 threads |", "| --- | --- | ---: | ---: |"]
    for case in results:
        rows = _timed(case)
        for label in dict.fromkeys(label for label, _ in rows):
            if label != OURS_INT8:
                cells = [_faster(rows[label, count], rows[OURS_INT8, count]) for count in (1, 2)]
                lines.append(f"| {case['case']} | {label} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _timed(case: dict) -> dict[tuple[str, int], dict]:
    """Return the rows of a case's latency by label and count of threads; none where a count is not measured yet."""
    sessions = case.get("latency", {})
    if not {"1", "2"} <= set(sessions):
        return {}
    return {(row["label"], row["threads"]): row for one in sessions.values() for row in one["rows"]}


def noise(case: dict) -> list[str]:
    """Return what disturbed the latency of a case."""
    return [sentence for one in case.get("latency", {}).values() for sentence in one["noise"]]


def _faster(other: dict, ours: dict) -> str:
    """Return the median over rounds of the ratio of two turns of one round, and its middle 90 %."""
    ratios = sorted(theirs / own for theirs, own in zip(other["turns_ms"], ours["turns_ms"], strict=True))
    edge = round(0.05 * (len(ratios) - 1))
    return f"{statistics.median(ratios):.2f} ({ratios[edge]:.2f}-{ratios[-1 - edge]:.2f})"


def accuracy_table(results: list[dict]) -> str:
    """Return mAP50-95 in points, and the difference to the stock float file with its 95 % interval."""
    lines = [
        "| case | file | mAP50-95 | difference, points (95 %) | mAP50 | worst class, points (95 %) |",
        "| --- | --- | ---: | --- | ---: | --- |",
    ]
    for case in results:
        for row in case.get("accuracy", []):
            first = row["difference"] is None
            cells = [case["case"], row["label"], f"{100 * row['map50_95']:.2f}"]
            cells += ["reference" if first else _points(row["difference"]), f"{100 * row['map50']:.2f}"]
            cells += ["" if first else f"{row['worst_class']['name']}: {_points(row['worst_class'])}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def operators_table(results: list[dict]) -> str:
    """Return where the time of our files goes, ms a call with one thread; what takes under 2 % together."""
    lines = ["| case | file | operator | ms | share |", "| --- | --- | --- | ---: | ---: |"]
    for case in results:
        for label, operators in case.get("operators", {}).items():
            total = sum(operators.values())
            shown = {name: value for name, value in operators.items() if value >= 0.02 * total}
            shown[f"{len(operators) - len(shown)} others"] = total - sum(shown.values())
            for name, value in shown.items():
                lines.append(f"| {case['case']} | {label} | {name} | {value:.2f} | {value / total:.0%} |")
    return "\n".join(lines)


def _points(change: dict) -> str:
    interval = change["interval"]
    span = f" [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]" if interval else ""
    return f"{100 * change['value']:+.2f}{span}"


def provenance_list(results: list[dict]) -> str:
    """Return what machine, libraries and commit the numbers belong to, an item for all that share them."""
    owners: dict[str, list[str]] = {}
    for case in results:
        steps = {ACCURACY: case["data"]} if ACCURACY in case else {}
        steps |= {f"{LATENCY}, threads: {count}": one for count, one in case.get(LATENCY, {}).items()}
        texts = {step: _provenance(one) for step, one in steps.items()}
        differ = len(set(texts.values())) > 1
        for step, text in texts.items() if differ else list(texts.items())[:1]:
            owners.setdefault(text, []).append(f"`{case['case']}` ({step})" if differ else f"`{case['case']}`")
    return "\n".join(f"- {', '.join(names)}: {text}." for text, names in owners.items())


def _provenance(step: dict) -> str:
    versions = ", ".join(f"{name} {step['versions'][name]}" for name in LIBRARIES if name in step["versions"])
    machine, commit = step["machine"], step["made_with"]["commit"]
    return f"{machine['cpu']}, {machine['cores']} cores; {versions}; our INT8 file written by commit `{commit}`"


TABLES = (provenance_list, latency_table, against_table, accuracy_table, operators_table)


def summary(results: list[dict]) -> str:
    """Return all that the page shows of the results."""
    return "\n\n".join(table(results) for table in TABLES)


def judge(files: dict[str, Path], data: Path) -> tuple[list[dict], dict]:
    """Score every file on the validation pictures; return a row each, and what was scored on."""
    import visionlora as vl

    report = vl.evaluate([f"{label}={path}" for label, path in files.items()], data, cache=False)
    rows = []
    for row in report.rows:
        assert row.scores is not None, row.label
        change = row.differences[0] if row.differences else None
        worst = min(change.per_class, key=lambda one: one.change.difference) if change else None
        rows.append(
            {
                "label": row.label,
                "sha256": row.sha256,
                "map50_95": row.scores.map50_95,
                "map50": row.scores.map50,
                "difference": None if change is None else _change(change.map50_95),
                "worst_class": None if worst is None else {"name": worst.name, **_change(worst.change)},
            }
        )
    scored = {"path": data.parent.name, "images": report.data.images, "content_hash": report.data.content_hash}
    return rows, {**scored, "versions": dict(report.versions), "machine": asdict(report.machine)}


def _change(change) -> dict:
    interval = change.interval
    return {"value": change.difference, "interval": None if interval is None else [interval.low, interval.high]}


def prepare(options: argparse.Namespace) -> tuple[dict, dict[str, Path], dict]:
    """Make the case's files where they are not there yet; return what the case is, the files, and what wrote ours."""
    from contenders import MADE_WITH, calibration_pictures, make_files

    import visionlora as vl

    checkpoint, adapter = Path(options.model), None
    folder = options.work / options.case
    if options.adapter:
        card = vl.inspect(options.adapter).card
        training = {name: value for name, value in card["training"].items() if name not in ("data", "model")}  # paths
        adapter = {"rank": card["settings"]["rank"], "training": training, "scores": card["scores"]}
        checkpoint = vl.merge(options.model, options.adapter, folder / "merged.pt", overwrite=True).path
    calibration = options.calibration or options.data
    only = options.only.split(";") if options.only else None
    files = make_files(checkpoint, calibration, folder, imgsz=options.imgsz, only=only)
    card = vl.inspect(files[OURS_INT8]).card
    pictures = calibration_pictures(files[OURS_INT8], calibration)
    about = {
        "case": options.case,
        "model": Path(options.model).stem,
        "imgsz": options.imgsz,
        "adapter": adapter,
        "calibration": {"data": calibration.parent.name, "images": len(pictures)},
        "settings": card["settings"],
    }
    return about, files, json.loads((folder / MADE_WITH).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", required=True, help="what to call it")
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--data", type=Path, required=True, help="data.yaml to judge on (val)")
    parser.add_argument("--calibration", type=Path, help="data.yaml to calibrate on (train), --data if not given")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", default="1,2", help="counts to measure the latency with; kept beside those known")
    parser.add_argument("--only", help="labels of some files, separated by semicolons; our INT8 must be among them")
    parser.add_argument("--steps", default=",".join(STEPS), help="files are made once; those in --work are taken")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-int8"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    results = json.loads(options.out.read_text()) if options.out.exists() else []
    known = {case["case"]: case for case in results}
    case = known.get(options.case)
    steps = options.steps.split(",")
    about, files, made_with = prepare(options)
    case = {**(case or {}), **about}
    if ACCURACY in steps:
        case["accuracy"], data = judge(files, options.data)
        case["data"] = {**data, "made_with": made_with}
    if LATENCY in steps:
        for count in options.threads.split(","):
            timed = time_files(files, options.data, threads=int(count), rounds=options.rounds)
            case["latency"] = {**case.get("latency", {}), count: {**timed, "made_with": made_with}}
    if OPERATORS in steps:
        from operators import profile

        case[OPERATORS] = {label: profile(path) for label, path in files.items() if label.startswith("visionlora")}
    known[options.case] = case
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(list(known.values()), indent=1) + "\n")
    print(summary([case]))


def time_files(files: dict[str, Path], data: Path, *, threads: int, rounds: int) -> dict:
    """Measure every file in turns; return the benchmark without the paths of this machine."""
    import visionlora as vl

    named = [f"{label}={path}" for label, path in files.items()]
    timed = json.loads(vl.bench(named, data=data, threads=[threads], rounds=rounds).to_json())
    del timed["command"]
    for row in timed["rows"]:
        del row["file"]
    return timed


if __name__ == "__main__":
    main()
