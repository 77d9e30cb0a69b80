"""Find objects with a model that visionlora exported: boxes, masks, keypoints or oriented boxes; or class pictures.

README.md has the contract of the file.

Needs Python 3.8 or newer, numpy, onnxruntime and either OpenCV or Pillow. Copy this file and the model to the device:

    python detect.py --model model.onnx --source picture.jpg
    python detect.py --model model.onnx --source folder --conf 0.4 --out detections.json --draw drawn

In the folder of a bundle (`visionlora bundle`) the model is found by itself, and the device can be tried:

    python -I detect.py --self-test
    python -I detect.py --source picture.jpg

-I keeps Python from importing what lies beside this file; without it this file sees to that itself.

    from detect import Detector
    detections = Detector("model.onnx").predict("picture.jpg")
"""

import os
import sys

if __name__ == "__main__":  # before any import: a file beside this one must not pass for a library
    _folder = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != _folder]

import argparse
import hashlib
import json
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime looks up a host and keeps a file in the home folder
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

try:
    import cv2

    READ_ERRORS: tuple = (OSError, ValueError, cv2.error)
except ImportError:
    cv2 = None  # type: ignore[assignment]
    from PIL import Image, ImageDraw, ImageOps

    READ_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
PREPROCESSING = {"letterbox": "square", "padding": 114, "channels": "RGB", "scale": "1/255"}
CENTER_CROP = {"resize": "shorter side", "crop": "center", "channels": "RGB", "scale": "1/255"}
SIZES: dict = {"segment": {"coefficients": 32}, "pose": {"keypoints": 17, "dims": 3}}
SIZES.update({"detect": {}, "obb": {}, "classify": {}})
SHOWN = 5  # classes that are given of a picture
CONFIDENCE = 0.25
SEAL = b"\x72\x55\x0a\x11visionlora_sha256\x12\x40"  # before the 64 digits that a file of ours ends with
MAX_CANDIDATES = 30_000  # that enter suppression, the best first
MAX_PIXELS = 1 << 27  # largest picture that is decoded: a file of a few bytes can ask for any amount of memory
COLOURS_RGB = ((230, 60, 50), (30, 120, 220), (40, 160, 70), (240, 160, 0), (150, 70, 200), (0, 170, 180))
SEEN = 0.5  # keypoints that are less surely visible are not drawn
LIMBS = (  # of COCO's 17 keypoints of a person
    *((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 11), (6, 12), (11, 12)),
    *((5, 7), (7, 9), (11, 13), (13, 15), (6, 8), (8, 10), (12, 14), (14, 16)),
)
ORT_ERRORS = tuple(  # they have no common parent but Exception
    error for error in vars(ort_errors).values() if isinstance(error, type) and issubclass(error, Exception)
)


