"""What is trained is what was checked, judged as `visionlora eval` judges, and nothing of the user's is touched."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.data.utils import load_dataset_cache_file

import visionlora as vl
from visionlora.data import LabelledImage, load_dataset
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.detectors.ultralytics.sampling import SeededDataset
from visionlora.detectors.ultralytics.squares import SquareDataset
from visionlora.errors import DataError, UsageError, VisionLoraError
from visionlora.scoring import mean_precision
from visionlora.tasks import DETECT
from visionlora.training import train
from visionlora.vision.preprocess import letterbox, read_image

SETTINGS = {"rank": 2, "epochs": 1, "imgsz": 96, "batch": 4, "device": "cpu", "lr0": 0.01}


class Evil:
    """Runs code where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def contents(folder: Path) -> dict[bytes, tuple]:
    """Everything below a folder: names, bytes and times."""
    files = sorted(os.fsencode(path) for path in folder.rglob("*"))
    return {
        name: (os.stat(name).st_mtime_ns, hashlib.sha256(Path(os.fsdecode(name)).read_bytes()).hexdigest())
        if os.path.isfile(name)
        else (os.stat(name).st_mtime_ns,)
        for name in files
    }


@pytest.fixture(scope="module")
def hostile(surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with all that Ultralytics' reader runs, rewrites, prefers or drops; its data.yaml."""
    root = tmp_path_factory.mktemp("hostile") / "set"
    shutil.copytree(surface.parent, root)
    pictures = sorted((root / "images/train").iterdir())
    for number, path in enumerate(pictures):
        pixels = read_image(path)
        path.unlink()
        labels = root / "labels/train" / f"{path.stem}.txt"
        name = [path.stem, "two\nlines", os.fsdecode(b"caf\xe9")][number % 3 if number < 3 else 0]
        labels.rename(labels.with_name(f"{name}.txt"))
        target = path.with_name(f"{name}.jpg")
        write_jpeg(target, pixels, trailer=b"SEFH\0trailer" if number % 2 else b"")
        np.save(target.with_suffix(".npy"), np.full((96, 96, 3), 255, np.uint8))  # newer than the picture
    for split in ("train", "val"):
        np.save(root / f"labels/{split}.cache.npy", np.array([Evil(root.parent / "executed")], dtype=object))
        os.replace(root / f"labels/{split}.cache.npy", root / f"labels/{split}.cache")  # as Ultralytics writes them
    return root / "data.yaml"


def write_jpeg(path: Path, pixels: np.ndarray, *, trailer: bytes) -> None:
    import cv2

    path.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes() + trailer)


def test_the_planted_cache_runs_where_it_is_unpickled(hostile: Path) -> None:
    proof = hostile.parent.parent / "executed"
    load_dataset_cache_file(hostile.parent / "labels/train.cache")
    assert proof.exists()
    proof.unlink()


@pytest.mark.parametrize("cache", ["ram", False], ids=["in memory", "from disk"])
def test_training_runs_nothing_writes_nothing_and_takes_the_checked_labels(
    hostile: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache
) -> None:
    trainers = []
    original = ULTRALYTICS.train
    monkeypatch.setattr(ULTRALYTICS, "train", lambda job: trainers.append(original(job)))
    before = contents(hostile.parent)

    trained = train(checkpoint, hostile, tmp_path / "run", **SETTINGS, hyperparameters={"cache": cache, "mosaic": 0.0})

    assert contents(hostile.parent) == before
    assert not (hostile.parent.parent / "executed").exists()
    written = {path.suffix for path in trained.path.parent.iterdir()}
    assert written <= {".safetensors", ".csv", ".png", ".json", ".yaml", ".pt"}
    checked, dataset = load_dataset(hostile).split("train"), trainers[0].train_loader.dataset
    assert len(dataset) == len(checked) == 12
    for index, image in enumerate(checked):
        label = dataset.labels[index]
        corners = np.hstack(
            [label["bboxes"][:, :2] - label["bboxes"][:, 2:] / 2, label["bboxes"][:, :2] + label["bboxes"][:, 2:] / 2]
        )
        np.testing.assert_allclose(corners * 96, image.boxes_xyxy, atol=1e-4)
        assert label["cls"].ravel().tolist() == image.class_ids.tolist()
        np.testing.assert_array_equal(dataset.load_image(index)[0], read_image(image.path))
    resumed = train(
        checkpoint, hostile, tmp_path / "run", **SETTINGS, hyperparameters={"cache": cache, "mosaic": 0.0}, resume=True
    )
    assert resumed.map50_95 == trained.map50_95


def test_training_scores_an_adapter_as_eval_does(checkpoint: Path, surface: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 2, "lr0": 0.02}
    trained = train(checkpoint, surface, tmp_path / "run", **settings)
    scores = vl.evaluate([f"{checkpoint}+{trained.path}"], surface, cache=False).rows[0].scores

    assert scores.map50_95 > 0
    assert abs(trained.map50_95 - scores.map50_95) < 1e-3 and abs(trained.map50 - scores.map50) < 1e-3
    last = (tmp_path / "run/results.csv").read_text().splitlines()[trained.epoch].split(",")
    assert abs(float(last[6]) - scores.map50_95) < 1e-3


