"""An int8 file within a budget of accuracy, with as little float as it takes, or no file of that name."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import visionlora as vl
from tests.quantization.labelled import write_outlying
from visionlora import cli
from visionlora.errors import DataError, OutputError, QuantizationError, UsageError
from visionlora.quantization import accuracy, quantize, quantizing
from visionlora.runtime import OnnxNetwork
from visionlora.vision.inference import detect
from visionlora.vision.preprocess import read_image

ALLOWED = 0.2


def card_of(path: Path) -> dict:
    return json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["visionlora"])


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, Path]:
    """A model that int8 suits, and its data.yaml."""
    return write_outlying(tmp_path_factory.mktemp("sound"), None)


@pytest.fixture(scope="module")
def mendable(tmp_path_factory) -> tuple[Path, Path]:
    """A model with an outlier between two small layers."""
    return write_outlying(tmp_path_factory.mktemp("mendable"), "stem")


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory) -> tuple[Path, Path]:
    """A model with an outlier before the layer that holds most of the weights."""
    return write_outlying(tmp_path_factory.mktemp("hopeless"), "narrow")


def test_a_budget_that_holds_at_once_leaves_all_in_int8(sound, tmp_path) -> None:
    made = quantize(*sound, tmp_path / "m.int8.onnx", max_drop=ALLOWED, max_class_drop=ALLOWED)

    assert made.report is not None and made.report.passed and made.float_layers == made.recipe.float_layers == ()
    assert len(made.report.trials) == 1 and not made.report.groups
    assert files_in(tmp_path) == ["m.int8.json", "m.int8.onnx"]


def test_a_later_run_without_a_budget_takes_the_report_away(sound, tmp_path) -> None:
    out = tmp_path / "m.int8.onnx"
    quantize(*sound, out, max_drop=ALLOWED)
    out.unlink()
    with pytest.raises(OutputError, match=r"m\.int8\.json: exists already"):
        quantize(*sound, out)
    quantize(*sound, out, overwrite=True)
    assert files_in(tmp_path) == ["m.int8.onnx"]


def test_another_file_of_the_name_of_the_report_stays(sound, tmp_path) -> None:
    (tmp_path / "m.int8.json").write_text('{"mine": 1}')
    quantize(*sound, tmp_path / "m.int8.onnx")
    assert (tmp_path / "m.int8.json").read_text() == '{"mine": 1}'


def test_a_budget_that_cannot_be_kept_leaves_no_earlier_file_that_would_pass_for_its_own(hopeless, tmp_path) -> None:
    quantize(*hopeless, tmp_path / "m.int8.onnx", max_drop=1.0)
    with pytest.raises(QuantizationError, match="The best file is"):
        quantize(*hopeless, tmp_path / "m.int8.onnx", max_drop=ALLOWED, overwrite=True)
    assert files_in(tmp_path) == ["m.int8.best.json", "m.int8.best.onnx"]


def test_the_report_agrees_with_an_evaluation(sound, tmp_path) -> None:
    made = quantize(*sound, tmp_path / "m.int8.onnx", max_drop=ALLOWED)

    report = vl.evaluate([sound[0], made.path], sound[1])

    judged = report.rows[1].difference_to("model.onnx")
    assert judged is not None and made.report is not None
    assert made.report.difference.map50_95 == judged.map50_95 and made.report.difference.per_class == judged.per_class
    assert made.report.data.content_hash == report.data.content_hash
    written = json.loads((tmp_path / "m.int8.json").read_text())
    assert written["kind"] == "quantization" and written["difference"]["map50_95"]["interval"]["low"] < 0
    assert "int8 against float" in str(vl.inspect(tmp_path / "m.int8.json"))
    assert card_of(made.path)["settings"]["accuracy"]["drop"] == pytest.approx(-judged.map50_95.difference, abs=1e-6)


def test_the_layers_around_an_outlier_go_back_to_float_and_no_others(mendable, tmp_path) -> None:
    made = quantize(*mendable, tmp_path / "m.int8.onnx", max_drop=ALLOWED)

    report = made.report
    assert report is not None and report.passed
    assert set(made.recipe.float_layers) == {"stem", "narrow"} and (made.convs, made.int8_convs) == (5, 3)
    assert report.trials[0].drop > 0.5 and not report.trials[0].passed and report.trials[-1].passed
    shares = {group.name: group.error_share for group in report.float_groups}
    assert set(shares) == {"stem", "narrow"} and sum(shares.values()) > 0.9
    assert sum(group.multiply_adds_share for group in report.groups) == pytest.approx(1)
    assert -report.difference.map50_95.difference <= ALLOWED
    assert card_of(made.path)["settings"]["accuracy"]["float_groups"] == ["stem", "narrow"]


@pytest.mark.parametrize(
    ("target", "image", "floats"),
    [
        ("generic", "uint8", {"stem", "narrow"}),
        ("arm", "float32", {"stem", "narrow"}),
        ("tensorrt", "uint8", {"narrow"}),
    ],
)
def test_a_budget_is_kept_for_any_target_and_input(target, image, floats, mendable, tmp_path) -> None:
    """For TensorRT only what a convolution reads is quantized, so the layer that writes the outlier is innocent."""
    made = quantize(*mendable, tmp_path / "m.onnx", max_drop=ALLOWED, target=target, input=image)

    assert set(made.recipe.float_layers) == floats and made.recipe.image == image


def test_a_class_alone_can_call_for_float(mendable, tmp_path) -> None:
    made = quantize(*mendable, tmp_path / "m.int8.onnx", max_class_drop=ALLOWED)

    assert set(made.float_layers) == {"stem", "narrow"}


def test_a_budget_that_cannot_be_kept_leaves_the_best_file_and_its_report(hopeless, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(accuracy, "FEW_OBJECTS", 1000)
    with pytest.raises(QuantizationError, match="budget cannot be kept") as raised:
        quantize(*hopeless, tmp_path / "m.int8.onnx", max_drop=ALLOWED, max_class_drop=ALLOWED)

    message = str(raised.value)
    assert "of the other groups most error comes from mix (" in message
    assert "(share of all error); finer numbers there would make the file too large" in message
    assert message.count("Fewer than 1000 labelled objects of") == 1
    assert message.endswith("train with --quantize int8, allow more, or judge on more pictures")
    assert "worst class scratch" in message and "above the limit: scratch, pit" in message
    assert files_in(tmp_path) == ["m.int8.best.json", "m.int8.best.onnx"]
    report = json.loads((tmp_path / "m.int8.best.json").read_text())
    assert not report["passed"] and len(report["trials"]) > 1
    assert card_of(tmp_path / "m.int8.best.onnx")["settings"]["accuracy"]["within_budget"] is False
    assert OnnxNetwork(tmp_path / "m.int8.best.onnx").image_size == 64


def test_a_later_run_that_holds_takes_the_best_file_away(hopeless, tmp_path) -> None:
    with pytest.raises(QuantizationError):
        quantize(*hopeless, tmp_path / "m.int8.onnx", max_drop=ALLOWED)
    with pytest.raises(OutputError, match=r"m\.int8\.best\.onnx: exists already"):
        quantize(*hopeless, tmp_path / "m.int8.onnx", max_drop=1.0)

    quantize(*hopeless, tmp_path / "m.int8.onnx", max_drop=1.0, overwrite=True)

    assert files_in(tmp_path) == ["m.int8.json", "m.int8.onnx"]


@pytest.mark.parametrize("stage", ["keep_budget", "check_scores"])
def test_an_interruption_leaves_nothing(stage, mendable, tmp_path, monkeypatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantizing, stage, interrupt)

    with pytest.raises(KeyboardInterrupt):
        quantize(*mendable, tmp_path / "m.int8.onnx", max_drop=ALLOWED)
    assert files_in(tmp_path) == []


def test_an_evaluation_image_among_the_calibration_images_is_an_error(sound, tmp_path) -> None:
    model, data = sound
    for split in ("train", "val", "test"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
            source = data.parent / kind / ("train" if split == "train" else "val")
            for path in sorted(source.iterdir())[:4]:
                (tmp_path / kind / split / path.name).write_bytes(path.read_bytes())
    twin = tmp_path / "images/test/renamed.png"
    twin.write_bytes((tmp_path / "images/train/02.png").read_bytes())
    splits = "train: images/train\nval: images/val\ntest: images/test\n"
    (tmp_path / "data.yaml").write_text(splits + (data.read_text().splitlines()[-1]))

    with pytest.raises(DataError) as raised:
        quantize(model, tmp_path / "data.yaml", tmp_path / "m.int8.onnx")

    assert str(tmp_path / "images/train/02.png") in str(raised.value) and str(twin) in str(raised.value)
    assert "split 'test'" in str(raised.value) and not (tmp_path / "m.int8.onnx").exists()


def test_fitted_thresholds_stand_in_the_file_and_miss_less(sound, tmp_path) -> None:
    made = quantize(*sound, tmp_path / "m.int8.onnx", thresholds="recall", conf=0.45)

    assert made.report is not None and made.report.passed and made.report.budget is None
    refit = made.report.thresholds
    assert refit is not None and refit.reference.misses <= refit.fitted.misses < refit.unfitted.misses
    limits = card_of(made.path)["thresholds"]
    assert limits == list(refit.thresholds) and len(limits) == 3
    network, found = OnnxNetwork(made.path), 0
    for path in sorted((sound[1].parent / "images/val").iterdir()):
        (one,) = detect(network, [read_image(path)], confidence=min(limits))
        found += sum(score > limits[class_id] for score, class_id in zip(one.scores, one.class_ids, strict=True))
    assert found == pytest.approx(refit.fitted.found + refit.fitted.false_alarms, rel=0.1)


def test_no_thresholds_are_written_unless_asked_for(sound, tmp_path) -> None:
    assert "thresholds" not in card_of(quantize(*sound, tmp_path / "m.int8.onnx", max_drop=ALLOWED).path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"max_drop": 1.5}, r"--max-drop: expected a fraction in \[0, 1\], got 1.5"),
        ({"max_class_drop": -0.1}, "--max-class-drop: expected a fraction"),
        ({"thresholds": "f1"}, "--thresholds: expected one of recall, precision, got 'f1'"),
        ({"thresholds": "recall", "conf": 2}, "--conf: expected a number"),
        ({"conf": 0.4}, "--conf: is the score threshold that --thresholds fits to"),
        ({"reference": "model.onnx"}, "--reference: only with --max-drop"),
    ],
    ids=["drop", "class drop", "thresholds", "conf", "conf alone", "reference alone"],
)
def test_what_cannot_be_meant_is_refused(option, message, sound, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        quantize(*sound, tmp_path / "m.int8.onnx", **option)


def test_a_split_without_known_classes_is_refused(sound, data, tmp_path) -> None:
    strange = tmp_path / "data.yaml"
    root = data.parent
    strange.write_text(f"train: {root}/images/train\nval: {root}/images/val\nnames: [cat, dog, cow]\n")

    with pytest.raises(DataError, match="of classes that the model knows, got none; it knows scratch, pit, inclusion"):
        quantize(sound[0], strange, tmp_path / "m.int8.onnx", max_drop=ALLOWED)


def test_the_command_says_what_was_lost_and_exits_with_1_where_the_budget_cannot_be_kept(
    mendable, hopeless, tmp_path, capsys
) -> None:
    def run(model: Path, data: Path) -> int:
        words = [
            "quantize",
            "--model",
            str(model),
            "--data",
            str(data),
            "--out",
            str(tmp_path / f"{data.parts[-3]}.onnx"),
        ]
        return cli.main([*words, "--max-drop", str(ALLOWED), "--thresholds", "recall"])

    assert run(*mendable) == 0
    printed = capsys.readouterr().out
    assert "a loss of 0.2 allowed" in printed and "float: stem, narrow" in printed and "thresholds that keep" in printed
    assert run(*hopeless) == 1
    assert "the budget cannot be kept" in capsys.readouterr().err
