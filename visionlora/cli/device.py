"""The verbs of the device: patch, rollback, bundle, unbundle."""

from __future__ import annotations

import argparse
from typing import Any

import visionlora as vl
from visionlora.cli.options import chosen, keep, overwrite, verb
from visionlora.formats.text import class_words, size_words


def add_patch(verbs: Any) -> None:
    """Add `visionlora patch`."""

    def run(options: argparse.Namespace) -> None:
        made = vl.patch(
            options.model, options.adapter, options.out, **chosen(options, "int8", "keep", "joined", "overwrite")
        )
        kept = f"; the file before is {made.previous}" if made.previous else ""
        print(
            f"{made.path}: {size_words(made.bytes)}, {class_words(len(made.names))}, tried on this machine, "
            f"in {made.seconds:.2f} s{kept}"
        )

    example = "visionlora patch --model base.onnx --adapter adapter.safetensors --out line3.onnx"
    parser = verb(verbs, "patch", run, "patch an adapter into an exported base on the device, without torch", example)
    parser.add_argument("--model", required=True, help="the exported base (.onnx)")
    parser.add_argument("--adapter", required=True, nargs="+", help="adapter file (.safetensors); several with --keep")
    parser.add_argument("--out", required=True, help="detector to write (.onnx)")
    parser.add_argument("--int8", action="store_true", help="quantize with the recipe that the adapter carries")
    keep(parser)
    overwrite(parser)


def add_rollback(verbs: Any) -> None:
    """Add `visionlora rollback`."""

    def run(options: argparse.Namespace) -> None:
        print(f"{vl.rollback(options.model)}: the detector that was there before the last patch")

    summary = "put the detector back that the last patch replaced"
    parser = verb(verbs, "rollback", run, summary, "visionlora rollback --model line3.onnx")
    parser.add_argument("--model", required=True, help="the detector that was patched (.onnx)")


def add_bundle(verbs: Any) -> None:
    """Add `visionlora bundle`."""

    def run(options: argparse.Namespace) -> None:
        more = chosen(options, "picture", "latency", "licence", "key", "overwrite")
        made = vl.bundle(options.model, options.out, **more)
        signed = "signed" if made.signed else "not signed"
        print(
            f"{made.path}: {len(made.files)} files, {size_words(sum(made.files.values()))}, {signed}; its self-test "
            "says OK here; on the device: python -I detect.py --self-test"
        )

    example = "visionlora bundle --model model.int8.onnx --out line3.zip"
    parser = verb(verbs, "bundle", run, "put all that a device needs into one folder or .zip", example)
    parser.add_argument("--model", required=True, help="ONNX file that visionlora wrote")
    parser.add_argument("--out", required=True, help="folder, or name that ends in .zip")
    parser.add_argument("--picture", help="for the self-test; a drawn steel surface if not given")
    parser.add_argument("--latency", action="store_true", help="measure this machine and write it down")
    parser.add_argument("--licence", help="of the model (SPDX); that of its kind of detectors if not given")
    parser.add_argument("--key", help="ed25519 private key (PEM) to sign the manifest with")
    overwrite(parser)


def add_unbundle(verbs: Any) -> None:
    """Add `visionlora unbundle`."""

    def run(options: argparse.Namespace) -> None:
        opened = vl.unbundle(options.bundle, options.out, **chosen(options, "key", "overwrite", "downgrade"))
        signed = "signed" if opened.signed else "signature not checked"
        print(f"{options.out}: {len(opened.files)} files, {signed}; try python -I {options.out}/detect.py --self-test")

    summary = "check a bundle and write its files into a folder"
    parser = verb(verbs, "unbundle", run, summary, "visionlora unbundle line3.zip --out /opt/detector")
    parser.add_argument("bundle", help="the .zip, or a folder")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--key", help="the maker's ed25519 public key (PEM): refuse what it has not signed")
    parser.add_argument("--downgrade", action="store_true", help="replace even a bundle that was made later")
    overwrite(parser)
