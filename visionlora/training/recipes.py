"""What an adapter may change, chosen by how far the pictures are from what the base has seen, and by their objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import setting_names
from visionlora.data import LabelledImage, read_labelled
from visionlora.data.leakage import choose_images
from visionlora.detectors.family import Base, Family
from visionlora.errors import UsageError

AUTO = "auto"
FAR_SHIFT = 0.07
"""Shift of the statistics from which pictures are far: photographs have up to 0.06, whatever they show, gray or not."""
SMALL_DETAIL = 0.2
"""Side of the median object, as a share of the picture's, below which more freedom was measured to pay."""
PICTURES = 48
"""Training pictures that are looked at."""
FEWEST = 5
"""Pictures that say as much as many; of fewer the shift is too large."""


@dataclass(frozen=True)
class Look:
    """What the training pictures look like to the base.

    Attributes:
        shift: of the statistics of its batch normalization (see `Family.statistics_shift`).
        detail: side of the median object (root of its area) as a share of the picture's longer one; 1 without objects.
        pictures: how many were looked at.
    """

    shift: float
    detail: float
    pictures: int = PICTURES

    @property
    def is_far(self) -> bool:
        """Whether the base has seen nothing alike, and the objects are small."""
        return self.pictures >= FEWEST and self.shift >= FAR_SHIFT and self.detail < SMALL_DETAIL

    def __str__(self) -> str:
        if self.pictures < FEWEST:
            return f"too few to tell whether the base has seen such ({self.pictures}, expected at least {FEWEST})"
        where = "far from" if self.shift >= FAR_SHIFT else "near"
        size = "small" if self.detail < SMALL_DETAIL else "large"
        median = f"median {self.detail:.0%} of the side"
        return f"{where} what the base has seen (shift {self.shift:.2f}), {size} objects ({median})"


@dataclass(frozen=True)
class Recipe:
    """Settings that go together; each one that a user chose stands above it.

    Attributes:
        name: as the command line calls it.
        normalization: see `AdapterSettings`.
        full: layers of up to so many weights are adapted at full rank, where the method knows of it.
        alpha: strength of the factors, where the method has one.
        lr0: learning rate of the first phase.
    """

    name: str
    normalization: str
    full: int
    alpha: float
    lr0: float


NEAR = Recipe("near", normalization="frozen", full=0, alpha=4.0, lr0=0.001)
FAR = Recipe("far", normalization="live", full=20_000, alpha=4.0, lr0=0.002)
NAMES = (AUTO, NEAR.name, FAR.name)


def far_recipe(shift: float) -> Recipe:
    """Return the recipe for far pictures: the farther they are, the stronger the factors, 4 to 32 in powers of two."""
    power = round(3 * min(max(0.0, (shift - 0.1) / 0.1), 1.0))  # 0 for a shift that is no number
    return replace(FAR, alpha=FAR.alpha * 2**power)


def recipe_for(look: Look) -> Recipe:
    """Return the recipe that pictures ask for."""
    return far_recipe(look.shift) if look.is_far else NEAR


@dataclass(frozen=True)
class RecipeChoice:
    """What a user chose of a recipe; None leaves it to the recipe.

    Attributes:
        name: one of `NAMES`; `auto` chooses by the training pictures.
        alpha: see `Recipe`.
        lr0: see `Recipe`.
        budget: how many parameters may be trained, as a number or a share such as `20%` of the detector's; layers are
            adapted at full rank, the small ones first, as long as it lasts.

    Raises:
        UsageError: one is not of these.
    """

    name: str = AUTO
    alpha: float | None = None
    lr0: float | None = None
    budget: str | int | None = None

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UsageError(f"--recipe: expected {', '.join(NAMES)}, got {self.name!r:.40}")
        if self.budget is not None:
            self.numbers(1)

    def numbers(self, parameters: int) -> int:
        """Return how many of a detector's parameters the budget allows.

        Raises:
            UsageError: it is neither a share nor a number.
        """
        text = str(self.budget).strip()
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else None
            found = int(text) if share is None else int(share * parameters)
        except (ValueError, OverflowError):
            share, found = None, -1
        if found < 0 or (share is not None and not 0 < share <= 1) or isinstance(self.budget, bool):
            raise UsageError(
                "--budget: expected a share of at most 100%, such as 20%, or a count of parameters, got "
                f"{self.budget!r:.40}{_share_meant(text)}"
            )
        return found

    def adapter(self, settings: AdapterSettings, recipe: Recipe) -> AdapterSettings:
        """Return the shape of an adapter under a recipe."""
        method: Any = settings.method
        known = setting_names(method)
        wanted = {"full": recipe.full} | ({"alpha": recipe.alpha} if self.alpha is None else {})
        method = replace(method, **{name: value for name, value in wanted.items() if name in known})
        return replace(settings, method=method, normalization=recipe.normalization)


def _share_meant(text: str) -> str:
    """Ask for the share that a fraction such as 0.2 may stand for; nothing where a text is none."""
    try:
        fraction = float(text)
    except ValueError:
        return ""
    return f"; did you mean {100 * fraction:g}%?" if 0 < fraction < 1 else ""


def look_at(family: Family, base: Base, images: Sequence[LabelledImage]) -> Look:
    """Look at some training pictures, in squares of the size that the base was trained on: its statistics are of that.

    Raises:
        DataError: one cannot be read.
    """
    chosen = choose_images(images, PICTURES)
    squares = [base.task.place(read_labelled(image), base.image_size)[0] for image in chosen]
    sides = [np.sqrt(image.object_areas) / max(image.size_wh) for image in images]
    found = np.concatenate(sides) if sides else np.zeros(0)
    return Look(family.statistics_shift(base, squares), float(np.median(found)) if len(found) else 1.0, len(squares))


def recipe_of(settings: AdapterSettings) -> Recipe:
    """Return the recipe of an adapter of this shape."""
    recipe = NEAR if settings.normalization == NEAR.normalization else FAR
    own = {name: getattr(settings.method, name, getattr(recipe, name)) for name in ("full", "alpha")}
    return replace(recipe, **own)
