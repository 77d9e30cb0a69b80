"""Recipes: chosen by the pictures, kept in the record, trained, saved, resumed, scored and shipped alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from ultralytics.nn.tasks import DetectionModel

import visionlora as vl
from tests.patching.conftest import exported_merged, graph_bytes
from visionlora.adapters import AdapterSettings, load_arrays, read_adapter_card
from visionlora.adapters.shapes import GAIN
from visionlora.data import load_dataset
from visionlora.demonstration.shapes import draw_shapes
from visionlora.detectors import family_of
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.errors import UsageError
from visionlora.tasks import DETECT
from visionlora.training import choosing
from visionlora.training.recipes import FAR, NEAR, Look, RecipeChoice, far_recipe, look_at, recipe_of

QUICK = {"imgsz": 96, "batch": 4, "device": "cpu", "rank": 2, "quiet": True, "hyperparameters": {"close_mosaic": 1}}


@pytest.fixture(scope="module")
def far(checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two epochs under the far recipe."""
    out = tmp_path_factory.mktemp("far") / "run"
    vl.train(checkpoint, surface, out, epochs=2, recipe="far", **QUICK)
    return out


# -- choosing


@pytest.mark.parametrize(
    ("shift", "detail", "is_far"),
    [(0.2, 0.1, True), (0.2, 0.3, False), (0.05, 0.1, False), (0.07, 0.19, True), (float("nan"), 0.1, False)],
)
def test_far_are_strange_pictures_of_small_objects(shift, detail, is_far) -> None:
    assert Look(shift, detail).is_far is is_far
    assert not Look(shift, detail, pictures=4).is_far and "too few to tell" in str(Look(shift, detail, pictures=4))


def test_the_shift_follows_a_backbone_that_branches_and_is_none_without_norms(checkpoint) -> None:
    base = family_of(checkpoint).load(checkpoint)
    square = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    branched = replace(base, model=DetectionModel("yolov9e.yaml", verbose=False).eval())  # it reads earlier modules
    assert ULTRALYTICS.statistics_shift(branched, [square]) > 0
    assert ULTRALYTICS.statistics_shift(replace(base, model=base.model.fuse(verbose=False)), [square]) == 0


@pytest.mark.parametrize(
    ("shift", "alpha"), [(0.0, 4), (0.1, 4), (0.13, 8), (0.17, 16), (0.2, 32), (9.0, 32), (float("nan"), 4)]
)
def test_the_farther_the_stronger(shift, alpha) -> None:
    recipe = far_recipe(shift)
    assert (recipe.alpha, recipe.normalization, recipe.full, recipe.lr0) == (alpha, "live", 20_000, 0.002)


def test_the_shift_is_small_at_home_and_few_pictures_say_the_same(checkpoint) -> None:
    """The base was trained on generated pictures of the demonstration; drawings in two colours are none of them."""
    base = family_of(checkpoint).load(checkpoint)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    generator = np.random.default_rng(0)
    home = [draw_shapes(generator, 160).image_bgr for _ in range(24)]
    strange = [255 * (picture[..., :1] > picture.mean()).astype(np.uint8).repeat(3, axis=2) for picture in home]
    shift = ULTRALYTICS.statistics_shift
    assert shift(base, strange) > 2 * shift(base, home)
    for pictures in (home, strange):
        whole = shift(base, pictures)
        assert np.mean([shift(base, pictures[i : i + 4]) for i in range(0, 24, 4)]) == pytest.approx(whole, rel=0.25)
    assert shift(base, home[:1]) >= 0
    assert all((tensor == before[name]).all() for name, tensor in base.model.state_dict().items())


def test_detail_is_the_median_object_and_1_without_any(checkpoint, surface) -> None:
    family, base = family_of(checkpoint), family_of(checkpoint).load(checkpoint)
    images = load_dataset(surface, splits=("train",), task=DETECT).split("train")
    sides = np.concatenate([np.sqrt(image.object_areas) / max(image.size_wh) for image in images])
    assert look_at(family, base, images).detail == pytest.approx(float(np.median(sides)))
    none = [
        replace(image, boxes_xyxy=np.zeros((0, 4), np.float32), class_ids=np.zeros(0, np.int64)) for image in images
    ]
    assert look_at(family, base, none).detail == 1


