"""The user's data: data check."""

from __future__ import annotations

import argparse
from typing import Any

import visionlora as vl
from visionlora.cli.options import chosen, overwrite, verb


def add_data(verbs: Any) -> None:
    """Add `visionlora data` and its verbs."""
    parser = verbs.add_parser(
        "data",
        help="check a data set",
        description="Check a data set.",
        epilog="example: visionlora data check data.yaml",
    )
    nested = parser.add_subparsers(dest="operation", required=True, metavar="OPERATION")
    for add in OPERATIONS:
        add(nested)


def _add_check(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> int:
        found = vl.check_data(options.data, **chosen(options, "task", "imgsz", "json", "overwrite"))
        print(found)
        return 0 if found.ok else 1

    example = "visionlora data check data.yaml --imgsz 640 --json check.json"
    parser = verb(verbs, "check", run, "tell all that is wrong or doubtful with a data set", example)
    forms = "data.yaml, a folder with one, COCO files, a .zip; a folder of classes for a classifier"
    parser.add_argument("data", help=forms)
    tasks = ["detect", "segment", "pose", "obb", "classify"]
    parser.add_argument("--task", choices=tasks, help="what labels hold; pose with kpt_shape, else detect if not given")
    parser.add_argument("--imgsz", type=int, default=640, help="side of the square input that box sizes are told at")
    parser.add_argument("--json", metavar="FILE", help="write all of it for programs")
    overwrite(parser)


OPERATIONS = (_add_check,)
