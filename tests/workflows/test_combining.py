"""Arithmetic on adapters of every method, against the weights that patching folds into the base's graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import visionlora as vl
from tests.patching.conftest import base_onnx, random_adapter  # noqa: F401 (a fixture)
from visionlora.adapters import AdapterSettings, load_arrays, save_arrays
from visionlora.adapters.methods import IA3, METHODS, OFT, Addition, BitFit, DoRA, LoHa, LoKr, LoRA, Method
from visionlora.errors import AdapterError, UsageError
from visionlora.patching import PatchableBase, load_patchable
from visionlora.patching.weights import patched_weights

MERGING = (LoRA(2, full=500), DoRA(2), LoHa(2), LoKr(2), OFT(8), IA3(), BitFit())
OWN_SCALE = tuple(method for method in MERGING if method.name not in ("dora", "oft"))
OWN_SUM = tuple(method for method in OWN_SCALE if method.name not in ("loha", "lokr"))


@pytest.fixture(scope="module")
def base(base_onnx: Path) -> PatchableBase:  # noqa: F811
    return load_patchable(base_onnx)


@pytest.fixture(scope="module")
def written(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return the file of an adapter of large random tensors, in single precision."""
    folder = tmp_path_factory.mktemp("written")

    def write(method: Method, seed: int = 0, **settings) -> Path:
        path = folder / f"{len(list(folder.iterdir()))}.safetensors"
        small = load_arrays(random_adapter(checkpoint, path, settings=AdapterSettings(method, **settings)))
        normal = np.random.default_rng(seed).normal
        drawn = {name: normal(0, 0.3, each.shape).astype(np.float32) for name, each in small.tensors.items()}
        save_arrays(replace(small, tensors=drawn), path)
        return path

    return write


def assert_sum(base: PatchableBase, made: Path, adapters: Sequence[Path], weights: Sequence[float]) -> None:
    """Compare folded weights and biases with base + the weighted sum of what each adapter changes in them."""
    before = {
        tensor.name.removeprefix("model."): numpy_helper.to_array(tensor).astype(np.float64)
        for tensor in onnx.load(base.path).graph.initializer
    }
    total, *each = (patched_weights(base, load_arrays(path)) for path in (made, *adapters))
    changed = 0
    for name, got in total.items():
        parts = [weight * patched[name].astype(np.float64) for weight, patched in zip(weights, each, strict=True)]
        if name.rpartition(".")[0] in base.folded.class_outputs:
            expected = sum(parts) / sum(weights)
        else:
            expected = sum(parts) + (1 - sum(weights)) * before[name]
            changed += np.abs(expected - before[name]).max() > 0.01 * np.abs(before[name]).max()
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-5, err_msg=name)
    assert changed > 20


def largest_error(made: vl.CombinedAdapter) -> float:
    return max(made.layers.values(), default=0)


@pytest.mark.parametrize(
    ("method", "normalization"),
    [*((method, "frozen") for method in OWN_SCALE), *((method, "live") for method in OWN_SCALE if method != LoKr(2))],
    ids=str,
)
def test_scaled_in_its_own_form(method, normalization, written, base, tmp_path) -> None:
    one = written(method, normalization=normalization)
    made = vl.scale_adapter(one, tmp_path / "scaled.safetensors", factor=-0.4)
    assert made.method == method and largest_error(made) < 1e-6
    assert_sum(base, made.path, [one], [-0.4])


@pytest.mark.parametrize("normalization", ["frozen", "live"])
@pytest.mark.parametrize("method", OWN_SUM, ids=repr)
def test_summed_in_its_own_form(method, normalization, written, base, tmp_path) -> None:
    pair = [written(method, seed, normalization=normalization) for seed in (0, 1)]
    made = vl.merge_adapters(pair, tmp_path / "sum.safetensors", weights=[0.7, 0.5])
    assert type(made.method) is type(method) and largest_error(made) < 1e-6
    assert_sum(base, made.path, pair, [0.7, 0.5])


@pytest.mark.parametrize("method", [DoRA(2), OFT(8), LoKr(2)], ids=repr)
def test_scaled_through_the_base_as_a_lora_at_full_rank(method, written, base, checkpoint, tmp_path) -> None:
    one = written(method, normalization="live")
    made = vl.scale_adapter(one, tmp_path / "scaled.safetensors", factor=0.5, model=checkpoint)
    assert isinstance(made.method, LoRA) and largest_error(made) < 1e-6
    assert_sum(base, made.path, [one], [0.5])


