"""Data sets before training: data check, data split."""

from __future__ import annotations

import argparse
from typing import Any

import visionlora as vl
from visionlora.cli.options import chosen, overwrite, verb
from visionlora.formats.text import printable


def add_data(verbs: Any) -> None:
    """Add `visionlora data` and its operations."""
    parser = verbs.add_parser(
        "data",
        help="check a data set, or divide it into train and val, folds or few shots",
        description="Work on a data set before training.",
        epilog="example: visionlora data check data.yaml",
    )
    nested = parser.add_subparsers(dest="operation", required=True, metavar="OPERATION")
    for add in OPERATIONS:
        add(nested)


def add_check(verbs: Any) -> None:
    """Add `visionlora data check`."""

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


def add_split(verbs: Any) -> None:
    """Add `visionlora data split`."""

    def run(options: argparse.Namespace) -> None:
        names = ["val", "test", "seed", "group", "near_duplicates", "burst", "folds", "shots", "names", "overwrite"]
        made = vl.split_data(options.data, options.out, **chosen(options, *names))
        print(made)
        print(f"{made.groups} groups of pictures; see {', '.join(printable(path) for path in made.files)}")

    example = "visionlora data split data.yaml --group '(board[0-9]+)_' --out split"
    parser = verb(verbs, "split", run, "divide pictures into train, val and test, in lists; nothing is copied", example)
    parser.add_argument("data", help="data.yaml, a folder that holds one, or with --names a folder of pictures")
    parser.add_argument("--out", required=True, help="folder to write data.yaml and lists into")
    parser.add_argument("--val", type=float, default=0.2, help="share of the pictures")
    parser.add_argument("--test", type=float, default=0.0, help="share of the pictures, 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="which of the equally good choices")
    parser.add_argument(
        "--group", metavar="REGEX", help="pictures stay together in whose names its first group matches the same text"
    )
    parser.add_argument(
        "--near-duplicates",
        type=int,
        metavar="BITS",
        help="pictures stay together whose perceptual hashes differ by so many of 64 bits at most; 6 is a good start",
    )
    parser.add_argument(
        "--burst", type=float, metavar="SECONDS", help="pictures of one camera so close to each other stay together"
    )
    parser.add_argument("--folds", type=int, help="so many pairs of train and val instead, data-fold-1.yaml ...")
    shots = "subsets of train beside all of it that show each class in so many pictures, data-5-shots.yaml ..."
    parser.add_argument("--shots", type=int, nargs="+", metavar="K", help=shots)
    parser.add_argument("--names", nargs="+", metavar="CLASS", help="class names of a folder without a data.yaml")
    overwrite(parser)


OPERATIONS = (add_check, add_split)
"""What `visionlora data` can do, in the order of its help."""
