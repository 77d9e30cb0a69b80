"""The structure that docs/architecture.md draws: imports point one way, and light rooms stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "visionlora"
ORDER = (
    ("errors",),
    ("files", "pickled", "seal", "text", "trust", "isolation"),
    ("console",),
    ("parsing", "yaml_text"),
    ("boxes", "drawing", "levels", "picture_size"),
    ("detections",),
    ("preprocess",),
    ("cards", "inference"),
    ("lowrank",),
    ("data",),
    ("runtime",),
    ("adapters", "simulation"),
    ("yolo",),
    ("curves", "formats"),
    ("evaluation",),
    ("planning", "quantization", "exporting", "merging", "run_settings"),
    ("patching", "phase"),
    ("stages",),
    ("earlier", "training_settings"),
    ("training",),
    ("prediction", "comparing"),
    ("benchmarking",),
    ("adapting",),
    ("demonstration",),
    ("bundling",),
    ("inspection",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
ULTRALYTICS_ROOM = "yolo"


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = node.module != "visionlora"
            found |= {node.module if whole else f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = room_of(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("visionlora.")}
    wrong = {room for room in used - {here} if RANK[room] > RANK[here]}
    assert not wrong, f"{here} imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_room_imports_ultralytics(path: Path) -> None:
    uses = any(name.split(".")[0] == "ultralytics" for name in imports(path))
    assert not uses or room_of(path) == ULTRALYTICS_ROOM


@pytest.mark.parametrize(
    "module",
    [
        "visionlora",
        "visionlora.runtime",
        "visionlora.data",
        "visionlora.evaluation",
        "visionlora.quantization",
        "visionlora.patching",
        "visionlora.bundling",
    ],
)
def test_light_modules_load_neither_torch_nor_ultralytics(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'ultralytics') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_can_be_imported_and_has_a_docstring() -> None:
    import visionlora as vl

    assert all(getattr(vl, name).__doc__ for name in vl.__all__)


def test_every_error_is_public() -> None:
    import visionlora as vl
    from visionlora import errors

    own = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert own <= set(vl.__all__)
