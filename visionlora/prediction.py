"""Running a model of any kind on pictures, a video or a camera: boxes as JSON or COCO, and pictures with the boxes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import cv2
from tqdm import tqdm

from visionlora.detections import PREDICTION_CONFIDENCE, Detections, check_thresholds
from visionlora.errors import OutputError, UsageError
from visionlora.evaluation.models import open_network, parse_spec
from visionlora.evaluation.pictures import draw_detections
from visionlora.files import refuse_existing
from visionlora.inference import detect
from visionlora.runtime import Detector, Frame, stream
from visionlora.runtime.frames import Source, find_images, is_camera, is_video
from visionlora.runtime.providers import Providers

FILES = {"json": "detections.json", "jsonl": "detections.jsonl", "coco": "detections.coco.json"}
"""What can be written, and into which file; besides `images`, pictures with the boxes drawn."""
FORMATS = (*FILES, "images")


@dataclass(frozen=True)
class Prediction:
    """What a model found.

    Attributes:
        out: folder with what was written.
        names: the model's class names.
        images: the pictures, in the order of `detections`; empty for a video, a camera and a watched folder, whose
            frames are in the files alone.
        detections: one for each picture, boxes in its own pixels.
        frames: how many pictures or frames there were.
        objects: how many objects in all of them.
        seconds: how long it took, reading and writing included, without loading the model.
    """

    out: Path
    names: tuple[str, ...]
    images: tuple[Path, ...]
    detections: tuple[Detections, ...]
    frames: int
    objects: int
    seconds: float


def predict(
    model: Path | str,
    source: Path | str,
    out: Path | str,
    *,
    conf: float | None = None,
    imgsz: int | None = None,
    device: str = "cpu",
    formats: Sequence[str] | None = None,
    watch: bool = False,
    overwrite: bool = False,
) -> Prediction:
    """Find objects in pictures, in a video or before a camera, and write what was found into `out`.

    A camera and a watched folder go on until SIGTERM; what was found is on the disk frame by frame. Of pictures all is
    written or, where one cannot be read, nothing; of a video what comes before its end or SIGTERM.

    Args:
        model: a checkpoint (.pt), an ONNX file, or `base.pt+adapter.safetensors`.
        source: an image, a folder, or a pattern such as `line3/*.png`; a video file; a camera's number or address.
        out: folder to write into.
        conf: lowest score that counts; None for the file's own thresholds, and 0.25 where it has none.
        imgsz: side of the input in pixels; None takes what the model says.
        device: `cpu`, or `0`... for a GPU; for ONNX files any provider of onnxruntime, such as `openvino`.
        formats: some of `json`, `jsonl` (a line a frame), `coco` and `images` (pictures with the boxes drawn). None
            for json and images, of a video for json, of a camera or a watched folder for jsonl.
        watch: stay at the folder `source` and take the pictures that come into it.
        overwrite: replace an earlier result.

    Raises:
        DataError: there is no image, or one cannot be read (no result is written then).
        ModelError, AdapterError, UsageError: the model cannot be used.
        UsageError: `conf` is outside [0, 1], or a format is unknown, or needs an end that a camera or a watched folder
            does not have, or pictures would be drawn into a folder of source pictures.
        OutputError: `out` holds a result already, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> vl.predict("model.int8.onnx", "pictures", "found").detections[0].scores  # doctest: +SKIP
    """
    if conf is not None:
        check_thresholds(conf, 0, 1, name="--conf")
    out, live = Path(out), watch or is_camera(source)
    pictures = [] if live or is_video(source) else find_images(source)
    chosen = _chosen(formats, live=live, pictures=bool(pictures))
    drawn = _picture_names(pictures)
    if "images" in chosen:
        _refuse_folder_of_pictures(out, [Path(source)] if watch else [path.parent for path in pictures])
    for name in [FILES[one] for one in chosen if one != "images"] + (drawn if "images" in chosen else []):
        refuse_existing(out / name, overwrite=overwrite)
    names, frames = _open(model, pictures or source, conf=conf, imgsz=imgsz, device=device, watch=watch)
    started = time.perf_counter()
    kept: list[Detections] = []
    objects = count = 0
    with _folder(out, whole=not live) as folder, _Writer(folder, chosen, names, drawn) as writer:
        for frame, found in _progress(frames, len(pictures) or None):
            writer.add(frame, found)
            kept += [found] if pictures else []
            count, objects = count + 1, objects + len(found)
        if count < len(pictures):
            raise KeyboardInterrupt  # SIGTERM: half a result is none
    seconds = time.perf_counter() - started
    return Prediction(out, names, tuple(pictures), tuple(kept), count, objects, seconds)


def _chosen(formats: Sequence[str] | None, *, live: bool, pictures: bool) -> tuple[str, ...]:
    if formats is None:
        return ("jsonl",) if live else ("json", "images") if pictures else ("json",)
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"formats: expected some of {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")
    endless = [name for name in formats if name in ("json", "coco")]
    if live and endless:
        raise UsageError(
            f"formats: {' and '.join(endless)} can be written at the end alone, which a camera or a watched folder "
            "does not have; use jsonl"
        )
    return tuple(formats)


def _refuse_folder_of_pictures(out: Path, folders: Sequence[Path]) -> None:
    if out.resolve() in {folder.resolve() for folder in set(folders)}:
        raise UsageError(
            f"--out {out}: expected another folder than that of the source pictures, or the drawings would lie among "
            "them and count as pictures later; choose another, or leave images out of --formats"
        )


def _open(
    model: Path | str, source: Source, *, conf: float | None, imgsz: int | None, device: str, watch: bool
) -> tuple[tuple[str, ...], Iterator[tuple[Frame, Detections]]]:
    """Return the model's class names, and the frames of a source with what it finds in them."""
    spec = parse_spec(model)
    if spec.runtime == "onnxruntime":
        detector = Detector(spec.path, providers=_providers(device), confidence=conf)
        if imgsz not in (None, detector.image_size):
            raise UsageError(
                f"{spec.path}: made for {detector.image_size} px, but {imgsz} px were asked for; "
                f"export it again with --imgsz {imgsz}"
            )
        return detector.names, detector.stream(source, watch=watch)
    network = open_network(spec, image_size=imgsz, device=device)
    names, confidence = tuple(network.names), PREDICTION_CONFIDENCE if conf is None else conf

    def find(pixels: Any) -> Detections:
        return replace(detect(network, [pixels], confidence=confidence)[0], names=names)

    return names, stream(source, find, watch=watch, workers=1)  # the network has threads of its own


