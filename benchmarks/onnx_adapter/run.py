"""What onnxruntime's adapters cost beside patched detectors: processor time in turns, starting, loading, bytes.

    python benchmarks/onnx_adapter/run.py --model yolo11n.pt --out benchmarks/onnx_adapter/results.json

One thread, and its processor time: what else the machine does meanwhile counts little. The adapters hold noise, for
time does not depend on what they have learned. Without `--model` it prints the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import provenance

import visionlora as vl
from visionlora.adapters import AdapterCard, AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import Adapter, save_adapter
from visionlora.adapters.torch.merge import expected_shapes
from visionlora.cards import preprocessing_card
from visionlora.detectors import family_of
from visionlora.machine import this_machine

RANK, CLASSES = 8, ("scratch", "pit", "inclusion", "patch", "crack", "hole")
WAYS = {
    "patched": "patched, a file for each adapter",
    "none": "one graph, no adapter active",
    "active": "one graph, an adapter active",
    "alternating": "one graph, another adapter in each run",
    "branches": "factors as side branches, an adapter active",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="the base (.pt)")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    if options.model:
        results = {"machine": dataclasses.asdict(this_machine()), **provenance(), "rank": RANK, "cases": []}
        for image_size in options.imgsz:
            with tempfile.TemporaryDirectory() as folder:
                results["cases"].append(measure(options.model, image_size, options.rounds, Path(folder)))
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print("\n\n".join(table(json.loads(options.out.read_text())) for table in TABLES))


def measure(model: str, image_size: int, rounds: int, folder: Path) -> dict:
    """Return all about one size of picture, and how far the graph with an adapter is from the patched detector."""
    exported = vl.export(model, folder / "exported.onnx", imgsz=image_size).path
    adapters = [noise_adapter(model, folder / f"{seed}.safetensors", image_size, seed) for seed in range(2)]
    outs = [path.with_suffix(".onnx_adapter") for path in adapters]
    for adapter, out in zip(adapters, outs, strict=True):
        vl.export_adapter(exported, adapter, out, format="onnx-adapter")
    files = {
        "adapter": adapters[0],
        "onnx_adapter": outs[0],
        "graph": folder / "base.onnx",
        "patched": vl.patch(exported, adapters[0], folder / "patched.onnx").path,
        "branches": folder / "branches.onnx",
    }
    files["branches"].write_bytes(with_branches(exported))
    patched, graph, branches = (session(files[name]) for name in ("patched", "graph", "branches"))
    picture = {"images": np.random.default_rng(0).random((1, 3, image_size, image_size), dtype=np.float32)}
    kept, active = zip(*(activated(path) for path in outs), strict=True)
    turns = itertools.cycle(active)
    runs = {
        "patched": lambda: patched.run(None, picture),
        "none": lambda: graph.run(None, picture),
        "active": lambda: graph.run(None, picture, active[0]),
        "alternating": lambda: graph.run(None, picture, next(turns)),
        "branches": lambda: branches.run(None, picture),
    }
    found = {
        "image_size": image_size,
        "difference": float(np.abs(runs["active"]()[0] - runs["patched"]()[0]).max()),
        "bytes": {name: path.stat().st_size for name, path in files.items()},
        "ms": in_turns(runs, rounds),
        "start_graph_ms": timed(lambda: session(files["graph"]), 10),
        "start_patched_ms": timed(lambda: session(files["patched"]), 10),
        "load_ms": timed(lambda: activated(outs[0]), 100),
    }
    del kept  # options do not keep their adapter
    return found


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each way in each round, one after the other; each runs once before it is timed."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name] += timed(run, 1)
    return found


def timed(run: Callable[[], object], times: int) -> list[float]:
    """Return the milliseconds of some runs, after one that is not timed."""
    run()
    found = []
    for _ in range(times):
        started = time.process_time()
        run()
        found.append(1000 * (time.process_time() - started))
    return found


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def activated(path: Path) -> tuple[onnxruntime.LoraAdapter, onnxruntime.RunOptions]:
    adapter, options = onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    adapter.Load(str(path))
    options.add_active_adapter(adapter)
    return adapter, options


def noise_adapter(model: str, path: Path, image_size: int, seed: int) -> Path:
    """Write an adapter of all layers whose tensors are noise."""
    family = family_of(model)
    base, settings = family.load(model), AdapterSettings(LoRA(rank=RANK))
    detector = family.adapted(base, CLASSES, settings)
    generator = torch.Generator().manual_seed(seed)
    plain = family.load(model)
    shapes = expected_shapes(detector.model, detector.plan)
    card = AdapterCard(
        settings=settings,
        names=CLASSES,
        base={"name": plain.path.name, "fingerprint": plain.fingerprint, "family": family.name},
        preprocessing=preprocessing_card(image_size),
        task=plain.task.name,
    )
    tensors = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_adapter(Adapter(card, tensors), path)
    return path


def with_branches(exported: Path) -> bytes:
    """Return the exported base with two small convolutions beside each that is not grouped, as optional inputs."""
    model = onnx.load(exported)
    graph, nodes, generator = model.graph, [], np.random.default_rng(0)
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        if node.op_type != "Conv" or grouped or node.input[1] not in weights:
            nodes.append(node)
            continue
        outputs, *rest = weights[node.input[1]]
        out, names = node.output[0], [f"{node.input[1]}.{part}" for part in ("lora_A", "lora_B", "bias")]
        for name, shape in zip(names, ((RANK, *rest), (outputs, RANK, 1, 1), (outputs,)), strict=True):
            values = generator.normal(0, 0.02, shape).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, name))
            graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        main, down = (helper.make_node("Conv", [], [f"{out}/{part}"]) for part in ("main", "down"))
        for made, inputs in ((main, node.input), (down, [node.input[0], names[0]])):
            made.input.extend(inputs)
            made.attribute.extend(node.attribute)
        nodes += [
            main,
            down,
            helper.make_node("Conv", [f"{out}/down", *names[1:]], [f"{out}/up"]),
            helper.make_node("Add", [f"{out}/main", f"{out}/up"], [out]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString()


def times_table(results: dict) -> str:
    """Return milliseconds, and how many times those of the patched detector they are, over rounds."""
    lines = ["| px | way | ms | times the patched |", "| ---: | --- | ---: | ---: |"]
    for case in results["cases"]:
        for name, words in WAYS.items():
            low, high = np.percentile(ratios(case, name), (5, 95))
            cells = [case["image_size"], words, f"{statistics.median(case['ms'][name]):.1f}"]
            cells.append(f"{ratio(case, name):.2f} ({low:.2f}-{high:.2f})")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def ratios(case: dict, name: str) -> list[float]:
    """Return how many times the patched detector's time one way takes, in each round."""
    return [mine / other for mine, other in zip(case["ms"][name], case["ms"]["patched"], strict=True)]


def ratio(case: dict, name: str) -> float:
    """Return their median."""
    return statistics.median(ratios(case, name))


def files_table(results: dict) -> str:
    """Return what starting and changing takes, and the files."""
    case = results["cases"][0]
    median = {name: statistics.median(case[name]) for name in ("start_graph_ms", "start_patched_ms", "load_ms")}
    size = {name: f"{count / 1e6:.2f} MB" for name, count in case["bytes"].items()}
    rows = {
        "start a session of the graph": f"{median['start_graph_ms']:.0f} ms",
        "start a session of a patched detector": f"{median['start_patched_ms']:.0f} ms",
        "load an adapter": f"{median['load_ms']:.2f} ms",
        "`base.onnx`, once": size["graph"],
        "`NAME.onnx_adapter`": size["onnx_adapter"],
        "`adapter.safetensors`, half precision": size["adapter"],
        "a patched detector": size["patched"],
    }
    head = f"| {case['image_size']} px | |"
    return "\n".join([head, "| --- | ---: |", *(f"| {what} | {cost} |" for what, cost in rows.items())])


TABLES = (times_table, files_table)

if __name__ == "__main__":
    main()
