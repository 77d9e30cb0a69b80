"""Training end to end on a tiny detector: what it leaves, what it keeps, how it resumes, what it refuses."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from ultralytics.cfg import get_cfg
from ultralytics.engine import trainer as ultralytics_trainer
from ultralytics.engine import validator as ultralytics_validator
from ultralytics.models.yolo.detect import DetectionTrainer

from visionlora.adapters.torch import attach, load_adapter
from visionlora.data import load_dataset, warn_of_doubtful_data
from visionlora.detectors.device import check_device
from visionlora.detectors.ultralytics import load_base, plan_detector, set_classes, trainer
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.detectors.ultralytics.hyperparameters import RECIPE, TUNABLE, check_hyperparameters
from visionlora.detectors.ultralytics.trainer import AdapterTrainer
from visionlora.errors import ModelError, OutputError, UsageError, VisionLoraError
from visionlora.training import TrainedAdapter, train, training
from visionlora.workflows import adapting

QUICK = {"epochs": 2, "imgsz": 96, "batch": 4, "device": "cpu", "rank": 2, "hyperparameters": {"close_mosaic": 1}}


@pytest.fixture(scope="module")
def run(checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a finished run: its summary and the trainer that made it."""
    trainers = []
    original = ULTRALYTICS.train

    def keep(job) -> AdapterTrainer:
        trainers.append(original(job))
        return trainers[-1]

    ULTRALYTICS.train = keep
    try:
        trained = train(checkpoint, surface, tmp_path_factory.mktemp("run") / "a", **QUICK)
    finally:
        ULTRALYTICS.train = original
    return trained, trainers[0]


def test_run_leaves_adapter_results_and_curves(run, surface) -> None:
    trained, _ = run
    files = {path.name for path in trained.path.parent.iterdir()}
    expected = {"adapter.safetensors", "results.csv", "curves.png", "training.json", "args.yaml", "resume.pt"}
    assert expected <= files and not [name for name in files if name.startswith(".")]
    assert len((trained.path.parent / "results.csv").read_text().splitlines()) == 3
    assert trained.bytes == trained.path.stat().st_size < 300_000 and trained.seconds > 0
    assert f"data: {surface}\n" in (trained.path.parent / "args.yaml").read_text()


def test_adapter_says_what_it_belongs_to(run, checkpoint) -> None:
    card = load_adapter(run[0].path).card
    assert card.base == {"name": "base.pt", "fingerprint": load_base(checkpoint).fingerprint, "family": "ultralytics"}
    assert card.names[0] == "scratch" and card.preprocessing["image_size"] == 96
    assert card.training["hyperparameters"]["epochs"] == 2 and 0 <= card.scores["metrics/mAP50-95(B)"] <= 1


def test_base_and_adapter_file_equal_the_trained_model(run, checkpoint) -> None:
    trained, trainer = run
    merged = ULTRALYTICS.with_adapter(load_base(checkpoint), load_adapter(trained.path)).model.eval()
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected, got = trainer.ema.ema.eval()(images)[0], merged(images)[0]
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)


def test_training_changes_no_byte_of_the_base(run, checkpoint) -> None:
    _, trainer = run
    fresh = load_base(checkpoint).model
    whole = set_classes(fresh, trainer.job.names)
    attach(fresh, plan_detector(fresh, trainer.job.settings, whole=whole))
    frozen = dict(fresh.named_buffers())
    trained = dict(trainer.model.named_buffers())
    assert frozen.keys() == trained.keys() and len(frozen) > 100
    assert [name for name in frozen if not torch.equal(frozen[name], trained[name])] == []
    assert all("lora" in name or "bias" in name or "cv3" in name for name, _ in trainer.model.named_parameters())


def test_copies_of_the_model_are_independent(run) -> None:
    model = run[1].model
    twin = copy.deepcopy(model)
    next(twin.parameters()).data += 1
    assert not torch.equal(next(twin.parameters()), next(model.parameters()))


