"""The structure that docs/architecture.md draws: imports point one way, and light rooms stay light."""

from __future__ import annotations

import ast
import builtins
import graphlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from visionlora.detectors import FAMILIES
from visionlora.formats import kinds

PACKAGE = Path(__file__).parents[1] / "visionlora"
ORDER = (
    ("errors",),
    ("files", "formats", "isolation", "machine", "trust"),
    ("progress", "demonstration"),
    ("hub",),
    ("vision",),
    ("tasks",),
    ("vision.inference",),
    ("cards",),
    ("adapters",),
    ("data",),
    ("runtime",),
    ("int8",),
    ("patching",),
    ("adapters.torch", "fake_quant"),
    ("detectors",),
    ("models",),
    ("scoring",),
    ("reporting",),
    ("checking",),
    ("exporting", "quantization"),
    ("bundling",),
    ("publishing",),
    ("training",),
    ("prediction",),
    ("benchmarking",),
    ("workflows",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
BESIDE_THE_FACE = {
    "adapters": {"base_precision", "combining", "factors", "folded_base", "methods", "shapes"},
    "adapters.torch": {"attach", "merge"},
    "data": {"leakage"},
    "detectors.ultralytics": {"family", "toy_base"},
    "fake_quant": {"graph"},
    "int8": {
        *("adapter_recipe", "decode", "float_model", "histogram", "limits", "plan", "ranges", "recipe", "scheme"),
    },
    "runtime": {"frames", "network", "pictures", "providers", "video"},
    "training": {"earlier", "keeping", "recipes", "run_folder", "settings", "training"},
}
"""Modules inside a room that others may import; of a room that is not named here, its face alone."""
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
FRAMEWORKS = {"ultralytics": r"ultralytics(\.|$)", "torchvision": r"torchvision\.models(\.|$)"}
"""What the room of each family alone imports; others may use torchvision's transforms, as Ultralytics does."""
INTO_A_FAMILY = {
    "visionlora.detectors": {f"visionlora.detectors.{family}.family" for family in FRAMEWORKS},  # the composition
    "visionlora.workflows.demonstrating": {"visionlora.detectors.ultralytics.toy_base"},  # writes its toy
}


def room_of(module: str) -> str:
    """Return the room in ORDER that a module such as `visionlora.adapters.torch.merge` is in."""
    parts = module.split(".")[1:] or ["__init__"]
    return next(room for end in (2, 1) if (room := ".".join(parts[:end])) in RANK)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_of(path): path for path in FILES}
FACES = {module for module, path in MODULES.items() if "__all__" in path.read_text(encoding="utf-8")} - {"visionlora"}
"""The packages that offer names; a folder of modules such as `vision` offers none, and its modules are taken alone."""


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in named}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = room_of(module_of(path))
    used = {room_of(name) for name in imports(path) if name.split(".")[0] == "visionlora"} - {here}
    wrong = {room for room in used if RANK[room] >= RANK[here]}
    assert not wrong, f"{here} imports {wrong}"


def test_the_page_names_all_rooms_in_their_order() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \| [^|]* \| (?:nothing|the above)", page, re.M)
    named = [{room.strip("`/").replace("/", ".") for room in row.split(", ")} for row in rows]
    assert named == [set(rooms) for rooms in ORDER]


def test_tests_mirror_the_rooms() -> None:
    tests = PACKAGE.parent / "tests"
    folders = {path.relative_to(tests).as_posix() for path in tests.rglob("*") if any(path.glob("test_*.py"))}
    packages = {path.parent.relative_to(PACKAGE).as_posix() for path in FILES}
    assert folders - {"export", "datasets", "."} <= packages  # these two are folders beside the package


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Also none inside functions, or for the sake of types alone."""
    graph = {module: {name for name in imports(path) if name in MODULES} for module, path in MODULES.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def face_of(module: str) -> str | None:
    """Return the package that others are to import a module's names from; None where it speaks for itself."""
    parts = module.split(".")
    names = (".".join(parts[:end]) for end in range(room_of(module).count(".") + 2, len(parts)))
    return next((name for name in names if name in FACES), None)


