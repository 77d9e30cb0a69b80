"""Pictures as they come from cameras, scanners and phones give the boxes that the plain picture gives."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from visionlora.data import load_dataset
from visionlora.progress import Progress, about, progress_to
from visionlora.scoring.detect_split import find_objects

BOX = (10, 20, 44, 52)  # of the red rectangle, in pixels of the upright picture


def _plain() -> np.ndarray:
    picture = np.full((64, 96, 3), 90, dtype=np.uint8)  # RGB
    picture[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (255, 0, 0)
    return picture


def _turned(path: Path) -> None:
    image = Image.fromarray(np.rot90(_plain()).copy())  # stored a quarter turn to the left
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned to the right
    image.save(path, quality=100, subsampling=0, exif=exif)


WRITERS = {
    "plain.png": lambda path: Image.fromarray(_plain()).save(path),
    "16bit.png": lambda path: cv2.imwrite(str(path), _plain()[..., ::-1].astype(np.uint16) * 257),
    "cmyk.jpg": lambda path: Image.fromarray(_plain()).convert("CMYK").save(path, quality=100),
    "turned.jpg": _turned,
    "alpha.png": lambda path: Image.fromarray(_plain()).convert("RGBA").save(path),
    "Prüfstück 铁 №3.png": lambda path: Image.fromarray(_plain()).save(path),
}


def _dataset(folder: Path, name: str):
    for kind in ("images", "labels"):
        (folder / kind).mkdir(exist_ok=True)
    WRITERS.get(name, WRITERS["plain.png"])(folder / "images" / name)
    x1, y1, x2, y2 = BOX
    label = f"0 {(x1 + x2) / 192} {(y1 + y2) / 128} {(x2 - x1) / 96} {(y2 - y1) / 64}\n"
    (folder / "labels" / name).with_suffix(".txt").write_text(label)
    (folder / "data.yaml").write_text("train: images\nval: images\nnames: [red]\n")
    return load_dataset(folder / "data.yaml", splits=("val",)).split("val")


@pytest.mark.parametrize("name", WRITERS)
def test_picture_of_every_kind_gives_its_box(name, tmp_path, colour_network) -> None:
    images = _dataset(tmp_path, name)

    found = find_objects(colour_network(("red",), image_size=96), images, ("red",)).detections[0]

    np.testing.assert_allclose(images[0].boxes_xyxy, [BOX], atol=0.01)
    np.testing.assert_allclose(found.boxes_xyxy, [BOX], atol=1.1)


def test_grey_picture_is_read(tmp_path, colour_network) -> None:
    WRITERS["grey.png"] = lambda path: cv2.imwrite(str(path), _plain()[..., 0])
    images = _dataset(tmp_path, "grey.png")
    del WRITERS["grey.png"]

    assert len(find_objects(colour_network(("red",), image_size=96), images, ("red",)).detections[0]) == 0


def test_order_is_kept_while_pictures_are_read_ahead(images, names, colour_network) -> None:
    class Slow(colour_network):
        def __call__(self, batch, /):
            time.sleep(0.01)
            return super().__call__(batch)

    found = find_objects(Slow(), images, names, batch=2)

    for one, image in zip(found.detections, images, strict=True):
        assert sorted(one.class_ids.tolist()) == sorted(image.class_ids.tolist())


def test_no_picture_gives_nothing(names, colour_network) -> None:
    assert find_objects(colour_network(), [], names).detections == ()


def test_huge_picture_gives_its_box(tmp_path, colour_network) -> None:
    WRITERS["huge.png"] = lambda path: Image.fromarray(_plain()).resize((7200, 4800), 0).save(path, compress_level=1)
    images = _dataset(tmp_path, "huge.png")
    del WRITERS["huge.png"]

    found = find_objects(colour_network(("red",), image_size=96), images, ("red",)).detections[0]

    np.testing.assert_allclose(found.boxes_xyxy, np.array([BOX]) * 75, atol=80)  # a pixel of the input is 75 here


def test_thousands_of_objects_are_found(tmp_path, images, colour_network) -> None:
    many = replace(images[0], boxes_xyxy=np.tile(images[0].boxes_xyxy, (4000, 1)), class_ids=np.zeros(4000, np.int64))

    assert len(find_objects(colour_network(), [many], ("red", "green", "blue")).detections[0]) == 1


def test_images_are_reported_as_they_are_judged(images, names, colour_network) -> None:
    events: list[Progress] = []
    with progress_to(events.append), about("int8"):
        find_objects(colour_network(), images, names, batch=2)
    assert [one.done for one in events] == [*range(0, len(images), 2), len(images)]
    assert set(events) == {Progress("judge", one.done, len(images), "int8", "image") for one in events}
