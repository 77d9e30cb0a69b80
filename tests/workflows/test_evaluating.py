from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import cv2
import pytest

from visionlora import cli
from visionlora.data import load_dataset, to_coco
from visionlora.errors import DataError, ModelError, OutputError, UsageError
from visionlora.files import sha256_of
from visionlora.progress import Progress, progress_to
from visionlora.reporting import read_report
from visionlora.reporting.markdown import stage_sentences
from visionlora.workflows.evaluating import evaluate

NAMES = ("scratch", "pit")


def test_several_models_are_scored_under_one_ruler(data, models) -> None:
    report = evaluate(models, data)

    assert [row.label for row in report.rows] == ["base", "perfect.onnx", "half"]
    assert [row.scores.map50_95 for row in report.rows] == pytest.approx([0, 1, 0.5])
    assert [row.classes for row in report.rows] == [("pit",), NAMES, NAMES]
    assert report.reference.label == "perfect.onnx"
    assert (report.data.images, report.data.split, report.data.names) == (4, "val", NAMES)


def test_labels_that_are_no_boxes_are_a_note(data, models) -> None:
    assert not any("polygons" in note for note in evaluate(models[1:2], data).notes)
    (data.parent / "labels/val/0.txt").write_text("0 .1 .1 .5 .2 .4 .6 .1 .5\n1 .2 .2 .6 .2 .3 .9\n")
    first, *_ = evaluate(models[1:2], data).notes
    assert first == "2 of 8 labels of val are polygons or oriented boxes: the box around each is taken."


def test_rows_say_which_file_they_belong_to(data, models) -> None:
    row = evaluate(models, data).rows[1]

    file = Path(row.file)
    assert (row.sha256, row.bytes) == (sha256_of(file), file.stat().st_size)
    assert (row.kind, row.image_size, row.parents) == ("int8", 64, {"model": "12" * 32})
    assert row.ms_per_image > 0


def test_report_and_pictures_are_written(tmp_path, data, models) -> None:
    report = evaluate(models, data, out=tmp_path / "out")

    assert read_report(tmp_path / "out" / "report.json") == report
    sheet = cv2.imread(str(tmp_path / "out" / "report_detections.png"))
    assert sheet.shape == (36 + 4 * 328, 3 * 320 + 2 * 8, 3)  # ground truth, the first model, the last
    assert "0.500" in (tmp_path / "out" / "report.md").read_text()


def test_same_files_give_the_same_pictures_and_scores(tmp_path, data, models) -> None:
    first, second = (evaluate(models, data, out=tmp_path / name) for name in ("a", "b"))

    assert [row.scores for row in first.rows] == [row.scores for row in second.rows]
    assert sha256_of(tmp_path / "a" / "report_detections.png") == sha256_of(tmp_path / "b" / "report_detections.png")


def test_one_model_has_a_sheet_of_two_columns(tmp_path, data, models) -> None:
    evaluate(models[1:2], data, out=tmp_path / "out")

    assert cv2.imread(str(tmp_path / "out" / "report_detections.png")).shape[1] == 2 * 320 + 8


def test_existing_report_is_refused_before_any_work(tmp_path) -> None:
    (tmp_path / "report.json").touch()

    with pytest.raises(OutputError, match=r"report\.json: exists already"):
        evaluate(["missing.onnx"], tmp_path / "missing.yaml", out=tmp_path)


def test_file_of_another_image_size_is_refused(data, models) -> None:
    with pytest.raises(UsageError, match="made for 64 px, but 320 px were asked for"):
        evaluate(models, data, imgsz=320)


def test_missing_model_is_refused(data) -> None:
    with pytest.raises(ModelError, match=r"missing\.onnx"):
        evaluate(["missing.onnx"], data)


def test_missing_split_is_refused(data, models) -> None:
    with pytest.raises(DataError, match="test"):
        evaluate(models, data, split="test")


@pytest.mark.parametrize(
    ("given", "error", "more"),
    [
        ({"data": "missing.yaml"}, DataError, "; check --data$"),
        ({"data": "missing.json"}, DataError, "; check --data$"),
        ({"retention": "missing.yaml"}, DataError, "; check --retention$"),
        ({"split": "test"}, DataError, ""),
        ({"split": "names"}, UsageError, ""),
    ],
    ids=str,
)
def test_wrong_data_is_told_before_a_model_is_opened(data, given, error, more) -> None:
    with pytest.raises(error, match=f"{str(*given.values())}.*{more}"):
        evaluate(["missing.pt"], **{"data": data, **given})


