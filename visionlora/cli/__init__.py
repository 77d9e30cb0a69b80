"""The command line: one verb is one public function; there is no logic here.

Exit codes: 0 done, 1 an error that the message explains (quantize: also a budget that cannot be kept; data check: an
error in the data), 2 wrong usage, 3 a budget of eval is missed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any, NoReturn

from visionlora.cli.adapters import add_adapters
from visionlora.cli.data import add_data
from visionlora.cli.device import add_bundle, add_patch, add_rollback, add_unbundle
from visionlora.cli.evaluating import add_bench, add_compare, add_demo, add_eval, add_inspect, add_predict
from visionlora.cli.exporting import add_export, add_merge, add_quantize
from visionlora.cli.publishing import add_pull, add_push
from visionlora.cli.training import add_adapt, add_plan, add_train
from visionlora.errors import UsageError, VisionLoraError
from visionlora.formats.text import printable
from visionlora.trust import trusted

VERBS = (
    add_adapt,
    add_plan,
    add_train,
    add_data,
    add_merge,
    add_export,
    add_quantize,
    add_patch,
    add_rollback,
    add_bundle,
    add_unbundle,
    add_adapters,
    add_data,
    add_push,
    add_pull,
    add_eval,
    add_compare,
    add_bench,
    add_predict,
    add_inspect,
    add_demo,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # a broken image gets one line, ours
    parser = _parser()
    options = parser.parse_args(arguments)
    with _interruptible(f"visionlora {options.verb}: interrupted", to_the_end=arguments is None) as interrupted:
        try:
            code = _run(options)
            if not (interrupted and code):  # a verb may end well by Ctrl-C, such as one that watches a folder
                return code
        except KeyboardInterrupt:
            pass
        except BaseException:  # of a library that the interruption met in its own cleaning up
            if not interrupted:
                raise
        print(f"visionlora {options.verb}: interrupted", file=sys.stderr)
    return 130


def _run(options: argparse.Namespace) -> int:
    """Run the verb; errors that explain themselves are one line."""
    run: Callable[[argparse.Namespace], int | None] = options.run
    trust = getattr(options, "trust", False)
    if trust:
        print(f"visionlora {options.verb}: --trust: code in the checkpoint runs with your rights", file=sys.stderr)
    try:
        with trusted(trust):
            return run(options) or 0
    except UsageError as error:
        print(f"visionlora {options.verb}: {printable(error, lines=True)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return 1
    except (VisionLoraError, OSError) as error:  # OSError: from a library that writes beside us, the disk being full
        print(f"visionlora {options.verb}: {printable(error, lines=True)}", file=sys.stderr)
        return 1


@contextmanager
def _interruptible(text: str, *, to_the_end: bool) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at the first Ctrl-C, and note it; end at the second one with a line, wherever it comes.

    Args:
        text: that line.
        to_the_end: keep it so after an interruption, until Python has ended.
    """
    interrupted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            return  # a forked process, such as a loader's: it goes with this one
        if interrupted:
            os.write(2, f"\n{text}\n".encode())
            os._exit(130)
        interrupted.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        if not (interrupted and to_the_end):
            signal.signal(signal.SIGINT, before)


class _Parser(argparse.ArgumentParser):
    """A parser that takes no beginning of an option for it, and says what is wrong and what may have been meant.

    The parsers of the verbs are of this class too.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "allow_abbrev": False})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, but refuse what is unknown here, where the verb and its options are known."""
        if self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        words = list(sys.argv[1:] if args is None else args)
        words = words[: words.index("--")] if "--" in words else words
        names = [word.partition("=")[0] for word in words if word.startswith("--")]
        unknown = [name for name in dict.fromkeys(names) if name not in self._option_string_actions]
        if unknown:
            self.error(
                "; ".join(f"{name}: no such option{_meant(name, self._option_string_actions)}" for name in unknown)
            )
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"expected nothing more, got {' '.join(rest)}")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"expected {', '.join(known)}, got {value!r:.40}{_meant(str(value), known)}"
            )

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        said = message.removeprefix("argument ")
        self.exit(2, f"{self.prog}: {printable(said)}\n`{self.prog} --help` explains it\n")


def _meant(word: str, known: Iterable[str]) -> str:
    """Return a question that names what is known and next to a word; nothing where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="visionlora",
        description="Adapt a COCO-pretrained YOLO detector to your niche with an adapter of about a megabyte, "
        "and ship it as INT8 ONNX.",
        epilog="`visionlora VERB --help` explains a verb and ends with an example.",
    )
    parser.add_argument("--version", action="version", version=f"visionlora {version('visionlora')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for add in VERBS:
        add(verbs)
    return parser
