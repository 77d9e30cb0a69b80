"""The verbs that train: adapt, plan, train."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import yaml

import visionlora as vl
from visionlora.adapters.base_precision import NAMES as PRECISIONS
from visionlora.adapters.factors import STARTS
from visionlora.adapters.methods import FORMS, METHODS
from visionlora.cli.options import chosen, keep, overwrite, print_report, quantization_budget, trust, verb
from visionlora.errors import UsageError
from visionlora.formats.text import printable
from visionlora.tasks import TASKS
from visionlora.training.recipes import NAMES


def add_adapt(verbs: Any) -> None:
    """Add `visionlora adapt`."""

    def run(options: argparse.Namespace) -> int:
        from visionlora.workflows.adapting import int8_advice

        arguments = {**_training_arguments(options), **chosen(options, "max_drop", "max_class_drop", "keep", "joined")}
        try:
            adapted = vl.adapt(options.model, options.data, options.out, **arguments)
        except vl.BudgetMissed as missed:
            print(f"visionlora adapt: {printable(missed)}", file=sys.stderr, flush=True)
            print_report(missed.report)
            print(missed.advice)
            print(f"open {missed.page}")
            return 1
        print_report(adapted.report)
        if adapted.quantized.report is not None:
            print("\n".join(adapted.quantized.report.lines()))
        advice = int8_advice(adapted.report, max_drop=options.max_drop, quantize=options.quantize)
        if advice:
            print(advice)
        print(f"everything is in {options.out}; open {options.out}/report.html")
        return 0

    example = "visionlora adapt --model yolo11n.pt --data data.yaml --out runs/steel --imgsz 320"
    parser = verb(verbs, "adapt", run, "the whole way: train, merge, export, quantize and judge", example)
    _training_options(parser)
    quantization_budget(parser)
    keep(parser)


def add_plan(verbs: Any) -> None:
    """Add `visionlora plan`."""
    names = ("task", "imgsz", "batch", "memory", "device", "keep")

    def run(options: argparse.Namespace) -> None:
        print(vl.plan(options.model, options.data, **chosen(options, *names)))

    example = "visionlora plan --model yolo11n.pt --data data.yaml --imgsz 320"
    parser = verb(verbs, "plan", run, "measure what each way to train costs here, and recommend one", example)
    parser.add_argument("--model", required=True, help="base: a checkpoint (.pt), or a name such as yolo11n.pt")
    parser.add_argument("--data", required=True, help="data.yaml with train, or another form of it")
    _task(parser)
    parser.add_argument("--imgsz", type=int, help="side of the square input in pixels; the model's own if not given")
    parser.add_argument(
        "--batch", type=_batch, default=16, help="images a step; auto: the largest that fits, for each way to train"
    )
    parser.add_argument("--memory", type=float, help="with --batch auto: GiB to fit into; what is free if not given")
    trust(parser)
    parser.add_argument("--device", help="cpu, 0 or cuda:0; the first GPU, else the CPU, if not given")
    keep(parser, joined=False)


def add_train(verbs: Any) -> None:
    """Add `visionlora train`."""

    def run(options: argparse.Namespace) -> None:
        trained = vl.train(options.model, options.data, options.out, **_training_arguments(options))
        print(trained)

    example = "visionlora train --model yolo11n.pt --data data.yaml --out runs/steel --rank 8 --imgsz 320"
    _training_options(verb(verbs, "train", run, "train an adapter", example))


def _training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="base: a checkpoint (.pt), or a name such as yolo11n.pt")
    parser.add_argument(
        "--data", required=True, help="data.yaml with train and val, a folder with one, COCO files, or a .zip"
    )
    parser.add_argument("--out", required=True, help="folder of the run")
    _task(parser)
    _adapter_options(parser.add_argument_group("how the base is adapted"))
    _schedule_options(parser.add_argument_group("how it is trained"))
    _quantization_options(parser.add_argument_group("quantization and activations"))
    trust(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run in --out: an interrupted one, or with more --epochs"
    )
    overwrite(parser)
    parser.add_argument("--verbose", action="store_true", help="print all that Ultralytics says too")
    parser.add_argument("--quiet", action="store_true", help="print no progress, only warnings and the result")


def _task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", choices=TASKS, help="what to find; the model's if not given, any for a detection one")


def _adapter_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--method", choices=METHODS, default="lora", help="how the base is adapted")
    group.add_argument("--rank", type=int, help="rank of the factors, width of a bottleneck; 8 if not given")
    group.add_argument(
        "--alpha", type=float, help="strength; B @ A counts alpha / sqrt(rank); if not given the recipe's"
    )
    group.add_argument("--block-size", type=int, help="of OFT: inputs that turn into each other; 32 if not given")
    group.add_argument("--form", choices=FORMS, help="of conv-adapter: beside a convolution, or behind it")
    group.add_argument("--border", type=int, help="of prompts: width of a frame in pixels, 16, or cells, 1")
    group.add_argument("--tokens", type=int, help="of prefix: learned keys and values a head; 8 if not given")
    group.add_argument(
        "--start",
        choices=STARTS,
        default=STARTS[0],
        help="what A begins with: drawn, the weight's largest singular vectors, or its gradient's on the first batches",
    )
    group.add_argument(
        "--lora-plus",
        type=float,
        default=1.0,
        metavar="RATIO",
        help="learning rate of B, times that of A (LoRA+); 1 is the same",
    )
    group.add_argument(
        "--recipe",
        choices=NAMES,
        default=NAMES[0],
        help="far trains normalization too; auto looks at the pictures",
    )
    group.add_argument("--budget", help="parameters that may be trained, such as 20%%: small layers get full rank")
    group.add_argument(
        "--targets", default="all", help="all, backbone, neck, head, their sums, from:N, to:N or a regex"
    )
    group.add_argument(
        "--base-precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="what the frozen weights are kept in: nf4 (QLoRA) in an eighth of the memory; the adapter is of that base",
    )


def _schedule_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--epochs", type=int, default=50, help="passes over the training images")
    group.add_argument("--imgsz", type=int, help="side of the square input in pixels; the model's own if not given")
    group.add_argument(
        "--batch",
        type=_batch,
        default=16,
        help="images a step, over all devices; auto: the largest up to 64 that fits into the GPU's memory",
    )
    group.add_argument("--device", help="cpu, 0, 0,1 or cuda:0; the first GPU, else the CPU, if not given")
    group.add_argument("--seed", type=int, default=0, help="seed of everything drawn at random")
    group.add_argument("--lr0", type=float, help="learning rate after warm-up; the recipe's if not given")
    group.add_argument("--lean", action="store_true", help="less memory, more time: compute parts of a step twice")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other hyperparameter of the trainer",
    )


def _quantization_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--quantize", choices=["int8", "int4"], help="then train on under INT8 rounding, or with INT4 weights"
    )
    group.add_argument("--qat-epochs", type=int, default=10, help="passes over the images of that second phase")
    group.add_argument("--qat-lr0", type=float, help="its learning rate; if not given 0.0002 for int8, 0.001 for int4")
    group.add_argument("--ranges", choices=["learned", "fixed"], default="learned", help="ranges of INT8 activations")
    group.add_argument(
        "--distill",
        type=float,
        help="weight of the float model's predictions; if not given 1 with --activation or int4, else 0: none",
    )
    group.add_argument(
        "--activation", default="silu", help="silu, relu (free in INT8, trains --epochs once more) or relu:TARGETS"
    )
    group.add_argument("--adapter", help="float adapter to go on with instead of training one first")
    group.add_argument("--images", type=int, default=32, help="calibration images for INT8")


def _training_arguments(options: argparse.Namespace) -> dict[str, Any]:
    names = [
        "task",
        "method",
        "rank",
        "alpha",
        "block_size",
        "form",
        "border",
        "tokens",
        "start",
        "lora_plus",
        "recipe",
        "budget",
        "targets",
        "base_precision",
        "epochs",
        "imgsz",
        "batch",
        "device",
        "seed",
        "lr0",
    ]
    names += ["quantize", "qat_epochs", "qat_lr0", "ranges", "distill", "activation", "adapter", "images"]
    names += ["lean", "resume", "overwrite", "verbose", "quiet"]
    return {**chosen(options, *names), "hyperparameters": _assignments(options.set)}


def _batch(text: str) -> int | str:
    """Return a number of images, or a word, which the verb's function judges."""
    with contextlib.suppress(ValueError):
        return int(text)
    return text


def _assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE texts; values as YAML reads them."""
    values: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise UsageError(f"--set {text}: expected NAME=VALUE, such as mosaic=0.5")
        if name in values:
            raise UsageError(f"--set {text}: {name} is set already; give each hyperparameter once")
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
