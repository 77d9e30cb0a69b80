"""Every stage of one adapter on one data set: base, full fine-tuning, adapter, merged, ONNX, INT8.

    python benchmarks/stages/run.py --model yolo11n.pt --adapter runs/steel/adapter.safetensors \
        --full runs/steel-full/weights/best.pt --data datasets/neu-det/data.yaml \
        --retention datasets/coco-val128/data.yaml --out benchmarks/stages/steel --html runs/steel-report

Leaves report.json, report.md and the chart in --out, without any picture of the data set; those are in --html.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import visionlora as vl
from visionlora.reporting import write_report


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--full", help="checkpoint of full fine-tuning, to compare with")
    parser.add_argument("--data", required=True)
    parser.add_argument("--retention", help="data.yaml of what the base knew")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder for the files of the stages; a temporary one if not given")
    parser.add_argument("--html", type=Path, help="folder for the whole report, with pictures of the data set")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        merged = vl.merge(options.model, options.adapter, work / "merged.pt", overwrite=True)
        exported = vl.export(merged.path, work / "model.onnx", overwrite=True)
        quantized = vl.quantize(exported.path, options.data, work / "model.int8.onnx", overwrite=True)
        print(merged, exported, quantized, sep="\n")
        stages = {
            "base": options.model,
            **({"full": options.full} if options.full else {}),
            "adapter": f"{options.model}+{options.adapter}",
            "merged": merged.path,
            "onnx": exported.path,
            "int8": quantized.path,
        }
        report = vl.evaluate(
            [f"{name}={path}" for name, path in stages.items()],
            options.data,
            imgsz=merged.image_size,
            retention=options.retention,
            out=options.html,
            html=options.html is not None,
            cache=False,
            overwrite=True,
        )
    write_report(replace(report, per_image=None), options.out, overwrite=True)
    print((options.out / "report.md").read_text())


if __name__ == "__main__":
    main()
