"""The command line: one verb is one public function; there is no logic here.

Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 3 a budget is missed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import yaml

import visionlora as vl
from visionlora.errors import UsageError, VisionLoraError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # a broken image gets one line, ours
    parser = _parser()
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int | None] = options.run
    try:
        return run(options) or 0
    except UsageError as error:
        print(f"visionlora {options.verb}: {error}", file=sys.stderr)
        return 2
    except (VisionLoraError, OSError) as error:  # OSError: from a library that writes beside us, the disk being full
        print(f"visionlora {options.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"visionlora {options.verb}: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="visionlora",
        description="Adapt a COCO-pretrained YOLO detector to your niche with an adapter of about a megabyte, "
        "and ship it as INT8 ONNX.",
        epilog="`visionlora VERB --help` explains a verb and ends with an example.",
    )
    parser.add_argument("--version", action="version", version=f"visionlora {version('visionlora')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in (_adapt, _plan, _train, _merge, _export, _quantize, _eval, _compare, _predict, _inspect, _demo):
        add(verbs)
    return parser


def _verb(verbs: Any, name: str, run: Callable, summary: str, example: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Defaults in the help where there is one, and the example as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        plain = action.default in (None, False, [], argparse.SUPPRESS)
        return action.help if plain else f"{action.help} (default: {action.default})"


def _training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="base: a checkpoint (.pt), or a name such as yolo11n.pt")
    parser.add_argument("--data", required=True, help="data.yaml with train and val")
    parser.add_argument("--out", required=True, help="folder of the run")
    parser.add_argument("--rank", type=int, default=8, help="rank of the low-rank factors")
    parser.add_argument("--alpha", type=float, default=4.0, help="strength; B @ A counts alpha / sqrt(rank)")
    parser.add_argument("--targets", default="all", help="all, backbone, neck, head, neck+head, from:N or a regex")
    parser.add_argument("--epochs", type=int, default=50, help="passes over the training images")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the square input in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images a step, over all devices")
    parser.add_argument("--device", help="cpu, 0 or 0,1; the first GPU, else the CPU, if not given")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random")
    parser.add_argument("--lr0", type=float, default=0.001, help="learning rate after warm-up")
    parser.add_argument("--lean", action="store_true", help="less memory, more time: compute parts of a step twice")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other Ultralytics hyperparameter"
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run in --out")
    _overwrite(parser)


def _training_arguments(options: argparse.Namespace) -> dict[str, Any]:
    names = ["rank", "alpha", "targets", "epochs", "imgsz", "batch", "device", "seed", "lr0"]
    names += ["lean", "resume", "overwrite"]
    return {**{name: getattr(options, name) for name in names}, "hyperparameters": _assignments(options.set)}


def _assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE texts; values as YAML reads them."""
    values = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise UsageError(f"--set {text}: expected NAME=VALUE, such as mosaic=0.5")
        try:
            values[name] = _number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text}: the value cannot be read") from error
    return values


