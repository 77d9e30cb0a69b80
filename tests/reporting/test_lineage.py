from __future__ import annotations

from dataclasses import replace

import pytest

from visionlora.quantization import quantize
from visionlora.reporting import report_markdown
from visionlora.reporting.lineage import find_notes, find_warnings
from visionlora.workflows import evaluating
from visionlora.workflows.evaluating import evaluate

ADAPTER, MERGED = "a" * 64, "b" * 64


def _chain(report, parent: str):
    base, merged, int8, _ = report.rows
    adapter = replace(base, label="adapter", kind="adapter", sha256=ADAPTER, parents={})
    merged = replace(merged, kind="merged", sha256=MERGED, parents={"base": "c" * 64, "adapter": parent})
    onnx = replace(int8, label="onnx", kind="onnx", parents={"checkpoint": MERGED, "adapter": parent})
    return replace(report, rows=(adapter, merged, onnx))


def test_stages_of_one_chain_belong_together(report) -> None:
    assert find_warnings(_chain(report, ADAPTER), []) == ()


def test_stage_of_another_adapter_is_named_with_both(report) -> None:
    odd = _chain(report, "d" * 64)

    assert find_warnings(odd, []) == (
        "`merged` was made from another adapter (dddddddddddd) than `adapter` (aaaaaaaaaaaa).",
        "`onnx` was made from another adapter (dddddddddddd) than `adapter` (aaaaaaaaaaaa).",
    )
    assert "**Take care**: `merged` was" in report_markdown(replace(odd, warnings=find_warnings(odd, [])))


def test_parent_that_is_not_in_the_report_is_no_matter(report) -> None:
    chain = _chain(report, "d" * 64)

    assert find_warnings(replace(chain, rows=chain.rows[1:]), []) == ()


def test_classes_that_a_model_does_not_know_are_named_with_those_that_it_has(report) -> None:
    row = replace(report.rows[0], label="merged", classes=("pit",))
    names = {"merged": ("pit", "Green", "a", "b", "c", "d", "e")}

    alone = replace(report, rows=(row,))
    assert find_notes(alone, names) == (
        "`merged` knows no class called crack, dent and is not scored there; its other classes are "
        "Green, a, b, c, d and 1 more.",
    )
    assert find_notes(alone, {"merged": ("pit",)})[0].endswith("it has no other classes.")
    assert find_notes(replace(report, rows=(replace(row, classes=()),)), names) == ()


@pytest.mark.parametrize(
    ("change", "others", "warned"),
    [
        ({}, ("car", "traffic light"), False),
        ({}, ("Dents",), True),
        ({}, ("DENT",), True),
        ({"kind": "adapter"}, ("car",), True),
        ({"kind": "int8", "parents": {"adapter": ADAPTER}}, ("car",), True),
        ({"kind": "int8"}, ("car",), False),
    ],
    ids=["a base", "another number", "another case", "an adapter", "made from one", "another maker's"],
)
def test_class_that_a_base_does_not_know_is_a_note_and_one_that_is_misspelt_a_warning(
    report, change, others, warned
) -> None:
    row = replace(report.rows[0], label="one", parents={})
    alone, names = replace(report, rows=(replace(row, **change),)), {"one": ("pit", *others)}

    warnings, notes = find_warnings(alone, [], names), find_notes(alone, names)

    assert [len(warnings), len(notes)] == ([1, 0] if warned else [0, 1])
    assert "knows no class called" in (*warnings, *notes)[0]


def test_file_that_cuts_scores_is_named_where_it_is_scored(report) -> None:
    cut = replace(report, rows=tuple(replace(row, cut=0.25) for row in report.rows[2:]))

    assert [sentence.split(":")[0] for sentence in find_warnings(cut, [])] == [
        "`int8` leaves out inside its file what scores below 0.25"
    ]


def test_precision_below_float32_is_noted(report) -> None:
    rows = [replace(report.rows[1], precision=name) for name in ("bf16", "f32", None)]

    assert find_notes(replace(report, rows=tuple(rows)), {}) == (
        "`merged` is computed in bf16 here, as its runtime chooses on this processor.",
    )


def test_models_that_share_no_class_with_the_data_are_named_with_theirs(report) -> None:
    names = {"merged": ("pit",), "stranger": ("cat", "dog")}

    assert find_warnings(replace(report, rows=report.rows[3:]), [], {"stranger": ("cat", "dog")}) == (
        "No model knows a class of the data, so nothing is scored: its classes are crack, pit, patch, dent; those of "
        "`stranger` are cat, dog. Take data with the models' classes, or name the classes alike.",
    )
    assert not any("No model" in sentence for sentence in find_warnings(report, [], names))


@pytest.mark.slow
def test_calibration_images_of_a_real_file_are_recognised(exported, surface, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(evaluating, "sums_saturate", lambda: False)
    quantized = quantize(exported.path, surface, tmp_path / "model.int8.onnx", images=4)

    report = evaluate([f"int8={quantized.path}"], surface, split="train", cache=False)

    assert "4 of the 4 calibration images of `int8` are among the pictures." in report.warnings
    assert evaluate([f"int8={quantized.path}"], surface, cache=False).warnings == ()


def test_pictures_that_a_model_has_seen_are_counted(report) -> None:
    int8 = replace(report.rows[2], settings={"calibration": ["images/a.png", "images/b.png"]})
    seen = replace(report, rows=(int8,), data=replace(report.data, split="train"))

    assert find_warnings(seen, ["images/b.png", "images/c.png"]) == (
        "These are the pictures of the split train: models look better on what they were trained on.",
        "1 of the 2 calibration images of `int8` are among the pictures.",
    )
    assert find_warnings(replace(seen, data=report.data), ["images/c.png"]) == ()
