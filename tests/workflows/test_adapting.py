"""The whole way in one call: the budget of its int8 file is that of `quantize`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from visionlora import cli
from visionlora.demonstration.generate import write_dataset
from visionlora.demonstration.surface import SURFACE_NAMES, draw_surface
from visionlora.errors import DataError, ModelError, OutputError, UsageError
from visionlora.files import sha256_of
from visionlora.quantization import accuracy
from visionlora.reporting import read_report
from visionlora.scoring.bootstrap import Change, Interval
from visionlora.scoring.model_scores import Difference
from visionlora.workflows import adapting
from visionlora.workflows.adapting import adapt

SETTINGS = {"rank": 4, "epochs": 15, "imgsz": 96, "batch": 4, "lr0": 0.01, "images": 4}


def command(checkpoint: Path, surface: Path, out: Path, *more: str) -> list[str]:
    words = ["adapt", "--model", checkpoint, "--data", surface, "--out", out, "--device", "cpu", *more]
    return [str(word) for word in words] + [f"--{name}={value}" for name, value in SETTINGS.items()]


def test_a_budget_is_held_and_where_it_cannot_be_a_wider_one_resumes(checkpoint, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(accuracy, "_ROOM", 0.0)  # nothing may go back to float, so some class loses something
    data = write_dataset(
        draw_surface, SURFACE_NAMES, tmp_path / "data", counts={"train": 24, "val": 40}, size=96, seed=1
    )
    out = tmp_path / "run"

    assert cli.main(command(checkpoint, data, out, "--max-class-drop", "0")) == 1

    said = capsys.readouterr()
    (first,) = [line for line in said.err.splitlines() if line.startswith("visionlora adapt:")]
    assert re.fullmatch(r".*: the budget cannot be kept: int8: AP50-95 of \w+ loses 0\.\d{3}, allowed 0", first)
    stages = [line.split(":")[0] for line in said.out.splitlines() if line.startswith(("merge:", "export:", "judge:"))]
    assert stages == ["merge", "export", "judge"] and "Starting training" not in said.out
    assert said.out.splitlines()[-1] == f"open {out / 'report.html'}" and "| `int8` " in said.out
    assert {"adapter.safetensors", "model.onnx", "model.int8.best.onnx"} < {path.name for path in out.iterdir()}
    assert not (out / "model.int8.onnx").exists() and (out / "report.html").exists()
    missed = read_report(out / "report.json")
    assert (missed.rows[-1].label, missed.rows[-1].file) == ("int8", str(out / "model.int8.best.onnx"))
    assert {check.model for check in missed.verdict.checks} == {"int8"} and not missed.passed
    assert missed.reference.label == "onnx"  # of the table, as of the budget
    assert not json.loads((out / "model.int8.best.json").read_text())["passed"]
    trained = sha256_of(out / "adapter.safetensors")

    assert cli.main(command(checkpoint, data, out, "--max-class-drop", "1", "--resume")) == 0

    assert "a loss of 1 " in capsys.readouterr().out
    assert sha256_of(out / "adapter.safetensors") == trained
    assert json.loads((out / "model.int8.json").read_text())["passed"] and read_report(out / "report.json").passed
    assert not (out / "model.int8.best.onnx").exists()


@pytest.mark.parametrize("name", ["model.int8.json", "model.int8.best.onnx"])
def test_a_file_of_an_earlier_budget_is_refused_before_training(name, checkpoint, surface, tmp_path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match=name):
        adapt(checkpoint, surface, tmp_path, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_budget_that_cannot_be_meant_is_refused_before_training(checkpoint, surface, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(adapting, "run_training", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(UsageError, match="--max-drop: expected a fraction"):
        adapt(checkpoint, surface, tmp_path / "run", max_drop=5, **SETTINGS)


@pytest.mark.parametrize("way", ["resume", "overwrite"])
def test_a_stage_that_is_made_anew_leaves_nothing_of_later_ones(
    way, checkpoint, surface, tmp_path, monkeypatch
) -> None:
    kept, later = {"adapter.safetensors", "notes.txt"}, {"merged.pt", "model.onnx"}
    later |= {f"model.{kind}{end}" for kind in ("int8", "int4") for end in (".onnx", ".json", ".best.onnx")}
    later |= {"report.html", "report.json", "report.md", "report_scores.png", "report_detections.png"}
    for name in kept | later:
        (tmp_path / name).touch()

    def fail(*_: object, **__: object) -> None:
        raise ModelError("stopped")

    monkeypatch.setattr(
        adapting, "run_training", lambda *_, **__: SimpleNamespace(path=tmp_path / "adapter.safetensors")
    )
    monkeypatch.setattr(adapting, "merge", fail)
    with pytest.raises(ModelError, match="stopped"):
        adapt(checkpoint, surface, tmp_path, **{way: True})

    assert {path.name for path in tmp_path.iterdir()} == kept


def test_pictures_that_calibrate_and_judge_are_refused_before_training(checkpoint, surface, tmp_path) -> None:
    data = Path(shutil.copytree(surface.parent, tmp_path / "data")) / surface.name
    for picture in sorted((data.parent / "images" / "train").iterdir()):
        shutil.copy(picture, data.parent / "images" / "val" / f"again_{picture.name}")
    with pytest.raises(DataError, match="again_"):
        adapt(checkpoint, data, tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run" / "training.json").exists()


def test_a_base_that_would_be_replaced_is_refused(tmp_path) -> None:
    (tmp_path / "merged.pt").touch()
    with pytest.raises(UsageError, match=r"merged\.pt: the run in .* would replace it"):
        adapt(tmp_path / "merged.pt", "data.yaml", tmp_path, overwrite=True)
    assert (tmp_path / "merged.pt").is_file()


@pytest.mark.parametrize(
    ("high", "to", "given", "ways"),
    [
        (-0.01, "onnx", (None, None), ["--max-drop 0.005", "--quantize int8"]),
        (-0.01, "onnx", (0.02, None), ["--quantize int8"]),
        (-0.01, "float", (None, "int8"), ["--max-drop 0.005"]),
        (-0.01, "float", (0.02, "int4"), []),
        (0.01, "onnx", (None, None), []),  # within noise
    ],
)
def test_a_loss_that_can_be_measured_names_the_ways_that_were_not_taken(high, to, given, ways) -> None:
    change = Change(-0.02, Interval(-0.04, high))
    apart = Difference(to=to, classes=("pit",), map50_95=change, map50=change, per_class=())
    rows = [SimpleNamespace(label=label) for label in ("base", "onnx", *(["float"] if to == "float" else []))]
    last = SimpleNamespace(label="int8", difference_to={to: apart}.get)

    said = adapting.int8_advice(
        SimpleNamespace(rows=(*rows, last), is_of_classes=False), max_drop=given[0], quantize=given[1]
    )

    assert [way for way in ("--max-drop 0.005", "--quantize int8") if way in said] == ways and "\n" not in said
    assert not ways or "-0.020 (95% interval -0.040 to -0.010)" in said
