"""Adapter files: their arithmetic (adapters merge, scale, rank), and adapters export and import for others."""

from __future__ import annotations

import argparse
from typing import Any

import visionlora as vl
from visionlora.cli.options import chosen, overwrite, trust, verb
from visionlora.formats.text import size_words


def add_adapters(verbs: Any) -> None:
    """Add `visionlora adapters` and its verbs."""
    parser = verbs.add_parser(
        "adapters",
        help="scale adapter files, add them, change their rank, write them for PEFT or onnxruntime; list and remove "
        "those beside a base",
        description="Scale adapter files, add them, change their rank; write them for other libraries; list those "
        "that stand beside a base in one file, and take one out.",
        epilog="example: visionlora adapters scale a.safetensors --factor 0.5 --out half.safetensors",
    )
    nested = parser.add_subparsers(dest="operation", required=True, metavar="OPERATION")
    _add_merge(nested)
    _add_scale(nested)
    _add_rank(nested)
    _add_export(nested)
    _add_import(nested)
    _add_list(nested)
    _add_remove(nested)


def _add_merge(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        arguments = chosen(options, "weights", "rank", "model", "overwrite")
        _print(vl.merge_adapters(options.adapters, options.out, **arguments))

    example = "visionlora adapters merge a.safetensors b.safetensors --rank 8 --out ab.safetensors"
    parser = verb(verbs, "merge", run, "write the weighted sum of adapters of one base and the same classes", example)
    parser.add_argument("adapters", nargs="+", help="adapter files (.safetensors)")
    parser.add_argument("--weights", nargs="+", type=float, help="one number an adapter; their mean if not given")
    parser.add_argument("--rank", type=int, help="of the result; one that loses nothing if not given")
    _base(parser)
    _out(parser)


def _add_scale(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        _print(vl.scale_adapter(options.adapter, options.out, **chosen(options, "factor", "model", "overwrite")))

    example = "visionlora adapters scale a.safetensors --factor 0.5 --out half.safetensors"
    parser = verb(verbs, "scale", run, "write an adapter that changes the base more, or less", example)
    parser.add_argument("adapter", help="adapter file (.safetensors)")
    parser.add_argument("--factor", type=float, required=True, help="0 turns the changes off, 1 leaves them")
    _base(parser)
    _out(parser)


def _add_rank(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        _print(vl.rank_adapter(options.adapter, options.out, **chosen(options, "rank", "model", "overwrite")))

    example = "visionlora adapters rank a.safetensors --rank 4 --out small.safetensors"
    parser = verb(verbs, "rank", run, "write the adapter (lora) of another rank that is nearest", example)
    parser.add_argument("adapter", help="adapter file (.safetensors)")
    parser.add_argument("--rank", type=int, required=True, help="of the new adapter")
    _base(parser)
    _out(parser)


def _add_export(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        print(vl.export_adapter(options.model, options.adapter, options.out, **chosen(options, "format", "overwrite")))

    example = "visionlora adapters export a.safetensors --model yolo11n.pt --format peft --out peft"
    parser = verb(verbs, "export", run, "write an adapter as another library reads it", example)
    parser.add_argument("adapter", help="adapter file (.safetensors)")
    parser.add_argument("--model", required=True, help="base that it was trained on (.pt; onnx-adapter: or its .onnx)")
    formats = "peft: Hugging Face's library; onnx-adapter: onnxruntime's LoraAdapter"
    parser.add_argument("--format", choices=["peft", "onnx-adapter"], required=True, help=formats)
    out = "peft: folder to write; onnx-adapter: file (.onnx_adapter), beside it base.onnx, the graph that takes it"
    parser.add_argument("--out", required=True, help=out)
    trust(parser)
    overwrite(parser)


def _add_import(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        arguments = chosen(options, "model", "data", "imgsz", "format", "overwrite")
        print(vl.import_adapter(options.source, options.out, **arguments))

    example = "visionlora adapters import peft --model yolo11n.pt --data data.yaml --imgsz 320 --out a.safetensors"
    parser = verb(verbs, "import", run, "write an adapter of another library as an adapter file", example)
    source = "peft: folder with adapter_config.json and adapter_model.safetensors; lycoris: file (.safetensors)"
    parser.add_argument("source", help=source)
    parser.add_argument("--model", required=True, help="base (.pt) that it was trained on")
    parser.add_argument("--data", required=True, help="data.yaml, for the names of its classes")
    parser.add_argument("--imgsz", type=int, help="side of its square input; the model's own if not given")
    parser.add_argument("--format", choices=["peft", "lycoris"], default="peft", help="library that wrote it")
    trust(parser)
    _out(parser)


def _add_list(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        print(vl.list_adapters(options.model))

    example = "visionlora adapters list kept.onnx"
    parser = verb(verbs, "list", run, "say which adapters stand beside a base in a file of --keep exact", example)
    parser.add_argument("model", help="detector (.onnx)")


def _add_remove(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        print(vl.remove_adapter(options.model, options.name, options.out, overwrite=options.overwrite))

    example = "visionlora adapters remove kept.onnx --name line3.safetensors --out without.onnx"
    parser = verb(verbs, "remove", run, "write a file of --keep exact as if an adapter had never been in it", example)
    parser.add_argument("model", help="detector (.onnx), float")
    parser.add_argument(
        "--name", required=True, help="id of the adapter or the name of its file, as adapters list tells them"
    )
    parser.add_argument("--out", required=True, help="detector to write (.onnx)")
    overwrite(parser)


def _base(parser: argparse.ArgumentParser) -> None:
    meaning = "base (.pt) that it was trained on: makes a lora of adapters of any method, which some methods need"
    parser.add_argument("--model", help=meaning)
    trust(parser)


def _out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="adapter file to write (.safetensors)")
    overwrite(parser)


def _print(made: Any) -> None:
    worst = max(made.layers, key=made.layers.__getitem__, default=None)
    missed = "" if worst is None else f", at most {made.layers[worst]:.2%} in {worst}"
    print(
        f"{made.path}: {size_words(made.bytes)}, {made.method.name} {made.method.words}; the changes miss "
        f"{made.error:.2%} of their norm{missed}"
    )
