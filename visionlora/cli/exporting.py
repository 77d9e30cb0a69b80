"""The verbs that make the file that ships: merge, export, quantize."""

from __future__ import annotations

import argparse
from typing import Any

import visionlora as vl
from visionlora.cli.options import chosen, keep, overwrite, quantization_budget, trust, verb
from visionlora.formats.text import class_words, size_words


def _errors(written: vl.MergedModel | vl.ExportedModel) -> str:
    """Return how far the output of a written file is from what it was made of."""
    boxes = "" if written.task == "classify" else f"boxes within {written.box_error:.1g} px, "
    return f"{boxes}scores within {written.score_error:.1g}"


def add_merge(verbs: Any) -> None:
    """Add `visionlora merge`."""

    def run(options: argparse.Namespace) -> None:
        merged = vl.merge(options.model, options.adapter, options.out, overwrite=options.overwrite)
        print(
            f"{merged.path}: {size_words(merged.bytes)}, {class_words(len(merged.names))}; read back and compared: "
            f"{_errors(merged)}"
        )

    example = "visionlora merge --model yolo11n.pt --adapter runs/steel/adapter.safetensors --out merged.pt"
    parser = verb(verbs, "merge", run, "merge an adapter into its base: an ordinary checkpoint", example)
    parser.add_argument("--model", required=True, help="the base that the adapter was trained on (.pt)")
    parser.add_argument("--adapter", required=True, help="adapter file (.safetensors)")
    parser.add_argument("--out", required=True, help="checkpoint to write (.pt)")
    trust(parser)
    overwrite(parser)


def add_export(verbs: Any) -> None:
    """Add `visionlora export`."""

    def run(options: argparse.Namespace) -> None:
        names = ["adapter", "keep", "joined", "format", "imgsz", "opset", "overwrite"]
        exported = vl.export(options.model, options.out, **chosen(options, *names))
        print(
            f"{exported.path}: {size_words(exported.bytes)}, {exported.image_size} px, "
            f"{class_words(len(exported.names))}; checked against torch: {_errors(exported)}"
        )

    example = "visionlora export --model merged.pt --out model.onnx --imgsz 320"
    parser = verb(
        verbs,
        "export",
        run,
        "export a checkpoint to ONNX, OpenVINO, ncnn or LiteRT and check it against torch",
        example,
    )
    parser.add_argument("--model", required=True, help="checkpoint (.pt)")
    parser.add_argument("--out", required=True, help="file to write (.onnx, .xml, .param or .tflite)")
    adapter = "adapter of that checkpoint (.safetensors), exported with it in one graph; several with --keep"
    parser.add_argument("--adapter", nargs="+", help=adapter)
    keep(parser)
    parser.add_argument("--format", default="onnx", help="onnx, openvino, ncnn or litert")
    parser.add_argument("--imgsz", type=int, help="side of the square input in pixels; the checkpoint's if not given")
    parser.add_argument("--opset", type=int, default=17, help="ONNX operator set")
    trust(parser)
    overwrite(parser)


def add_quantize(verbs: Any) -> None:
    """Add `visionlora quantize`."""

    def run(options: argparse.Namespace) -> None:
        names = ["images", "seed", "adapter", "target", "method", "weights", "input", "max_drop", "max_class_drop"]
        names += ["thresholds", "conf", "reference", "recalibrate", "overwrite"]
        quantized = vl.quantize(options.model, options.data, options.out, **chosen(options, *names))
        int4, trained = quantized.int4_convs, quantized.trained_ranges
        in_float = len(quantized.recipe.float_layers)
        print(
            f"{quantized.path}: {size_words(quantized.bytes)}, {quantized.bytes / quantized.float_bytes:.2f} of the "
            f"float file; {quantized.int8_convs} of {quantized.convs} convolutions run in int8"
            f"{f', {int4} of them from int4 weights' if int4 else ''}"
            f"{f', {in_float} stay float within the budget' if in_float else ''}; ranges "
            f"{'as the adapter was trained' if trained else f'from {quantized.images} images'}"
        )
        if quantized.report is not None:
            print("\n".join(quantized.report.lines()))

    example = "visionlora quantize --model model.onnx --data data.yaml --out model.int8.onnx --images 32"
    parser = verb(verbs, "quantize", run, "quantize an ONNX detector to INT8, or with INT4 weights", example)
    parser.add_argument("--model", required=True, help="float ONNX file, ours or an Ultralytics export")
    data = "data.yaml, or another form of it; calibration images come from its train split"
    parser.add_argument("--data", required=True, help=data)
    parser.add_argument("--out", required=True, help="file to write (.onnx)")
    parser.add_argument("--images", type=int, default=32, help="calibration images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of images")
    parser.add_argument("--adapter", help="the adapter in the model: the recipe is written into it, for patch --int8")
    parser.add_argument(
        "--target", choices=("x86", "arm", "tensorrt", "generic"), default="x86", help="hardware that the file is for"
    )
    parser.add_argument(
        "--method",
        choices=("activation", "mse", "percentile", "minmax"),
        default="activation",
        help="what activation ranges are chosen by",
    )
    parser.add_argument(
        "--weights",
        choices=("int8", "int7", "int4"),
        help="what weights are kept in; if not given, as trained for, else int8. int7: for x86 without VNNI",
    )
    parser.add_argument("--input", choices=("float32", "uint8"), default="float32", help="type of the input tensor")
    quantization_budget(parser)
    parser.add_argument(
        "--thresholds", choices=("recall", "precision"), help="write thresholds that keep this of the float model"
    )
    parser.add_argument(
        "--conf", type=float, help="the float model's score threshold, for --thresholds; 0.25 if not given"
    )
    parser.add_argument("--reference", help="float ONNX file that the budget counts from; --model if not given")
    parser.add_argument("--recalibrate", action="store_true", help="ranges from images, not the trained ones")
    overwrite(parser)