def test_a_picture_that_changed_after_the_check_ends_training_by_name(
    surface: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(surface.parent, tmp_path / "set")
    picture = sorted((tmp_path / "set/images/train").iterdir())[3]
    original = ULTRALYTICS.train

    def shrink(job) -> None:
        write_jpeg(picture, np.zeros((50, 60, 3), np.uint8), trailer=b"")
        original(job)

    monkeypatch.setattr(ULTRALYTICS, "train", shrink)
    hyperparameters = {"cache": False, "workers": 1}
    with pytest.raises(DataError) as caught:
        train(checkpoint, tmp_path / "set/data.yaml", tmp_path / "run", **SETTINGS, hyperparameters=hyperparameters)
    assert str(caught.value) == f"{picture}: expected (96, 96) pixels (width, height), got (60, 50)"


def test_a_moved_data_set_of_equal_content_resumes_and_other_names_do_not(
    surface: Path, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(surface.parent, tmp_path / "here")
    trained = train(checkpoint, tmp_path / "here/data.yaml", tmp_path / "run", **SETTINGS)
    shutil.move(tmp_path / "here", tmp_path / "there")
    (tmp_path / "elsewhere.pt").write_bytes(checkpoint.read_bytes())

    again = train(tmp_path / "elsewhere.pt", tmp_path / "there/data.yaml", tmp_path / "run", **SETTINGS, resume=True)

    assert again.map50_95 == trained.map50_95
    described = (tmp_path / "there/data.yaml").read_text()
    (tmp_path / "there/data.yaml").write_text(described.replace("scratch", "scrape"))
    with pytest.raises(UsageError, match=r"names of its classes\): was"):
        train(checkpoint, tmp_path / "there/data.yaml", tmp_path / "run", **SETTINGS, resume=True)


@pytest.mark.parametrize("settings", [{"cache": "disk"}, {"cache": "DISK"}, {"copy_paste": 0.1}], ids=str)
def test_what_would_write_beside_the_pictures_or_needs_polygons_is_refused(surface, checkpoint, tmp_path, settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        train(checkpoint, surface, tmp_path / "run", **SETTINGS, hyperparameters=settings)


def dataset_of(surface: Path, **settings) -> SeededDataset:
    dataset = load_dataset(surface)
    hyp = get_cfg(overrides={"imgsz": 96, "deterministic": False, **settings})
    return SeededDataset(dataset.split("train"), task=DETECT, names=dataset.names, hyp=hyp, imgsz=96, batch=2, seed=1)


@pytest.mark.parametrize("cache", ["ram", False], ids=["in memory", "from disk"])
def test_a_sample_does_not_depend_on_those_drawn_before(surface: Path, cache) -> None:
    still = {"mosaic": 0.0, "scale": 0.0, "translate": 0.0, "cache": cache}  # colours are changed in place then
    dataset = dataset_of(surface, **still)
    first = [dataset[index]["img"] for index in (0, 1, 0, 2, 12, 0)]
    fresh = dataset_of(surface, **still)[0]["img"]

    assert all(torch.equal(first[number], fresh) for number in (0, 2, 5))


def test_a_share_of_the_pictures_is_trained_on_if_that_is_asked(surface: Path) -> None:
    assert len(dataset_of(surface, fraction=0.5)) == 6


def test_fewer_pictures_than_were_checked_are_refused(surface: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SeededDataset.get_labels
    monkeypatch.setattr(SeededDataset, "get_labels", lambda self: whole(self)[:-1])
    with pytest.raises(VisionLoraError, match="expected 12 checked pictures to train on, got 11"):
        dataset_of(surface)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_square_is_what_the_device_sees_with_its_boxes(tmp_path: Path, in_memory: bool) -> None:
    write_jpeg(tmp_path / "a.jpg", np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8), trailer=b"")
    boxes = np.array([[8, 5, 40, 25], [0, 0, 80, 50]], np.float32)
    crowd = np.array([False, True])
    image = LabelledImage(tmp_path / "a.jpg", (80, 50), boxes, np.array([2, 1]), crowd)

    sample = SquareDataset([image], 64, in_memory=in_memory)[0]

    tensor, placement = letterbox(read_image(image.path), 64)
    assert torch.equal(sample["img"].float() / 255, torch.from_numpy(tensor)) and sample["placement"] == placement
    (box,) = sample["bboxes"].numpy() * 64
    corners = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
    np.testing.assert_allclose(placement.to_original(corners)[0], boxes[0], atol=1e-3)
    assert sample["cls"].tolist() == [[2.0]] and len(sample["batch_idx"]) == 1


def test_the_ruler_of_training_is_the_one_of_eval(checkpoint, surface, tmp_path, monkeypatch) -> None:
    jobs = []
    monkeypatch.setattr(ULTRALYTICS, "train", jobs.append)
    with pytest.raises(FileNotFoundError):  # nothing was trained
        train(checkpoint, surface, tmp_path / "run", **SETTINGS)
    assert jobs[0].ruler.func is mean_precision
