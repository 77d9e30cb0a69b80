"""What int4 weights cost and gain: bytes, accuracy without training, time and memory, by form and by runtime.

    python benchmarks/qalora/int4.py --model model.onnx --label "wildlife, 320 px" --data data.yaml --parts files
    python benchmarks/qalora/int4.py --model model.onnx --label "wildlife, 640 px" --data data.yaml --parts times

Files: the float one, it in int8, it with int4 weights, and the last with ONNX's own form of groups (DequantizeLinear
with `block_size`) in place of the multipliers, to show why that is not written. Each runs in onnxruntime and OpenVINO.
`--max-drop 0.01` adds a file with int4 weights that loses no more on the val split: with int8 ones where it takes them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import visionlora as vl
from visionlora.quantization.checks import _INT8_CONVS, _optimised_nodes
from visionlora.runtime import OnnxNetwork

LOADS = 5
RESULTS = Path(__file__).with_name("int4-runtimes.json")
FORMS = ("float32", "int8", "int4", "blocks")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="float ONNX file")
    parser.add_argument("--label", required=True, help="what the model is; takes the place of earlier rows of it")
    parser.add_argument("--data", required=True, help="data.yaml: train calibrates, val judges")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--files", type=Path, help="folder for the files; made anew where they are missing")
    parser.add_argument("--max-drop", type=float, help="budget of another file with int4 weights")
    parser.add_argument("--parts", nargs="+", choices=("files", "times"), default=("files", "times"))
    args = parser.parse_args()
    content = json.loads(args.out.read_text()) if args.out.exists() else {"files": [], "times": []}
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(args, args.files or Path(folder))
        if "files" in args.parts:
            report = vl.evaluate([f"{label}={path}" for label, path in files.items()], args.data)
            rows = [{"model": args.label, **facts(row, files[row.label], report)} for row in report.rows]
            content["files"] = [row for row in content["files"] if row["model"] != args.label] + rows
        for threads in args.threads if "times" in args.parts else ():
            rows = [{"model": args.label, **row} for row in times(files, args, threads)]
            earlier = [row for row in content["times"] if (row["model"], row["threads"]) != (args.label, threads)]
            content["times"] = earlier + rows
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    print(table(content))


def table(content: dict) -> str:
    """Return both parts as Markdown."""
    lines = [
        "| model | file | bytes | of float32 | mAP50-95 | minus float32, points | integer convs | load, ms |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in content["files"]:
        change = row["minus_float"] and [f"{100 * value:+.1f}" for value in row["minus_float"]]
        cells = [row["model"], row["label"], f"{row['bytes']:,}", f"{row['share_of_float']:.3f}"]
        cells += [f"{row['map50_95']:.3f}", f"{change[0]} ({change[1]} to {change[2]})" if change else ""]
        cells += [str(row["convs_in_integers"]), f"{row['load_ms']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| model | threads | file | onnxruntime, ms | OpenVINO, ms | onnxruntime, peak MB | OpenVINO, peak MB |",
    ]
    lines.append("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    found = {(row["model"], row["threads"], row["label"], row["runtime"]): row for row in content["times"]}
    for model, threads, label in dict.fromkeys(key[:3] for key in found):
        both = [found[model, threads, label, runtime] for runtime in ("onnxruntime", "openvino")]
        cells = [f"{row['ms']:.1f} ({row['ms_low25']:.1f}-{row['ms_high75']:.1f})" for row in both]
        cells += [f"{row['peak_bytes'] / 1e6:.0f}" for row in both]
        lines.append(f"| {model} | {threads} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def times(files: dict[str, Path], args: argparse.Namespace, threads: int) -> list[dict]:
    """Time every file in both runtimes, in turns."""
    models = [f"{label}={path}" for label, path in files.items()]
    models += [f"{label} in OpenVINO=openvino:{path}" for label, path in files.items()]
    measured = json.loads(vl.bench(models, data=args.data, threads=[threads], rounds=args.rounds).to_json())
    return [
        {
            "label": row["label"].removesuffix(" in OpenVINO"),
            "runtime": row["runtime"],
            "threads": threads,
            "ms": row["network"]["median"],
            "ms_low25": row["network"]["low25"],
            "ms_high75": row["network"]["high75"],
            "turns_ms": row["turns_ms"],
            "peak_bytes": row["peak_bytes"],
            "machine": measured["machine"],
            "versions": measured["versions"],
            "noise": measured["noise"],
        }
        for row in measured["rows"]
    ]


def make_files(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Write what is missing; return the files by label."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"float32": args.model, **{name: folder / f"{name}.onnx" for name in FORMS[1:]}}
    for weights in ("int8", "int4"):
        if not files[weights].exists():
            vl.quantize(args.model, args.data, files[weights], weights=weights)
    onnx.save(in_blocks(onnx.load(files["int4"])), files["blocks"])
    if args.max_drop is not None:
        label = f"int4 within {100 * args.max_drop:g}"
        files[label] = folder / f"{label.replace(' ', '-')}.onnx"
        if not files[label].exists():
            made = vl.quantize(args.model, args.data, files[label], weights="int4", max_drop=args.max_drop)
            print("\n".join(made.report.lines()))
    return files


def in_blocks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the file with int4 weights as ONNX's blocked quantization writes them: a float scale a group."""
    made = {node.output[0]: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, added, gone = [], [], set()
    for node in model.graph.node:
        cast = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if cast is None or cast.op_type != "Cast":
            nodes.append(node)
            continue
        shaped = made[cast.input[0]]
        product = made[shaped.input[0]]
        parts = [made[name] for name in product.input]
        levels, multiplier = (constants[part.input[0]] for part in parts)
        gone |= {each.output[0] for each in (cast, shaped, product, *parts)}
        scale = numpy_helper.to_array(multiplier).astype(np.float32)
        scale *= numpy_helper.to_array(constants[node.input[1]]).reshape(-1, 1, 1)
        added.append(numpy_helper.from_array(scale, f"{levels.name}.scale"))
        restored, size = f"{levels.name}.restored", levels.dims[2]
        inputs = [levels.name, added[-1].name]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [restored], axis=2, block_size=size))
        nodes.append(helper.make_node("Reshape", [restored, shaped.input[1]], list(node.output)))
    blocked = onnx.ModelProto()
    blocked.CopyFrom(model)
    kept = [node for node in nodes if node.output[0] not in gone]
    used = {name for node in kept for name in node.input}
    del blocked.graph.node[:], blocked.graph.initializer[:]
    blocked.graph.node.extend(kept)
    blocked.graph.initializer.extend([*(one for one in constants.values() if one.name in used), *added])
    onnx.checker.check_model(blocked, full_check=True)
    return blocked


def facts(row, path: Path, report) -> dict:
    """Return what is said of one file."""
    seconds = []
    for _ in range(LOADS):
        started = time.perf_counter()
        OnnxNetwork(path, threads=1)
        seconds.append(time.perf_counter() - started)
    change = row.difference_to("float32")
    interval = change and change.map50_95.interval
    apart = [change.map50_95.difference, interval.low, interval.high] if interval else None
    return {
        "label": row.label,
        "bytes": row.bytes,
        "share_of_float": round(row.bytes / report.rows[0].bytes, 4),
        "map50_95": round(row.scores.map50_95, 4),
        "map50": round(row.scores.map50, 4),
        "minus_float": apart and [round(value, 4) for value in apart],
        "convs_in_integers": sum(one.op_type in _INT8_CONVS for one in _optimised_nodes(path, signed=False)),
        "load_ms": round(1e3 * min(seconds), 1),
        "images": report.data.images,
    }


if __name__ == "__main__":
    main()
