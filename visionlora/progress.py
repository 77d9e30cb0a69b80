"""Lines for the user on standard output while a long call runs."""

from __future__ import annotations

from contextlib import suppress

from visionlora.formats.text import printable

LEVELS = ("quiet", "lines", "verbose")
"""Warnings alone; a line a stage and epoch; all that Ultralytics says too."""


def say(text: str, console: str = "lines") -> None:
    """Print lines unless `console` is `quiet`; text of files cannot steer the terminal.

    Example:
        >>> say("epoch 1/50")
        epoch 1/50
        >>> say("epoch 1/50", "quiet")
    """
    if console != "quiet":
        with suppress(OSError):  # nobody reads any more, as behind `| head`: no reason to end a training
            print(printable(text, lines=True), flush=True)
