"""The files that are compared: what visionlora makes of a checkpoint, and what others make of it.

All int8 files are calibrated on the same pictures: those that `visionlora quantize` chose and named in its file.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.update({"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"})  # before Ultralytics is imported

import nncf
import openvino
import yaml
from ultralytics import YOLO

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import provenance

import visionlora as vl
from visionlora.data import load_dataset
from visionlora.vision.preprocess import letterbox, read_image

STOCK, OURS, OURS_INT8 = "Ultralytics FP32", "visionlora float", "visionlora INT8"
STOCK_INT8, OPENVINO, OPENVINO_INT8 = "Ultralytics INT8", "OpenVINO FP32", "OpenVINO INT8 (NNCF)"
MADE_WITH = "made_with.json"
"""Beside our int8 file: the commit and the libraries that wrote it."""


def make_files(
    checkpoint: Path, data: Path, folder: Path, *, imgsz: int, only: Sequence[str] | None = None
) -> dict[str, Path]:
    """Make the contenders of a checkpoint; return the file of each, the one that all are compared with first.

    Args:
        checkpoint: the float model (.pt).
        data: the data.yaml whose training pictures calibrate.
        folder: where to write; what is there already is taken as it is, our int8 file if it is known what wrote it.
        imgsz: side of the square input in pixels.
        only: which of them; all if None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours, int8 = folder / "ours.onnx", folder / "ours.int8.onnx"
    if not ours.exists():
        vl.export(checkpoint, ours, imgsz=imgsz)
    if not int8.exists() or not (folder / MADE_WITH).exists():
        print(vl.quantize(ours, data, int8, overwrite=True))
        (folder / MADE_WITH).write_text(json.dumps(provenance(), indent=1) + "\n")
    pictures = calibration_pictures(int8, data)
    few = _few(pictures, data, folder / "calibration")
    openvino_file = folder / "openvino" / "model.xml"
    rival = {"imgsz": imgsz, "format": "onnx"}

    def make_openvino() -> Path:
        return _ultralytics(checkpoint, openvino_file, **{**rival, "format": "openvino"})

    makers = {
        STOCK: lambda: _ultralytics(checkpoint, folder / "stock.onnx", **rival),
        STOCK_INT8: lambda: _ultralytics(
            checkpoint, folder / "stock.int8.onnx", **rival, quantize=8, data=str(few), batch=1
        ),
        OPENVINO: make_openvino,
        OPENVINO_INT8: lambda: _nncf(make_openvino(), pictures, folder / "nncf" / "model.xml", imgsz),
        OURS: lambda: ours,
        OURS_INT8: lambda: int8,
    }
    return {label: make() for label, make in makers.items() if only is None or label in only}


def calibration_pictures(int8: Path, data: Path) -> list[Path]:
    """Return the pictures that an int8 file of ours was calibrated on."""
    return [data.parent / name for name in vl.inspect(int8).card["settings"]["calibration"]]


def _few(pictures: Sequence[Path], data: Path, folder: Path) -> Path:
    """Copy pictures with their labels into a data set of their own, as Ultralytics wants it; return its data.yaml."""
    labels = {image.path.resolve(): image for image in load_dataset(data, splits=("train",)).split("train")}
    for picture in pictures:
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / "images")
        assert picture.resolve() in labels, f"{picture}: no training picture of {data}"
        label = Path(str(picture).replace("/images/", "/labels/")).with_suffix(".txt")
        shutil.copy(label, folder / "labels")
    names = yaml.safe_load(data.read_text())["names"]
    description = {"path": str(folder.resolve()), "train": "images", "val": "images", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(description))
    return folder / "data.yaml"


def _ultralytics(checkpoint: Path, out: Path, **options: object) -> Path:
    """Export by Ultralytics at its defaults, and move the result to `out`."""
    if out.exists():
        return out
    scratch = out.parent / f"scratch-{out.stem}-{out.suffix[1:]}"
    scratch.mkdir(parents=True, exist_ok=True)
    made = Path(YOLO(shutil.copy(checkpoint, scratch / "model.pt")).export(**options))
    out.parent.mkdir(parents=True, exist_ok=True)
    if made.is_dir():
        for file in made.iterdir():
            shutil.move(file, out.with_name(out.stem + file.suffix if file.suffix in (".xml", ".bin") else file.name))
    else:
        shutil.move(made, out)
    return out


def _nncf(model: Path, pictures: Sequence[Path], out: Path, imgsz: int) -> Path:
    """Quantize an OpenVINO file by NNCF at its default preset."""
    if out.exists():
        return out
    inputs = [letterbox(read_image(picture), imgsz)[0][None] for picture in pictures]
    quantized = nncf.quantize(openvino.Core().read_model(model), nncf.Dataset(inputs), subset_size=len(inputs))
    out.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(quantized, out, compress_to_fp16=False)
    shutil.copy(model.with_name("metadata.yaml"), out.parent)
    return out
