"""What a check of a data set found, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from visionlora.formats.text import printable

LEVELS = ("error", "warning", "note")
"""What `train` or `eval` refuses; what they take and is seldom meant; what is good to know."""
MOST_SHOWN = 20
"""Findings of one kind, and classes, that the text spells out."""
_PLACES = 3


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or doubtful.

    Attributes:
        level: one of LEVELS.
        kind: what it is about, in one word or two, such as `label` or `near duplicate`.
        message: a sentence; of an error with `file:line` at its beginning.
        places: all files, `file:line`, or pairs of files that it is about, where the message does not name it.
    """

    level: str
    kind: str
    message: str
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.places[:_PLACES])
        more = f" and {len(self.places) - _PLACES} more" if len(self.places) > _PLACES else ""
        return printable(f"{self.level}: {self.message}{': ' if shown else ''}{shown}{more}")


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds.

    Attributes:
        images: pictures.
        background: of these without an object.
        objects: of each class.
        pictures: that show each class.
        short_sides: of the boxes in pixels of the input, counted below each of SIZE_EDGES and above the last.
    """

    images: int
    background: int
    objects: Mapping[str, int]
    pictures: Mapping[str, int]
    short_sides: Mapping[str, int]


@dataclass(frozen=True)
class DataCheck:
    """What was found.

    Attributes:
        data: what was checked.
        task: what its labels are taken for.
        imgsz: side of the input in pixels that sizes are told at.
        names: class names in the order of their ids.
        splits: of each split that could be listed.
        findings: errors first, then warnings, then notes.
    """

    data: str
    task: str
    imgsz: int
    names: tuple[str, ...]
    splits: Mapping[str, SplitSummary]
    findings: tuple[Finding, ...]

    def of(self, level: str) -> tuple[Finding, ...]:
        """Return the findings of a level."""
        return tuple(finding for finding in self.findings if finding.level == level)

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.of("error")

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {**asdict(self), "ok": self.ok, "counts": {level: len(self.of(level)) for level in LEVELS}}

    def __str__(self) -> str:
        lines = [f"{printable(self.data)}: {len(self.names)} classes, task {self.task}"]
        for split, found in self.splits.items():
            objects = sum(found.objects.values())
            lines.append(f"{split}: {found.images} pictures, {objects} objects, {found.background} pictures without")
        lines += ["", *self._classes(), "", *self._spelled_out()]
        counts = [_counted(len(self.of(level)), level) for level in LEVELS[:2]]
        return "\n".join([*lines, f"{counts[0]}, {counts[1]}"])

    def _classes(self) -> list[str]:
        width = min(max((len(printable(name)) for name in ("class", *self.names)), default=5), 30)
        rows = [("class", [f"{split} objects / pictures" for split in self.splits])]
        for name in self.names[:MOST_SHOWN]:
            cells = [f"{found.objects[name]} / {found.pictures[name]}" for found in self.splits.values()]
            rows.append((printable(name)[:width], cells))
        lines = [f"{name:{width}}  " + "  ".join(f"{cell:>26}" for cell in cells) for name, cells in rows]
        hidden = len(self.names) - MOST_SHOWN
        return [*lines, f"and {hidden} more classes"] if hidden > 0 else lines

    def _spelled_out(self) -> list[str]:
        lines: list[str] = []
        for level in LEVELS:
            kinds: dict[str, list[Finding]] = {}
            for finding in self.of(level):
                kinds.setdefault(finding.kind, []).append(finding)
            for kind, found in kinds.items():
                lines += [str(finding) for finding in found[:MOST_SHOWN]]
                if len(found) > MOST_SHOWN:
                    lines.append(f"{level}: and {len(found) - MOST_SHOWN} more of this kind ({kind}); --json has all")
        return [*lines, ""] if lines else []


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings, errors first; within a level as they came."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))
