"""Keeping the base: the whole way leaves a file in which it is unchanged, and a report says so."""

from __future__ import annotations

import numpy as np
import pytest

from visionlora.errors import UsageError
from visionlora.patching import list_adapters
from visionlora.runtime import OnnxNetwork
from visionlora.workflows import adapting
from visionlora.workflows.adapting import adapt


def test_the_whole_way_keeps_the_base(checkpoint, surface, tmp_path) -> None:
    settings = {"rank": 2, "epochs": 1, "imgsz": 96, "batch": 6, "images": 2, "device": "cpu"}
    made = adapt(checkpoint, surface, tmp_path / "run", keep="exact", joined="new", **settings)
    kept = list_adapters(made.exported.path)
    assert made.merged is None and not (tmp_path / "run" / "merged.pt").exists()
    assert kept.base_names == OnnxNetwork(made.exported.path).names[:14] and kept.joined == "new"
    assert [(each.name, each.start) for each in kept.adapters] == [("adapter.safetensors", 20)]
    said = {note.split("`")[1]: note for note in made.report.notes if "old classes" in note}
    assert "14 old classes unchanged, bit for bit on 6 pictures; 6 new at mAP50-95 0." in said["onnx"]
    assert "times the time of `base.pt` alone" in said["onnx"] and "14 old classes in int8; 6 new" in said["int8"]
    scores = {row.label: row.scores.map50_95 for row in made.report.rows if row.scores is not None}
    np.testing.assert_allclose(scores["onnx"], scores["adapter"], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "backbone"}, "expected from:N with N from 1 to 23"),
        ({"quantize": "int8"}, "leave --quantize out"),
        ({"task": "segment"}, "expected the base's own task, detect"),
        ({"method": "conv-adapter"}, "cannot be with --method conv-adapter"),
    ],
)
def test_what_cannot_stand_beside_a_base_is_refused_before_training(
    options, message, checkpoint, surface, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(adapting, "run_training", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(UsageError, match=message):
        adapt(checkpoint, surface, tmp_path / "run", keep="exact", imgsz=96, **options)
