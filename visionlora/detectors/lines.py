"""The lines that a training prints: what is trained, and how each epoch ended."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from visionlora.adapters.base_precision import FLOAT32
from visionlora.adapters.torch import AdapterPlan, frozen_bytes
from visionlora.formats.text import size_words

_SCORES = {"mAP50-95": "mAP50-95", "mAP50": "mAP50", "accuracy_top1": "top-1", "accuracy_top5": "top-5"}


def describe(plan: AdapterPlan, model: nn.Module, parameters: int) -> str:
    """Return what is adapted, trained whole and skipped of a detector of so many parameters, for the user to read."""
    trainable = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        f"adapter: {plan.words} (targets {plan.settings.targets}), "
        f"{len(plan.whole)} trained whole, {len(plan.skipped)} skipped",
        f"trainable: {trainable:,} parameters, {trainable / parameters:.1%} of the detector's {parameters:,}; "
        f"adapter file about {size_words(2 * trainable)}",
    ]
    if plan.settings.base_precision != FLOAT32:
        kept = frozen_bytes(model)
        lines.append(
            f"frozen base in {plan.settings.base_precision}: {size_words(kept)}, {kept / (4 * parameters):.2f} of "
            f"float32; {len(plan.rounded)} layers rounded, small ones as they are"
        )
    reasons: dict[str, list[str]] = {}
    for layer in plan.skipped:
        reasons.setdefault(layer.reason, []).append(layer.name)
    for reason, names in reasons.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"skipped: {shown}: {reason}")
    return "\n".join(lines)


def epoch_line(
    epoch: int, epochs: int, losses: Mapping[str, float], scores: Mapping[str, float], seconds: float
) -> str:
    """Return the line of an epoch.

    Args:
        epoch: from 1.
        epochs: of the run.
        losses: means over the epoch, by name.
        scores: of the validation behind it, by the names of an adapter's card; empty if there was none.
        seconds: of training and validation.

    Example:
        >>> epoch_line(3, 50, {"box_loss": 1.33, "cls_loss": 4.0}, {"metrics/mAP50-95(B)": 0.0768}, 1.24)
        'epoch  3/50  loss 5.33 (box 1.33, cls 4.00)  val mAP50-95 0.077  1.2 s'
    """
    parts = ", ".join(f"{name.removesuffix('_loss')} {value:.2f}" for name, value in losses.items())
    found = {name.removeprefix("metrics/").removesuffix("(B)"): value for name, value in scores.items()}
    shown = ", ".join(f"{words} {found[name]:.3f}" for name, words in _SCORES.items() if name in found)
    words = [f"epoch {epoch:>{len(str(epochs))}}/{epochs}", f"loss {sum(losses.values()):.2f}"]
    words[1] += f" ({parts})" if len(losses) > 1 else ""
    return "  ".join([*words, *([f"val {shown}"] if shown else []), f"{seconds:.1f} s"])
