"""Two reports side by side: differences with intervals, and plain words where there is nothing to compare."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from visionlora import cli
from visionlora.errors import DataError, OutputError, UsageError
from visionlora.reporting import read_report
from visionlora.reporting.report import report_to_json
from visionlora.workflows.comparing import compare
from visionlora.workflows.evaluating import evaluate

IMGSZ = 96


@pytest.fixture(scope="module")
def reports(checkpoint, shapes, tmp_path_factory) -> dict[str, Path]:
    """Reports of one detector: the checkpoint, its ONNX file, and its ONNX file of a smaller input."""
    from visionlora.exporting import export

    out = tmp_path_factory.mktemp("reports")
    onnx = export(checkpoint, out / "base.onnx", imgsz=IMGSZ).path
    small = export(checkpoint, out / "small.onnx", imgsz=64).path
    made = {
        "torch": ([f"model={checkpoint}"], IMGSZ),
        "onnx": ([f"model={onnx}"], IMGSZ),
        "small": ([f"model={small}", f"other={small}"], 64),
    }
    for name, (models, size) in made.items():
        evaluate(models, shapes, imgsz=size, out=out / name, cache=False)
    return {name: out / name / "report.json" for name in made}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    from visionlora.demonstration.generate import write_dataset
    from visionlora.demonstration.shapes import SHAPE_NAMES, draw_shapes

    folder = tmp_path_factory.mktemp("shapes")
    return write_dataset(draw_shapes, SHAPE_NAMES, folder, counts={"train": 1, "val": 40}, size=96, seed=3)


@pytest.mark.slow
def test_difference_and_interval_are_those_of_the_scores(reports) -> None:
    compared = compare(reports["onnx"], reports["small"])

    model = compared.models[0]
    change = model.difference.map50_95
    assert change.difference == pytest.approx(model.second.scores.map50_95 - model.first.scores.map50_95)
    assert change.interval.low < change.difference < change.interval.high and change.measurable
    assert [one.label for one in compared.models] == ["model", "other"]
    assert "`other` is in the second report only." in compared.text


@pytest.mark.slow
def test_same_model_in_another_format_is_the_same(reports) -> None:
    change = compare(reports["torch"], reports["onnx"]).models[0].difference.map50_95

    assert abs(change.difference) < 0.002 and change.interval.high - change.interval.low < 0.01


@pytest.mark.slow
def test_order_of_the_images_does_not_matter(reports, shapes, tmp_path) -> None:
    moved = tmp_path / "moved"
    for path in sorted((shapes.parent / "images" / "val").iterdir()):
        new = 999 - int(path.stem)
        for kind, suffix in (("images", ".png"), ("labels", ".txt")):
            (moved / kind / "val").mkdir(parents=True, exist_ok=True)
            source = shapes.parent / kind / "val" / f"{path.stem}{suffix}"
            (moved / kind / "val" / f"{new:05d}{suffix}").write_bytes(source.read_bytes())
    (moved / "data.yaml").write_text(shapes.read_text().replace("train: images/train", "train: images/val"))
    model = read_report(reports["small"]).rows[0].file
    evaluate([f"model={model}"], moved / "data.yaml", imgsz=64, out=tmp_path / "out", cache=False)

    change = compare(reports["small"], tmp_path / "out" / "report.json").models[0].difference.map50_95

    assert (change.difference, change.interval.low, change.interval.high) == (0, 0, 0)


@pytest.mark.slow
def test_without_matches_there_is_a_difference_but_no_interval(reports, tmp_path) -> None:
    alone = tmp_path / "report.json"
    alone.write_bytes(reports["onnx"].read_bytes())

    compared = compare(alone, reports["small"])

    assert compared.models[0].difference.map50_95.interval is None
    assert "no interval, as a report has no matches of its images" in compared.text


@pytest.mark.slow
def test_reports_of_different_images_have_no_difference(reports, tmp_path) -> None:
    report = read_report(reports["onnx"])
    other = dataclasses.replace(report, data=dataclasses.replace(report.data, content_hash="0" * 64), per_image=None)
    (tmp_path / "report.json").write_text(report_to_json(other), encoding="utf-8")

    compared = compare(reports["onnx"], tmp_path / "report.json")

    assert not compared.same_data and compared.models[0].difference is None
    assert "different images or boxes" in compared.text


@pytest.mark.slow
def test_verb_prints_and_writes_the_page(reports, tmp_path, capsys) -> None:
    command = ["compare", str(reports["onnx"]), str(reports["small"]), "--out", str(tmp_path / "a.md")]

    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "a.md").read_text(encoding="utf-8") in printed and "# Comparison" in printed
    with pytest.raises(OutputError, match="exists already"):
        compare(reports["onnx"], reports["small"], out=tmp_path / "a.md")


@pytest.mark.slow
def test_reports_without_a_common_model_are_refused(reports, tmp_path) -> None:
    report = read_report(reports["small"])
    renamed = dataclasses.replace(report, rows=tuple(dataclasses.replace(r, label=f"x{r.label}") for r in report.rows))
    (tmp_path / "report.json").write_text(report_to_json(dataclasses.replace(renamed, per_image=None)))

    with pytest.raises(UsageError, match=r"the first has [\w., ]+, the second has x[\w., ]+; name them alike"):
        compare(reports["small"], tmp_path / "report.json")


def test_page_of_another_kind_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match=r"ends in \.md"):
        compare("a.json", "b.json", out="c.html")


def test_folders_of_reports_are_taken(reports) -> None:
    files = reports["torch"], reports["onnx"]
    assert compare(*(file.parent for file in files)).text == compare(*files).text


@pytest.mark.parametrize(
    ("content", "got"), [(None, "none that can be read; No such file"), ("map", "something"), ("{}", "something else")]
)
def test_what_is_no_report_is_told_what_was_expected(content, got, tmp_path) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        DataError, match=f"json: expected a report.json of visionlora, or the folder of a run, got {got}"
    ):
        compare(path, path)
    if content is None:
        with pytest.raises(DataError, match="or the folder of a run"):
            compare(tmp_path, tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path) -> None:
    os.mkfifo(tmp_path / "report.json")
    with pytest.raises(DataError, match="got a pipe"):
        compare(tmp_path / "report.json", tmp_path / "report.json")