def test_second_evaluation_reads_what_the_first_found(data, models, own_cache) -> None:
    first = evaluate(models, data)
    kept = {path: path.stat().st_mtime_ns for path in own_cache.glob("*.found")}

    second = evaluate(models, data)

    assert [row.scores for row in first.rows] == [row.scores for row in second.rows]
    assert len(kept) == 3 and {path: path.stat().st_mtime_ns for path in own_cache.glob("*.found")} == kept
    evaluate(models, data, cache=False)
    assert len(list(own_cache.glob("*.found"))) == 3


def test_changed_picture_or_label_is_seen_in_spite_of_the_cache(data, models) -> None:
    evaluate(models, data)
    label = data.parent / "labels" / "val" / "0.txt"
    label.write_text("0 0.9 0.9 0.1 0.1\n")  # the scratch is elsewhere, the pit is gone

    assert evaluate(models, data).rows[1].scores.map50_95 < 0.9


def test_differences_are_taken_to_the_reference_and_to_the_model_before(data, models) -> None:
    base, perfect, half = evaluate(models, data).rows

    assert [one.to for one in base.differences] == ["perfect.onnx"] and perfect.differences == ()
    assert half.differences[0].map50_95.difference == pytest.approx(-0.5)
    assert half.differences[0].map50_95.interval.high == pytest.approx(-0.5)  # all pictures are alike


def test_missed_budget_is_in_the_report_and_in_the_exit_code(data, models, tmp_path, capsys) -> None:
    command = ["eval", "--data", str(data), *(word for model in models[1:] for word in ("--model", model))]

    assert cli.main([*command, "--max-drop", "0.6"]) == 0
    assert cli.main([*command, "--max-drop", "0.4", "--out", str(tmp_path / "out")]) == 3
    assert "Not passed: `half` loses 0.500 of mAP50-95, 0.4 is allowed." in capsys.readouterr().out
    report = read_report(tmp_path / "out" / "report.json")
    assert not report.passed and "--max-drop 0.4" in report.command
    again = cli._parser().parse_args(shlex.split(report.command)[1:])
    assert (again.model, again.data, again.max_drop, again.html) == (models[1:], str(data), 0.4, False)


def test_example_of_the_help_holds_for_files_of_any_size(data, models, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "model.int8.onnx"):
        shutil.copy(models[1], name)
    with pytest.raises(SystemExit):
        cli.main(["eval", "--help"])
    example = capsys.readouterr().out.splitlines()[-1]

    assert cli.main(shlex.split(example.replace("data.yaml", str(data)))[1:]) == 0
    assert (tmp_path / "report" / "report.html").is_file()


def test_classes_of_another_spelling_are_warned_of(data, models, capsys) -> None:
    data.write_text(data.read_text().replace("pit", "Pit"))

    assert cli.main(["eval", "--data", str(data), "--model", f"half={models[1]}"]) == 0
    assert "Take care: `half` knows no class called Pit and is not scored there; its" in capsys.readouterr().out


def test_page_needs_a_folder(data, models) -> None:
    with pytest.raises(UsageError, match="give --out"):
        evaluate(models, data, html=True)


@pytest.mark.parametrize("options", [{"conf": 2}, {"max_drop": -1}])
def test_options_out_of_range_are_refused_before_any_work(options) -> None:
    with pytest.raises(UsageError):
        evaluate(["missing.onnx"], "missing.yaml", **options)


def test_one_picture_gives_a_report_without_intervals(data, models, tmp_path) -> None:
    for kind in ("images", "labels"):
        for path in sorted((data.parent / kind / "val").iterdir())[1:]:
            path.unlink()

    report = evaluate(models, data, out=tmp_path / "out")

    assert report.data.images == 1 and report.rows[2].differences[0].map50_95.interval is None
    assert "too few images for an interval" in (tmp_path / "out" / "report.md").read_text()


def test_weights_are_counted(data, models) -> None:
    assert [row.parameters for row in evaluate(models[1:2], data).rows] == [2 * 6 * 84]  # two constant tensors


