"""How an adapter was trained stands in the page where its card says it, and the curve where it is that run's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.reporting.generated import made_report
from visionlora.adapters import AdapterCard, AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.reporting.history import training_settings
from visionlora.reporting.page import report_page
from visionlora.reporting.page.making import makings
from visionlora.reporting.report import report_to_json
from visionlora.tasks import DETECT

RECORD = {
    "data": "/home/somebody/steel/data.yaml",
    "data_sha256": {"train": "ab" * 32, "val": "cd" * 32},
    "hyperparameters": {"epochs": 3, "imgsz": 320, "batch": 8, "lr0": 0.002, "seed": 1, "mosaic": 0.5},
    "quantize": {"to": "int8", "images": 64},
    "recipe": {"name": "far", "shift": 0.2086, "detail": 0.0226, "pictures": 48},
    "versions": {"torch": "2"},
    "epoch": 2,
}
CURVE = "epoch,train/box_loss,train/cls_loss,metrics/mAP50-95(B)\n1,2,1,0.1\n2,1.5,0.5,0.31234\n3,1,0.5,0.3\n"


def _card(**changes) -> AdapterCard:
    card = AdapterCard(
        settings=AdapterSettings(LoRA(rank=16, alpha=8.0, full=500), normalization="live"),
        names=("a",),
        base={"fingerprint": "x"},
        preprocessing={"image_size": 320},
        training=RECORD,
        scores={"metrics/mAP50-95(B)": 0.312339},
        task=DETECT.name,
    )
    return replace(card, **changes)


@pytest.fixture
def adapter(tmp_path):
    (tmp_path / "results.csv").write_text(CURVE)
    return tmp_path / "adapter.safetensors"


def test_card_and_curve_are_read(adapter) -> None:
    made = training_settings(_card(), adapter)

    assert made["adapter"]["rank"] == 16 and made["training"]["epochs"] == 3 and made["training"]["epoch"] == 2
    assert made["training"]["data_sha256"]["train"] == "ab" * 32 and made["training"]["quantize"] == "int8"
    assert made["training"]["data"] == "steel/data.yaml"
    assert "mosaic" not in made["training"] and "versions" not in made["training"]
    assert made["curve"] == {"epoch": [1, 2, 3], "map50_95": [0.1, 0.31234, 0.3], "loss": [3, 2, 1.5]}


@pytest.mark.parametrize(
    "text",
    ["", "epoch\n1\n", CURVE.replace("0.31234", "0.5"), CURVE.replace("0.3\n", "nan\n"), "\x00,\n1,2,3", "a,b\n" * 9],
    ids=["empty", "no scores", "another run", "nan", "no text", "no numbers"],
)
def test_file_that_is_not_that_runs_curve_is_left_out(text, adapter) -> None:
    (adapter.parent / "results.csv").write_text(text)

    assert "curve" not in training_settings(_card(), adapter)
    (adapter.parent / "results.csv").unlink()
    assert "curve" not in training_settings(_card(), adapter)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"hyperparameters": 3, "data_sha256": "x"},
        {"recipe": {"shift": float("nan"), "name": 3}},
        {"recipe": ["far"]},
        {"epoch": float("nan"), "data": {"a": 1}, "quantize": [], "hyperparameters": {"epochs": 10**400}},
    ],
    ids=["empty", "no mappings", "recipe nan", "recipe list", "nan"],
)
def test_card_that_says_other_things_makes_a_report_all_the_same(record, adapter, report, tmp_path) -> None:
    made = training_settings(_card(training=record), adapter)

    row = replace(report.rows[0], settings=made)
    assert '"rank": 16' in report_to_json(replace(report, rows=(row,)))


def test_page_tells_that_a_learning_rate_was_halved(adapter, tmp_path) -> None:
    settings = {
        str(halved): training_settings(_card(training={**RECORD, "lr0_halved": halved}), adapter) for halved in (0, 2)
    }
    report, *_ = made_report(tmp_path / "p", ["0", "2"], ["x"], pictures=4, settings=settings)

    as_asked, halved = (dict(making.facts)["training"] for making in makings(report))
    assert "learning rate 0.002, seed" in as_asked and "learning rate 0.002, halvings of it: 2, seed" in halved


def test_page_tells_how_factors_were_trained(adapter, tmp_path) -> None:
    record = {**RECORD, "lora_start": "gradient", "lora_plus": 4.0}
    settings = {"a": training_settings(_card(training=record), adapter)}
    report, *_ = made_report(tmp_path / "p", ["a"], ["x"], pictures=4, settings=settings)

    (making,) = makings(report)
    assert "start of factors gradient, LoRA+ ratio 4" in dict(making.facts)["training"]


def test_page_tells_how_models_were_made(adapter, tmp_path) -> None:
    odd = {**RECORD, "data": "<b>" + "x" * 9999}
    scheme = {"name": "x86", "activations": "uint8", "weights": "int8", "method": "histogram"}
    settings = {
        "adapter": training_settings(_card(training=odd), adapter),
        "int8": {"scheme": scheme, "float_layers": ["a", "b"], "calibration": ["1.png"]},
        "odd": {"adapter": 3, "training": [], "scheme": "x", "curve": {"epoch": 1}},
    }
    report, *rest = made_report(tmp_path / "p", ["adapter", "int8", "odd"], ["x"], pictures=4, settings=settings)

    first, second = makings(report)
    page = report_page(report, *rest)

    facts = dict(first.facts)
    assert facts["recipe"] == "far, shift 0.21, detail 0.02"
    assert facts["adapter"] == "rank 16, alpha 8.0, targets all, full rank up to 500, normalization live" and facts[
        "training"
    ].startswith("epochs 3, this is")
    assert len(facts["trained on"]) < 300 and first.curve is not None and second.curve is None
    assert "layers kept in float: 2, calibration images: 1" in dict(second.facts)["quantization"]
    assert 'id="making"' in page and "&lt;b&gt;xxx" in page and "<b>xxx" not in page


@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": {"rank": 1}, "curve": {"epoch": ["a", "b"], "map50_95": [1, 2]}},
        {"adapter": {"rank": 1}, "curve": {"epoch": [1, 2], "map50_95": [float("nan"), 10**400]}},
        {"scheme": {"name": {"a": []}}, "calibration": 7, "float_layers": "x"},
    ],
    ids=["text", "no numbers", "odd"],
)
def test_file_that_says_odd_things_of_itself_makes_a_page_all_the_same(settings, tmp_path) -> None:
    page = report_page(*made_report(tmp_path, ["a"], ["x"], pictures=4, settings={"a": settings}))

    assert 'id="making"' in page and "as the trainer measured it" not in page
