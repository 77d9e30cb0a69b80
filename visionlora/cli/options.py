"""What the verbs' parsers share: help with defaults and an example, options that several verbs have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from visionlora.formats.text import printable


def verb(verbs: Any, name: str, run: Callable[..., Any], summary: str, example: str) -> argparse.ArgumentParser:
    """Add a verb whose help ends with `example`; return its parser."""
    parser = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def overwrite(parser: argparse.ArgumentParser) -> None:
    """Add `--overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def keep(parser: argparse.ArgumentParser, *, joined: bool = True) -> None:
    """Add `--keep`, and `--joined`, for verbs that make such a file."""
    parser.add_argument("--keep", choices=["exact"], help="keep the base's classes: exact, bit for bit")
    if not joined:
        return
    parser.add_argument(
        "--joined",
        choices=["both", "base", "new"],
        help="with --keep: who finds a class that base and adapter both know by name; both if not given",
    )


def trust(parser: argparse.ArgumentParser) -> None:
    """Add `--trust`."""
    parser.add_argument(
        "--trust", action="store_true", help="run code that a checkpoint (.pt) brings: your own files only"
    )


def chosen(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options of these names, as the verb's function takes them."""
    return {name: getattr(options, name) for name in names}


def quantization_budget(parser: argparse.ArgumentParser) -> None:
    """Add `--max-drop` and `--max-class-drop` of an INT8 file."""
    parser.add_argument(
        "--max-drop", type=float, help="mAP50-95 on val that INT8 may lose, such as 0.005 for half a point"
    )
    parser.add_argument("--max-class-drop", type=float, help="AP50-95 that INT8 may lose of any class, such as 0.03")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Defaults in the help where there is one, and the example as it is written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        plain = action.default in (None, False, [], argparse.SUPPRESS)
        return action.help if plain else f"{action.help} (default: {action.default})"


def print_report(report: Any) -> None:
    """Print the table of a report, and its sentences."""
    print(f"\n{report}\n")
    if len(report.complete_rows) < len(report.rows):
        print("A star: on some of the classes alone, not comparable.")
    for sentence in report.warnings:
        print(f"Take care: {printable(sentence)}")
    for sentence in report.notes:
        print(f"Note: {printable(sentence)}")
    if report.retention is not None:
        print(printable(report.retention.sentence))
    if report.verdict is not None:
        print(printable(report.verdict.sentence))