class Detector:
    """An exported model (float32 or INT8) with everything around it: image in, objects out."""

    def __init__(self, path: "Path | str", *, iou_threshold: float = 0.7, max_detections: int = 300) -> None:
        """Load the model. Raises ValueError if the file is missing, broken or not one of visionlora's."""
        if not Path(path).is_file():
            raise ValueError(f"{path}: expected an ONNX file, found none")
        sealed = check_seal(path)
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"], enable_fallback=0
            )
            properties = self.session.get_modelmeta().custom_metadata_map
        except (*ORT_ERRORS, ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: onnxruntime cannot load it: {' '.join(str(error).split())}") from error
        if "visionlora_sha256" in properties and not sealed:
            raise ValueError(f"{path}: edited: its entry 'visionlora_sha256' is of another file; copy it again")
        try:
            metadata = json.loads(properties["visionlora"])
            version, preprocessing = metadata["format"], dict(metadata["preprocessing"])
            self.task = metadata.get("task", properties.get("task", "detect"))
            if self.task not in SIZES:
                raise ValueError(f"a task of {', '.join(SIZES)}, it is of {self.task!r:.60}")
            self.sizes = {**SIZES[self.task], **metadata.get("task_settings", {})}
            self.names, self.nms, self.image_size = metadata["names"], metadata["nms"], preprocessing.pop("image_size")
            self.thresholds = [float(x) for x in metadata.get("thresholds", [CONFIDENCE] * len(self.names))]
            "".join(self.names).encode("utf-8")
            if len(self.thresholds) != len(self.names) or type(self.image_size) is not int:
                raise ValueError("one threshold a class, or a whole image_size")
            known = self.sizes.keys() == SIZES[self.task].keys() and self.sizes.get("dims", 2) in (2, 3)
            if not known or not all(type(size) is int and 0 < size < 10_000 for size in self.sizes.values()):
                raise ValueError(f"the sizes of its task, it has {self.sizes!s:.80}")
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected a file that visionlora exported, its metadata lacks {error}") from error
        known_preprocessing = CENTER_CROP if self.task == "classify" else PREPROCESSING
        if version != 1 or preprocessing != known_preprocessing:
            raise ValueError(
                f"{path}: expected format 1 with {known_preprocessing}, got {version} with {preprocessing}"
            )
        self.takes_pixels = self.session.get_inputs()[0].type == "tensor(uint8)"
        self.iou_threshold, self.max_detections, self.path = iou_threshold, max_detections, path
        grey, noise = (
            self._run(pixels.astype(np.uint8))[0]
            for pixels in (
                np.full((self.image_size, self.image_size, 3), 128),
                np.random.RandomState(0).randint(0, 256, (self.image_size, self.image_size, 3)),
            )
        )
        if np.array_equal(grey, noise) and self.task != "classify":  # which may be as sure of both
            raise ValueError(f"{path}: the network gave the same for two different pictures; its file is broken")

    def _run(self, square: np.ndarray) -> list:
        """Return what the network gives for a picture in its square; ValueError if it is nonsense.

        Of a classifier it is (classes,) probabilities. Of others the first is (rows, anchors): 4 of the box, a score a
        class, and what the task has beside: a factor for each prototype of masks, or x, y and how surely it is visible
        of each keypoint, or the angle. For masks there is a second, the prototypes (coefficients, size / 4, size / 4).
        """
        tensor = square[None] if self.takes_pixels else to_float(square)
        try:
            outputs = self.session.run(None, {self.session.get_inputs()[0].name: tensor})
        except ORT_ERRORS as error:
            raise ValueError(f"{self.path}: onnxruntime cannot run it: {' '.join(str(error).split())}") from error
        if self.task == "classify":
            if [output.shape for output in outputs] != [(1, len(self.names))]:
                raise ValueError(f"{self.path}: expected an output (1, {len(self.names)}), got {outputs[0].shape}")
            if not (outputs[0].min() >= -0.01 and outputs[0].max() <= 1.01):
                raise ValueError(f"{self.path}: expected probabilities in [0, 1]; the file is broken")
            return [outputs[0][0]]
        end = 4 + len(self.names)
        rows = end if self.task == "detect" else end + int(np.prod(list(self.sizes.values())))  # of no sizes it is 1
        if outputs[0].ndim != 3 or outputs[0].shape[:2] != (1, rows) or not outputs[0].shape[2]:
            raise ValueError(f"{self.path}: expected an output (1, {rows}, anchors), got {outputs[0].shape}")
        side = self.image_size // 4
        shapes = [(1, self.sizes["coefficients"], side, side)] if self.task == "segment" else []
        if [output.shape for output in outputs[1:]] != shapes:
            raise ValueError(f"{self.path}: expected more outputs {shapes}, got {[x.shape for x in outputs[1:]]}")
        scores, rest = outputs[0][:, 4:end], (outputs[0][:, :4], outputs[0][:, end:], *outputs[1:])
        farthest = np.max([np.abs(part).max(initial=0) for part in rest])
        # A value that is no number makes each of these false.
        if not (scores.min() >= -0.01 and scores.max() <= 1.01 and farthest <= 1000 * self.image_size):
            raise ValueError(
                f"{self.path}: expected scores in [0, 1] and boxes in pixels, got {scores.min():g} to {scores.max():g} "
                f"and {farthest:g}; the file is broken"
            )
        return [output[0] for output in outputs]

    def predict(self, image: "Path | str | np.ndarray", *, confidence: "float | None" = None) -> list:
        """Return the objects in an image file, or in (H, W, 3) uint8 BGR pixels as from cv2, best first.

        Each is a dict: name, class_id, score in [0, 1], box_xyxy (left, top, right, bottom in pixels of the image), and
        what the task finds beside: segmentation (a mask as COCO's RLE, see `mask_of`), keypoints (x, y and how surely
        it is visible, each), or obb (centre x, centre y, width, height, angle in radians).
        Without a confidence the file's own thresholds count, one a class. A classifier has none, and gives the five
        best classes of the picture: name, class_id and score.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        if self.task == "classify":
            if confidence is not None:
                raise ValueError("confidence: a classifier gives the probabilities of all classes; leave it out")
            return self._classes(pixels)
        if confidence is not None and not 0 <= confidence <= 1:
            raise ValueError(f"confidence: expected a number in [0, 1], got {confidence}")
        limits = np.array(self.thresholds if confidence is None else [confidence] * len(self.names), dtype=np.float64)
        square, place = letterbox(pixels, self.image_size)
        prediction, *prototypes = self._run(square)
        end = 4 + len(self.names)
        class_ids, anchors = np.nonzero(prediction[4:end] > limits[:, None])  # one anchor may give several classes
        scores = prediction[4:end][class_ids, anchors]
        order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
        class_ids, scores, rows = class_ids[order], scores[order], prediction[:, anchors[order]].T  # (N, rows)
        centre, half, extras = rows[:, :2], rows[:, 2:4] / 2, rows[:, end:]
        rotated = self.task == "obb"
        boxes = np.hstack([rows[:, :4], extras] if rotated else [centre - half, centre + half])
        suppressed = suppress_rotated if rotated else suppress
        kept = suppressed(boxes, class_ids, self.iou_threshold, self.max_detections) if self.nms else slice(None)
        boxes, extras, class_ids, scores = (a[kept][: self.max_detections] for a in (boxes, extras, class_ids, scores))
        columns = {
            "name": [self.names[class_id] for class_id in class_ids],
            "class_id": class_ids.tolist(),
            "score": scores.tolist(),
            **self._geometry(boxes, extras, prototypes, place),
        }
        return [{field: values[i] for field, values in columns.items()} for i in range(len(scores))]

    def _classes(self, pixels: np.ndarray) -> list:
        """Return the best classes of a picture, equals by their ids."""
        probabilities = self._run(center_crop(pixels, self.image_size))[0]
        best = np.argsort(-probabilities, kind="stable")[:SHOWN].tolist()
        return [{"name": self.names[i], "class_id": i, "score": float(probabilities[i])} for i in best]

    def _geometry(self, boxes: np.ndarray, extras: np.ndarray, prototypes: list, place: "Place") -> dict:
        """Return where the objects are in the image: lists by the names that `predict` has for them."""
        fields: dict = {}
        if self.task == "obb":
            boxes, fields["obb"] = place_rotated(boxes, place)
        boxes = place.to_image(boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        if self.task == "segment":
            masks = (mask_in(boxes[i], extras[i], prototypes[0], place) for i in range(len(boxes)))
            fields["segmentation"] = [to_rle(*mask, place.size_wh) for mask in masks]
        if self.task == "pose":
            points = extras.reshape(len(boxes), self.sizes["keypoints"], self.sizes["dims"])
            visible = points[..., 2:] if points.shape[2] == 3 else np.ones_like(points[..., :1])
            fields["keypoints"] = np.concatenate([place.to_image(points[..., :2]), visible], axis=2).tolist()
        return {"box_xyxy": boxes.tolist(), **fields}


def check_seal(path: "Path | str") -> bool:
    """Return whether a file ends with a checksum. Raises ValueError if it is not that of the bytes before."""
    content = memoryview(Path(path).read_bytes())
    start = max(len(content) - len(SEAL) - 64, 0)
    if content[start:-64] != SEAL:
        return False
    if hashlib.sha256(content[:start]).hexdigest().encode() != content[-64:]:
        raise ValueError(f"{path}: damaged or edited: it has not the checksum that it ends with; copy it again")
    return True


def is_picture(path: Path) -> bool:
    """Whether a file of a folder is a picture: not a pipe, and none of the files `._x.jpg` that macOS writes."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_image(path: "Path | str") -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 BGR, turned by its EXIF. Raises ValueError if it is missing or broken."""
    try:
        if not Path(path).is_file():
            raise ValueError("expected a file, found none, or a pipe")
        raw = Path(path).read_bytes()
        width, height = stated_size(raw)
        if width * height > MAX_PIXELS:
            raise ValueError(f"expected at most {MAX_PIXELS / 1e6:.0f} million pixels, got {width} x {height}")
        if cv2 is not None:
            data = np.frombuffer(raw, dtype=np.uint8)
            if raw[:3] == b"\xff\xd8\xff" and raw.rfind(b"\xff\xd9") < raw.find(b"\xff\xda"):
                raise ValueError("the end of the file is missing")  # OpenCV 4 would fill the rest with grey
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
            if image is None:
                raise ValueError("broken or of an unknown format")
            return image
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode == "F":
                raise ValueError("expected 8 or 16 bits a pixel, got floating point")
            if image.mode.startswith("I"):  # 16 bits of grey
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    except READ_ERRORS as error:
        raise ValueError(f"{path}: cannot be read as an image: {error}") from error


def stated_size(data: bytes) -> tuple:
    """Width and height that a picture states, known before its pixels take memory; (0, 0) where it states none."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack_from(">II", data, 16)
        if data[:2] == b"BM":
            old = struct.unpack_from("<I", data, 14)[0] == 12
            return tuple(abs(side) for side in struct.unpack_from("<HH" if old else "<ii", data, 18))
        if data[:4] == b"RIFF" and data[12:15] == b"VP8":
            if data[15:16] == b"X":
                return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
            if data[15:16] == b"L":
                bits = struct.unpack_from("<I", data, 21)[0]
                return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
            return tuple(side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        if data[:2] in (b"II", b"MM"):
            return _tiff_size(data, "<" if data[:2] == b"II" else ">")
        position = 2 if data[:2] == b"\xff\xd8" else len(data)  # JPEG: to its start of frame
        while data[position] == 0xFF:
            if 0xC0 <= data[position + 1] <= 0xCF and data[position + 1] not in (0xC4, 0xC8, 0xCC):
                return struct.unpack_from(">HH", data, position + 5)[::-1]
            fill = data[position + 1] == 0xFF
            position += 1 if fill else 2 + struct.unpack_from(">H", data, position + 2)[0]
    except (struct.error, IndexError, OverflowError):  # cut short: the decoder says so
        pass
    return 0, 0


def _tiff_size(data: bytes, order: str) -> tuple:
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    first = struct.unpack_from(order + "Q", data, 8)[0] if big else struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, first)[0]
    step, start, value = (20, first + 8, 12) if big else (12, first + 2, 8)
    sides = {256: 0, 257: 0}
    for entry in range(start, start + step * min(count, 4096), step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in sides and kind in (3, 4, 16):  # SHORT, LONG or LONG8
            sides[tag] = struct.unpack_from(order + {3: "H", 4: "I", 16: "Q"}[kind], data, entry + value)[0]
    return sides[256], sides[257]


class Place(NamedTuple):
    """Where an image lies in the input of the network: input = image * scale + offset, across and down."""

    scale: tuple
    offset: tuple
    size_wh: tuple  # of the image

    def to_image(self, points: np.ndarray, clip: bool = True) -> np.ndarray:
        """Return points (..., 2) of the input in pixels of the image, clipped to it unless not."""
        points = (points - np.float32(self.offset)) / np.float32(self.scale)
        return np.clip(points, 0, np.float32(self.size_wh)) if clip else points


def check_pixels(image: np.ndarray) -> None:
    """Raise ValueError if an array is no picture."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"expected an image (H, W, 3) of uint8, got {image.shape} of {image.dtype}")


def letterbox(image: np.ndarray, size: int) -> tuple:
    """Fit an image into a grey square: (size, size, 3) uint8 RGB, and its place there."""
    check_pixels(image)
    height, width = image.shape[:2]
    scale = min(size / height, size / width)
    new_width, new_height = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = round((size - new_width) / 2 - 0.1), round((size - new_height) / 2 - 0.1)
    square = np.full((size, size, 3), 114, dtype=np.uint8)
    square[top : top + new_height, left : left + new_width] = resize(image, new_width, new_height)
    place = Place((new_width / width, new_height / height), (left, top), (width, height))
    return np.ascontiguousarray(square[:, :, ::-1]), place


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side of an image to a square's and cut out the middle: (size, size, 3) uint8 RGB."""
    check_pixels(image)
    height, width = image.shape[:2]
    for axis, side in ((1, width), (0, height)):
        long = int(size * side / min(width, height))
        first = round((long - size) / 2)
        image = reduce(image, long, np.arange(first, first + size), axis)
    return np.ascontiguousarray(image[:, :, ::-1])


def reduce(image: np.ndarray, size: int, kept: np.ndarray, axis: int) -> np.ndarray:
    """Resize (H, W, 3) along an axis to `size` pixels, of which some are kept, as Pillow's BILINEAR does (22 bits)."""
    before = image.shape[axis]
    if before == size:
        return image.take(kept, axis=axis)
    reach = max(before / size, 1.0)  # of the triangle that weighs the pixels
    centres = (kept + 0.5) * (before / size)
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    end = np.minimum((centres + reach + 0.5).astype(int), before)
    taps = first[:, None] + np.arange((end - first).max())
    weights = np.maximum(1 - np.abs(taps + 0.5 - centres[:, None]) / reach, 0) * (taps < end[:, None])
    weights = np.floor(weights / weights.sum(axis=1, keepdims=True) * (1 << 22) + 0.5).astype(np.int32)
    total: np.ndarray = np.int32(1 << 21)
    for tap in range(taps.shape[1]):
        weight = weights[:, tap].reshape((1, -1, 1) if axis else (-1, 1, 1))
        total = total + image.take(np.minimum(taps[:, tap], before - 1), axis=axis) * weight
    return (total >> 22).clip(0, 255).astype(np.uint8)


def to_float(square: np.ndarray) -> np.ndarray:
    """Return (size, size, 3) uint8 as (1, 3, size, size) float32 in [0, 1]."""
    return np.ascontiguousarray(square.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize bilinearly; without OpenCV in its own fixed-point arithmetic (11 bits), so that the pixels are equal."""
    if image.shape[:2] == (height, width):
        return image
    if cv2 is not None:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    def axis(old: int, new: int) -> tuple:
        position = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
        low = np.floor(position)
        weight = position - low
        weights = np.rint(np.stack([1 - weight, weight]) * 2048).astype(np.int32)
        return np.clip(low, 0, old - 1).astype(int), np.clip(low + 1, 0, old - 1).astype(int), *weights

    x0, x1, wx0, wx1 = axis(image.shape[1], width)
    y0, y1, wy0, wy1 = axis(image.shape[0], height)
    upper, lower = (
        (rows[:, x0] * wx0[:, None] + rows[:, x1] * wx1[:, None]) >> 4 for rows in (image[y0], image[y1])
    )  # (height, width, 3)
    total = (upper * wy0[:, None, None] >> 16) + (lower * wy1[:, None, None] >> 16)
    return (total + 2 >> 2).astype(np.uint8)


def suppress(boxes: np.ndarray, class_ids: np.ndarray, iou_threshold: float, max_detections: int) -> list:
    """Indices of the boxes (best first) that overlap no better one of their class by more than the threshold."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(boxes), dtype=bool)
    kept: list[int] = []
    for i in range(len(boxes)):
        if alive[i] and len(kept) < max_detections:
            kept.append(i)
            sides = np.minimum(boxes[:, 2:], boxes[i, 2:]) - np.maximum(boxes[:, :2], boxes[i, :2])
            shared = sides[:, 0].clip(min=0) * sides[:, 1].clip(min=0)
            union = np.maximum(area + area[i] - shared, np.float32(1e-12))
            alive &= (shared / union <= iou_threshold) | (class_ids != class_ids[i])
    return kept


def suppress_rotated(boxes: np.ndarray, class_ids: np.ndarray, iou_threshold: float, max_detections: int) -> list:
    """Indices of the rotated boxes (best first) that overlap no better one of their class by more than the threshold.

    A better one that goes itself counts too (Fast NMS, arXiv 1904.02689, section 3.3), as in Ultralytics.
    """
    # Farther apart than this, by their longer sides, none overlaps so much: it saves most of the work.
    reach = -np.log(max(1 - (1 - iou_threshold) ** 2, 1e-7)) / 3
    spread = 1.01 * reach * (np.square(boxes[:, 2:4]).max(axis=1, initial=0) + 12)
    moments = moments_of(boxes)
    kept: list[int] = []
    for i in range(len(boxes)):
        if len(kept) == max_detections:
            break
        apart = boxes[:i, :2] - boxes[i, :2]
        near = np.flatnonzero((class_ids[:i] == class_ids[i]) & ((apart**2).sum(axis=1) <= spread[:i] + spread[i]))
        if not len(near) or probiou(apart[near], moments[i], moments[near]).max() <= iou_threshold:
            kept.append(i)
    return kept


def moments_of(boxes: np.ndarray) -> np.ndarray:
    """Variance of x, of y, and their covariance, (N, 3), of Gaussians like rotated boxes (N, 5)."""
    along, across = np.square(boxes[:, 2]) / 12, np.square(boxes[:, 3]) / 12
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    x, y = along * cos**2 + across * sin**2, along * sin**2 + across * cos**2
    return np.stack([x, y, (along - across) * cos * sin], axis=1)


def probiou(apart: np.ndarray, one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much a Gaussian overlaps others that are (N, 2) apart: 1 less their Hellinger distance.

    arXiv 2106.06072, eq. 6 to 8; the moments are those of `moments_of`.
    """
    (x, y, both), (dx, dy) = (one + others).T, apart.T
    determinant = x * y - both**2
    distance = (x * dy**2 + y * dx**2 - 2 * both * dx * dy) / (determinant + 1e-7) / 4
    own = np.maximum(one[0] * one[1] - one[2] ** 2, 0) * np.maximum(others[:, 0] * others[:, 1] - others[:, 2] ** 2, 0)
    distance += np.log(determinant / (4 * np.sqrt(own) + 1e-7) + 1e-7) / 2
    return 1 - np.sqrt(1 - np.exp(-np.clip(distance, 1e-7, 100)) + 1e-7)


def place_rotated(boxes: np.ndarray, place: Place) -> tuple:
    """Return upright boxes (N, 4) around rotated ones (N, 5) of the input, and these in pixels of the image.

    Angles are in [0, pi / 2): a box that is turned further is one with its sides exchanged.
    """
    boxes = boxes.astype(np.float64)
    quarters, angles = np.divmod(boxes[:, 4], np.pi / 2)
    turned = quarters % 2 == 1
    boxes[turned, 2:4] = boxes[turned, 3:1:-1]
    boxes[:, 4] = np.minimum(angles, np.nextafter(np.float32(np.pi / 2), np.float32(0)))
    boxes = boxes.astype(np.float32)
    corners = corners_of(boxes)
    boxes[:, :2] = place.to_image(boxes[:, :2], clip=False)
    boxes[:, 2:4] /= np.float32(np.sqrt(place.scale[0] * place.scale[1]))  # the two differ by rounding
    return np.hstack([corners.min(axis=1), corners.max(axis=1)]), boxes.tolist()


def corners_of(boxes: np.ndarray) -> np.ndarray:
    """Corners (N, 4, 2) of rotated boxes (N, 5)."""
    cos, sin = np.cos(boxes[:, 4:]), np.sin(boxes[:, 4:])
    along = np.hstack([cos, sin]) * boxes[:, 2:3] / 2
    across = np.hstack([-sin, cos]) * boxes[:, 3:4] / 2
    return np.stack([boxes[:, :2] + a * along + b * across for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))], axis=1)


def mask_in(box: np.ndarray, factors: np.ndarray, prototypes: np.ndarray, place: Place) -> tuple:
    """Return left and top of the pixels that count as inside a box of the image, and which of them are of the object.

    They are where the sum of factors (C,) times prototypes (C, rows, columns), enlarged bilinearly, is above 0.
    """
    left, top, right, bottom = np.clip(np.ceil(box), 0, place.size_wh * 2).astype(int)
    logits = np.tensordot(factors, prototypes, 1)

    def axis(start: int, end: int, cells: int, scale: float, offset: int) -> tuple:
        position = ((np.arange(start, end) + 0.5) * scale + offset) / 4 - 0.5  # a prototype has a cell for 4 pixels
        position = np.clip(position, 0, cells - 1)
        low = np.minimum(position.astype(int), cells - 2)
        return low, (position - low).astype(np.float32)

    y, down = axis(top, bottom, logits.shape[0], place.scale[1], place.offset[1])
    x, across = axis(left, right, logits.shape[1], place.scale[0], place.offset[0])
    logits = logits[:, x] * (1 - across) + logits[:, x + 1] * across
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for start in range(0, len(y), 256):  # a mask of a large picture takes little memory, its numbers would not
        rows = slice(start, start + 256)
        share = down[rows, None]
        inside[rows] = logits[y[rows]] * (1 - share) + logits[y[rows] + 1] * share > 0
    return left, top, inside


def to_rle(left: int, top: int, inside: np.ndarray, size_wh: tuple) -> dict:
    """Write a mask (height, width), whose corner lies at left and top of an image, as COCO's compressed RLE."""
    width, height = size_wh
    columns = np.zeros((inside.shape[1], inside.shape[0] + 2), dtype=np.int8)
    columns[:, 1:-1] = inside.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    places, times = np.unique((column + left) * height + row + top, return_counts=True)
    places = places[times == 1]  # a run that goes on in the next column does not end
    runs = np.diff([0, *places, *([width * height] if not len(places) or places[-1] < width * height else [])]).tolist()
    text = ""
    for i, run in enumerate(runs):
        value, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:  # 5 bits a character, the lowest first, and a sixth where more follow
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return {"size": [height, width], "counts": text}


def mask_of(rle: dict) -> np.ndarray:
    """Return the mask (height, width) of COCO's compressed RLE, such as `segmentation`. Raises ValueError if broken."""
    height, width = rle["size"]
    runs: list[int] = []
    value = shift = 0
    for letter in rle["counts"].encode():
        value |= (letter - 48 & 31) << shift
        shift += 5
        if not letter - 48 & 32 or shift > 60:  # no picture is so large: the sum below tells
            value -= (letter - 48 & 16) << shift - 4
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if sum(runs) != height * width or min(runs) < 0:
        raise ValueError(f"expected runs of {height} x {width} pixels together, got {sum(runs)}")
    return np.ascontiguousarray(np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T)


def draw(image: np.ndarray, detections: list, path: Path) -> None:
    """Write a picture with a label for each detection and its mask, or its box and keypoints."""
    picture = image.copy()
    for found in detections:
        if "segmentation" in found:
            inside = np.pad(mask_of(found["segmentation"]), 1)
            inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
            inside = inside[1:-1, 1:-1]
            colour = np.float32(COLOURS_RGB[found["class_id"] % len(COLOURS_RGB)][::-1])
            picture[inside] = picture[inside] * np.float32(0.55) + colour * np.float32(0.45)
            picture[inside & ~inner] = colour
    canvas = Image.fromarray(picture[:, :, ::-1]) if cv2 is None else picture
    for number, found in enumerate(detections):
        colour = COLOURS_RGB[found["class_id"] % len(COLOURS_RGB)]
        for line in lines_of(found):
            points = np.rint(np.clip(line, -1e5, 1e5)).astype(int)
            if cv2 is None:
                ImageDraw.Draw(canvas).line([tuple(point) for point in points.tolist()], fill=colour, width=2)
            else:
                cv2.polylines(canvas, [points.astype(np.int32)], False, colour[::-1], 2)
        left, top = (round(v) for v in found.get("box_xyxy", (0, 18 * number))[:2])  # classes one below the other
        ink = (255, 255, 255) if "segmentation" in found else colour  # on its own colour none can be read
        # Control characters as escapes, and so what is no Unicode, which ends the process in OpenCV 5.
        name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in found["name"])
        label = f"{name} {found['score']:.2f}"
        if cv2 is None:
            pen = ImageDraw.Draw(canvas)
            try:
                pen.text((left + 3, top + 2), label, fill=ink)
            except UnicodeEncodeError:  # Pillow's small font has Latin letters alone
                pen.text((left + 3, top + 2), label.encode("ascii", "backslashreplace").decode("ascii"), fill=ink)
        else:
            cv2.putText(canvas, label, (left + 3, top + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink[::-1], 1)
    path = path if path.suffix.lower() in SUFFIXES else path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    if cv2 is None:
        canvas.save(path)
    else:
        path.write_bytes(cv2.imencode(path.suffix, canvas)[1].tobytes())


def lines_of(found: dict) -> list:
    """Return what is drawn of a detection in lines through points (P, 2): its box, but of a mask, and its keypoints."""
    if "box_xyxy" not in found:
        return []
    left, top, right, bottom = found["box_xyxy"]
    box = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    if "obb" in found:
        box = corners_of(np.array([found["obb"]]))[0]
    lines = [] if "segmentation" in found else [box[[0, 1, 2, 3, 0]]]
    points = found.get("keypoints", [])
    lines += [
        np.array([points[one][:2], points[other][:2]])
        for one, other in (LIMBS if len(points) == 17 else ())
        if min(points[one][2], points[other][2]) >= SEEN
    ]
    dot = np.array([(-2, -2), (2, -2), (2, 2), (-2, 2), (-2, -2)])
    return lines + [dot + np.array([x, y]) for x, y, visible in points if visible >= SEEN]


def read_manifest(folder: Path) -> dict:
    """Read the manifest of a bundle. Raises ValueError if there is none, or it is broken."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["format"] != 1:
            raise ValueError(f"expected format 1, got {manifest['format']}")
        return manifest
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'manifest.json'}: cannot be read as a bundle's manifest: {error}") from error


def check_signature(folder: Path, key: Path) -> list:
    """Return a sentence if the manifest of a bundle is not signed by the owner of a key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        signature = bytes.fromhex((folder / "manifest.sig").read_text("ascii"))
        load_pem_public_key(key.read_bytes()).verify(signature, (folder / "manifest.json").read_bytes())
    except (InvalidSignature, OSError, ValueError, TypeError, AttributeError):
        return [f"manifest.json: not signed by {key}"]
    return []


def check_files(folder: Path, manifest: dict) -> list:
    """Return a sentence for each file of a bundle that is not what its maker wrote, and for each that it has not."""
    known = {"manifest.json", "manifest.sig", *manifest["files"]}
    added = sorted(path.name for path in folder.iterdir() if path.name not in known)
    problems = [f"{name}: not of this bundle; move it away" for name in added]
    for name, entry in manifest["files"].items():
        path = folder / name
        if Path(name).name != name or not path.is_file() or path.is_symlink():
            problems.append(f"{name}: missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            problems.append(f"{name}: not what its maker wrote; copy the bundle again")
    return problems


def compare(test: dict, found: list) -> list:
    """Return a sentence for each detection that a self-test expects and that was not found."""
    problems = []
    for wanted in test["detections"]:
        told = sorted(difference(wanted, one, test) for one in found if one["class_id"] == wanted["class_id"])
        if all(text for _, text in told):
            box = [round(value) for value in wanted.get("box_xyxy", ())]
            text = told[0][1] if told else "no such object"
            place = f" at {box}" if box else ""
            problems.append(f"expected {wanted['name']} with {wanted['score']:.3f}{place}, found {text}")
    return problems


def difference(wanted: dict, found: dict, test: dict) -> tuple:
    """Return how far a box is off in pixels, and what differs by more than a self-test allows; empty for nothing."""
    if "box_xyxy" not in wanted:
        return 0.0, "" if abs(found["score"] - wanted["score"]) <= test["score_tolerance"] else f"{found['score']:.3f}"
    apart = float(np.abs(np.subtract(found["box_xyxy"], wanted["box_xyxy"])).max())
    if not (apart <= test["box_tolerance"] and abs(found["score"] - wanted["score"]) <= test["score_tolerance"]):
        return apart, f"{found['score']:.3f}, {apart:.1f} px off"
    if "segmentation" in wanted:
        if wanted["segmentation"]["size"] != found["segmentation"]["size"]:
            return apart, "a mask of another size"
        one, other = mask_of(wanted["segmentation"]), mask_of(found["segmentation"])
        iou = (one & other).sum() / max((one | other).sum(), 1)
        if one.any() and not 1 - iou <= test["mask_tolerance"]:
            return apart, f"a mask with an IoU of {iou:.2f}"
    if "keypoints" in wanted:
        one, other = np.array(wanted["keypoints"]), np.array(found["keypoints"])
        left, top, right, bottom = wanted["box_xyxy"]
        off = np.hypot(*(one - other)[one[:, 2] >= SEEN, :2].T) / max(right - left, bottom - top, 1)
        if len(off) and not off.mean() <= test["keypoint_tolerance"]:
            return apart, f"keypoints {off.mean():.3f} of the box's side off"
    if "obb" in wanted:
        *_, width, height, angle = wanted["obb"]
        turned = abs(found["obb"][4] - angle) % (np.pi / 2)  # a quarter exchanges the sides, which moves the box
        turned = min(turned, np.pi / 2 - turned) * (1 - min(width, height) / max(width, height, 1))
        if not turned <= test["angle_tolerance"]:
            return apart, f"an angle of {found['obb'][4]:.2f} for {angle:.2f}"
    return apart, ""


def self_test(folder: Path, key: "Path | None") -> list:
    """Try a bundle on this device; return a sentence for everything that differs."""
    problems = [] if key is None else check_signature(folder, key)
    if problems:  # nothing that it says is believed
        return problems
    manifest = read_manifest(folder)
    problems = check_files(folder, manifest)
    if problems:  # nothing is run that is not what its maker wrote
        return problems
    test, detector = manifest["selftest"], Detector(folder / manifest["model"])
    if list(detector.names) != manifest["names"]:
        problems.append(f"expected the classes {manifest['names']}, the model has {detector.names}")
    if detector.image_size != manifest["preprocessing"]["image_size"]:
        problems.append(f"expected {manifest['preprocessing']['image_size']} px, the model takes {detector.image_size}")
    if (detector.task, detector.sizes) != (manifest.get("task", "detect"), manifest.get("task_settings", {})):
        return [*problems, f"expected another task, the model is of {detector.task} with {detector.sizes}"]
    confidence = None if detector.task == "classify" else test["confidence"]
    found = detector.predict(folder / test["picture"], confidence=confidence)
    return problems + compare(test, found)


def printable(text: object) -> str:
    """Return a text with escapes in place of what would steer a terminal, or cannot be written."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in str(text))


def main() -> int:
    """Run the command line; the exit code is 1 on an error."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Detect objects with a detector that visionlora exported."
    )
    parser.add_argument("--model", help="the exported .onnx file (default: that of the bundle around this file)")
    parser.add_argument("--source", type=Path, help="an image, or a folder of images")
    parser.add_argument("--conf", type=float, help="lowest score that counts (default: the file's own, else 0.25)")
    parser.add_argument("--out", type=Path, help="JSON file for the detections (default: printed)")
    parser.add_argument("--draw", type=Path, metavar="DIR", help="folder for pictures with the boxes drawn")
    parser.add_argument(
        "--self-test",
        nargs="?",
        type=Path,
        const=here,
        metavar="DIR",
        help="try a bundle on this device: the one around this file, or in another folder",
    )
    parser.add_argument("--key", type=Path, help="with --self-test: the maker's public key, ed25519 (PEM)")
    args = parser.parse_args()
    if not args.self_test and args.source is None:
        parser.error("expected --source, or --self-test")
    try:
        if args.self_test:
            return _run_self_test(args.self_test, args.key)
        return _run(args, Path(args.model or here / read_manifest(here)["model"]))
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1


def _run_self_test(folder: Path, key: "Path | None") -> int:
    """Print what is wrong with a bundle, or OK."""
    try:
        problems = self_test(folder, key)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'manifest.json'}: broken: {error!r}") from error
    print("\n".join(map(printable, problems)) if problems else "OK")
    return 1 if problems else 0


def _run(args: argparse.Namespace, model: Path) -> int:
    """Detect in the pictures of the source; those that cannot be read are named at the end."""
    detector = Detector(model)
    paths = sorted(p for p in args.source.iterdir() if is_picture(p)) if args.source.is_dir() else [args.source]
    if not paths:
        raise ValueError(f"{args.source}: expected images ({', '.join(SUFFIXES)}), found none")
    if args.draw and args.draw.resolve() == paths[0].parent.resolve():
        raise ValueError(f"{args.draw}: the drawn pictures would replace the images there; choose another --draw")
    results: list[dict] = []
    problems = []
    for path in paths:
        try:
            image = read_image(path)
        except ValueError as error:  # the others are still worth something
            problems.append(str(error))
            continue
        name = os.fsencode(path).decode("utf-8", "backslashreplace")  # bytes that are no UTF-8 as \xe9
        found = detector.predict(image, confidence=args.conf)
        results.append({"image": name, "top5" if detector.task == "classify" else "detections": found})
        if args.draw:
            draw(image, found, args.draw / path.name)
    if not results:
        raise ValueError("; ".join(problems))
    text = json.dumps(results, indent=1)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    for problem in problems:
        print(f"error: {printable(problem)}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
