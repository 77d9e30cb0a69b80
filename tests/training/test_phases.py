"""The phases of a training: which there are, what each goes on with, and what is refused before any is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import Prompt, method_of
from visionlora.adapters.torch import load_adapter, save_adapter
from visionlora.data import load_dataset
from visionlora.detectors.ultralytics import trainer
from visionlora.detectors.ultralytics.activation_swap import SiLUToReLU, fade
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.errors import AdapterError, DataError, OutputError, UsageError
from visionlora.training import phase, train, training
from visionlora.training.phase import plan_phases
from visionlora.training.settings import QatSettings, Schedule, TrainingSettings
from visionlora.workflows.adapting import adapt

QUICK = {"epochs": 1, "imgsz": 96, "batch": 4, "device": "cpu", "rank": 2, "lr0": 0.01, "images": 6}
INT8 = {**QUICK, "quantize": "int8", "qat_epochs": 2}


def test_an_adapter_that_has_its_relu_already_leaves_nothing_to_train(checkpoint, surface, adapter, tmp_path) -> None:
    loaded = load_adapter(adapter)
    card = replace(loaded.card, settings=replace(loaded.card.settings, activation="relu"))
    save_adapter(replace(loaded, card=card), tmp_path / "relu.safetensors")
    with pytest.raises(UsageError, match=r"it has --activation relu already; give --quantize"):
        train(checkpoint, surface, tmp_path / "run", adapter=tmp_path / "relu.safetensors", activation="relu", **QUICK)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"names": ("a", "b", "c", "d", "e", "f")}, UsageError, r"it finds a, b, .*names .*pass its data set"),
        ({"base": {"name": "other.pt", "fingerprint": "0" * 64}}, AdapterError, r"the adapter belongs to other\.pt"),
    ],
    ids=["other classes", "other base"],
)
def test_an_adapter_that_does_not_belong_touches_no_earlier_run(
    checkpoint, surface, adapter, tmp_path, change, error, message
) -> None:
    loaded = load_adapter(adapter)
    start, out = tmp_path / "start.safetensors", tmp_path / "run"
    save_adapter(replace(loaded, card=replace(loaded.card, **change)), start)
    out.mkdir()
    (out / "adapter.safetensors").write_text("of an earlier run")
    with pytest.raises(error, match=message):
        train(checkpoint, surface, out, adapter=start, overwrite=True, **INT8)
    assert [path.name for path in out.iterdir()] == ["adapter.safetensors"]


def test_without_a_size_images_are_as_large_as_the_base_had_them(checkpoint) -> None:
    prompt = AdapterSettings(Prompt(border=4))
    settings = TrainingSettings(ULTRALYTICS, prompt, Schedule(epochs=2), device="cpu").at_size_of(checkpoint)
    assert settings.schedule == Schedule(epochs=2, imgsz=160)
    assert settings.adapter.method == Prompt(border=4, imgsz=160)


@pytest.mark.parametrize(
    ("activation", "qat", "options"),
    [
        ("silu", None, ["--epochs"]),
        ("relu", None, ["", ""]),  # the first is gone on from, ReLU comes in over all epochs of the second
        ("relu", QatSettings("int4"), ["", "", "--qat-epochs"]),
    ],
)
def test_a_finished_phase_names_the_option_that_makes_it_longer(activation, qat, options) -> None:
    shape = AdapterSettings(method_of("lora", {"rank": 2}), activation=activation)
    phases = plan_phases(TrainingSettings(ULTRALYTICS, shape, Schedule(), device="cpu", qat=qat))
    assert [each.lengthened_by for each in phases] == options


@pytest.mark.parametrize("option", [{"qat_epochs": 3}, {"qat_lr0": 0.1}, {"ranges": "fixed"}, {"distill": 1.0}])
def test_options_of_a_phase_that_is_not_asked_for_are_refused(checkpoint, surface, tmp_path, option) -> None:
    with pytest.raises(UsageError, match="only with --quantize"):
        train(checkpoint, surface, tmp_path / "run", **QUICK, **option)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("verb", "settings"), [(train, INT8), (adapt, INT8), (adapt, QUICK)])
def test_evaluation_images_that_would_calibrate_are_refused_before_training(
    verb, settings, checkpoint, surface, tmp_path, monkeypatch
) -> None:
    data = tmp_path / "data.yaml"
    names = load_dataset(surface, splits=("train",)).names
    lines = [f"path: {surface.parent}", "train: images/train", "val: images/train", f"names: {list(names)}"]
    data.write_text("\n".join(lines))
    monkeypatch.setattr(training, "run_phase", lambda *args, **options: pytest.fail("it trained"))
    with pytest.raises(DataError, match="expected no evaluation image among the calibration images"):
        verb(checkpoint, data, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_the_images_that_were_checked_calibrate(checkpoint, surface, adapter, tmp_path, monkeypatch) -> None:
    checked, seen = load_dataset(surface).split("train")[2:4], []

    def noted(source, images, **options) -> None:
        seen.extend(images)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "calibration_images", lambda *args, **options: checked)
    monkeypatch.setattr(phase, "calibrate_detector", noted)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, surface, tmp_path, adapter=adapter, **INT8)
    assert [image.path for image in seen] == [image.path for image in checked]


def test_each_phase_has_its_title_and_one_that_ends_far_below_is_named(
    checkpoint, surface, adapter, tmp_path, monkeypatch, caplog
) -> None:
    titles, scores, loaded = [], [0.6, 0.1, 0.09], load_adapter(adapter)

    def noted(run, phase, **options) -> Path:
        out = phase.folder(run.folder).path
        card = replace(loaded.card, scores={**loaded.card.scores, "metrics/mAP50-95(B)": scores[len(titles)]})
        titles.append(phase.title)
        out.mkdir(parents=True, exist_ok=True)
        save_adapter(replace(loaded, card=card), out / "adapter.safetensors")
        return out / "adapter.safetensors"

    monkeypatch.setattr(training, "run_phase", noted)
    train(checkpoint, surface, tmp_path / "run", activation="relu", **INT8)
    assert titles == [
        "phase 1 of 3: float (epochs: 1)",
        "phase 2 of 3: ReLU in place of SiLU (epochs: 1)",
        "phase 3 of 3: the arithmetic that ships (epochs: 2)",
    ]
    (warning,) = [record.getMessage() for record in caplog.records if "more epochs" in record.getMessage()]
    assert "mAP50-95 0.100 after ReLU in place of SiLU, 0.600 before" in warning


@pytest.mark.parametrize("folder", [".", "float"])
def test_an_adapter_is_not_overwritten_by_the_run_that_begins_with_it(checkpoint, surface, adapter, tmp_path, folder):
    start = tmp_path / folder / "adapter.safetensors"
    start.parent.mkdir(exist_ok=True)
    start.write_bytes(adapter.read_bytes())
    with pytest.raises(UsageError, match=r"--overwrite would remove it"):
        train(checkpoint, surface, tmp_path, adapter=start, overwrite=True, **INT8)
    assert start.read_bytes() == adapter.read_bytes()


@pytest.mark.parametrize("finished", [False, True], ids=["no epoch", "an epoch"])
def test_an_interrupted_run_says_how_to_go_on_or_can_be_begun_anew(
    finished, checkpoint, surface, adapter, tmp_path, monkeypatch, caplog
) -> None:
    def interrupted(run, phase, **options):
        out = phase.folder(run.folder).path
        settings = {"quantize": None, "hyperparameters": {"epochs": 1}, "adapter": {}, "base": "", "data_sha256": {}}
        (out / "training.json").write_text(json.dumps(settings))
        if finished:
            (out / "resume.pt").write_text("an epoch")
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "run_phase", interrupted)
    settings = {**INT8, "adapter": adapter}
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, surface, tmp_path, **settings)
    assert ("--resume goes on" in caplog.text) == finished
    with pytest.raises(OutputError if finished else KeyboardInterrupt):
        train(checkpoint, surface, tmp_path, **settings)
    if finished:
        monkeypatch.undo()
        with pytest.raises(UsageError, match="began without --quantize, not with --quantize int8"):
            train(checkpoint, surface, tmp_path, **settings, resume=True)


@pytest.mark.parametrize(("rows", "resumed"), [(1, False), (2, True)])
def test_a_phase_killed_in_its_first_save_begins_anew(
    rows, resumed, checkpoint, surface, adapter, tmp_path, monkeypatch
) -> None:
    (tmp_path / "float").mkdir()
    for folder in (tmp_path, tmp_path / "float"):
        (folder / "adapter.safetensors").write_bytes(adapter.read_bytes())
    (tmp_path / "results.csv").write_text("epoch\n" + "1\n" * rows)
    phases = []

    def noted(run, phase, *, resume, **options) -> Path:
        phases.append((phase.folder(run.folder).path, resume))
        return adapter

    monkeypatch.setattr(training, "run_phase", noted)
    train(checkpoint, surface, tmp_path, resume=True, **INT8)
    assert phases == [(tmp_path / "float", True), (tmp_path, resumed)]


@pytest.mark.parametrize(
    ("there", "options", "message"),
    [
        (["float", "activation"], {"activation": "relu"}, "has the phases activation, float before its last one, and"),
        (["float"], {}, "these options ask for none; pass the --quantize and --activation that it began with"),
        (["."], {"quantize": "int8"}, "began without --quantize and --activation; give these with --adapter"),
    ],
    ids=["without quantize", "without either", "with quantize"],
)
def test_resuming_with_other_phases_is_refused_before_any_is_trained(
    there, options, message, checkpoint, surface, adapter, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(training, "run_phase", lambda *args, **options: pytest.fail("trained"))
    for name in there:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "adapter.safetensors").write_bytes(adapter.read_bytes())
    with pytest.raises(UsageError, match=message):
        train(checkpoint, surface, tmp_path, resume=True, **QUICK, **options)


def test_what_cannot_be_meant_is_refused_at_once(checkpoint, surface, tmp_path) -> None:
    for verb, wrong in ((train, {}), (adapt, {"max_drop": 5})):
        with pytest.raises(UsageError, match=r"--resume and --overwrite: .* give one"):
            verb(checkpoint, surface, tmp_path, resume=True, overwrite=True, rank=0, **wrong)
        with pytest.raises(UsageError, match="--images: expected a whole number of at least 1, got 0"):
            verb(checkpoint, surface, tmp_path, **{**INT8, "images": 0})
        with pytest.raises(UsageError, match="--qat-epochs: expected a whole number of at least 1, got 0"):
            verb(checkpoint, surface, tmp_path, qat_epochs=0, **QUICK)
    with pytest.raises(UsageError, match="--max-drop: expected a fraction"):
        adapt(checkpoint, surface, tmp_path, max_drop=5, images=0)


@pytest.mark.parametrize("verb", [train, adapt])
@pytest.mark.parametrize("part", ["float", "activation"])
def test_a_finished_phase_is_not_overwritten_unasked(verb, part, checkpoint, surface, tmp_path) -> None:
    kept = tmp_path / part / "adapter.safetensors"
    kept.parent.mkdir()
    kept.write_text("of a run that was interrupted in its last phase")
    with pytest.raises(OutputError, match=rf"{part}/adapter\.safetensors.*--resume to go on"):
        verb(checkpoint, surface, tmp_path, activation="relu", **INT8)
    assert kept.is_file()


def test_writing_over_a_run_puts_all_of_its_phases_aside_first(
    checkpoint, surface, adapter, tmp_path, monkeypatch
) -> None:
    left = []

    def killed(*args, **options):
        left.extend(path for path in tmp_path.rglob("*") if path.is_file() and ".earlier" not in path.parts)
        raise KeyboardInterrupt

    for folder in (tmp_path, tmp_path / "float", tmp_path / "activation"):
        folder.mkdir(exist_ok=True)
        for name in ("adapter.safetensors", "training.json", "resume.pt"):
            (folder / name).write_text("of an earlier run")
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    monkeypatch.setattr(training, "run_phase", killed)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, surface, tmp_path, overwrite=True, activation="relu", **INT8)
    assert [path.name for path in left] == [".visionlora.lock"]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_the_activation_phase_ends_with_relu_alone(checkpoint, surface, adapter, tmp_path, monkeypatch) -> None:
    shares = []

    def noted(model, epoch, epochs):
        fade(model, epoch, epochs)
        shares.append({float(module.share) for module in model.modules() if isinstance(module, SiLUToReLU)})

    monkeypatch.setattr(trainer, "fade", noted)
    settings = {**QUICK, "epochs": 4, "activation": "relu:head", "distill": 0.0}
    train(checkpoint, surface, tmp_path / "run", adapter=adapter, **settings)
    assert shares == [{0.5}, {1.0}, {1.0}, {1.0}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantize": "int2"}, "--quantize: expected int8 or int4"),
        ({"ranges": "free"}, "--ranges: expected learned or fixed"),
        ({"distill": -1.0}, "--distill"),
        ({"rank": 3}, "it has --rank 2, not 3; pass what it has"),
        ({"recipe": "far"}, "it has --recipe near, not far; pass what it has"),
        ({"quantize": None, "qat_epochs": 10}, "--adapter: goes on"),
        ({"lean": True}, "--lean: has no effect"),
        ({"activation": "mish"}, "--activation: expected silu, relu"),
        ({"activation": "relu:nothing"}, "targets|no layer"),
        ({"qat_epochs": 0}, "--qat-epochs: expected a whole number of at least 1, got 0"),
        (
            {"hyperparameters": {"multi_scale": 0.5}},
            "multi_scale: --quantize trains a graph of one image",
        ),
        (
            {"quantize": None, "qat_epochs": 10, "activation": "relu", "hyperparameters": {"multi_scale": 0.5}},
            "multi_scale: --activation learns from a graph of one image size; pass --distill 0",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_do_not_fit_are_refused(checkpoint, surface, adapter, tmp_path, change, message) -> None:
    with pytest.raises(UsageError, match=message):
        train(checkpoint, surface, tmp_path / "x", **{**INT8, "adapter": adapter, **change})
    assert not (tmp_path / "x" / "adapter.safetensors").exists()