def test_no_room_reaches_past_the_face_of_another() -> None:
    """Save for the modules that are named, each of which some room really needs."""
    past: dict[str, set[str]] = {}
    for here, path in MODULES.items():
        for module in imports(path):
            face = face_of(module) if module in MODULES and module != "visionlora" else None
            if face is not None and here != face and not here.startswith(f"{face}."):
                past.setdefault(face.removeprefix("visionlora."), set()).add(module.removeprefix(f"{face}."))
    assert past == BESIDE_THE_FACE


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
@pytest.mark.parametrize("family", FRAMEWORKS)
def test_only_one_room_imports_a_framework(family: str, path: Path) -> None:
    uses = any(re.match(FRAMEWORKS[family], name) for name in imports(path))
    assert not uses or PACKAGE / "detectors" / family in path.parents


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_family_is_reached_through_its_protocol(path: Path) -> None:
    here = module_of(path)
    rooms = [f"visionlora.detectors.{family}." for family in FRAMEWORKS if f"detectors.{family}" not in here]
    inside = {name for name in imports(path) for room in rooms if f"{name}.".startswith(room)}
    assert inside == INTO_A_FAMILY.get(here, set())


def test_every_family_has_its_guards() -> None:
    assert set(FRAMEWORKS) == set(FAMILIES)


ENDINGS = "|".join(kind.suffix[1:] for kind in kinds.FILES.values()) + f"|{kinds.WEIGHTS[1:]}|{kinds.STATE_DICT[1:]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_suffixes_of_files_are_spelled_in_one_table(path: Path) -> None:
    """A name of a file such as `merged.pt` is no suffix."""
    texts = [node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if is_text(node)]
    found = [text for text in texts if re.fullmatch(rf"(\.\w+)*\.({ENDINGS})", text)]
    assert not found or path == Path(kinds.__file__)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


MAKING = "visionlora.bundling.making"
LIGHT = {
    "__init__": (),
    "formats": ("yaml",),
    "vision": ("cv2", "numpy"),
    "tasks": ("cv2", "numpy"),
    "adapters": ("cv2", "numpy", "safetensors"),
    "data": ("PIL", "cv2", "numpy", "yaml"),
    "runtime": ("cv2", "numpy", "onnxruntime"),
    "int8": ("cv2", "numpy", "onnx", "safetensors"),
    "models": ("cv2", "numpy"),
    "patching": ("cv2", "numpy", "onnx", "onnxruntime", "safetensors"),
    "bundling": ("annotated_types", "cv2", "numpy", "onnxruntime", "pydantic"),  # of a manifest; it loads some late
    "prediction": ("cv2", "numpy", "onnxruntime"),
}
"""Light rooms, and the outside packages that their modules may load, with whatever these load themselves."""


@pytest.fixture(scope="module")
def installed() -> set[str]:
    """Return the names by which the packages of other projects are imported."""
    return set(importlib.metadata.packages_distributions()) - {"visionlora"}


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_load_no_other_outside_packages(room: str, installed: set[str]) -> None:
    modules = [module for module in MODULES if room_of(module) == room and module != MAKING]
    code = f"""
import importlib, sys
for name in {LIGHT[room]}: importlib.import_module(name)
allowed = set(sys.modules)
for name in {modules}: importlib.import_module(name)
print(*(set(sys.modules) - allowed))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert loaded.issuperset(modules) and MAKING not in loaded
    assert {name.split(".")[0] for name in loaded} & installed <= set(LIGHT[room])


WITHOUT_TORCH = ("detectors", "scoring", "reporting", "quantization", "bundling.making", "publishing")


@pytest.mark.parametrize("module", [f"visionlora.{module}" for module in WITHOUT_TORCH])
def test_other_rooms_without_training_load_neither_torch_nor_ultralytics(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'ultralytics') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_can_be_imported_and_has_a_docstring() -> None:
    import visionlora as vl

    assert all(getattr(vl, name).__doc__ for name in vl.__all__)


INNER_ERRORS = {"DamagedVideo", "ParseError"}
"""One is handed on where frames of a video are missing, and never raised; the other a reader turns into its own."""


def test_every_error_is_public() -> None:
    import visionlora as vl

    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in FILES)
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    known = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
    known |= INNER_ERRORS | set(vl.__all__)
    errors = {node.name for node in classes if {ast.unparse(base) for base in node.bases} & known}
    assert errors - set(vl.__all__) == INNER_ERRORS
