from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import visionlora as vl
from tests.tiny_onnx import NAMES, own_metadata, write_constant, write_detector
from visionlora.runtime import OnnxNetwork
from visionlora.tasks import OrientedBoxes, Pose, Segment
from visionlora.vision import image_header
from visionlora.vision.inference import detect
from visionlora.vision.preprocess import center_crop_pixels, read_image

SCRIPT = Path(__file__).parents[2] / "export" / "detect.py"
CONFIDENCE = 0.4
TASKS = (Segment(coefficients=8), Pose(keypoints=17, dims=3), Pose(keypoints=4, dims=2), OrientedBoxes())
LIBRARIES = pytest.mark.parametrize("blocked", ["cv2", "PIL"])


def card_of(task: str, sizes: dict) -> dict:
    return {**own_metadata(), "task": task, "task_settings": sizes}


def load(blocked: str) -> ModuleType:
    """Import the script as if one of the two image libraries were not installed."""
    spec = importlib.util.spec_from_file_location(f"detect_without_{blocked}", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, blocked, None)
        spec.loader.exec_module(module)
    return module


def run(blocked: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script in a process of its own where one of the image libraries cannot be imported."""
    code = (
        f"import runpy, sys; sys.modules[{blocked!r}] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_detector(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures of many kinds: sizes, formats, grey, 16 bits, alpha, a turned one, letters of other alphabets."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for i, (width, height) in enumerate([(64, 64), (200, 120), (77, 203), (20, 31), (128, 128)]):
        pixels = cv2.resize(generator.integers(0, 256, (9, 9, 3)).astype(np.uint8), (width, height))
        Image.fromarray(pixels).save(folder / f"{i}.{'jpg' if i % 2 else 'png'}", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[:90]).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(pixels[:, :, 0]).save(folder / "grey.bmp")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 250).save(folder / "deep.png")
    Image.fromarray(np.dstack([pixels, pixels[:, :, 0]])).save(folder / "Über 鋼.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def expected_detections(model: Path, path: Path) -> list[dict]:
    (found,) = detect(OnnxNetwork(model), [read_image(path)], confidence=CONFIDENCE)
    return [
        {
            "name": NAMES[class_id],
            "class_id": int(class_id),
            "score": pytest.approx(float(score), abs=1e-5),
            "box_xyxy": pytest.approx(box.tolist(), abs=1e-3),
        }
        for box, score, class_id in zip(found.boxes_xyxy, found.scores, found.class_ids, strict=True)
    ]


@LIBRARIES
def test_the_command_finds_what_visionlora_finds(tmp_path, model, folder, blocked):
    out = tmp_path / "detections.json"
    result = run(blocked, "--model", model, "--source", folder, "--conf", CONFIDENCE, "--out", out)
    assert result.returncode == 0 and result.stdout == "" and result.stderr == ""
    entries = json.loads(out.read_text())
    assert [Path(entry["image"]).name for entry in entries] == sorted(
        path.name for path in folder.iterdir() if path.suffix != ".txt"
    )
    for entry in entries:
        assert entry["detections"] == expected_detections(model, Path(entry["image"]))
    counts = [len(entry["detections"]) for entry in entries]
    assert min(counts) >= 1 and max(counts) < 3 * 64  # it finds something, and drops something


@LIBRARIES
@pytest.mark.parametrize("nms", [True, False])
def test_the_class_finds_what_visionlora_finds(tmp_path, folder, blocked, nms):
    properties = {"visionlora": json.dumps(own_metadata(nms=nms))}
    path = write_detector(tmp_path / "model.onnx", properties=properties)
    detector = load(blocked).Detector(path)
    picture = folder / "1.jpg"
    expected = expected_detections(path, picture)
    assert len(expected) > 1
    assert detector.predict(picture, confidence=CONFIDENCE) == expected
    assert detector.predict(read_image(picture), confidence=CONFIDENCE) == expected
    (default,) = detect(OnnxNetwork(path), [read_image(picture)])
    assert len(detector.predict(str(picture))) == len(default)


@pytest.fixture(scope="module")
def without_opencv() -> ModuleType:
    return load("cv2")


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.name)
def task_model(request, tmp_path_factory) -> Path:
    """Return a tiny detector of masks, of keypoints, or of oriented boxes."""
    return write_detector(tmp_path_factory.mktemp("task") / "model.onnx", task=request.param)


@LIBRARIES
@pytest.mark.parametrize("picture", ["1.jpg", "3.jpg", "turned.jpg"])
def test_masks_keypoints_and_oriented_boxes_are_those_of_visionlora(task_model, folder, blocked, picture):
    script = load(blocked)
    expected = vl.Detector(task_model).predict(folder / picture, confidence=CONFIDENCE)
    detector = script.Detector(task_model)
    assert detector.predict(read_image(folder / picture), confidence=1.0) == []
    found = detector.predict(read_image(folder / picture), confidence=CONFIDENCE)
    wanted = expected.to_dict()["detections"]
    assert 1 < len(found) == len(wanted) < 3 * 64
    for one, two in zip(found, wanted, strict=True):
        assert one.keys() == two.keys() and json.loads(json.dumps(one)) == one
        assert (one["name"], one["class_id"]) == (two["name"], two["class_id"])
        assert one.get("obb", [0])[-1] == pytest.approx(two.get("obb", [0])[-1], abs=0.51e-4)
        if "segmentation" in one and one["segmentation"] != two["segmentation"]:  # OpenCV 4 rounds places to 1 / 32
            masks = [script.mask_of(each["segmentation"]) for each in (one, two)]
            assert (masks[0] != masks[1]).mean() < 0.01
        for field, digits in (("box_xyxy", 2), ("score", 4), ("keypoints", 2), ("obb", 2)):
            near = 0.51 * 10**-digits
            np.testing.assert_allclose(one.get(field, 0), two.get(field, 0), atol=near, rtol=0, err_msg=field)


@settings(max_examples=100)
@given(size_wh=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_runs_of_a_mask_are_those_of_pycocotools_and_lead_back(without_opencv, size_wh, seed, share):
    mask = np.random.default_rng(seed).random(size_wh[::-1]) < share
    rle = without_opencv.to_rle(0, 0, mask, size_wh)
    expected = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle == {"size": [*mask.shape], "counts": expected["counts"].decode()}
    np.testing.assert_array_equal(without_opencv.mask_of(rle), mask)


@pytest.mark.parametrize(
    ("counts", "size"),
    [("", [2, 2]), ("4", [2, 3]), ("1:1", [1, 1]), ("o" * 10**6, [2, 2])],
    ids=["none", "too few", "too many", "without end"],
)
def test_runs_that_are_no_mask_are_refused(without_opencv, counts, size):
    with pytest.raises(ValueError, match="expected runs"):
        without_opencv.mask_of({"counts": counts, "size": size})


def test_nms_has_an_effect_on_these_pictures(tmp_path, model, folder):
    everything = write_detector(tmp_path / "all.onnx", properties={"visionlora": json.dumps(own_metadata(nms=False))})
    assert len(expected_detections(model, folder / "1.jpg")) < len(expected_detections(everything, folder / "1.jpg"))


@pytest.fixture(scope="module")
def class_model(classifier: Path, tmp_path_factory) -> Path:
    return vl.export(classifier, tmp_path_factory.mktemp("classes") / "model.onnx").path


@LIBRARIES
def test_classes_are_those_of_visionlora(class_model, folder, tmp_path, blocked):
    script = load(blocked)
    detector = script.Detector(class_model)
    random = np.random.default_rng(0)
    for shape in ((64, 64), (40, 31), (201, 333), (64, 700), (1, 5)):
        pixels = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
        np.testing.assert_array_equal(script.center_crop(pixels, 64), center_crop_pixels(pixels, 64)[0][:, :, ::-1])
        best = vl.Detector(class_model).predict(pixels).to_dict()["top5"]
        found = [{**one, "score": round(one["score"], 4)} for one in detector.predict(pixels)]
        assert found == [{key: one[key] for key in ("name", "class_id", "score")} for one in best]
    with pytest.raises(ValueError, match="confidence: a classifier gives the probabilities of all classes"):
        detector.predict(pixels, confidence=0.5)
    done = run(blocked, "--model", class_model, "--source", folder / "1.jpg", "--draw", tmp_path / "drawn")
    assert [sorted(entry) for entry in json.loads(done.stdout)] == [["image", "top5"]] and not done.stderr
    assert (tmp_path / "drawn/1.jpg").is_file()


def test_a_bundle_of_classes_says_ok_or_what_differs(class_model, tmp_path):
    folder = vl.bundle(class_model, tmp_path / "line").path
    told = [run("cv2", "--self-test", folder)]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    first = manifest["selftest"]["detections"][0]
    assert sorted(first) == ["class_id", "name", "score"]
    opened = vl.open_bundle(folder)
    assert opened.detector().predict(folder / "selftest.png").to_dict()["top5"][0]["name"] == first["name"]
    expected = first["score"]
    first["score"] = round(expected - 0.4, 4)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    told.append(run("cv2", "--self-test", folder))
    assert [done.returncode for done in told] == [0, 1] and told[0].stdout == "OK\n"
    assert told[1].stdout.startswith(f"expected {first['name']} with {first['score']:.3f}, found {expected:.3f}")


@LIBRARIES
def test_every_picture_is_read_as_visionlora_reads_it(folder, blocked):
    for path in folder.glob("*.[!t]*"):
        np.testing.assert_array_equal(load(blocked).read_image(path), read_image(path), err_msg=path.name)


side = st.integers(1, 120)


@settings(max_examples=100)
@given(old_wh=st.tuples(side, side), new_wh=st.tuples(side, side), seed=st.integers(0, 100))
def test_resizing_without_opencv_equals_opencv(without_opencv, old_wh, new_wh, seed):
    image = np.random.default_rng(seed).integers(0, 256, (old_wh[1], old_wh[0], 3)).astype(np.uint8)
    expected = cv2.resize(image, new_wh, interpolation=cv2.INTER_LINEAR)
    # OpenCV's own code is reproduced to the bit; its builds for other processors may round one step differently.
    difference = np.abs(without_opencv.resize(image, *new_wh).astype(int) - expected)
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.01


@LIBRARIES
def test_detections_are_drawn_on_a_copy(tmp_path, model, folder, blocked):
    before = (folder / "1.jpg").read_bytes()
    arguments = ("--source", folder / "1.jpg", "--conf", CONFIDENCE, "--draw", tmp_path / "drawn")
    result = run(blocked, "--model", model, *arguments)
    assert json.loads(result.stdout)[0]["image"] == str(folder / "1.jpg")
    drawn, original = read_image(tmp_path / "drawn" / "1.jpg"), read_image(folder / "1.jpg")
    assert drawn.shape == original.shape and np.abs(drawn.astype(int) - original).max() > 100
    assert (folder / "1.jpg").read_bytes() == before


@LIBRARIES
def test_masks_keypoints_and_oriented_boxes_are_drawn(tmp_path, blocked):
    script = load(blocked)
    colour, blue = np.array(script.COLOURS_RGB[0][::-1]), np.array([255, 0, 0], dtype=np.uint8)
    inside = np.zeros((100, 100), dtype=bool)
    inside[30:60, 30:60] = True
    shared = {"name": "", "class_id": 0, "score": 0.5, "box_xyxy": [30, 30, 60, 60]}
    seen = [[10, 80, 0.9], [80, 20, 0.9], [80, 80, 0.1]]
    for beside, coloured, plain in (
        ({"segmentation": script.to_rle(0, 0, inside, (100, 100))}, [(30, 45), (59, 59)], [(62, 45), (28, 30)]),
        ({"keypoints": seen}, [(10, 80), (80, 20), (30, 50)], [(80, 80), (45, 55)]),
        ({"obb": [50, 50, 60, 20, np.pi / 6]}, [(50, 39), (71, 73)], [(30, 30), (60, 60), (50, 50)]),
    ):
        picture = np.broadcast_to(blue, (100, 100, 3))
        script.draw(picture, [{**shared, **beside}], tmp_path / "drawn.png")
        drawn = read_image(tmp_path / "drawn.png").astype(int)
        near = np.abs(drawn - colour).max(axis=2) < 3
        for x, y in coloured:
            assert near[y - 2 : y + 3, x - 2 : x + 3].any(), (beside, x, y)
        for x, y in plain:
            assert (drawn[y, x] == blue).all(), (beside, x, y)
        if "segmentation" in beside:
            np.testing.assert_allclose(drawn[55, 55], 0.55 * blue + 0.45 * colour, atol=1)


def test_drawing_over_the_source_is_refused(model, folder):
    result = run("PIL", "--model", model, "--source", folder, "--draw", folder)
    assert result.returncode == 1 and "would replace the images" in result.stderr


@LIBRARIES
def test_a_broken_picture_is_refused_by_name(tmp_path, folder, blocked):
    whole = (folder / "0.png").read_bytes()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"no picture")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    names = ["absent.png", "empty.png", "text.png", "cut.png", "cut.jpg"]
    # A process of its own: Ultralytics replaces Pillow's open, and its own does not fail the same way.
    code = f"""
import runpy, sys
sys.modules[{blocked!r}] = None
read_image = runpy.run_path({str(SCRIPT)!r})["read_image"]
for name in {names}:
    try:
        read_image(name)
    except ValueError as error:
        print(error)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    messages = result.stdout.splitlines()
    assert len(messages) == len(names)
    for name, message in zip(names, messages, strict=True):
        assert message.startswith(f"{name}: cannot be read as an image: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "found none", id="missing"),
        pytest.param(b"no model", "cannot load it", id="text"),
        pytest.param({}, "lacks 'visionlora'", id="of another maker"),
        pytest.param({"visionlora": "{}"}, "lacks 'format'", id="empty metadata"),
        pytest.param({"visionlora": json.dumps({**own_metadata(), "format": 2})}, "expected format 1", id="newer"),
        pytest.param({"visionlora": json.dumps({**own_metadata(), "task": "square"})}, "'square'", id="a later task"),
        pytest.param({"visionlora": json.dumps({**own_metadata(), "task": []})}, "lacks unhashable", id="no task"),
        pytest.param({"visionlora": json.dumps(card_of("pose", {"dims": 4}))}, "lacks the sizes", id="dims"),
        pytest.param({"visionlora": json.dumps(card_of("pose", {"points": 4}))}, "lacks the sizes", id="other sizes"),
        pytest.param({"visionlora": json.dumps(card_of("obb", {"dims": 2}))}, "lacks the sizes", id="too many sizes"),
        pytest.param({"visionlora": json.dumps(card_of("segment", {"coefficients": 0}))}, "lacks the", id="no factors"),
        pytest.param({"visionlora": json.dumps(card_of("segment", {}))}, r"expected an output \(1, 39", id="no masks"),
    ],
)
def test_a_wrong_model_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write_detector(path, properties=content)
    with pytest.raises(ValueError, match=rf"model\.onnx: .*{message}"):
        load("PIL").Detector(path)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_an_array_that_is_no_colour_image_is_refused(model, image):
    with pytest.raises(ValueError, match="expected an image"):
        load("PIL").Detector(model).predict(image)


