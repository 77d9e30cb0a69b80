from __future__ import annotations

from dataclasses import replace

import pytest

from visionlora.evaluation import evaluate
from visionlora.evaluation.lineage import find_warnings
from visionlora.evaluation.markdown import report_markdown
from visionlora.quantization import quantize

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

    assert find_warnings(replace(report, rows=(row,)), [], names) == (
        "`merged` knows no class called crack, patch and is not scored there; its other classes are "
        "Green, a, b, c, d and 1 more.",
    )
    assert find_warnings(replace(report, rows=(row,)), [], {"merged": ("pit",)})[0].endswith("it has no other classes.")
    stranger = replace(row, classes=())
    assert find_warnings(replace(report, rows=(stranger,)), [], names) == ()


def test_models_that_share_no_class_with_the_data_are_named_with_theirs(report) -> None:
    names = {"merged": ("pit",), "stranger": ("cat", "dog")}

    assert find_warnings(replace(report, rows=report.rows[3:]), [], {"stranger": ("cat", "dog")}) == (
        "No model knows a class of the data, so nothing is scored: its classes are crack, pit, patch; those of "
        "`stranger` are cat, dog. Take data with the models' classes, or name the classes alike.",
    )
    assert not any("No model" in sentence for sentence in find_warnings(report, [], names))


@pytest.mark.slow
def test_calibration_images_of_a_real_file_are_recognised(exported, surface, tmp_path) -> None:
    quantized = quantize(exported.path, surface, tmp_path / "model.int8.onnx", images=4)

    report = evaluate([f"int8={quantized.path}"], surface, split="train", cache=False)

    assert report.warnings[1] == "4 of the 4 calibration images of `int8` are among the pictures."
    assert evaluate([f"int8={quantized.path}"], surface, cache=False).warnings == ()


def test_pictures_that_a_model_has_seen_are_counted(report) -> None:
    int8 = replace(report.rows[2], settings={"calibration": ["images/a.png", "images/b.png"]})
    seen = replace(report, rows=(int8,), data=replace(report.data, split="train"))

    assert find_warnings(seen, ["images/b.png", "images/c.png"]) == (
        "These are the pictures of the split train: models look better on what they were trained on.",
        "1 of the 2 calibration images of `int8` are among the pictures.",
    )
    assert find_warnings(replace(seen, data=report.data), ["images/c.png"]) == ()
