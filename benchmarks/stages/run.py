"""Every stage of one adapter on one data set: base, adapter, merged, ONNX, INT8; scores, bytes and milliseconds.

    python benchmarks/stages/run.py --model yolo11n.pt --adapter runs/steel/adapter.safetensors \
        --data datasets/neu-det/data.yaml --out benchmarks/stages

Leaves report.json, report.md and the chart in --out. No picture of the data set is written.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import visionlora as vl
from visionlora.evaluation import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder for the files of the stages; a temporary one if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        merged = vl.merge(options.model, options.adapter, work / "merged.pt", overwrite=True)
        exported = vl.export(merged.path, work / "model.onnx", overwrite=True)
        quantized = vl.quantize(exported.path, options.data, work / "model.int8.onnx", overwrite=True)
        print(merged, exported, quantized, sep="\n")
        stages = {
            "base": options.model,
            "adapter": f"{options.model}+{options.adapter}",
            "merged": merged.path,
            "onnx": exported.path,
            "int8": quantized.path,
        }
        report = vl.evaluate([f"{name}={path}" for name, path in stages.items()], options.data, imgsz=merged.image_size)
    write_report(report, options.out, overwrite=True)
    print((options.out / "report.md").read_text())


if __name__ == "__main__":
    main()
