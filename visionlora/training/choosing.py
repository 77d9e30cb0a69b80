"""Choosing the recipe of a training by its pictures, and sharing out a budget of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from visionlora.adapters import AdapterSettings
from visionlora.adapters.methods import setting_names
from visionlora.adapters.torch import AdapterPlan, full_rank_limit
from visionlora.data import Dataset
from visionlora.detectors.family import Base, check_targets
from visionlora.errors import UsageError
from visionlora.training.recipes import AUTO, NEAR, Look, far_recipe, look_at, recipe_for, recipe_of
from visionlora.training.settings import TrainingSettings


@dataclass(frozen=True)
class ChosenRecipe:
    """What was chosen, and why.

    Attributes:
        sentence: for the user to read.
        record: the same for the run's record and the adapter's card.
    """

    sentence: str
    record: Mapping[str, Any]


def under_recipe(
    settings: TrainingSettings, base: Base, dataset: Dataset, begun: Mapping[str, Any] | None
) -> tuple[TrainingSettings, ChosenRecipe]:
    """Return the settings under the recipe that they ask for, or that the pictures do.

    Args:
        settings: as the user chose them.
        base: the frozen detector.
        dataset: with train.
        begun: the record of the run to resume, whose recipe it is then; None begins a run.

    Raises:
        UsageError: the targets match nothing, the budget does not fit, or leaves no factors to train as asked.
    """
    choice, family, look, known = settings.recipe, settings.family, None, None
    before = None if begun is None else recipe_of(AdapterSettings.from_fields(begun["adapter"]))
    if settings.start is None:
        if before is not None and choice.name in (AUTO, before.name):
            recipe, known = before, (begun or {}).get("recipe")
        elif choice.name == NEAR.name:
            recipe = NEAR
        else:
            look = look_at(family, base, dataset.split("train"))
            recipe = recipe_for(look) if choice.name == AUTO else far_recipe(look.shift)
        settings = settings.under(recipe)
    plan = check_targets(family, base, dataset.names, settings.adapter)
    if choice.budget is not None:
        parameters = sum(parameter.numel() for parameter in base.model.parameters())
        settings = _within(settings, plan, choice.numbers(parameters))
        plan = replace(plan, settings=settings.adapter)
    settings.factors.check_layers(settings.adapter.method, (layer.shape for layer in plan.adapted))
    name = recipe_of(settings.adapter).name
    record = {"name": name, **({} if look is None else asdict(look))} if known is None else dict(known)
    return settings, ChosenRecipe(_sentence(name, look, plan, auto=choice.name == AUTO), record)


def _within(settings: TrainingSettings, plan: AdapterPlan, numbers: int) -> TrainingSettings:
    """Return the settings with as many small layers at full rank as a number of parameters allows."""
    method: Any = settings.adapter.method
    if "full" not in setting_names(method):
        raise UsageError(f"--budget: the method {method.name} has no layers at full rank; drop it")
    method = replace(method, full=full_rank_limit(plan, numbers))
    return replace(settings, adapter=replace(settings.adapter, method=method))


def _sentence(name: str, look: Look | None, plan: AdapterPlan, *, auto: bool) -> str:
    """Say which recipe it is, and why."""
    full = getattr(plan.settings.method, "full", 0)
    small = sum(layer.outputs * layer.inputs <= full for layer in plan.adapted)
    does = [*(["normalization live"] if plan.live else []), *([f"{small} small layers at full rank"] if small else [])]
    other = f"; --recipe {'near' if name == 'far' else 'far'} chooses otherwise" if auto and look else ""
    words = f"recipe {name}" + (f": {', '.join(does)}" if does else "") + other
    return words if look is None else f"pictures {look}\n{words}"