def _providers(device: str) -> Providers:
    return [("cuda", {"device_id": device})] if device.isdecimal() else device


def _progress(frames: Iterable[Any], total: int | None) -> Iterable[Any]:
    # With its rate; None: silent where there is no terminal.
    return tqdm(frames, total=total, unit="image" if total else "frame", disable=None)


@contextmanager
def _folder(out: Path, *, whole: bool) -> Iterator[Path]:
    """Yield the folder to write into: for a whole result one beside it, whose files are moved when all are there."""
    try:
        (out.parent if whole else out).mkdir(parents=True, exist_ok=True)
        if not whole:
            yield out
            return
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
            yield Path(beside)
            out.mkdir(exist_ok=True)
            for file in Path(beside).iterdir():
                os.replace(file, out / file.name)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error


class _Writer:
    """Writes frames in the chosen formats; what needs all of them when it is closed."""

    def __init__(self, folder: Path, formats: Sequence[str], names: tuple[str, ...], drawn: Sequence[str]) -> None:
        self._folder, self._formats, self._names = folder, formats, names
        self._drawn = drawn  # names of the drawn pictures; none where frames are no pictures of a list
        self._entries: list[dict[str, Any]] = []
        self._coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        self._lines: IO[str] | None = None

    def __enter__(self) -> _Writer:
        if "jsonl" in self._formats:
            self._lines = (self._folder / FILES["jsonl"]).open("w", encoding="utf-8")
        return self

    def add(self, frame: Frame, found: Detections) -> None:
        """Write what can be written now."""
        entry: dict[str, Any] = {"image": frame.source}
        if not self._drawn:
            entry |= {"frame": frame.index, "seconds": round(frame.seconds, 3)}
        entry |= found.to_dict()
        if self._lines is not None:
            self._lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self._lines.flush()  # another program may be following it
        if "json" in self._formats:
            self._entries.append({key: value for key, value in entry.items() if key != "milliseconds"})
        if "coco" in self._formats:
            self._add_coco(frame, found)
        if "images" in self._formats:
            picture = draw_detections(frame.pixels, found, self._names)
            (self._folder / self._name_of(frame)).write_bytes(cv2.imencode(".png", picture)[1].tobytes())

    def _name_of(self, frame: Frame) -> str:
        if self._drawn:
            return self._drawn[frame.index]
        path = Path(frame.source)
        if "://" in frame.source or not path.suffix:  # a camera
            return f"frame_{frame.index:06d}.png"
        stem = f"{path.stem}_{path.suffix[1:]}"
        return f"{stem}_{frame.index:06d}.png" if is_video(path) else f"{stem}.png"

    def _add_coco(self, frame: Frame, found: Detections) -> None:
        height, width = frame.pixels.shape[:2]
        image_id = len(self._coco["images"]) + 1
        name = Path(frame.source).name if self._drawn else self._name_of(frame)
        self._coco["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
        for one in found.to_coco(image_id):
            area = one["bbox"][2] * one["bbox"][3]
            number = len(self._coco["annotations"]) + 1  # from 1: pycocotools takes an annotation 0 for none
            self._coco["annotations"].append({"id": number, **one, "area": area, "iscrowd": 0})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._lines is not None:
            self._lines.close()
        if kind is not None:
            return
        if "json" in self._formats:
            self._write("json", json.dumps({"format": 1, "images": self._entries}, indent=1, ensure_ascii=False))
        if "coco" in self._formats:
            categories = [{"id": class_id, "name": name} for class_id, name in enumerate(self._names)]
            self._write("coco", json.dumps({**self._coco, "categories": categories}, ensure_ascii=False))

    def _write(self, name: str, text: str) -> None:
        (self._folder / FILES[name]).write_text(text + "\n", encoding="utf-8")


def _picture_names(images: Sequence[Path]) -> list[str]:
    """Return a file name for each drawn picture: `a.jpg` gives `a_jpg.png`; a repeated one gets a number."""
    names: dict[str, None] = {}
    repeated: Counter[str] = Counter()
    for path in images:
        stem = f"{path.stem}_{path.suffix[1:]}"
        name = f"{stem}.png"
        while name in names:
            repeated[stem] += 1
            name = f"{stem}_{repeated[stem] + 1}.png"
        names[name] = None
    return list(names)
