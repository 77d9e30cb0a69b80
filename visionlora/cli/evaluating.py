"""The verbs that look: eval, compare, bench, predict, inspect, demo."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import visionlora as vl
from visionlora.cli.options import chosen, overwrite, print_report, trust, verb
from visionlora.formats.text import printable


def add_eval(verbs: Any) -> None:
    """Add `visionlora eval`."""

    def run(options: argparse.Namespace) -> int:
        names = ["split", "imgsz", "conf", "retention", "max_drop", "max_class_drop", "min_map50", "out", "html"]
        names += ["against", "title", "part", "customer", "cache", "overwrite"]
        report = vl.evaluate(options.model, options.data, **chosen(options, *names))
        print_report(report)
        return 0 if report.passed else 3

    example = "visionlora eval --model model.onnx --model model.int8.onnx --data data.yaml --out report --html"
    parser = verb(verbs, "eval", run, "score models of any kind with one ruler", example)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="a .pt, .onnx, .xml (OpenVINO), .param (ncnn) or .tflite, openvino:model.onnx, or "
        "base.pt+adapter.safetensors, each also by hf://owner/name; label=... names it; repeat to compare",
    )
    data = "data.yaml, a folder with one, a .zip, or COCO ground truth (.json) beside its pictures"
    parser.add_argument("--data", required=True, help=data)
    parser.add_argument("--split", default="val", help="split to score on")
    parser.add_argument("--imgsz", type=int, help="side of the square input in pixels; the models' own if not given")
    parser.add_argument("--conf", type=float, default=0.25, help="score threshold for misses and false alarms")
    parser.add_argument("--retention", help="data.yaml of the base's source domain: what is forgotten of it")
    parser.add_argument("--max-drop", type=float, help="mAP50-95 that a model may lose against the reference")
    parser.add_argument("--max-class-drop", type=float, help="AP50-95 that any class may lose")
    parser.add_argument("--min-map50", type=float, help="mAP50 that a model must reach; exit code 3 where it does not")
    parser.add_argument(
        "--against", metavar="LABEL", help="the reference, which losses count from; the first model if not given"
    )
    parser.add_argument("--out", help="folder for report.json, report.md and pictures")
    parser.add_argument("--html", action="store_true", help="write report.html too: one page that needs no network")
    parser.add_argument("--title", help="what to call the report, on top of it")
    parser.add_argument("--part", help="what the models are to look at, such as a part's number, under the title")
    parser.add_argument("--customer", help="whom the report is for, under the title")
    parser.add_argument(
        "--cache", action=argparse.BooleanOptionalAction, default=True, help="reuse what a model found here before"
    )
    trust(parser)
    overwrite(parser)


def add_compare(verbs: Any) -> None:
    """Add `visionlora compare`."""

    def run(options: argparse.Namespace) -> None:
        print(vl.compare(options.first, options.second, out=options.out, overwrite=options.overwrite).text)

    example = "visionlora compare monday/report.json friday/report.json"
    parser = verb(verbs, "compare", run, "put two reports side by side", example)
    parser.add_argument("first", help="report.json, the older one")
    parser.add_argument("second", help="report.json, the newer one")
    parser.add_argument("--out", help="Markdown file to write (.md)")
    overwrite(parser)


def add_bench(verbs: Any) -> None:
    """Add `visionlora bench`."""

    def run(options: argparse.Namespace) -> None:
        names = ["image", "data", "split", "threads", "imgsz", "rounds", "out", "overwrite"]
        print(vl.bench(options.model, **chosen(options, *names)))

    example = "visionlora bench --model model.onnx --model model.int8.onnx --threads 1,2 --image 'line3/*.jpg'"
    parser = verb(verbs, "bench", run, "time models of any runtime in turns: network, whole frame, memory", example)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="as for eval; openvino:model.onnx runs it in OpenVINO; repeat to compare with the first",
    )
    parser.add_argument("--image", help="image, folder, or pattern in quotes; one is drawn if no picture is given")
    parser.add_argument("--data", help="data.yaml whose pictures to use")
    parser.add_argument("--split", default="val", help="split of --data")
    parser.add_argument("--threads", type=_counts, help="counts such as 1,2; all processors if not given")
    parser.add_argument("--imgsz", type=int, help="side of the square input in pixels, for checkpoints")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each model, of 5 calls and 5 frames")
    parser.add_argument("--out", help="JSON file to write")
    trust(parser)
    overwrite(parser)


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected counts such as 1,2, got {text!r}") from error


def add_predict(verbs: Any) -> None:
    """Add `visionlora predict`."""

    def run(options: argparse.Namespace) -> int:
        names = ["conf", "iou", "classes", "agnostic", "tile", "overlap", "imgsz", "device", "formats", "video"]
        names += ["watch", "overwrite"]
        found = vl.predict(options.model, options.source, options.out, **chosen(options, *names))
        rate = found.frames / found.seconds if found.seconds else 0.0
        print(f"{found.words}, {rate:.1f} images/s; see {printable(found.out)}")
        for problem in found.problems:
            print(f"visionlora predict: {printable(problem)}", file=sys.stderr)
        return 1 if found.problems else 0

    example = "visionlora predict --model model.int8.onnx --source 'line3/*.png' --out found"
    parser = verb(verbs, "predict", run, "find objects in pictures, a video or before a camera", example)
    parser.add_argument("--model", required=True, help="a .pt, a .onnx, or base.pt+adapter.safetensors")
    parser.add_argument(
        "--source",
        required=True,
        help="image, folder, pattern in quotes, video, address of a file (http://), camera's number or address (rtsp://)",
    )
    parser.add_argument("--out", required=True, help="folder to write into")
    parser.add_argument("--conf", type=float, help="lowest score that counts; the file's own, or 0.25, if not given")
    parser.add_argument("--iou", type=float, help="boxes of a class that overlap more are one object; 0.7 if not given")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="names or ids to find; all if not given")
    parser.add_argument("--agnostic", action="store_true", help="let boxes of different classes suppress each other")
    parser.add_argument("--tile", type=int, help="look into tiles of this side in pixels too, for small objects")
    parser.add_argument("--overlap", type=float, help="share of a tile that the next one has too; 0.2 if not given")
    parser.add_argument("--imgsz", type=int, help="side of the square input in pixels; the model's own if not given")
    parser.add_argument("--device", default="cpu", help="cpu, 0...; for ONNX files any provider, such as openvino")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=("json", "jsonl", "coco", "csv", "labels", "images"),
        help="labels: YOLO text, images: with boxes; if not given json and images, of a video json, of a camera or a "
        "watched folder jsonl",
    )
    parser.add_argument("--video", action="store_true", help="write the video with the boxes drawn (annotated.mp4)")
    parser.add_argument("--watch", action="store_true", help="stay at the folder and take what comes into it")
    trust(parser)
    overwrite(parser)


def add_inspect(verbs: Any) -> None:
    """Add `visionlora inspect`."""

    def run(options: argparse.Namespace) -> None:
        card = vl.inspect(options.file)
        print(card.to_json() if options.json else card)

    summary = "say what a file is, what it was made from, and how"
    parser = verb(verbs, "inspect", run, summary, "visionlora inspect model.int8.onnx")
    parser.add_argument(
        "file", help="an adapter, a checkpoint, an exported file, a bundle, a report.json or bench.json, a run's folder"
    )
    parser.add_argument("--json", action="store_true", help="for programs: all of it as one JSON object")


def add_demo(verbs: Any) -> None:
    """Add `visionlora demo`."""

    def run(options: argparse.Namespace) -> None:
        demonstration = vl.demo(options.out, overwrite=options.overwrite)
        print_report(demonstration.adapted.report)
        print(demonstration.summary)

    summary = "the whole way on a small base and pictures that the package brings, offline"
    parser = verb(verbs, "demo", run, summary, "visionlora demo --out runs/demo")
    parser.add_argument("--out", default="runs/demo", help="folder to write into")
    overwrite(parser)
