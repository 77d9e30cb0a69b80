"""What code and which libraries a benchmark ran with, as its command finds them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from visionlora.machine import installed_versions

ROOT = Path(__file__).parents[1]
UNKNOWN = "unknown"


def commit(root: Path = ROOT) -> str:
    """Return the short name of the commit that is checked out; `-dirty` behind it where Python files differ from it.

    Outside of a clone, such as in an unpacked archive, that is "unknown".
    """
    try:
        name = _git(root, "rev-parse", "--short", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "*.py")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return UNKNOWN
    return f"{name}-dirty" if changed else name


def provenance() -> dict[str, object]:
    """Return the commit, and the versions of the libraries that decide about the numbers."""
    return {"commit": commit(), "versions": installed_versions()}


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()
