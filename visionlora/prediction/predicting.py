"""Running a model of any kind on pictures, a video or a camera: boxes as files, and pictures with the boxes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

from visionlora.errors import DataError, OutputError, UsageError
from visionlora.files import refuse_existing
from visionlora.formats.text import printable
from visionlora.models import open_network, parse_spec
from visionlora.prediction.annotated import CAMERA_RATE, VIDEO_FILE, AnnotatedVideo
from visionlora.prediction.records import (
    FILES,
    FORMATS,
    LABELS,
    Records,
    picture_names,
    refuse_boxes,
    refuse_shared_labels,
)
from visionlora.prediction.ruler import Ruler
from visionlora.progress import tracked
from visionlora.runtime import Detector, Frame, stream
from visionlora.runtime.frames import Source, is_camera, is_video
from visionlora.runtime.pictures import find_images
from visionlora.runtime.providers import Providers
from visionlora.runtime.video import frame_rate
from visionlora.tasks import Task
from visionlora.vision.detections import IOU_THRESHOLD, Detections, check_thresholds
from visionlora.vision.inference import detect
from visionlora.vision.tiles import Tiling, detect_in_tiles, tiling_of

_SHOWN = 50
"""Pictures of a result that a notebook shows."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a model found.

    Attributes:
        out: folder with what was written.
        names: the model's class names.
        images: the pictures, in the order of `detections`; empty for a video, a camera and a watched folder, whose
            frames are in the files alone.
        detections: one for each picture, boxes in its own pixels.
        frames: how many pictures or frames there were.
        objects: how many objects in all of them; of a classifier a picture is one.
        seconds: how long it took, reading and writing included, without loading the model.
        problems: a sentence for each picture, or part of a video, that could not be read and is in no file.
        classified: whether the model gave each picture a class, and found no objects in it.
    """

    out: Path
    names: tuple[str, ...]
    images: tuple[Path, ...]
    detections: tuple[Detections, ...]
    frames: int
    objects: int
    seconds: float
    problems: tuple[str, ...] = ()
    classified: bool = False

    @property
    def words(self) -> str:
        """What was found, for people."""
        images = f"{self.frames} images"
        return f"{images} classified" if self.classified else f"{self.objects} objects in {images}"

    def __repr__(self) -> str:
        problems = f", {len(self.problems)} problems" if self.problems else ""
        return f"Prediction({self.words}{problems}, {printable(self.out)!r})"

    def _repr_html_(self) -> str:
        """The pictures with what was found in them, for a notebook."""
        pairs = list(zip(self.images, self.detections, strict=True))[:_SHOWN]
        rows = "".join(
            f"<tr><td>{escape(printable(path.name))}</td><td>{escape(found.summary)}</td></tr>" for path, found in pairs
        )
        return f"<p>{escape(repr(self))}</p><table><tr><th>image</th><th>found</th></tr>{rows}</table>"


def predict(
    model: Path | str,
    source: Path | str,
    out: Path | str,
    *,
    conf: float | None = None,
    iou: float | None = None,
    classes: Sequence[str | int] | None = None,
    agnostic: bool = False,
    tile: int | None = None,
    overlap: float | None = None,
    imgsz: int | None = None,
    device: str = "cpu",
    formats: Sequence[str] | None = None,
    video: bool = False,
    watch: bool = False,
    overwrite: bool = False,
) -> Prediction:
    """Find objects in pictures, in a video or before a camera, and write what was found into `out`.

    A camera and a watched folder go on until SIGTERM; what was found is on the disk frame by frame. Of pictures
    everything is written at the end, of those that can be read; of a video what comes before its end or SIGTERM.

    Args:
        model: a checkpoint (.pt), an ONNX file, or `base.pt+adapter.safetensors`.
        source: an image, a folder, or a pattern such as `line3/*.png`; a video file; the address of either; a camera's
            number or address.
        out: folder to write into.
        conf: lowest score that counts; None for the file's own thresholds, and 0.25 where it has none.
        iou: two boxes of one class that overlap more are one object; None for 0.7.
        classes: names or ids of the classes to find; None for all.
        agnostic: whether boxes of different classes suppress each other too.
        tile: look into tiles of this side in pixels too, beside the whole picture; None for the whole picture alone.
        overlap: share of a tile that the next one has too; None for 0.2.
        imgsz: side of the input in pixels; None takes what the model says.
        device: `cpu`, or `0`... for a GPU; for ONNX files any provider of onnxruntime, such as `openvino`.
        formats: some of `json`, `jsonl` (a line a frame), `coco`, `csv` (a row an object), `labels` (YOLO label files)
            and `images` (pictures with what was found drawn; JPEG and PNG stay what they are, others become PNG). None
            for json and images, of a video for json, of a camera or a watched folder for jsonl.
        video: whether to write a video or a camera with the boxes drawn, as `annotated.mp4`.
        watch: stay at the folder `source` and take the pictures that come into it.
        overwrite: replace an earlier result.

    Raises:
        DataError: there is no image, or none of them can be read.
        ModelError, AdapterError, UsageError: the model cannot be used.
        UsageError: `conf` or `iou` is outside [0, 1]; a class or a format is unknown; a format needs an end that a
            camera or a watched folder does not have; `iou` or `agnostic` is given for a file that suppresses by
            itself; tiles are asked of a classifier; or something would be written among or over the source.
        OutputError: `out` holds a result already, or cannot be written.

    Example:
        >>> import visionlora as vl
        >>> vl.predict("model.int8.onnx", "pictures", "found").detections[0].scores  # doctest: +SKIP
    """
    check_thresholds(0 if conf is None else conf, 0 if iou is None else iou, 1, name="--conf", iou="--iou")
    tiling = tiling_of(tile, overlap)
    out, live = Path(out), watch or is_camera(source)
    pictures = [] if live or is_video(source) else find_images(source)
    chosen = _chosen(formats, live=live, pictures=bool(pictures))
    _refuse_outputs(out, source, chosen, pictures, video=video, watch=watch, overwrite=overwrite)
    problems: list[DataError] = []
    ruler = Ruler(conf, IOU_THRESHOLD if iou is None else iou, classes, agnostic, own_iou=iou is not None or agnostic)
    names, task, frames = _open(
        model,
        pictures or source,
        ruler,
        tiling=tiling,
        imgsz=imgsz,
        device=device,
        watch=watch,
        broken=None if live else problems,
    )
    refuse_boxes(chosen, task)
    started = time.perf_counter()
    kept: list[tuple[Path, Detections]] = []
    objects = count = 0
    frames = _begun(frames)  # before anything is written: there may be no such camera
    rate = (None if live else frame_rate(str(source))) or CAMERA_RATE if video else 0
    with _folder(out, whole=not live) as folder:
        drawn = AnnotatedVideo(folder, rate) if video else None
        with Records(folder, chosen, names, task, pictures, drawn) as records:
            unit = "image" if pictures else "frame"
            for frame, found in tracked(frames, "predict", of=len(pictures) or None, unit=unit):
                if found.masks is not None:
                    found = replace(found, masks=found.masks.kept())  # prototypes take megabytes a picture
                records.add(frame, found)
                kept += [(pictures[frame.index], found)] if pictures else []
                count, objects = count + 1, objects + (len(found) if task.boxes else 1)
            if count + len(problems) < len(pictures):
                raise KeyboardInterrupt  # SIGTERM: half a result is none
            if pictures and not count:
                raise DataError("\n".join(map(str, problems)))
    seconds = time.perf_counter() - started
    images, detections = tuple(path for path, _ in kept), tuple(found for _, found in kept)
    return Prediction(
        out, names, images, detections, count, objects, seconds, tuple(map(str, problems)), not task.boxes
    )


def _chosen(formats: Sequence[str] | None, *, live: bool, pictures: bool) -> tuple[str, ...]:
    if formats is None:
        return ("jsonl",) if live else ("json", "images") if pictures else ("json",)
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"--formats: expected some of {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")
    endless = [name for name in formats if name in ("json", "coco")]
    if live and endless:
        raise UsageError(
            f"--formats: {' and '.join(endless)} can be written at the end alone, which a camera or a watched folder "
            "does not have; use jsonl"
        )
    return tuple(formats)


def _refuse_outputs(
    out: Path,
    source: Path | str,
    chosen: Sequence[str],
    pictures: Sequence[Path],
    *,
    video: bool,
    watch: bool,
    overwrite: bool,
) -> None:
    """Refuse to write over an earlier result, or over or among the source.

    Raises:
        UsageError, OutputError: something would be.
    """
    if video and (pictures or watch):
        raise UsageError(
            "--video: expected a video or a camera as the source, got pictures; --formats images draws them"
        )
    folders = {Path(source)} if watch else {path.parent for path in pictures}
    if "images" in chosen and out.resolve() in {folder.resolve() for folder in folders}:
        raise UsageError(
            f"--out {out}: expected another folder than that of the source pictures, or the drawings would lie among "
            "them and count as pictures later; choose another, or leave images out of --formats"
        )
    if "labels" in chosen:
        refuse_shared_labels(pictures)
    files = [FILES[kind] for kind in chosen if kind in FILES] + ([VIDEO_FILE] if video else [])
    files += picture_names(pictures) if "images" in chosen else []
    files += [f"{LABELS}/{path.stem}.txt" for path in pictures] if "labels" in chosen else []
    for name in files:
        refuse_existing(out / name, overwrite=overwrite)
    if video and (out / VIDEO_FILE).exists() and Path(source).exists() and (out / VIDEO_FILE).samefile(source):
        raise UsageError(f"--out {out}: {VIDEO_FILE} there is the source itself; choose another folder")


def _open(
    model: Path | str,
    source: Source,
    ruler: Ruler,
    *,
    tiling: Tiling | None,
    imgsz: int | None,
    device: str,
    watch: bool,
    broken: list[DataError] | None,
) -> tuple[tuple[str, ...], Task, Iterator[tuple[Frame, Detections]]]:
    """Return the model's class names and task, and the frames of a source with what it finds in them."""
    spec, told = parse_spec(model), None if broken is None else broken.append
    if spec.runtime == "onnxruntime":
        detector = Detector(
            spec.path,
            providers=_providers(device),
            iou_threshold=ruler.iou,
            agnostic=ruler.agnostic,
            tile=None if tiling is None else tiling.size,
            overlap=None if tiling is None else tiling.overlap,
        )
        if imgsz not in (None, detector.image_size):
            raise UsageError(
                f"{spec.path}: made for {detector.image_size} px, but {imgsz} px were asked for; "
                f"export it again with --imgsz {imgsz}"
            )
        ruler.check(spec.path, nms=detector.network.nms, task=detector.network.task)
        detector.thresholds = ruler.limits(detector.names, detector.network.thresholds)
        frames = detector.stream(source, watch=watch, broken=told)
        return detector.names, detector.network.task, frames
    network = open_network(spec, image_size=imgsz, device=device)
    ruler.check(spec.path, nms=network.nms, task=network.task)
    if tiling is not None and not network.task.boxes:
        raise UsageError(f"{spec.path}: expected no --tile: it classifies whole pictures; leave it out")
    names = tuple(network.names)
    limits = ruler.limits(names, None)

    def find(pixels: Any) -> Detections:
        def whole(view: Any) -> Detections:
            return detect(network, [view], confidence=limits, iou_threshold=ruler.iou, agnostic=ruler.agnostic)[0]

        found = detect_in_tiles(whole, pixels, tiling, iou_threshold=ruler.iou, agnostic=ruler.agnostic)
        return replace(found, names=names)

    # One worker: the network has threads of its own.
    return names, network.task, stream(source, find, watch=watch, workers=1, broken=told)


def _begun(frames: Iterator[tuple[Frame, Detections]]) -> Iterator[tuple[Frame, Detections]]:
    """The same frames, the first of which is there."""
    first = next(frames, None)
    return iter(()) if first is None else chain([first], frames)


def _providers(device: str) -> Providers:
    return [("cuda", {"device_id": device})] if device.isdecimal() else device


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
            for file in sorted(path for path in Path(beside).rglob("*") if path.is_file()):
                target = out / file.relative_to(beside)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
