"""An adapter meets its own base only, and pictures prepared as it was trained on."""

from __future__ import annotations

import dataclasses

import pytest

from visionlora.cards import preprocessing_card
from visionlora.errors import AdapterError
from visionlora.lowrank import AdapterCard, AdapterSettings

CARD = AdapterCard(AdapterSettings(), ("scratch",), {"name": "base.pt", "fingerprint": "ab"}, preprocessing_card(96))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": 0}, r"prepared otherwise .*'padding': 0.* expected .*'padding': 114"),
        ({"channels": "BGR"}, "'channels': 'BGR'"),
        ({"scale": "1"}, "'scale': '1'"),
        ({"letterbox": "rectangle"}, "'letterbox': 'rectangle'"),
        ({"mean": [0.5]}, "'mean'"),
    ],
    ids=["padding", "channels", "scale", "letterbox", "more than we know"],
)
def test_an_adapter_of_other_pictures_is_refused(changes, message: str) -> None:
    card = dataclasses.replace(CARD, preprocessing={**CARD.preprocessing, **changes})
    with pytest.raises(AdapterError, match=message):
        card.check_base("ab", "base.pt")


def test_an_adapter_of_another_task_is_refused() -> None:
    with pytest.raises(AdapterError, match="task 'segment'"):
        dataclasses.replace(CARD, task="segment").check_base("ab", "base.pt")


def test_an_adapter_of_this_base_and_these_pictures_is_taken() -> None:
    CARD.check_base("ab", "base.pt")
    dataclasses.replace(CARD, preprocessing={"image_size": 640}).check_base("ab", "base.pt")  # of an early version