@LIBRARIES
def test_an_error_is_one_line_and_exit_code_one(tmp_path, model, folder, blocked):
    out = tmp_path / "out.json"
    (tmp_path / "text.png").write_bytes(b"no picture")
    for arguments in (
        ("--model", model, "--source", tmp_path / "text.png"),
        ("--model", tmp_path / "absent.onnx", "--source", folder),
        ("--model", model, "--source", folder, "--conf", "2"),
    ):
        result = run(blocked, *arguments, "--out", out)
        assert result.returncode == 1 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not out.exists()


@LIBRARIES
def test_a_broken_picture_among_others_is_told_and_the_others_are_predicted(tmp_path, model, folder, blocked):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes((folder / "0.png").read_bytes())
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "0.png").read_bytes())
    (tmp_path / "in" / "b.png").write_bytes(b"broken")
    (tmp_path / "in" / "._a.png").write_bytes(b"hidden")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    result = run(blocked, "--model", model, "--source", tmp_path / "in")
    assert result.returncode == 1 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "b.png: cannot be read" in result.stderr
    names = [Path(entry["image"]).name for entry in json.loads(result.stdout)]
    assert names == ["a.png", "caf\\xe9.png"]


@LIBRARIES
def test_a_picture_of_too_many_pixels_is_refused_before_it_takes_memory(tmp_path, blocked):
    header = struct.pack(">II", 30_000, 30_000) + bytes([8, 2, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(30_000), 9)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(ValueError, match=r"bomb\.png: .*at most 134 million pixels, got 30000 x 30000"):
        load(blocked).read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_the_stated_size_is_that_of_visionlora(suffix):
    script, generator = load("PIL"), np.random.default_rng(0)
    for side in (1, 77, 300):
        data = cv2.imencode(suffix, generator.integers(0, 256, (side, 2 * side, 3), dtype=np.uint8))[1].tobytes()
        assert tuple(script.stated_size(data)) == image_header.stated_size(data) == (2 * side, side)
        for cut in range(0, min(len(data), 60), 3):
            assert tuple(script.stated_size(data[:cut])) in ((0, 0), (2 * side, side))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.full((1, 7, 64), 0.5), "the same for two different pictures"),
        (np.full((1, 7, 64), np.nan), r"expected scores in \[0, 1\]"),
        (np.full((1, 7, 64), 3.0), r"expected scores in \[0, 1\]"),
        (np.zeros((1, 9, 64)), "expected an output"),
    ],
    ids=["constant", "nan", "logits", "rows"],
)
def test_a_network_that_computes_nonsense_is_refused(tmp_path, output, message):
    path = write_constant(tmp_path / "a.onnx", output, {"visionlora": json.dumps(own_metadata())})
    with pytest.raises(ValueError, match=rf"a\.onnx: .*{message}"):
        load("PIL").Detector(path)


