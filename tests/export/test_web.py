"""The browser runner: a real browser finds what the Python runner finds, and refuses what it should."""

from __future__ import annotations

import base64
import functools
import http.server
import importlib.util
import json
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import visionlora as vl
from tests.tiny_onnx import write_detector
from visionlora.tasks import OrientedBoxes, Pose, Segment
from visionlora.vision.masks import decode_rle, encode_rle
from visionlora.vision.rotated import corners_of

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and shutil.which("npm")), reason="needs chromium and npm"),
]
EXPORT = Path(__file__).parents[2] / "export"
TASKS = (Segment(coefficients=8), Pose(keypoints=17, dims=3), OrientedBoxes())


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator:
    """Serve the runner with onnxruntime-web beside it; yield a browser's page, already opened."""
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(EXPORT / "web", folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install onnxruntime-web within three minutes")
    if done.returncode:
        pytest.skip(f"npm cannot install onnxruntime-web: {done.stderr.strip().splitlines()[-1:]}")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def guess_type(self, path: object) -> str:
            return "text/javascript" if str(path).endswith(".mjs") else super().guess_type(path)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fake_camera = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=fake_camera)
        page = browser.new_page()
        outside = []
        page.on("request", lambda request: outside.append(request.url) if "127.0.0.1" not in request.url else None)
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        yield page
        browser.close()
    server.shutdown()
    assert [url for url in outside if not url.startswith("blob:")] == []  # all stays on this machine