def test_coco_ground_truth_gives_the_scores_of_the_labels(data, models) -> None:
    dataset = load_dataset(data, splits=("val",))
    ground_truth = data.parent / "instances.json"
    fields = to_coco(dataset.split("val"), dataset.names)
    for one in fields["images"]:
        one["file_name"] = f"images/val/{one['file_name']}"
    ground_truth.write_text(json.dumps(fields))

    from_labels, from_coco = evaluate(models, data), evaluate(models, ground_truth)

    assert [row.scores for row in from_coco.rows] == [row.scores for row in from_labels.rows]


@pytest.mark.parametrize("parent_id", [-1, 1, 9], ids=["first", "between", "last"])
def test_category_without_objects_that_no_model_knows_changes_no_score_and_no_verdict(data, models, parent_id) -> None:
    ground_truth = data.parent / "instances.json"
    dataset = load_dataset(data, splits=("val",))
    fields = to_coco(dataset.split("val"), dataset.names)
    for one in fields["images"]:
        one["file_name"] = f"images/val/{one['file_name']}"
    ground_truth.write_text(json.dumps(fields))
    plain = evaluate(models[1:], ground_truth, max_drop=0.6)
    for one in (*fields["categories"], *fields["annotations"]):  # 0, 1 -> 0, 3
        key = "category_id" if "category_id" in one else "id"
        one[key] *= 3
    fields["categories"].append({"id": parent_id, "name": "defects", "supercategory": "none"})
    ground_truth.write_text(json.dumps(fields))

    report = evaluate(models[1:], ground_truth, max_drop=0.6)

    assert report.reference.label == "perfect.onnx" and report.passed
    assert [row.scores.map50_95 for row in report.rows] == [row.scores.map50_95 for row in plain.rows]
    assert report.rows[1].differences == plain.rows[1].differences


def test_empty_crowd_is_neither_missed_nor_a_false_alarm(data, models) -> None:
    ground_truth = data.parent / "instances.json"
    dataset = load_dataset(data, splits=("val",))
    fields = to_coco(dataset.split("val"), dataset.names)
    for one in fields["images"]:
        one["file_name"] = f"images/val/{one['file_name']}"
    for one in fields["annotations"]:
        one["iscrowd"] = int(one["category_id"] == 1)  # every pit
    ground_truth.write_text(json.dumps(fields))

    perfect, half = evaluate(models[1:], ground_truth).rows

    assert (perfect.operating.misses, perfect.operating.false_alarms) == (0, 0)
    assert (half.operating.misses, half.operating.false_alarms) == (0, 4)  # its pits lie elsewhere


def test_openvino_model_stands_beside_its_onnx_file(data, models, tmp_path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "ov" / "model.xml"
    openvino.save_model(openvino.convert_model(models[1]), path)
    path.with_name("metadata.yaml").write_text("task: detect\nimgsz: [64, 64]\nnames: {0: scratch, 1: pit}\n")

    onnx, ov = evaluate([models[1], f"ov={path}"], data).rows

    assert ov.kind == "openvino" and ov.scores.map50 == pytest.approx(onnx.scores.map50)
    assert ov.bytes == path.stat().st_size + path.with_suffix(".bin").stat().st_size
    path.with_name("metadata.yaml").write_text("task: detect\nimgsz: [64, 64]\nnames: {0: pit, 1: scratch}\n")
    assert evaluate([f"ov={path}"], data).rows[0].scores.map50 == 0  # the cache sees that the names changed


def test_budget_counts_from_the_model_that_is_named(data, models) -> None:
    perfect, half = models[1], models[2].removeprefix("half=")
    asked = [f"first={half}", f"second={perfect}", f"third={half}", f"last={half}"]

    report = evaluate(asked, data, max_drop=0.1, against="second")

    assert [(check.model, check.passed) for check in report.verdict.checks] == [("third", False), ("last", False)]
    assert "--against second" in report.command
    first, second, third, last = [line.split("|")[3].strip() for line in str(report).splitlines()[2:]]
    assert second == "reference" and first == third == last and last.startswith("-")
    assert "`second` is the reference" in stage_sentences(report)[1]
    with pytest.raises(UsageError, match="--against: expected one of first, second, third, last, got 'fourth'"):
        evaluate(asked, data, against="fourth")


def test_every_model_is_reported_under_its_label(data, models) -> None:
    events: list[Progress] = []
    with progress_to(events.append):
        evaluate(models, data, cache=False)
    assert [one.message for one in events if one.done == one.of == 4] == ["base", "perfect.onnx", "half"]
    assert {(one.stage, one.unit) for one in events} == {("judge", "image")}