@LIBRARIES
def test_any_name_can_be_drawn(tmp_path, blocked):
    code = f"""
import runpy, sys
from pathlib import Path
import numpy as np
sys.modules[{blocked!r}] = None
draw = runpy.run_path({str(SCRIPT)!r})["draw"]
for name in ("\\ud83d", "a\\x1b[31m\\x00", "K\\u00e4fer \\u92fc"):
    found = [dict(name=name, class_id=0, score=0.5, box_xyxy=[2, 2, 30, 30])]
    draw(np.zeros((48, 64, 3), np.uint8), found, Path({str(tmp_path)!r}) / "a.png")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_without_pictures_and_a_missing_option_are_refused(tmp_path, model):
    result = run("PIL", "--model", model, "--source", tmp_path)
    assert result.returncode == 1 and "expected images" in result.stderr
    assert run("PIL", "--model", model).returncode == 2


def test_the_script_needs_nothing_of_visionlora():
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print({'visionlora', 'torch', 'onnx'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code, str(SCRIPT)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_readme_states_the_metadata_that_the_script_reads():
    text = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    stated = text.split('`{"image_size": S, ')[1].split("}`")[0]
    assert json.loads("{" + stated + "}") == load("PIL").PREPROCESSING
    assert all(f"| `{field}` |" in text for field in own_metadata())