@pytest.fixture(scope="module")
def bundles(exported, surface, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    # Sums of these weights are the same in a browser and on any CPU.
    int8 = vl.quantize(exported.path, surface, folder / "model.int8.onnx", images=4, weights="int7").path
    models = {"float": exported.path, "int8": int8}
    return {name: vl.bundle(model, folder / f"{name}.zip").path for name, model in models.items()}


def load(page, bundle: Path) -> str:
    """Give the page a bundle; return what it says then."""
    page.set_input_files("#zip", str(bundle))
    return wait(page)


def wait(page) -> str:
    playwright.expect(page.locator("#status")).not_to_have_text("Working...", timeout=60_000)
    return page.text_content("#status")


def python_finds(bundle: Path, picture: Path, confidence: float, folder: Path) -> list[dict]:
    vl.unbundle(bundle, folder, overwrite=True)
    spec = importlib.util.spec_from_file_location("detect", folder / "detect.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Detector(next(folder.glob("*.onnx"))).predict(picture, confidence=confidence)


@pytest.mark.parametrize(("kind", "pixels", "scores"), [("float", 0.01, 1e-4), ("int8", 0.5, 0.001)])
def test_browser_finds_what_python_finds(kind, pixels, scores, page, bundles, surface, tmp_path) -> None:
    assert "model" in load(page, bundles[kind])
    page.fill("#confidence", "0.001")
    image = cv2.imread(str(next((surface.parent / "images" / "val").iterdir())))
    for number, size in enumerate([(96, 96), (150, 61), (40, 77)]):
        picture = tmp_path / f"{number}.png"
        cv2.imwrite(str(picture), cv2.resize(image, size))
        page.set_input_files("#picture", str(picture))
        assert "objects in" in wait(page)
        found = json.loads(page.get_attribute("html", "data-found"))
        expected = python_finds(bundles[kind], picture, 0.001, tmp_path / "line")
        sure = [one for one in expected if one["score"] > 0.001 + scores]
        assert len(sure) >= 1
        for wanted in sure:
            alike = [one for one in found if one["class_id"] == wanted["class_id"]]
            apart = [np.abs(np.subtract(one["box_xyxy"], wanted["box_xyxy"])).max() for one in alike]
            assert min(apart) < pixels
            assert alike[int(np.argmin(apart))]["score"] == pytest.approx(wanted["score"], abs=scores)
            assert alike[int(np.argmin(apart))]["name"] == wanted["name"]


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.name)
def of_task(request, tmp_path_factory) -> tuple[str, Path]:
    """Return the name of a task and a bundle of a tiny detector."""
    folder = tmp_path_factory.mktemp(request.param.name)
    model = write_detector(folder / "model.onnx", task=request.param)
    return request.param.name, vl.bundle(model, folder / "line.zip").path


def test_browser_finds_masks_keypoints_and_oriented_boxes_as_python_does(page, of_task, tmp_path) -> None:
    task, bundle = of_task
    assert "model" in load(page, bundle)
    page.fill("#confidence", "0.4")
    picture = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    for size in ((77, 203), (700, 480)):
        cv2.imwrite(str(picture), cv2.resize(pixels, size))
        page.set_input_files("#picture", str(picture))
        assert "objects in" in wait(page)
        found = json.loads(page.get_attribute("html", "data-found"))
        expected = python_finds(bundle, picture, 0.4, tmp_path / "line")
        assert len(found) == len(expected) > 1
        for one, two in zip(found, expected, strict=True):
            assert one.keys() == two.keys() and one["class_id"] == two["class_id"]
            for field in ("box_xyxy", "score", "keypoints", "obb"):
                np.testing.assert_allclose(one.get(field, 0), two.get(field, 0), atol=2e-3, rtol=0, err_msg=field)
            if task == "segment":
                assert one["segmentation"]["size"] == two["segmentation"]["size"]
                assert (decode_rle(one["segmentation"]) != decode_rle(two["segmentation"])).mean() < 1e-3
    url = page.evaluate("document.querySelector('canvas').toDataURL()")
    drawn = cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    changed = cv2.dilate((drawn != cv2.imread(str(picture))).any(axis=2).astype(np.uint8), np.ones((3, 3)))
    if task == "segment":
        inside = np.any([decode_rle(one["segmentation"]) for one in expected], axis=0)
        assert inside.any() and changed[inside].mean() > 0.99 and changed.mean() < 0.9
    points = [point[:2] for one in expected for point in one.get("keypoints", []) if point[2] >= 0.5]
    points += corners_of([one["obb"] for one in expected]).reshape(-1, 2).tolist() if task == "obb" else []
    for x, y in points:
        assert not (1 < x < 699 and 1 < y < 479) or changed[int(y), int(x)]


def test_self_test_looks_at_masks_keypoints_and_angles(page, of_task, tmp_path) -> None:
    task, bundle = of_task
    load(page, bundle)
    page.click("#selftest")
    assert wait(page) == "OK: this browser finds what it should"
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files["manifest.json"])
    first = manifest["selftest"]["detections"][0]
    if task == "segment":
        first["segmentation"] = encode_rle((0, 0, 1, 1), np.ones((1, 1), bool), first["segmentation"]["size"][::-1])
    elif task == "pose":
        first["keypoints"] = [[x + 9, y, visible] for x, y, visible in first["keypoints"]]
    else:
        first["obb"][2:] = [40, 10, (first["obb"][4] + 0.7) % 1.5]
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)
    load(page, tmp_path / "other.zip")
    page.click("#selftest")
    assert wait(page) == f"Not found: {first['name']} {first['score']}."


@pytest.mark.parametrize(
    ("task", "sizes"), [("square", {}), ("pose", {}), ("pose", {"keypoints": -17, "dims": -3}), ("segment", "many")]
)
def test_a_task_that_the_page_does_not_know_is_refused(task, sizes, page, bundles, tmp_path) -> None:
    with zipfile.ZipFile(bundles["float"]) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = {**json.loads(files["manifest.json"]), "task": task, "task_settings": sizes}
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)
    assert load(page, tmp_path / "odd.zip").startswith("Expected a detector of detect, segment, pose, obb, got ")


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_self_test_says_ok(kind, page, bundles) -> None:
    load(page, bundles[kind])
    page.click("#selftest")
    assert wait(page) == "OK: this browser finds what it should"
    assert page.locator("#detections tr").count() >= 1


def test_folder_is_read_too(page, bundles, tmp_path) -> None:
    vl.unbundle(bundles["float"], tmp_path / "line")
    page.set_input_files("#folder", str(tmp_path / "line"))
    assert "model.onnx" in wait(page)


