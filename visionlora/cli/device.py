"""The verbs of the device: patch, rollback."""

from __future__ import annotations

import argparse
from typing import Any

import visionlora as vl
from visionlora.cli.options import overwrite, verb


def add_patch(verbs: Any) -> None:
    """Add `visionlora patch`."""

    def run(options: argparse.Namespace) -> None:
        made = vl.patch(options.model, options.adapter, options.out, int8=options.int8, overwrite=options.overwrite)
        kept = f"; the file before is {made.previous}" if made.previous else ""
        print(
            f"{made.path}: {made.bytes / 1e6:.2f} MB, {len(made.names)} classes, tried on this machine, "
            f"in {made.seconds:.2f} s{kept}"
        )

    example = "visionlora patch --model base.onnx --adapter adapter.safetensors --out line3.onnx"
    parser = verb(verbs, "patch", run, "patch an adapter into an exported base on the device, without torch", example)
    parser.add_argument("--model", required=True, help="the exported base (.onnx)")
    parser.add_argument("--adapter", required=True, help="adapter file (.safetensors)")
    parser.add_argument("--out", required=True, help="detector to write (.onnx)")
    parser.add_argument("--int8", action="store_true", help="quantize with the recipe that the adapter carries")
    overwrite(parser)


def add_rollback(verbs: Any) -> None:
    """Add `visionlora rollback`."""

    def run(options: argparse.Namespace) -> None:
        print(f"{vl.rollback(options.model)}: the detector that was there before the last patch")

    summary = "put the detector back that the last patch replaced"
    parser = verb(verbs, "rollback", run, summary, "visionlora rollback --model line3.onnx")
    parser.add_argument("--model", required=True, help="the detector that was patched (.onnx)")
