"""The whole way on what the package brings: a toy base, and generated pictures of surface defects."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from visionlora.demonstration.generate import write_dataset
from visionlora.demonstration.surface import SURFACE_NAMES, draw_surface
from visionlora.detectors.ultralytics.toy_base import write_base
from visionlora.errors import OutputError
from visionlora.files import refuse_existing
from visionlora.training.run_folder import RunFolder
from visionlora.workflows.adapting import AdaptedModel, adapt

BASE_PATH = Path(__file__).parents[1] / "demonstration" / "base.safetensors"
COUNTS = {"train": 300, "val": 100}
SIZE = 160  # pixels
EPOCHS = 20
_DRAWN = re.compile(r"data\.yaml|(images|labels)(/(train|val)(\.cache|/\d{5}\.(png|txt))?)?")


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration left: the folder, every stage's result, and a sentence or two for the user."""

    out: Path
    adapted: AdaptedModel
    seconds: float
    summary: str


def demo(out: Path | str = "runs/demo", *, overwrite: bool = False) -> Demonstration:
    """Adapt a small detector, pretrained on generated shapes, to generated surface defects; on the CPU, offline.

    Deterministic: the same machine gives the same adapter. The base is a toy, to show the way and not the accuracy.

    Args:
        out: folder for `base.pt`, the pictures and every stage's files.
        overwrite: replace an earlier demonstration.

    Raises:
        OutputError: `out` holds one already, or pictures that no demonstration has drawn, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> vl.demo("runs/demo").adapted.report  # doctest: +SKIP
    """
    started = time.monotonic()
    out = Path(out)
    base, pictures = out / "base.pt", out / "demo_pictures"
    for path in (base, pictures):
        refuse_existing(path, overwrite=overwrite)
    RunFolder(out).refuse_earlier_stages(overwrite=overwrite)
    clear_pictures(pictures)
    write_base(base, BASE_PATH)
    data = write_dataset(draw_surface, SURFACE_NAMES, pictures, counts=COUNTS, size=SIZE, seed=0)
    adapted = adapt(
        base, data, out, epochs=EPOCHS, imgsz=SIZE, batch=16, lr0=0.004, device="cpu", seed=0, overwrite=overwrite
    )
    seconds = time.monotonic() - started
    return Demonstration(out, adapted, seconds, _summary(out, seconds))


def clear_pictures(folder: Path) -> None:
    """Remove the pictures of an earlier demonstration.

    Raises:
        OutputError: the folder holds anything else; nothing is removed.
    """
    if not folder.exists():
        return
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    strange = [name for name in found if not _DRAWN.fullmatch(name)]
    if strange or not folder.is_dir():
        what = f"{strange[0]}, which no demonstration has drawn" if strange else "no folder"
        raise OutputError(f"{folder}: holds {what}; nothing is changed: move it away, or choose another --out")
    shutil.rmtree(folder)


def _summary(out: Path, seconds: float) -> str:
    return (
        f"The demonstration took {seconds:.0f} s. Open {out}/report.html, or see before and after in "
        f"{out}/report_detections.png.\n"
        "Its base is a toy of 0.9 million parameters that has seen generated shapes only. For your own pictures start "
        "from a COCO base:\n"
        "  visionlora adapt --model yolo11n.pt --data data.yaml --out runs/mine"
    )