def test_same_seed_gives_the_same_file_and_another_seed_another(checkpoint, surface, tmp_path) -> None:
    settings = {**QUICK, "epochs": 1}
    tensors = [
        load_adapter(train(checkpoint, surface, tmp_path / name, **settings, seed=seed).path).tensors
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert any(not torch.equal(tensors[0][name], tensors[2][name]) for name in tensors[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "hyperparameters",
    [{"close_mosaic": 2}, {"close_mosaic": 0, "cache": False, "mixup": 0.5}],
    ids=["images in memory", "images from disk"],
)
def test_killed_run_resumes_to_the_same_adapter(checkpoint, surface, tmp_path, hyperparameters) -> None:
    settings = {**QUICK, "epochs": 4, "hyperparameters": hyperparameters}
    unbroken = train(checkpoint, surface, tmp_path / "unbroken", **settings)
    out = tmp_path / "killed"
    code = f"import visionlora as vl; vl.train({str(checkpoint)!r}, {str(surface)!r}, {str(out)!r}, **{settings!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "resume.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    resumed = train(checkpoint, surface, out, **settings, resume=True)
    first, second = load_adapter(unbroken.path).tensors, load_adapter(resumed.path).tensors
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = [line.split(",")[0] for line in (out / "results.csv").read_text().splitlines()]
    assert rows == ["epoch", "1", "2", "3", "4"]


def test_resuming_with_other_settings_is_refused(run, checkpoint, surface) -> None:
    settings = {**QUICK, "rank": 3}
    with pytest.raises(UsageError, match=r"--rank: was 2, now 3"):
        train(checkpoint, surface, run[0].path.parent, **settings, resume=True)


def test_resuming_a_finished_run_returns_its_adapter_as_it_is(run, checkpoint, surface, capsys) -> None:
    before = run[0].path.read_bytes()
    again = train(checkpoint, surface, run[0].path.parent, **QUICK, resume=True)
    assert (again.epoch, again.map50_95) == (run[0].epoch, run[0].map50_95)
    assert run[0].path.read_bytes() == before
    assert "finished already; more --epochs would make it longer\n" in capsys.readouterr().out


def test_resuming_a_run_killed_in_its_first_save_is_refused(checkpoint, surface, tmp_path, monkeypatch) -> None:
    def killed(state, path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "write_resume_state", killed)  # behind the adapter
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, surface, tmp_path, **QUICK)
    assert (tmp_path / "adapter.safetensors").is_file()
    with pytest.raises(UsageError, match="no epoch was saved whole"):
        train(checkpoint, surface, tmp_path, **QUICK, resume=True)
    with pytest.raises(OutputError, match=r"or pass --overwrite$"):
        train(checkpoint, surface, tmp_path, **QUICK)
    assert (tmp_path / "adapter.safetensors").is_file()


def test_resuming_a_finished_run_whose_curves_were_removed_returns_its_adapter(run, checkpoint, surface, tmp_path):
    shutil.copytree(run[0].path.parent, tmp_path / "a")
    (tmp_path / "a" / "curves.png").unlink()
    again = train(checkpoint, surface, tmp_path / "a", **QUICK, resume=True)
    assert again.path.read_bytes() == run[0].path.read_bytes() and again.epoch == run[0].epoch


def test_resuming_where_no_run_began_is_refused(checkpoint, surface, tmp_path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        train(checkpoint, surface, tmp_path / "x", **QUICK, resume=True)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"targets": "nonsense"}, {"hyperparameters": {"mosaic": 5}}, {"device": "7"}, {"seed": -1}, {"imgsz": 100}),
        *({"lr0": 1.5}, {"hyperparameters": {"momentum": 1.0}}, {"hyperparameters": {"box": float("nan")}}),
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_refused_settings_touch_no_earlier_run(run, checkpoint, surface, wrong) -> None:
    before = {path: path.stat().st_mtime_ns for path in run[0].path.parent.iterdir()}
    with pytest.raises(UsageError):
        train(checkpoint, surface, run[0].path.parent, **{**QUICK, **wrong}, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in run[0].path.parent.iterdir()} == before


