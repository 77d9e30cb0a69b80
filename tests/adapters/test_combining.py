"""Arithmetic on adapter files, against the changes of the weights themselves."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

import visionlora as vl
from visionlora.adapters import AdapterCard, AdapterSettings, ArrayAdapter, load_arrays, low_rank_delta, save_arrays
from visionlora.adapters.methods import LoRA
from visionlora.errors import AdapterError, OutputError, UsageError
from visionlora.tasks import DETECT

SHAPES = {"conv": (12, 6, 3, 3), "depthwise": (8, 1, 3, 3), "linear": (18, 20)}
CARD = AdapterCard(
    settings=AdapterSettings(LoRA(rank=4, alpha=2.0)),
    names=("scratch", "pit"),
    base={"name": "base.pt", "fingerprint": "ab" * 32},
    preprocessing={"image_size": 96},
    quantization={"format": 1},
    task=DETECT.name,
)


def write(path, seed: int, *, rank: int = 4, dtype=np.float32, activation: str = "silu", **card):
    """Write an adapter of random tensors."""
    generator, tensors = np.random.default_rng(seed), {}
    for layer, (outputs, *rest) in SHAPES.items():
        kept = max(1, min(rank, outputs * int(np.prod(rest)) // (outputs + int(np.prod(rest)))))
        tensors[f"{layer}.lora_A.weight"] = generator.normal(size=(kept, *rest)).astype(dtype)
        tensors[f"{layer}.lora_B.weight"] = generator.normal(size=(outputs, kept, *(1 for _ in rest[1:]))).astype(dtype)
        tensors[f"{layer}.bias_delta"] = generator.normal(size=outputs).astype(dtype)
    tensors["out.weight"] = generator.normal(size=(2, 5, 1, 1)).astype(dtype)
    settings = dataclasses.replace(CARD.settings, method=LoRA(rank, 2.0), activation=activation)
    save_arrays(ArrayAdapter(dataclasses.replace(CARD, settings=settings, **card), tensors), path)
    return path


def changes(path) -> dict[str, np.ndarray]:
    """Return the change of each layer's weight, as patching computes it."""
    loaded = load_arrays(path)
    result = {}
    for layer in SHAPES:
        left, right = (loaded.tensors[f"{layer}.lora_{x}.weight"] for x in "BA")
        result[layer] = low_rank_delta(left, right, loaded.card.settings.method.scale(len(right)))
    return result


@pytest.fixture
def pair(tmp_path):
    return write(tmp_path / "a.safetensors", 0), write(tmp_path / "b.safetensors", 1, rank=3)


def test_sum_of_ranks_loses_nothing(pair, tmp_path) -> None:
    made = vl.merge_adapters(pair, tmp_path / "ab.safetensors", weights=[0.7, -0.2])
    assert made.method.rank == 7 and load_arrays(made.path).card.settings.method == made.method
    one, two, total = changes(pair[0]), changes(pair[1]), changes(made.path)
    for layer in ("conv", "linear"):  # the depthwise layer is too small for the sum
        np.testing.assert_allclose(total[layer], 0.7 * one[layer] - 0.2 * two[layer], atol=1e-5)
        assert made.layers[layer] < 1e-6
    a, b, ab = (load_arrays(path).tensors for path in (*pair, made.path))
    np.testing.assert_allclose(
        ab["conv.bias_delta"], 0.7 * a["conv.bias_delta"] - 0.2 * b["conv.bias_delta"], atol=1e-6
    )
    np.testing.assert_allclose(ab["out.weight"], (0.7 * a["out.weight"] - 0.2 * b["out.weight"]) / 0.5, rtol=1e-5)


def test_rank_is_the_best_there_is_and_the_error_is_stated(pair, tmp_path) -> None:
    made = vl.rank_adapter(pair[0], tmp_path / "small.safetensors", rank=2)
    before, after = changes(pair[0]), changes(made.path)
    missed = wanted = 0.0
    for layer, shape in SHAPES.items():
        values = np.linalg.svd(before[layer].astype(np.float64), compute_uv=False)
        kept = load_arrays(made.path).tensors[f"{layer}.lora_A.weight"].shape[0]
        assert kept == 2 and len(before[layer]) == shape[0]
        best = np.sqrt((values[kept:] ** 2).sum()) / np.sqrt((values**2).sum())
        got = np.linalg.norm(after[layer] - before[layer]) / np.linalg.norm(before[layer])
        assert made.layers[layer] == pytest.approx(best, abs=1e-5) == pytest.approx(got, abs=1e-5)
        missed += np.linalg.norm(after[layer] - before[layer]) ** 2
        wanted += np.linalg.norm(before[layer]) ** 2
    assert made.error == pytest.approx(np.sqrt(missed / wanted), abs=1e-5) and made.error > 0.1
    assert made.bytes < pair[0].stat().st_size


