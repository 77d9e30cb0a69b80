"""Where the time of an ONNX file goes: onnxruntime's own profile, added up by operator."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime

WARM, RUNS = 5, 30


def profile(path: Path, *, threads: int = 1) -> dict[str, float]:
    """Return milliseconds a call of each operator of the optimised graph, the longest first."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        kind = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[given.type]
        picture = (np.random.default_rng(0).random(given.shape) * (255 if kind is np.uint8 else 1)).astype(kind)
        for _ in range(WARM + RUNS):
            session.run(None, {given.name: picture})
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    a_run = len(kernels) // (WARM + RUNS)
    assert a_run * (WARM + RUNS) == len(kernels), "every call runs the same kernels"
    kernels.sort(key=lambda event: event["ts"])
    total: dict[str, float] = defaultdict(float)
    for event in kernels[WARM * a_run :]:
        total[event["args"]["op_name"]] += event["dur"] / 1000 / RUNS
    return {name: round(value, 4) for name, value in sorted(total.items(), key=lambda item: -item[1])}