def test_missing_base_touches_no_earlier_run(run, surface, tmp_path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        train(tmp_path / "none.pt", surface, run[0].path.parent, **QUICK, overwrite=True)
    assert run[0].path.is_file()


def test_labels_beside_linked_images_are_found(checkpoint, surface, tmp_path) -> None:
    for split in ("train", "val"):
        folder = tmp_path / "linked" / "images" / split
        folder.mkdir(parents=True)
        for picture in (surface.parent / "images" / split).iterdir():
            (folder / picture.name).symlink_to(shutil.copy(picture, tmp_path / f"{split}_{picture.name}"))
    shutil.copytree(surface.parent / "labels", tmp_path / "linked" / "labels")
    data = shutil.copy(surface, tmp_path / "linked" / "data.yaml")
    assert train(checkpoint, data, tmp_path / "run", **{**QUICK, "epochs": 1}).path.is_file()


def test_lean_run_gives_the_same_adapter(run, checkpoint, surface, tmp_path) -> None:
    lean = train(checkpoint, surface, tmp_path / "lean", **QUICK, lean=True)
    expected, got = load_adapter(run[0].path).tensors, load_adapter(lean.path).tensors
    difference = sum((got[name].float() - expected[name].float()).square().sum() for name in expected).sqrt()
    size = sum(tensor.float().square().sum() for tensor in expected.values()).sqrt()
    assert difference < 1e-3 * size


def test_lean_is_refused_where_it_would_do_nothing(checkpoint, surface, tmp_path) -> None:
    with pytest.raises(UsageError, match="--lean: works without torch"):
        train(checkpoint, surface, tmp_path / "x", **{**QUICK, "hyperparameters": {"compile": True}}, lean=True)


def test_where_torch_cannot_compile_the_usual_step_trains(checkpoint, surface, tmp_path, monkeypatch) -> None:
    for user in (ultralytics_trainer, ultralytics_validator):
        monkeypatch.setattr(user, "attempt_compile", lambda model, **options: model)
    settings = {**QUICK, "epochs": 1, "hyperparameters": {"compile": True}}
    assert train(checkpoint, surface, tmp_path / "x", **settings).path.is_file()


def test_without_validation_the_last_epoch_is_kept(checkpoint, surface, tmp_path) -> None:
    trained = train(checkpoint, surface, tmp_path / "x", **{**QUICK, "hyperparameters": {"val": False}})
    assert trained.epoch == 2 and 0 <= trained.map50_95 <= 1


@pytest.mark.parametrize(
    ("device", "room", "cache"), [("cpu", 19, "ram"), ("cpu", 18, False), ("0,1", 36, False), ("0,1", 37, "ram")]
)
def test_pictures_are_kept_in_memory_where_those_of_both_splits_fit_once_a_process(
    device, room, cache, checkpoint, surface, tmp_path, monkeypatch
) -> None:
    """Of 12 pictures to train on and 6 to validate."""
    seen = []

    def noted(run, phase, **options) -> None:
        seen.append(run.hyperparameters["cache"])
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "run_phase", noted)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * room * 96 * 96 * 3))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, surface, tmp_path, **{**QUICK, "device": device})
    assert seen == [cache]


def test_earlier_run_is_not_overwritten_unasked(run, checkpoint, surface) -> None:
    before = run[0].path.read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        train(checkpoint, surface, run[0].path.parent, **QUICK)
    assert run[0].path.read_bytes() == before


def test_overwriting_a_run_removes_what_was_made_of_it(checkpoint, surface, tmp_path) -> None:
    for name in ("merged.pt", "model.onnx", "model.int8.onnx", "model.int8.json", "report.html", "notes.txt"):
        (tmp_path / name).touch()

    train(checkpoint, surface, tmp_path, **{**QUICK, "epochs": 1}, overwrite=True)

    left = {path.name for path in tmp_path.iterdir()}
    assert {"adapter.safetensors", "notes.txt"} <= left
    assert not [name for name in left if name.startswith(("merged", "model", "report"))]


