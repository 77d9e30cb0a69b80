from __future__ import annotations

from dataclasses import replace

from visionlora.evaluation.lineage import lineage_warnings
from visionlora.evaluation.markdown import report_markdown

ADAPTER, MERGED = "a" * 64, "b" * 64


def _chain(report, parent: str):
    base, merged, int8, _ = report.rows
    adapter = replace(base, label="adapter", kind="adapter", sha256=ADAPTER, parents={})
    merged = replace(merged, kind="merged", sha256=MERGED, parents={"base": "c" * 64, "adapter": parent})
    onnx = replace(int8, label="onnx", kind="onnx", parents={"checkpoint": MERGED, "adapter": parent})
    return replace(report, rows=(adapter, merged, onnx))


def test_stages_of_one_chain_belong_together(report) -> None:
    assert lineage_warnings(_chain(report, ADAPTER)) == []


def test_stage_of_another_adapter_is_named_with_both(report) -> None:
    odd = _chain(report, "d" * 64)

    assert lineage_warnings(odd) == [
        "`merged` was made from another adapter (dddddddddddd) than `adapter` (aaaaaaaaaaaa).",
        "`onnx` was made from another adapter (dddddddddddd) than `adapter` (aaaaaaaaaaaa).",
    ]
    assert f"**Take care**: {lineage_warnings(odd)[0]}" in report_markdown(odd)


def test_parent_that_is_not_in_the_report_is_no_matter(report) -> None:
    chain = _chain(report, "d" * 64)

    assert lineage_warnings(replace(chain, rows=chain.rows[1:])) == []