@pytest.mark.parametrize(
    ("look", "name"), [(Look(0.2, 0.02), "far"), (Look(0.2, 0.4), "near"), (Look(0.01, 0.02), "near")]
)
def test_auto_follows_the_pictures_and_says_so(look, name, checkpoint, surface, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(choosing, "look_at", lambda *_: look)
    path = vl.train(checkpoint, surface, tmp_path / "run", epochs=1, **{**QUICK, "quiet": False}).path
    card, said = read_adapter_card(path), capsys.readouterr()
    assert (card.settings.normalization == "live") is (name == "far")
    assert card.training["recipe"] == {"name": name, **asdict(look)}
    assert card.training["hyperparameters"]["lr0"] == (0.002 if name == "far" else 0.001)
    assert f"shift {look.shift:.2f}" in said.err + said.out and f"recipe {name}" in said.err + said.out


def test_what_a_user_chose_stands_above_the_recipe(checkpoint, surface, tmp_path) -> None:
    path = vl.train(
        checkpoint, surface, tmp_path / "run", recipe="far", alpha=6.0, lr0=0.0007, budget="60%", epochs=1, **QUICK
    ).path
    card = read_adapter_card(path)
    method = card.settings.to_fields()
    assert method["alpha"] == 6.0 and card.training["hyperparameters"]["lr0"] == 0.0007
    parameters = sum(p.numel() for p in family_of(checkpoint).load(checkpoint).model.parameters())
    trained = sum(tensor.size for tensor in load_arrays(path).tensors.values())
    assert method["full"] > 20_000 and 0.4 * parameters < trained <= 0.6 * parameters


@pytest.mark.parametrize("budget", ["", "x", "0%", "101%", "200%", "-5", "1.5", True, "nan%", "20 %%"])
def test_budgets_that_are_none_are_refused(budget) -> None:
    with pytest.raises(
        UsageError, match=r"--budget: expected a share of at most 100%, such as 20%, or a count"
    ) as told:
        RecipeChoice(budget=budget)
    assert "did you mean" not in str(told.value)


@pytest.mark.parametrize(("budget", "meant"), [("0.2", "20%"), (0.125, "12.5%")])
def test_a_fraction_is_asked_for_as_a_share(budget, meant) -> None:
    with pytest.raises(UsageError, match=rf"got '?{budget}'?; did you mean {meant}\?$"):
        RecipeChoice(budget=budget)


def test_a_budget_is_a_share_or_a_count() -> None:
    assert RecipeChoice(budget="20%").numbers(1000) == 200 and RecipeChoice(budget=300).numbers(1000) == 300


def test_unknown_recipes_and_small_budgets_touch_nothing(checkpoint, surface, tmp_path) -> None:
    with pytest.raises(UsageError, match="--recipe: expected auto, near, far, got 'middle'"):
        vl.train(checkpoint, surface, tmp_path / "run", recipe="middle", **QUICK)
    with pytest.raises(UsageError, match=r"--budget: expected at least [0-9,]+ parameters for these layers"):
        vl.train(checkpoint, surface, tmp_path / "run", budget=10, **QUICK)
    assert not (tmp_path / "run" / "training.json").exists()


# -- training


def test_the_score_is_that_of_the_file_under_eval(far, checkpoint, surface) -> None:
    card = read_adapter_card(far / "adapter.safetensors")
    assert sum(name.endswith(GAIN) for name in load_arrays(far / "adapter.safetensors").tensors) > 10
    report = vl.evaluate([f"{checkpoint}+{far / 'adapter.safetensors'}"], surface, imgsz=96)
    assert report.rows[0].scores.map50_95 == pytest.approx(card.scores["metrics/mAP50-95(B)"], abs=1e-3)


def test_a_patched_file_is_the_merged_one_to_the_bit(far, checkpoint, tmp_path) -> None:
    base = vl.export(checkpoint, tmp_path / "base.onnx", imgsz=96).path
    patched = vl.patch(base, far / "adapter.safetensors", tmp_path / "line.onnx").path
    assert graph_bytes(patched) == graph_bytes(exported_merged(checkpoint, far / "adapter.safetensors", tmp_path))


@pytest.mark.parametrize("lean", [False, True])
def test_a_killed_run_resumes_to_the_same_adapter(lean, far, checkpoint, surface, tmp_path, monkeypatch) -> None:
    out = tmp_path / "run"
    settings = {"epochs": 2, "recipe": "far", "lean": lean, **QUICK}
    if lean:
        vl.train(checkpoint, surface, tmp_path / "whole", **settings)
    whole = (tmp_path / "whole" if lean else far) / "adapter.safetensors"
    from visionlora.detectors.ultralytics.trainer import AdapterTrainer

    save = AdapterTrainer.save_model

    def save_and_die(self: AdapterTrainer) -> bool:
        save(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(AdapterTrainer, "save_model", save_and_die)
        vl.train(checkpoint, surface, out, **settings)
    vl.train(checkpoint, surface, out, resume=True, **{**settings, "recipe": "auto"})
    expected, got = load_arrays(whole), load_arrays(out / "adapter.safetensors")
    assert expected.tensors.keys() == got.tensors.keys()
    assert all(np.array_equal(got.tensors[name], tensor) for name, tensor in expected.tensors.items())


def test_a_run_goes_on_under_its_recipe_alone(far, checkpoint, surface, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(choosing, "look_at", lambda *_: Look(0.0, 1.0))  # it would be near now
    out = Path(shutil.copytree(far, tmp_path / "run"))
    vl.train(checkpoint, surface, out, epochs=2, resume=True, **QUICK)
    assert json.loads((out / "training.json").read_text())["recipe"]["name"] == "far"
    with pytest.raises(UsageError, match=r"; --recipe: was far, now near$"):
        vl.train(checkpoint, surface, out, epochs=2, resume=True, recipe="near", **QUICK)


def test_a_run_from_before_there_were_recipes_is_near() -> None:
    fields = {"rank": 8, "alpha": 4.0, "targets": "all", "train_bias": True}
    assert recipe_of(AdapterSettings.from_fields(fields)) == NEAR
    assert recipe_of(AdapterSettings.from_fields({**fields, "normalization": "live", "full": FAR.full})) == FAR


def test_a_budget_is_none_of_an_adapter_that_is_there(far, checkpoint, surface, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"--budget: the adapter of --adapter has its layers already"):
        start = far / "adapter.safetensors"
        vl.train(checkpoint, surface, tmp_path, adapter=start, quantize="int8", budget="20%", **QUICK)


def test_what_follows_goes_on_from_folded_norms(far, checkpoint, surface, tmp_path) -> None:
    """INT8 training starts from a far adapter, keeps its factors, and ships."""
    start = far / "adapter.safetensors"
    path = vl.train(
        checkpoint, surface, tmp_path / "int8", adapter=start, quantize="int8", qat_epochs=1, images=4, **QUICK
    ).path
    before, after = load_arrays(start), load_arrays(path)
    gains = [name for name in before.tensors if name.endswith(GAIN)]
    assert gains and all(np.array_equal(before.tensors[name], after.tensors[name]) for name in gains)
    assert after.card.settings == before.card.settings and after.card.quantization
    merged = vl.merge(checkpoint, path, tmp_path / "merged.pt").path
    report = vl.evaluate([f"a={checkpoint}+{path}", f"m={merged}"], surface, imgsz=96)
    assert report.rows[0].scores.map50_95 == pytest.approx(report.rows[1].scores.map50_95, abs=1e-3)


def test_only_the_rank_of_a_far_adapter_changes(far, tmp_path) -> None:
    start = far / "adapter.safetensors"
    made = vl.rank_adapter(start, tmp_path / "one.safetensors", rank=1)
    before, after = load_arrays(start), load_arrays(made.path)
    for name, tensor in before.tensors.items():
        if name.endswith((GAIN, ".delta.weight")):
            assert np.array_equal(after.tensors[name], tensor)


def test_gray_pictures_are_no_farther(checkpoint) -> None:
    base, generator = family_of(checkpoint).load(checkpoint), np.random.default_rng(1)
    pictures = [draw_shapes(generator, 160).image_bgr for _ in range(16)]
    gray = [cv2.cvtColor(cv2.cvtColor(each, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) for each in pictures]
    own, other = (ULTRALYTICS.statistics_shift(base, each) for each in (pictures, gray))
    assert other < own + 0.05