def test_overwriting_a_run_does_not_remove_its_base(checkpoint, surface, tmp_path) -> None:
    base = Path(shutil.copy(checkpoint, tmp_path / "merged.pt"))
    with pytest.raises(UsageError, match="copy it, or choose another --out"):
        train(base, surface, tmp_path, **QUICK, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["merged.pt"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mosiac": 0.5}, "no hyperparameter of training; did you mean mosaic"),
        ({"epochs": 3}, "use --epochs"),
        ({"optimizer": "foo"}, "optimizer: expected one of"),
        ({"mosaic": 5}, "mosaic"),
        ({"conf": 0.5}, "no hyperparameter of training"),
        ({"quantize": 8}, "use visionlora quantize"),
        ({"amp": "bf16"}, "--set amp=bf16: not on --device cpu: bfloat16 autocast requires CUDA .*; use amp=true or"),
        ({"amp": "BF16"}, "--set amp=bf16: not on --device cpu"),
        ({"momentum": 1.0}, "--set momentum: expected one below 1 for optimizer AdamW, got 1.0"),
        ({"copy_paste_mode": "flip"}, "copy_paste_mode: it needs the outlines of objects, which task segment has"),
        ({"cache": "disk"}, "cache: expected one of True, False, ram, got 'disk'"),
        ({"compile": "quick"}, "compile: expected one of"),
        ({"workers": -1}, "workers: expected at least 0, got -1"),
        ({"box": float("inf")}, "box: expected a finite number, got inf"),
        ({"degrees": None}, "degrees: expected a number, true, false or a word, got None"),
        ({"scale": [2.0, 0.5]}, "scale: expected two factors above 0, the smaller one first"),
        ({"mosaic": 5, "mixup": "x"}, "mosaic=5.*; .*mixup=x"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_hyperparameters_that_cannot_be_set_are_refused(checkpoint, surface, tmp_path, asked, message) -> None:
    with pytest.raises(UsageError, match=message):
        train(checkpoint, surface, tmp_path / "x", **{**QUICK, "hyperparameters": asked})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs: expected a whole number of at least 1, got 0"),
        ({"epochs": "3"}, "--epochs: expected a whole number, got '3'"),
        ({"batch": 0}, "--batch: expected a whole number of at least 1, got 0"),
        ({"lr0": float("nan")}, "--lr0: expected a learning rate above 0 and at most 1, such as 0.001, got nan"),
        ({"lr0": 1.5}, "--lr0: expected a learning rate"),
        ({"lr0": "0.1"}, "--lr0: expected a learning rate"),
        ({"quantize": "int8", "qat_lr0": 1.5}, "--qat-lr0: expected a learning rate"),
        ({"quantize": "int8", "qat_epochs": 0}, "--qat-epochs: expected a whole number of at least 1, got 0"),
        ({"seed": 2**32}, "--seed: expected a whole number of at least 0 and at most"),
        ({"images": "4"}, "--images: expected a whole number, got '4'"),
        ({"imgsz": 96.0}, r"--imgsz: expected a whole number, got 96\.0"),
        ({"imgsz": 100}, "multiple of 32, got 100; try 96 or 128"),
        ({"verbose": True, "quiet": True}, "--verbose and --quiet"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_numbers_out_of_range_are_refused(checkpoint, surface, tmp_path, change, message) -> None:
    with pytest.raises(UsageError, match=message):
        train(checkpoint, surface, tmp_path / "x", **{**QUICK, **change})


@pytest.mark.parametrize(
    ("device", "batch", "message"),
    [
        ("0,0", 4, r"--device 0,0: expected different GPUs"),
        ("0,1,00", 6, r"--device 0,1,00: expected different GPUs"),
        ("0,1", 1, r"--batch 1: expected a multiple of 2, .* of --device 0,1; try 2$"),
        ("0,1,2", 4, r"--batch 4: expected a multiple of 3, .*; try 3 or 6$"),
        ("0,1", 4, "multiple of 32, got 100"),  # by --imgsz, which is looked at later
    ],
)
def test_gpus_that_cannot_share_a_batch_are_refused(
    checkpoint, surface, tmp_path, monkeypatch, device, batch, message
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(UsageError, match=message):
        train(checkpoint, surface, tmp_path / "x", **{**QUICK, "device": device, "batch": batch, "imgsz": 100})


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD"])
def test_a_momentum_is_refused_where_a_step_with_it_fails(name, momentum) -> None:
    def step() -> bool:
        model = torch.nn.Linear(1, 1)
        optimizer = DetectionTrainer.build_optimizer(SimpleNamespace(), model, name=name, momentum=momentum)
        model(torch.ones(1, 1)).sum().backward()
        try:
            optimizer.step()
        except ZeroDivisionError:
            return False
        return all(bool(parameter.isfinite().all()) for parameter in model.parameters())

    def taken() -> bool:
        try:
            check_hyperparameters({"optimizer": name, "momentum": momentum}, "cpu")
        except UsageError:
            return False
        return True

    assert taken() == step()


@pytest.mark.parametrize(
    ("asked", "device"),
    [
        ("cuda", "0"),
        ("cuda:1", "1"),
        ("cuda:0,1", "0,1"),
        ("cuda:0,cuda:1", "0,1"),
        (0, "0"),
        (" 0, 1", "0,1"),
        ("CPU", "cpu"),
    ],
)
def test_devices_are_taken_as_torch_and_ultralytics_name_them(asked, device, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device(asked) == device


@pytest.mark.parametrize("asked", ["cuda:2", "gpu", "", "0,", "-1", "²", "cuda:0:1", "cpu,0"])
def test_devices_that_are_not_there_are_refused(asked, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="--device"):
        check_device(asked)


def test_a_batch_larger_than_the_data_set_is_said(checkpoint, surface, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(training, "run_phase", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(pytest.fail.Exception):
        train(checkpoint, surface, tmp_path / "x", **{**QUICK, "batch": 1000})
    assert "--batch 1000: train has 12 pictures; a step takes all of them, and is one epoch" in caplog.text


@pytest.mark.parametrize("recipe", ["near", "far"])
@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({"batch": 11, "imgsz": 32}, "try --batch 10 or --imgsz 64$"),
        ({"batch": 1, "imgsz": 32}, "try --batch 2 or --imgsz 64$"),
        ({"imgsz": 32, "hyperparameters": {"fraction": 0.75}}, "got 1 in the last one of 9 pictures.* --batch 3 or"),
        ({"batch": 1, "imgsz": 96, "hyperparameters": {"multi_scale": 0.5}}, "or a smaller --set multi_scale$"),
        ({"batch": 10**10, "imgsz": 32, "hyperparameters": {"fraction": 0.01}}, "try --imgsz 64$"),
    ],
    ids=str,
)
def test_one_value_a_channel_is_refused_before(changed, advice, recipe, checkpoint, surface, tmp_path) -> None:
    settings = {**QUICK, "recipe": recipe, **changed}
    with pytest.raises(UsageError, match=rf"--batch \d+: expected at least 2 pictures in each step .*{advice}"):
        train(checkpoint, surface, tmp_path / "run", **settings)
    assert not (tmp_path / "run" / "training.json").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"batch": 12, "imgsz": 32},
        {"batch": 11, "imgsz": 64},
        {"batch": 11, "imgsz": 96, "hyperparameters": {"multi_scale": 0.3}},
    ],
    ids=str,
)
def test_more_values_a_channel_are_trained_with(changed, checkpoint, surface, tmp_path) -> None:
    train(checkpoint, surface, tmp_path / "run", **{**QUICK, "epochs": 1, "recipe": "far", **changed})


def test_memory_that_does_not_suffice_is_one_error(checkpoint, surface, tmp_path, monkeypatch) -> None:
    def full(self, batch):
        torch.empty(10**15, dtype=torch.uint8)

    monkeypatch.setattr(AdapterTrainer, "preprocess_batch", full)
    with pytest.raises(VisionLoraError, match=r"--batch 4 at --imgsz 96 does not fit into memory; .* or with --lean"):
        train(checkpoint, surface, tmp_path / "x", **QUICK)
    monkeypatch.setattr(
        AdapterTrainer, "preprocess_batch", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory"))
    )
    with pytest.raises(VisionLoraError, match="--batch 4 at"):  # and no other batch is trained instead
        train(checkpoint, surface, tmp_path / "x", **QUICK)
    assert not (tmp_path / "x" / "weights").exists()  # Ultralytics' folder


def test_torch_compile_on_several_gpus_is_refused(checkpoint, surface, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = {**QUICK, "batch": 4, "device": "0,1", "hyperparameters": {"compile": True}}
    with pytest.raises(UsageError, match="--set compile: works on one GPU only"):
        train(checkpoint, surface, tmp_path / "x", **settings)


@pytest.mark.parametrize(("score", "told"), [(0.0099, True), (0.01, False)])
@pytest.mark.parametrize("verb", [train, adapting.adapt])
def test_an_adapter_that_has_learned_nothing_is_told_at_the_end(
    verb, score, told, checkpoint, surface, tmp_path, monkeypatch, caplog
) -> None:
    trained = TrainedAdapter(tmp_path / "a.safetensors", ("pit",), 1, score, 2 * score, 1000, 1.0)
    for module in (training, adapting):
        monkeypatch.setattr(module, "run_training", lambda *_, **__: trained)
    monkeypatch.setattr(adapting._Way, "later_stages", lambda *_: None)
    verb(checkpoint, surface, tmp_path, **QUICK)
    assert ("it has learned next to nothing yet; it needs more epochs" in caplog.text) == told


def test_many_pictures_without_labels_are_named(surface, tmp_path, caplog) -> None:
    dataset = load_dataset(surface)
    images = list(dataset.split("train"))
    bare = [replace(image, boxes_xyxy=image.boxes_xyxy[:0], class_ids=image.class_ids[:0]) for image in images[1:]]
    warn_of_doubtful_data(replace(dataset, splits={"train": (images[0], *bare), "val": dataset.split("val")}), batch=1)
    assert f"{len(bare)} of {len(images)} pictures of train show no object" in caplog.text
    assert "pictures of val" not in caplog.text


def test_all_hyperparameters_are_known_to_ultralytics() -> None:
    known = set(vars(get_cfg()))
    assert set(TUNABLE) <= known and set(RECIPE) <= set(TUNABLE)


@pytest.mark.parametrize("option", ["model", "data", "out"])
def test_a_path_that_is_no_utf8_is_refused_before_an_epoch(option, checkpoint, surface, tmp_path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.pt")
    paths = {"model": checkpoint, "data": surface, "out": tmp_path / "run", option: odd}
    with pytest.raises(UsageError, match=f"--{option} .*UTF-8"):
        train(**paths, epochs=1, imgsz=96, batch=4, device="cpu")
    assert not (tmp_path / "run").exists() and not Path(odd).exists()
