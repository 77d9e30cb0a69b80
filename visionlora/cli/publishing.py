"""The verbs of the Hugging Face hub: push, pull."""

from __future__ import annotations

import argparse
from typing import Any

import visionlora as vl
from visionlora.cli.options import chosen, overwrite, verb


def add_push(verbs: Any) -> None:
    """Add `visionlora push`."""

    def run(options: argparse.Namespace) -> None:
        more = chosen(options, "private", "message", "licence", "pictures", "dry_run")
        print(vl.push(options.adapter, options.to, **more))

    example = "visionlora push runs/steel --to owner/steel --private"
    parser = verb(verbs, "push", run, "put an adapter onto the Hugging Face hub, with a model card", example)
    parser.add_argument("adapter", help="folder of a run, with its report; or an adapter file (.safetensors) alone")
    parser.add_argument("--to", required=True, help="repository, owner/name; made if there is none")
    parser.add_argument("--private", action="store_true", help="let only its owners see it")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--licence", help="of the adapter, as the hub calls it; that of its base if not given")
    parser.add_argument("--pictures", action="store_true", help="with the report's pictures of the data set")
    parser.add_argument("--dry-run", metavar="FOLDER", help="write there what would be uploaded; ask no network")


def add_pull(verbs: Any) -> None:
    """Add `visionlora pull`."""

    def run(options: argparse.Namespace) -> None:
        print(vl.pull(options.name, options.out, overwrite=options.overwrite))

    example = "visionlora pull hf://owner/steel --out steel"
    parser = verb(verbs, "pull", run, "fetch an adapter from the Hugging Face hub, with its card and report", example)
    parser.add_argument("name", help="hf://owner/name, or hf://owner/name@revision")
    parser.add_argument("--out", required=True, help="folder to write into")
    overwrite(parser)