def _number(value: Any) -> Any:
    """Return a number for text such as 5e-4, which YAML takes for text; anything else as it is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def _adapt(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        adapted = vl.adapt(
            options.model, options.data, options.out, images=options.images, **_training_arguments(options)
        )
        _print_report(adapted.report)
        print(f"everything is in {options.out}; open {options.out}/report.html")

    example = "visionlora adapt --model yolo11n.pt --data data.yaml --out runs/steel --imgsz 320"
    parser = _verb(verbs, "adapt", run, "the whole way: train, merge, export, quantize and judge", example)
    _training_options(parser)
    parser.add_argument("--images", type=int, default=32, help="calibration images for INT8")


def _plan(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        print(vl.plan(options.model, options.data, imgsz=options.imgsz, batch=options.batch, device=options.device))

    example = "visionlora plan --model yolo11n.pt --data data.yaml --imgsz 320"
    parser = _verb(verbs, "plan", run, "measure what each way to train costs here, and recommend one", example)
    parser.add_argument("--model", required=True, help="base: a checkpoint (.pt), or a name such as yolo11n.pt")
    parser.add_argument("--data", required=True, help="data.yaml with train")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the square input in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--device", help="cpu or 0; the first GPU, else the CPU, if not given")


def _train(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        trained = vl.train(options.model, options.data, options.out, **_training_arguments(options))
        print(
            f"{trained.path}: {trained.bytes / 1e6:.2f} MB, {len(trained.names)} classes, from epoch {trained.epoch}, "
            f"mAP50-95 {trained.map50_95:.3f} and mAP50 {trained.map50:.3f} while training, {trained.seconds:.0f} s"
        )

    example = "visionlora train --model yolo11n.pt --data data.yaml --out runs/steel --rank 8 --imgsz 320"
    _training_options(_verb(verbs, "train", run, "train an adapter", example))


def _merge(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        merged = vl.merge(options.model, options.adapter, options.out, overwrite=options.overwrite)
        print(
            f"{merged.path}: {merged.bytes / 1e6:.2f} MB, {len(merged.names)} classes; read back and compared: "
            f"boxes within {merged.box_error:.1g} px, scores within {merged.score_error:.1g}"
        )

    example = "visionlora merge --model yolo11n.pt --adapter runs/steel/adapter.safetensors --out merged.pt"
    parser = _verb(verbs, "merge", run, "merge an adapter into its base: an ordinary Ultralytics checkpoint", example)
    parser.add_argument("--model", required=True, help="the base that the adapter was trained on (.pt)")
    parser.add_argument("--adapter", required=True, help="adapter file (.safetensors)")
    parser.add_argument("--out", required=True, help="checkpoint to write (.pt)")
    _overwrite(parser)


def _export(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        exported = vl.export(
            options.model, options.out, imgsz=options.imgsz, opset=options.opset, overwrite=options.overwrite
        )
        print(
            f"{exported.path}: {exported.bytes / 1e6:.2f} MB, {exported.image_size} px, {len(exported.names)} classes; "
            f"checked against torch: boxes within {exported.box_error:.1g} px, scores within {exported.score_error:.1g}"
        )

    example = "visionlora export --model merged.pt --out model.onnx --imgsz 320"
    parser = _verb(verbs, "export", run, "export a checkpoint to ONNX and check it against torch", example)
    parser.add_argument("--model", required=True, help="checkpoint (.pt)")
    parser.add_argument("--out", required=True, help="file to write (.onnx)")
    parser.add_argument("--imgsz", type=int, help="side of the square input in pixels; the checkpoint's if not given")
    parser.add_argument("--opset", type=int, default=17, help="ONNX operator set")
    _overwrite(parser)


def _quantize(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        quantized = vl.quantize(
            options.model,
            options.data,
            options.out,
            images=options.images,
            seed=options.seed,
            overwrite=options.overwrite,
        )
        print(
            f"{quantized.path}: {quantized.bytes / 1e6:.2f} MB, {quantized.bytes / quantized.float_bytes:.2f} of the "
            f"float file; {quantized.int8_convs} of {quantized.convs} convolutions run in int8"
        )

    example = "visionlora quantize --model model.onnx --data data.yaml --out model.int8.onnx --images 32"
    parser = _verb(verbs, "quantize", run, "quantize an ONNX detector to INT8 for CPUs", example)
    parser.add_argument("--model", required=True, help="float ONNX file, ours or an Ultralytics export")
    parser.add_argument("--data", required=True, help="data.yaml; calibration images come from its train split")
    parser.add_argument("--out", required=True, help="file to write (.onnx)")
    parser.add_argument("--images", type=int, default=32, help="calibration images")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images")
    _overwrite(parser)


def _eval(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> int:
        names = ["split", "imgsz", "conf", "retention", "max_drop", "max_class_drop", "min_map50", "out", "html"]
        names += ["cache", "overwrite"]
        report = vl.evaluate(options.model, options.data, **{name: getattr(options, name) for name in names})
        _print_report(report)
        return 0 if report.passed else 3

    example = "visionlora eval --model base=yolo11n.pt --model model.onnx --data data.yaml --out report --html"
    parser = _verb(verbs, "eval", run, "score models of any kind with one ruler", example)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="a .pt, .onnx or OpenVINO .xml, or base.pt+adapter.safetensors; label=... names it; repeat to compare",
    )
    parser.add_argument("--data", required=True, help="data.yaml, or COCO ground truth (.json) beside its pictures")
    parser.add_argument("--split", default="val", help="split to score on")
    parser.add_argument("--imgsz", type=int, help="side of the square input in pixels; the models' own if not given")
    parser.add_argument("--conf", type=float, default=0.25, help="score threshold for misses and false alarms")
    parser.add_argument("--retention", help="data.yaml of the base's source domain: what is forgotten of it")
    parser.add_argument("--max-drop", type=float, help="mAP50-95 that a model may lose against the reference")
    parser.add_argument("--max-class-drop", type=float, help="AP50-95 that any class may lose")
    parser.add_argument("--min-map50", type=float, help="mAP50 that a model must reach; exit code 3 where it does not")
    parser.add_argument("--out", help="folder for report.json, report.md and pictures")
    parser.add_argument("--html", action="store_true", help="write report.html too: one page that needs no network")
    parser.add_argument(
        "--cache", action=argparse.BooleanOptionalAction, default=True, help="reuse what a model found here before"
    )
    _overwrite(parser)


def _compare(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        print(vl.compare(options.first, options.second, out=options.out, overwrite=options.overwrite).text)

    example = "visionlora compare monday/report.json friday/report.json"
    parser = _verb(verbs, "compare", run, "put two reports side by side", example)
    parser.add_argument("first", help="report.json, the older one")
    parser.add_argument("second", help="report.json, the newer one")
    parser.add_argument("--out", help="Markdown file to write (.md)")
    _overwrite(parser)


def _predict(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        found = vl.predict(
            options.model,
            options.source,
            options.out,
            conf=options.conf,
            imgsz=options.imgsz,
            device=options.device,
            overwrite=options.overwrite,
        )
        print(f"{sum(map(len, found.detections))} objects in {len(found.images)} images; see {found.out}")

    example = "visionlora predict --model model.int8.onnx --source 'line3/*.png' --out found"
    parser = _verb(verbs, "predict", run, "find objects in pictures and draw them", example)
    parser.add_argument("--model", required=True, help="a .pt, a .onnx, or base.pt+adapter.safetensors")
    parser.add_argument("--source", required=True, help="image, folder, or pattern in quotes")
    parser.add_argument("--out", required=True, help="folder to write into")
    parser.add_argument("--conf", type=float, default=0.25, help="lowest score that counts")
    parser.add_argument("--imgsz", type=int, help="side of the square input in pixels; the model's own if not given")
    parser.add_argument("--device", default="cpu", help="for checkpoints: cpu, 0...")
    _overwrite(parser)


def _inspect(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        print(vl.inspect(options.file))

    summary = "say what a file is, what it was made from, and how"
    parser = _verb(verbs, "inspect", run, summary, "visionlora inspect model.int8.onnx")
    parser.add_argument("file", help="an adapter, a merged checkpoint, an ONNX file or a report.json")


def _demo(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> None:
        demonstration = vl.demo(options.out, overwrite=options.overwrite)
        _print_report(demonstration.adapted.report)
        print(demonstration.summary)

    summary = "the whole way on a small base and pictures that the package brings, offline"
    parser = _verb(verbs, "demo", run, summary, "visionlora demo --out runs/demo")
    parser.add_argument("--out", default="runs/demo", help="folder to write into")
    _overwrite(parser)


def _print_report(report: Any) -> None:
    from visionlora.evaluation.markdown import summary_table

    print("\n" + summary_table(report) + "\n")
    if report.retention is not None:
        print(report.retention.sentence)
    if report.verdict is not None:
        print(report.verdict.sentence)


if __name__ == "__main__":
    sys.exit(main())
