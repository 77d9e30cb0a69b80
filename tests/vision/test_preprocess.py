from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from ultralytics.data.augment import LetterBox
from ultralytics.data.dataset import YOLODataset

from visionlora.errors import DataError, UsageError
from visionlora.vision.preprocess import PADDING, letterbox, read_image

SIZES_WH = [
    (640, 480),
    (480, 640),
    (200, 200),
    (333, 500),
    (501, 77),
    (1, 300),
    (300, 1),
    (3, 2),
    (320, 320),
    (641, 639),
]


@pytest.fixture
def rgb() -> np.ndarray:
    """(24, 32, 3) uint8: flat blocks, so that JPEG loses little."""
    blocks = np.random.default_rng(0).integers(0, 256, (3, 4, 3))
    return np.kron(blocks, np.ones((8, 8, 1))).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, image_format: str, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, image_format, **options)
    return path


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_colour_is_read_as_bgr(tmp_path, rgb, image_format):
    np.testing.assert_array_equal(read_image(write(tmp_path / "a", rgb, image_format)), rgb[:, :, ::-1])


def test_a_path_may_be_text_and_hold_any_letters(tmp_path, rgb):
    path = write(tmp_path / "Kratzer für 鋼 №1.png", rgb, "PNG")
    np.testing.assert_array_equal(read_image(str(path)), rgb[:, :, ::-1])


