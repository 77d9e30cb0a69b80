"""What an adapter may change, by how far the pictures are from what the base has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from visionlora.adapters import AdapterSettings


@dataclass(frozen=True)
class Recipe:
    """Settings that go together; each one that a user chose stands above it.

    Attributes:
        name: as the command line calls it.
        normalization: see `AdapterSettings`.
        full: layers of up to so many weights are adapted at full rank, where the method knows of it.
        lr0: learning rate.
    """

    name: str
    normalization: str
    full: int
    lr0: float

    def adapter(self, settings: AdapterSettings, *, full: int | None) -> AdapterSettings:
        """Return the shape of an adapter under this recipe; `full` is the user's choice."""
        method: Any = settings.method
        if any(field.name == "full" for field in fields(method)):
            method = replace(method, full=self.full if full is None else full)
        return replace(settings, method=cast(Any, method), normalization=self.normalization)


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("near", normalization="frozen", full=0, lr0=0.001),
        Recipe("far", normalization="live", full=20_000, lr0=0.002),
    )
}
