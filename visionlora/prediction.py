"""Running a model of any kind on pictures: boxes as JSON, and the pictures with the boxes drawn."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
from tqdm import tqdm

from visionlora.detections import PREDICTION_CONFIDENCE, Detections
from visionlora.errors import DataError
from visionlora.evaluation.models import open_network
from visionlora.evaluation.pictures import draw_detections
from visionlora.files import atomic_output, refuse_existing
from visionlora.inference import detect
from visionlora.preprocess import IMAGE_SUFFIXES, read_image

DETECTIONS_FILE = "detections.json"


@dataclass(frozen=True)
class Prediction:
    """What a model found in some pictures.

    Attributes:
        out: folder with `detections.json` and a drawn picture for each image.
        names: the model's class names.
        images: the pictures, in the order of `detections`.
        detections: one for each picture, boxes in its own pixels.
    """

    out: Path
    names: tuple[str, ...]
    images: tuple[Path, ...]
    detections: tuple[Detections, ...]


def predict(
    model: Path | str,
    source: Path | str,
    out: Path | str,
    *,
    conf: float = PREDICTION_CONFIDENCE,
    imgsz: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
) -> Prediction:
    """Find objects in pictures; write `detections.json` and the pictures with boxes into `out`.

    Args:
        model: a checkpoint (.pt), an ONNX file, or `base.pt+adapter.safetensors`.
        source: an image, a folder, or a pattern such as `line3/*.png`.
        out: folder to write into.
        conf: lowest score that counts.
        imgsz: side of the input in pixels; None takes what the model says.
        device: for checkpoints: `cpu`, `0`...; ONNX files run on the CPU.
        overwrite: replace an earlier result.

    Raises:
        DataError: there is no image, or one cannot be read (no result is written then).
        ModelError, AdapterError, UsageError: the model cannot be used.
        OutputError: `out` holds a result already, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> vl.predict("model.int8.onnx", "pictures", "found").detections[0].scores  # doctest: +SKIP
    """
    out = Path(out)
    listing = refuse_existing(out / DETECTIONS_FILE, overwrite=overwrite)
    images = find_images(source)
    network = open_network(str(model), image_size=imgsz, device=device)
    found = [detect(network, [read_image(path)], confidence=conf)[0] for path in _progress(images)]
    for path, detections, name in zip(images, found, _picture_names(images), strict=True):
        picture = draw_detections(read_image(path), detections, network.names)
        with atomic_output(out / name) as partial:
            partial.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    with atomic_output(listing) as partial:
        partial.write_text(_listing(images, found, network.names), encoding="utf-8")
    return Prediction(out, tuple(network.names), tuple(images), tuple(found))


def find_images(source: Path | str) -> list[Path]:
    """Return the images that a path, a folder or a glob pattern names, sorted.

    Raises:
        DataError: there is none.
    """
    path = Path(source)
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    elif path.is_file():
        images = [path]
    else:
        found = (Path(name) for name in glob.glob(str(source), recursive=True))
        images = sorted(file for file in found if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not images:
        raise DataError(f"{source}: expected an image, a folder of images or a pattern, found no image")
    return images


def _picture_names(images: Sequence[Path]) -> list[str]:
    """Return a file name for each drawn picture: `a.jpg` gives `a_jpg.png`; a repeated one gets a number."""
    names: list[str] = []
    for path in images:
        name = f"{path.stem}_{path.suffix[1:]}"
        again = sum(other.startswith(f"{name}.") or other.startswith(f"{name}_") for other in names)
        names.append(f"{name}_{again + 1}.png" if again else f"{name}.png")
    return names


def _progress(images: list[Path]) -> Iterable[Path]:
    return tqdm(images, unit="image", disable=None)  # None: silent where there is no terminal


def _listing(images: list[Path], found: list[Detections], names: tuple[str, ...]) -> str:
    """Return one JSON object: images with boxes (left, top, right, bottom in pixels), scores and class names."""
    entries = [
        {
            "image": str(path),
            "detections": [
                {
                    "box_xyxy": [round(float(value), 2) for value in box],
                    "score": round(float(score), 4),
                    "class_id": int(class_id),
                    "name": names[class_id],
                }
                for box, score, class_id in zip(one.boxes_xyxy, one.scores, one.class_ids, strict=True)
            ],
        }
        for path, one in zip(images, found, strict=True)
    ]
    return json.dumps({"format": 1, "images": entries}, indent=1, ensure_ascii=False) + "\n"