def test_grey_becomes_three_equal_channels(tmp_path, rgb):
    image = read_image(write(tmp_path / "grey.png", rgb[:, :, 0], "PNG"))
    np.testing.assert_array_equal(image, np.repeat(rgb[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix, channels):
    pixels = np.random.default_rng(1).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    (tmp_path / f"deep{suffix}").write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    image = read_image(tmp_path / f"deep{suffix}")
    assert image.dtype == np.uint8 and image.shape == (20, 30, 3)
    assert np.abs(image - pixels / 257).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_alpha_is_dropped(tmp_path, mode, image_format):
    pixels = np.random.default_rng(2).integers(0, 256, (20, 30, len(mode))).astype(np.uint8)
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    image = read_image(write(tmp_path / "alpha", pixels, image_format, **options))
    colours = np.broadcast_to(pixels[:, :, :-1], (20, 30, 3))
    np.testing.assert_array_equal(image, colours[:, :, ::-1])


def test_a_cmyk_jpeg_is_read_in_its_colours(tmp_path, rgb):
    image = read_image(write(tmp_path / "print.jpg", rgb, "JPEG", "CMYK", quality=95))
    assert np.abs(image[:, :, ::-1].astype(int) - rgb).max() <= 4


def test_a_palette_is_read_in_its_colours(tmp_path, rgb):
    path = write(tmp_path / "palette.png", rgb, "PNG", "P")
    np.testing.assert_array_equal(read_image(path)[:, :, ::-1], np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
    ids=["upright", "upside down", "clockwise", "counter-clockwise"],
)
def test_exif_orientation_is_applied(tmp_path, rgb, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(write(tmp_path / "turned.jpg", rgb, "JPEG", exif=exif, quality=95, subsampling=0))
    assert image.shape == turned(rgb).shape
    assert np.abs(image[:, :, ::-1].astype(int) - turned(rgb)).max() <= 8


def encoded(rgb: np.ndarray, image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, image_format)
    return buffer.getvalue()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
def test_a_truncated_image_is_refused_by_name(tmp_path, rgb, image_format, share):
    data = encoded(np.random.default_rng(3).integers(0, 256, (64, 64, 3)).astype(np.uint8), image_format)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\.img: expected an image"):
        read_image(path)


def test_a_jpeg_with_bytes_after_its_end_is_read(tmp_path, rgb):
    (tmp_path / "camera.jpg").write_bytes(encoded(rgb, "JPEG") + b"\0" * 100)
    assert read_image(tmp_path / "camera.jpg").shape == rgb.shape


def png_of_size(rgb: np.ndarray, width: int, height: int) -> bytes:
    """A PNG whose header claims another size, with a valid checksum."""
    import zlib

    data = encoded(rgb, "PNG")
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(lambda rgb: b"", "empty file", id="empty"),
        pytest.param(lambda rgb: b"not an image", "unknown format", id="text"),
        pytest.param(lambda rgb: png_of_size(rgb, 0, 0), "broken", id="0x0"),
        pytest.param(lambda rgb: png_of_size(rgb, 20_000, 20_000), "at most 134 million", id="a decompression bomb"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, rgb, content, message):
    (tmp_path / "bad.png").write_bytes(content(rgb))
    with pytest.raises(DataError, match=rf"bad\.png: .*{message}"):
        read_image(tmp_path / "bad.png")


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"absent\.png: cannot be read"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


@pytest.mark.parametrize("image_size", [64, 320, 33])
@pytest.mark.parametrize("size_wh", SIZES_WH)
def test_letterbox_equals_that_of_ultralytics(size_wh, image_size):
    image = np.random.default_rng(4).integers(0, 256, (size_wh[1], size_wh[0], 3)).astype(np.uint8)
    expected = LetterBox((image_size, image_size), auto=False, scaleup=True)(image=image)
    tensor, _ = letterbox(image, image_size)
    assert tensor.dtype == np.float32 and tensor.flags.c_contiguous
    np.testing.assert_array_equal(tensor, expected[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 255)


def test_letterbox_equals_the_input_of_the_validator_of_ultralytics(tmp_path, monkeypatch):
    # The validator rounds the shorter side up where predictor and LetterBox round to nearest: sizes without a fraction.
    sizes = [(640, 480), (200, 200), (300, 225), (128, 320), (40, 30)]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3)).astype(np.uint8)
        write(tmp_path / f"images/{i}.png", pixels, "PNG")
        (tmp_path / f"labels/{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    dataset = YOLODataset(
        img_path=str(tmp_path / "images"),
        data={"names": {0: "a"}, "channels": 3},
        task="detect",
        imgsz=320,
        augment=False,
        rect=False,
    )
    for sample in (dataset[i] for i in range(len(sizes))):
        tensor, _ = letterbox(read_image(sample["im_file"]), 320)
        np.testing.assert_array_equal(tensor, sample["img"].numpy().astype(np.float32) / 255)


def test_letterbox_leaves_a_square_of_the_right_size_as_it_is():
    image = np.random.default_rng(5).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    tensor, placement = letterbox(image, 64)
    np.testing.assert_array_equal(np.rint(tensor * 255).astype(np.uint8), image.transpose(2, 0, 1)[::-1])
    assert placement.scale_xy == (1, 1) and placement.offset_xy == (0, 0) and placement.size_wh == (64, 64)


def test_letterbox_pads_with_grey_and_does_not_change_the_image():
    image = np.zeros((10, 20, 3), dtype=np.uint8)
    tensor, placement = letterbox(image, 40)
    assert placement.offset_xy == (0, 10) and placement.scale_xy == (2, 2)
    assert (tensor[:, :10] == np.float32(PADDING / 255)).all() and (tensor[:, 30:] == np.float32(PADDING / 255)).all()
    assert not tensor[:, 10:30].any() and not image.any()


side = st.integers(1, 700)


@settings(max_examples=100)
@given(width=side, height=side, image_size=st.integers(32, 400), seed=st.integers(0, 100))
def test_boxes_go_there_and_back(width, height, image_size, seed):
    _, placement = letterbox(np.zeros((height, width, 3), dtype=np.uint8), image_size)
    corners = np.random.default_rng(seed).uniform(0, 1, (5, 2, 2)) * (width, height)
    boxes = np.sort(corners, axis=1).reshape(5, 4)  # x1, y1, x2, y2
    there = boxes * (placement.scale_xy * 2) + placement.offset_xy * 2
    assert (there >= 0).all() and (there <= image_size + 1e-6).all()
    np.testing.assert_allclose(placement.to_original(there), boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size_wh", [(200, 100), (90, 180), (640, 640), (417, 233)])
def test_a_bright_rectangle_is_found_where_it_was(size_wh):
    image = np.zeros((size_wh[1], size_wh[0], 3), dtype=np.uint8)
    box = np.array([0.25, 0.5, 0.75, 0.875]) * (size_wh * 2)
    left, top, right, bottom = box.round().astype(int)
    image[top:bottom, left:right] = 255
    tensor, placement = letterbox(image, 320)
    rows, columns = np.nonzero(tensor[0] > 0.5)
    found = placement.to_original([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    np.testing.assert_allclose(found, [[left, top, right, bottom]], atol=1 / min(placement.scale_xy))


def test_boxes_are_clipped_to_the_image():
    _, placement = letterbox(np.zeros((50, 100, 3), dtype=np.uint8), 200)
    assert placement.to_original([[-10, 0, 500, 500]]).tolist() == [[0, 0, 100, 50]]
    assert placement.to_original(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros((4, 4), dtype=np.uint8), id="grey"),
        pytest.param(np.zeros((4, 4, 4), dtype=np.uint8), id="alpha"),
        pytest.param(np.zeros((4, 4, 3), dtype=np.float32), id="float"),
        pytest.param(np.zeros((0, 4, 3), dtype=np.uint8), id="no pixels"),
    ],
)
def test_letterbox_refuses_what_is_no_colour_image(image):
    with pytest.raises(DataError, match=r"expected an image \(H, W, 3\) of uint8"):
        letterbox(image, 64)


def test_letterbox_refuses_a_size_below_one():
    with pytest.raises(UsageError, match="at least 1 pixel"):
        letterbox(np.zeros((4, 4, 3), dtype=np.uint8), 0)