def test_an_adapter_of_a_rounded_base_stays_one(written, base, checkpoint, tmp_path) -> None:
    one = written(DoRA(2), base_precision="nf4")
    made = vl.scale_adapter(one, tmp_path / "same.safetensors", factor=1, model=checkpoint)
    got, expected = (patched_weights(base, load_arrays(path)) for path in (made.path, one))
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_all_methods_are_summed_through_the_base(written, base, checkpoint, tmp_path) -> None:
    adapters = [written(method, seed) for seed, method in enumerate(MERGING)]
    weights = [0.5, 0.3, 1.0, -0.7, 0.2, 0.4, 0.9]
    made = vl.merge_adapters(adapters, tmp_path / "sum.safetensors", weights=weights, model=checkpoint)
    assert_sum(base, made.path, adapters, weights)
    assert vl.merge(checkpoint, made.path, tmp_path / "merged.pt").box_error < 1e-3


def test_a_rank_through_the_base_is_the_best_there_is(written, base, checkpoint, tmp_path) -> None:
    pair, weights = (written(OFT(8)), written(LoHa(2))), (0.6, 0.4)
    made = vl.merge_adapters(pair, tmp_path / "sum.safetensors", weights=weights, rank=3, model=checkpoint)
    assert made.method == LoRA(3)
    layer = max(made.layers, key=lambda name: base.weights[name].size)
    change = np.zeros((len(base.weights[layer]), base.weights[layer][0].size))
    for path, weight in zip(pair, weights, strict=True):
        loaded = load_arrays(path)
        method = loaded.card.settings.method
        own = {name: loaded.tensors[f"{layer}.{name}.weight"] for name in method.tensors}
        delta = method.merged(base.weights[layer], own).astype(np.float64) - base.weights[layer]
        change += weight * delta.reshape(change.shape)
    values = np.linalg.svd(change, compute_uv=False)
    best = np.linalg.norm(values[3:]) / np.linalg.norm(values)
    assert 0.1 < made.layers[layer] == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("method", ["ia3", "bitfit"])
def test_methods_without_a_rank_have_none_to_change(method, written, tmp_path) -> None:
    with pytest.raises(UsageError, match=rf"--rank: the method {method} has none to change; pass --model BASE"):
        vl.rank_adapter(written(METHODS[method]()), tmp_path / "out.safetensors", rank=2)


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_sums_that_are_of_no_such_method_ask_for_the_base(method, written, tmp_path) -> None:
    one = written(METHODS[method]())
    with pytest.raises(UsageError, match=rf"--model: expected the base, since of adapters of {method} a sum is none"):
        vl.merge_adapters([one, one], tmp_path / "out.safetensors", rank=4)
    with pytest.raises(UsageError, match="one brought to another rank is none"):
        vl.rank_adapter(one, tmp_path / "out.safetensors", rank=4)


def test_outputs_of_a_kronecker_product_have_no_factors_of_their_own(written, tmp_path) -> None:
    with pytest.raises(UsageError, match="--model: expected the base: with its normalization trained too"):
        vl.scale_adapter(written(LoKr(2), normalization="live"), tmp_path / "out.safetensors", factor=0.5)


@pytest.mark.parametrize("method", ["dora", "oft"])
def test_changes_that_the_base_decides_ask_for_it(method, written, tmp_path) -> None:
    with pytest.raises(AdapterError, match=rf"its method, {method}, changes a weight by what the base's is, .*--model"):
        vl.scale_adapter(written(METHODS[method]()), tmp_path / "out.safetensors", factor=0.5)


def test_several_methods_ask_for_the_base(written, tmp_path) -> None:
    pair = written(LoRA()), written(LoHa())
    with pytest.raises(AdapterError, match=r"expected the method of .*, lora, got loha; pass --model BASE"):
        vl.merge_adapters(pair, tmp_path / "out.safetensors")


@pytest.mark.parametrize("method", [each for each in METHODS.values() if issubclass(each, Addition)])
def test_added_modules_are_no_change_of_a_weight(method, written, checkpoint, tmp_path) -> None:
    loaded = load_arrays(written(BitFit()))
    card = replace(loaded.card, settings=AdapterSettings(method()))
    save_arrays(replace(loaded, card=card), tmp_path / "added.safetensors")
    with pytest.raises(AdapterError, match=f"its method, {method.name}, adds modules"):
        vl.scale_adapter(tmp_path / "added.safetensors", tmp_path / "out.safetensors", factor=0.5, model=checkpoint)


def test_another_base_is_refused(written, checkpoint, tmp_path) -> None:
    loaded = load_arrays(written(DoRA()))
    card = replace(loaded.card, base={**loaded.card.base, "fingerprint": "0" * 64})
    save_arrays(replace(loaded, card=card), tmp_path / "other.safetensors")
    with pytest.raises(AdapterError, match=r"other\.safetensors: the adapter belongs to"):
        vl.scale_adapter(tmp_path / "other.safetensors", tmp_path / "out.safetensors", factor=0.5, model=checkpoint)