def test_webcam_is_looked_at(page, bundles) -> None:
    load(page, bundles["int8"])
    page.click("#webcam")
    playwright.expect(page.locator("#status")).to_contain_text("pictures a second", timeout=60_000)
    page.click("#webcam")
    playwright.expect(page.locator("#status")).to_have_text("Webcam stopped.", timeout=60_000)


def test_tampered_bundles_are_refused(page, bundles, tmp_path) -> None:
    with zipfile.ZipFile(bundles["float"]) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    changes = {
        "is not what its maker wrote": {"requirements.txt": b"evil"},
        "Expected plain file names": {"../evil": b"x"},
        "no manifest.json": {"manifest.json": None},
        "is missing": {"selftest.png": None},
    }
    for message, change in changes.items():
        with zipfile.ZipFile(tmp_path / "evil.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {**files, **change}.items():
                if data is not None:
                    archive.writestr(name, data)
        assert message in load(page, tmp_path / "evil.zip")
        assert page.get_attribute("#status", "class") == "error" and page.is_disabled("#picture")
    (tmp_path / "text.zip").write_text("no archive")
    assert "found no directory" in load(page, tmp_path / "text.zip")


ODD = "<img src=x onerror=alert(1)>\u202e=cmd()\x1b[31m"


@pytest.fixture(scope="module")
def hostile(bundles, tmp_path_factory) -> Path:
    """A bundle whose classes have names of markup, of marks that turn text around, and of great length."""
    path = tmp_path_factory.mktemp("hostile") / "hostile.zip"
    with zipfile.ZipFile(bundles["float"]) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files["manifest.json"])
    manifest["names"] = [ODD, "x" * 5000, *manifest["names"][2:]]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_hide_no_other_and_names_are_text(width, page, hostile, surface) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    said = load(page, hostile)
    page.fill("#confidence", "0.001")
    page.set_input_files("#picture", str(next((surface.parent / "images" / "val").iterdir())))
    assert "objects in" in wait(page)

    places = json.loads(page.get_attribute("html", "data-labels"))
    assert len(places) >= 2
    for index, (left, top, wide, high) in enumerate(places):
        others = places[index + 1 :]
        assert not any(left < x + w and x < left + wide and top < y + h and y < top + high for x, y, w, h in others)
    assert page.locator("img").count() == 0 and "<img src=x" in said and "\\u202e" in said and "\u202e" not in said
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("wrong", ["names", "thresholds", "files", "selftest"])
def test_manifest_of_other_types_is_refused_in_a_sentence(wrong, page, bundles, tmp_path) -> None:
    with zipfile.ZipFile(bundles["float"]) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = {**json.loads(files["manifest.json"]), wrong: [None]}
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)

    said = load(page, tmp_path / "odd.zip")
    assert said.startswith("manifest.json is damaged: ") and wrong in said and said.endswith(".")


def test_what_cannot_be_read_is_said_in_a_sentence(page, bundles, tmp_path) -> None:
    load(page, bundles["float"])
    (tmp_path / "broken.png").write_text("no picture")
    page.set_input_files("#picture", str(tmp_path / "broken.png"))
    assert wait(page) == "Expected a picture that this browser can read, got broken.png."
    page.fill("#confidence", "7")
    page.click("#selftest")
    assert wait(page) == "OK: this browser finds what it should"  # has its own threshold
    (tmp_path / "cut.zip").write_bytes(bundles["float"].read_bytes()[-40_000:])
    assert load(page, tmp_path / "cut.zip").endswith(".") and page.get_attribute("#status", "class") == "error"
    page.fill("#confidence", "")


def test_bundle_and_picture_can_be_dropped(page, bundles, surface) -> None:
    picture = next((surface.parent / "images" / "val").iterdir())
    for path, said in ((bundles["float"], "model"), (picture, "objects in")):
        content = base64.b64encode(path.read_bytes()).decode()
        page.evaluate(
            """([name, text]) => {
              const data = new DataTransfer();
              data.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], name));
              dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
            }""",
            [path.name, content],
        )
        assert said in wait(page)


def test_page_has_a_dark_side(page) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
