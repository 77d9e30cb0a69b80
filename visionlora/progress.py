"""How far a long call is: one kind of event, handed to the terminal or to a function of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from visionlora.formats.text import printable

LEVELS = ("quiet", "lines", "verbose")
"""What the terminal shows: warnings alone; bars, and a line a stage and epoch; all that Ultralytics says too."""
_STAYING = ("bench", "predict")  # stages whose bar stays when they have ended: it shows the rate

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Progress:
    """How far a stage of a long call is.

    Attributes:
        stage: what runs, such as `train`, `epoch` (the batches of one), `judge` or `predict`.
        done: how much of it is done.
        of: how much there is to do; None where that is not known, as before a camera.
        message: a line for the user; in a loop what that is about, such as the label of a model.
        unit: what a loop counts, such as `image`; empty where `message` is a line of its own.
    """

    stage: str
    done: int
    of: int | None = None
    message: str = ""
    unit: str = ""


@dataclass(frozen=True)
class _Setting:
    callback: Callable[[Progress], None] | None = None  # None: the terminal
    level: str = "lines"
    about: str = ""


_SETTING: ContextVar[_Setting] = ContextVar("progress", default=_Setting())  # noqa: B039 (frozen)


@contextmanager
def _set(**changes: Any) -> Iterator[None]:
    token = _SETTING.set(replace(_SETTING.get(), **changes))
    try:
        yield
    finally:
        _SETTING.reset(token)


def progress_to(callback: Callable[[Progress], None]) -> AbstractContextManager[None]:
    """Hand the progress of the calls inside to a function, and none of it to the terminal.

    The function is called in the caller's thread; an error that it raises ends the call, as a stop button does. It gets
    all events, also of a call that is told to be quiet. The epochs of a training on several GPUs, which runs in
    processes of its own, are printed and do not reach it.

    Args:
        callback: takes one `Progress` (`stage`, `done`, `of`, `message`, `unit`).

    Example:
        >>> import visionlora as vl
        >>> events = []
        >>> with vl.progress_to(events.append):
        ...     report("train", 3, 50, "epoch  3/50  loss 5.33")
        >>> events[0].done, events[0].of
        (3, 50)

        One line of a notebook that changes:

        >>> line = display("", display_id=True)  # doctest: +SKIP
        >>> with vl.progress_to(lambda now: line.update(f"{now.stage} {now.done}/{now.of}")):  # doctest: +SKIP
        ...     vl.adapt("yolo11n.pt", "data.yaml", "runs/steel")
    """
    return _set(callback=callback)


def level(name: str) -> AbstractContextManager[None]:
    """Show as much of the calls inside on the terminal as `name`, one of LEVELS, says.

    Example:
        >>> with level("quiet"):
        ...     report("train", 1, 50, "epoch 1/50")
    """
    return _set(level=name)


def current_level() -> str:
    """Return what `level` was set to, `lines` where it was not."""
    return _SETTING.get().level


def about(words: str) -> AbstractContextManager[None]:
    """Say what the loops inside are about where they do not say it, such as the label of a model."""
    return _set(about=words)


def report(stage: str, done: int, of: int | None = None, message: str = "") -> None:
    """Report where a stage is, with a line for the user; see `Progress`.

    Example:
        >>> report("train", 3, 50, "epoch  3/50  loss 5.33")
        epoch  3/50  loss 5.33
    """
    _consumer()(Progress(stage, done, of, message))


@contextmanager
def counting(stage: str, of: int | None, unit: str, message: str = "") -> Iterator[Callable[..., None]]:
    """Yield a function that reports how many more are done: `advance(count=1, message=message)`.

    Args:
        stage: what runs.
        of: how many there are; None where that is not known.
        unit: what is counted, such as `image`.
        message: what the loop is about; empty for what `about` says.

    Example:
        >>> with counting("judge", 32, "image") as advance:
        ...     advance(16)
        ...     advance(16)
    """
    show, done, message = _consumer(), 0, message or _SETTING.get().about

    def advance(count: int = 1, message: str = message) -> None:
        nonlocal done
        done += count
        show(Progress(stage, done, of, message, unit))

    try:
        advance(0)
        yield advance
    finally:
        if isinstance(show, _Terminal):
            show.close()


def tracked(items: Iterable[_Item], stage: str, *, of: int | None, unit: str, message: str = "") -> Iterator[_Item]:
    """Yield the items, reporting each when the next one is asked for; arguments as in `counting`.

    Example:
        >>> sum(tracked(range(4), "bench", of=4, unit="round"))
        6
    """
    with counting(stage, of, unit, message) as advance:
        for item in items:
            yield item
            advance()


class _Terminal:
    """Prints lines, and shows a loop as a bar where there is a terminal; text of files cannot steer it."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, event: Progress) -> None:
        words = printable(event.message, lines=not event.unit)
        if not event.unit:
            with suppress(OSError):  # nobody reads any more, as behind `| head`: no reason to end a training
                print(words, flush=True)
            return
        if self._bar is None:
            from tqdm import tqdm  # not before it is needed: a device shows no bar

            stays = event.stage in _STAYING
            # None: silent where there is no terminal.
            self._bar = tqdm(total=event.of, desc=words, unit=event.unit, leave=stays, disable=None)
        self._bar.set_description(words, refresh=False)
        self._bar.update(event.done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _silent(event: Progress) -> None:
    """Show nothing."""


def _consumer() -> Callable[[Progress], None]:
    setting = _SETTING.get()
    if setting.callback is not None:
        return setting.callback
    return _silent if setting.level == "quiet" else _Terminal()