def test_scaling_scales_changes_and_leaves_class_outputs(pair, tmp_path) -> None:
    made = vl.scale_adapter(pair[0], tmp_path / "half.safetensors", factor=0.5)
    before, after = changes(pair[0]), changes(made.path)
    for layer in SHAPES:
        np.testing.assert_allclose(after[layer], 0.5 * before[layer], atol=1e-5)
    one, two = (load_arrays(path).tensors for path in (pair[0], made.path))
    np.testing.assert_array_equal(one["out.weight"], two["out.weight"])
    np.testing.assert_allclose(two["linear.bias_delta"], 0.5 * one["linear.bias_delta"])
    assert made.error < 1e-6
    assert vl.scale_adapter(pair[0], tmp_path / "off.safetensors", factor=0).error == 0


def test_precision_stays_and_its_rounding_is_part_of_the_error(tmp_path) -> None:
    half = write(tmp_path / "h.safetensors", 0, dtype=np.float16)
    made = vl.merge_adapters([half], tmp_path / "again.safetensors")
    assert all(tensor.dtype == np.float16 for tensor in load_arrays(made.path).tensors.values())
    assert 1e-5 < made.error < 1e-3


def test_result_carries_no_recipe_of_another(pair, tmp_path) -> None:
    made = vl.merge_adapters(pair, tmp_path / "ab.safetensors")
    card = load_arrays(made.path).card
    assert not card.quantization and card.training["weights"] == [0.5, 0.5] and len(card.training["adapters"]) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": {"name": "x", "fingerprint": "0" * 64}}, "expected the base"),
        ({"names": ("scratch", "rust")}, "expected the classes"),
        ({"preprocessing": {"image_size": 64}}, "expected the image size"),
        ({"preprocessing": {"image_size": 96, "color": "gray"}}, "preprocessing: expected"),
    ],
)
def test_strangers_are_not_added(fields, message, pair, tmp_path) -> None:
    other = write(tmp_path / "x.safetensors", 2, **fields)
    with pytest.raises(AdapterError, match=message):
        vl.merge_adapters([pair[0], other], tmp_path / "ab.safetensors")


@pytest.mark.parametrize(("one", "two"), [("silu", "relu"), ("relu", "silu"), ("relu:neck", "relu:head")])
def test_other_activations_are_not_added(one, two, tmp_path) -> None:
    a = write(tmp_path / "a.safetensors", 0, activation=one)
    b = write(tmp_path / "b.safetensors", 1, activation=two)
    message = rf"b\.safetensors: expected the activation of .*a\.safetensors, {one}.*got {two}"
    with pytest.raises(AdapterError, match=message):
        vl.merge_adapters([a, b], tmp_path / "ab.safetensors")
    assert not (tmp_path / "ab.safetensors").exists()


def test_two_spellings_of_one_activation_are_added(tmp_path) -> None:
    a = write(tmp_path / "a.safetensors", 0, activation="relu")
    b = write(tmp_path / "b.safetensors", 1, activation="relu:all")
    made = vl.merge_adapters([a, b], tmp_path / "ab.safetensors")
    assert load_arrays(made.path).card.settings.activation == "relu"


def test_lying_shapes_are_refused(pair, tmp_path) -> None:
    loaded = load_arrays(pair[0])
    lies = [
        ("conv.lora_B.weight", (12, 3, 1, 1)),
        ("conv.lora_B.weight", (12, 4, 2, 1)),
        ("conv.lora_A.weight", (4, 6)),
        ("conv.bias_delta", (12, 1)),
        ("conv.bias_delta", (11,)),
        ("out.weight", (0,)),
        ("out.weight", (2, 1, 1, 1)),
    ]
    for name, shape in lies:
        lie = {**loaded.tensors, name: np.zeros(shape, np.float32)}
        save_arrays(ArrayAdapter(loaded.card, lie), tmp_path / "lie.safetensors")
        with pytest.raises(AdapterError, match="does not fit its layer"):
            vl.merge_adapters([pair[1], tmp_path / "lie.safetensors"], tmp_path / "ab.safetensors")


