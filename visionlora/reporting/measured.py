"""What the scores of a report are of, in words."""

from __future__ import annotations

from dataclasses import dataclass

_PLAIN = "boxes"


@dataclass(frozen=True)
class Measured:
    """What is found, what it is compared with the ground truth by, and what its scores are called, as tasks say."""

    noun: str = _PLAIN
    similarity: str = "IoU"
    words: tuple[str, str, str] = ("mAP50-95", "mAP50", "AP50-95")

    @property
    def of(self) -> str:
        """`" of masks"`; nothing for boxes, which are meant where nothing is said, and for classes."""
        return "" if self.noun in (_PLAIN, "classes") else f" of {self.noun}"
