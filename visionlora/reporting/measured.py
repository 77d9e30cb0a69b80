"""What the scores of a report are of, in words."""

from __future__ import annotations

from dataclasses import dataclass

_PLAIN = "boxes"


@dataclass(frozen=True)
class Measured:
    """What is found, and what it is compared with the ground truth by."""

    noun: str = _PLAIN
    similarity: str = "IoU"

    @property
    def of(self) -> str:
        """`" of masks"`; nothing for boxes, which is what is meant where nothing is said."""
        return "" if self.noun == _PLAIN else f" of {self.noun}"