@pytest.mark.parametrize("name", ["conv.gain_delta", "conv.extra", "conv.weight", "other.bias_delta"])
def test_tensors_that_no_such_adapter_has_are_refused_by_name(name, pair, tmp_path) -> None:
    loaded = load_arrays(pair[0])
    lie, out = tmp_path / "lie.safetensors", tmp_path / "out.safetensors"
    save_arrays(ArrayAdapter(loaded.card, {**loaded.tensors, name: np.zeros(12, np.float32)}), lie)
    with pytest.raises(AdapterError, match=rf"lie\.safetensors: 1 tensors belong to no layer: {name}"):
        vl.scale_adapter(lie, out, factor=0.5)
    assert not out.exists()


def test_wrong_options_are_refused(pair, tmp_path) -> None:
    out = tmp_path / "ab.safetensors"
    with pytest.raises(UsageError, match="for each of 2 adapters"):
        vl.merge_adapters(pair, out, weights=[1.0])
    with pytest.raises(UsageError, match="finite number"):
        vl.scale_adapter(pair[0], out, factor=float("nan"))
    with pytest.raises(UsageError, match="--rank: expected at least 1"):
        vl.rank_adapter(pair[0], out, rank=0)
    with pytest.raises(UsageError, match="sum other than 0"):
        vl.merge_adapters(pair, out, weights=[1.0, -1.0])
    with pytest.raises(OutputError, match="exists already"):
        vl.rank_adapter(pair[0], pair[1], rank=2)
    assert not out.exists()


def test_a_recipe_that_the_result_has_not_is_warned_of(pair, tmp_path, caplog) -> None:
    vl.scale_adapter(pair[0], tmp_path / "half.safetensors", factor=0.5)
    assert "has no quantization recipe" in caplog.text and "calibrate again" in caplog.text

    caplog.clear()
    plain = write(tmp_path / "plain.safetensors", 0, quantization={})
    vl.rank_adapter(plain, tmp_path / "small.safetensors", rank=2)
    assert not caplog.records


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(AdapterError, match="got a pipe"):
        load_arrays(tmp_path / "pipe.safetensors")


def test_an_adapter_is_not_replaced_by_what_is_made_of_it(adapter, tmp_path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(adapter.read_bytes())
    with pytest.raises(UsageError, match="another file than the adapters"):
        vl.merge_adapters([own, adapter], own, overwrite=True)
    assert own.read_bytes() == adapter.read_bytes()


@pytest.mark.parametrize("alpha", [1e150, 1e308])
def test_changes_beyond_all_arithmetic_are_refused_at_once(alpha, tmp_path) -> None:
    write(tmp_path / "a.safetensors", 0)
    loaded = load_arrays(tmp_path / "a.safetensors")
    settings = dataclasses.replace(loaded.card.settings, method=LoRA(4, alpha))
    save_arrays(
        ArrayAdapter(dataclasses.replace(loaded.card, settings=settings), loaded.tensors), tmp_path / "b.safetensors"
    )
    with pytest.raises(AdapterError, match="expected changes of weights below"):
        vl.merge_adapters([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path / "ab.safetensors")


def test_layers_at_full_rank_are_summed_as_they_are(tmp_path) -> None:
    one, two = (write(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1))
    loaded = load_arrays(two)
    method = dataclasses.replace(loaded.card.settings.method, full=max(int(np.prod(s)) for s in SHAPES.values()))
    tensors = {name: tensor for name, tensor in loaded.tensors.items() if "lora" not in name}
    tensors |= {f"{layer}.delta.weight": change.reshape(SHAPES[layer]) for layer, change in changes(two).items()}
    settings = dataclasses.replace(loaded.card.settings, method=method)
    save_arrays(
        ArrayAdapter(dataclasses.replace(loaded.card, settings=settings), tensors), tmp_path / "full.safetensors"
    )
    expected = changes(two)
    halved = load_arrays(vl.scale_adapter(tmp_path / "full.safetensors", tmp_path / "h.safetensors", factor=0.5).path)
    for layer, shape in SHAPES.items():
        np.testing.assert_allclose(
            halved.tensors[f"{layer}.delta.weight"], 0.5 * expected[layer].reshape(shape), rtol=1e-5
        )
    added = vl.merge_adapters([one, tmp_path / "full.safetensors"], tmp_path / "sum.safetensors", weights=[2, 1])
    for layer, shape in SHAPES.items():
        got = load_arrays(added.path).tensors[f"{layer}.delta.weight"]
        np.testing.assert_allclose(got, (2 * changes(one)[layer] + expected[layer]).reshape(shape), rtol=1e-4)
