"""QLoRA end to end on a tiny detector: what ships is what was trained on the rounded base, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import visionlora as vl
from visionlora.adapters import MAP50_95, load_arrays, read_adapter_card
from visionlora.adapters.base_precision import rounded_weight
from visionlora.detectors.ultralytics import load_base
from visionlora.errors import AdapterError, UsageError
from visionlora.exporting import merge
from visionlora.progress import progress_to
from visionlora.training import train
from visionlora.workflows.combining import merge_adapters, scale_adapter
from visionlora.workflows.evaluating import evaluate

QUICK = {"imgsz": 96, "batch": 4, "device": "cpu", "rank": 2, "lr0": 0.01, "epochs": 2, "base_precision": "nf4"}


@pytest.fixture(scope="module")
def run(checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two epochs on a base in NF4."""
    return train(checkpoint, surface, tmp_path_factory.mktemp("nf4") / "run", **QUICK).path.parent


@pytest.fixture(scope="module")
def rounded(run: Path) -> Path:
    """Return its adapter."""
    return run / "adapter.safetensors"


def test_merged_checkpoint_has_the_rounded_base_and_scores_as_the_adapter_did(
    checkpoint, rounded, surface, tmp_path
) -> None:
    card = read_adapter_card(rounded)
    assert card.settings.base_precision == "nf4"
    merged = merge(checkpoint, rounded, tmp_path / "merged.pt")
    assert merged.box_error < 1e-3 and merged.score_error < 1e-5
    scores = evaluate([merged.path], surface).rows[0].scores
    assert scores is not None and scores.map50_95 == pytest.approx(card.scores[MAP50_95], abs=1e-4)
    state, base = (load_base(path).model.state_dict() for path in (merged.path, checkpoint))
    tensors = load_arrays(rounded).tensors
    layers = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    assert layers
    for layer in layers:
        own = {name: tensors[f"{layer}.{name}.weight"] for name in ("lora_A", "lora_B")}
        expected = card.settings.method.merged(rounded_weight(base[f"{layer}.weight"].numpy(), "nf4"), own)
        assert np.array_equal(state[f"{layer}.weight"].numpy(), expected), layer


def test_an_interrupted_run_goes_on_to_the_same_bytes(checkpoint, surface, rounded, tmp_path) -> None:
    def interrupt(event) -> None:
        if event.stage == "train" and event.done == 1:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), progress_to(interrupt):
        train(checkpoint, surface, out, **QUICK)
    with pytest.raises(UsageError, match="--base-precision: was nf4, now float32"):
        train(checkpoint, surface, out, resume=True, **{**QUICK, "base_precision": "float32"})
    assert train(checkpoint, surface, out, resume=True, **QUICK).path.read_bytes() == rounded.read_bytes()


@pytest.mark.slow
def test_int8_training_goes_on_from_the_rounded_base(checkpoint, surface, rounded, tmp_path) -> None:
    int8 = {**QUICK, "adapter": rounded, "quantize": "int8", "qat_epochs": 1, "images": 4}
    with pytest.raises(UsageError, match="it has --base-precision nf4, not float32; pass what it has"):
        train(checkpoint, surface, tmp_path / "other", **{**int8, "base_precision": "float32"})
    trained = train(checkpoint, surface, tmp_path / "run", **int8)
    assert read_adapter_card(trained.path).settings.base_precision == "nf4"
    assert merge(checkpoint, trained.path, tmp_path / "merged.pt").box_error < 1e-3


def test_an_adapter_of_a_rounded_base_is_not_added_to_one_of_the_float_base(rounded, adapter, tmp_path) -> None:
    with pytest.raises(AdapterError, match=r"expected the base precision of .*, nf4, got float32"):
        merge_adapters([rounded, adapter], tmp_path / "sum.safetensors")
    half = scale_adapter(rounded, tmp_path / "half.safetensors", factor=0.5)
    assert read_adapter_card(half.path).settings.base_precision == "nf4"


def test_peft_gets_no_adapter_of_a_rounded_base(checkpoint, rounded, tmp_path) -> None:
    with pytest.raises(UsageError, match="--base-precision nf4; PEFT would put it on the base as it is"):
        vl.export_adapter(checkpoint, rounded, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_compiling_is_refused_before_anything_is_written(checkpoint, surface, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"--base-precision: works without torch\.compile"):
        train(checkpoint, surface, tmp_path / "run", **QUICK, hyperparameters={"compile": True})
    assert not (tmp_path / "run").exists()
