"""Merging an adapter into its base: base.pt + adapter.safetensors -> an ordinary checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from visionlora.adapters import adapter_identity
from visionlora.adapters.shapes import check_merges
from visionlora.adapters.torch import Adapter, load_adapter
from visionlora.cards import data_hashes, make_card
from visionlora.detectors import family_of
from visionlora.detectors.family import Base, Family
from visionlora.errors import ModelError, UsageError
from visionlora.files import atomic_output, refuse_existing
from visionlora.formats.kinds import ADAPTER, CHECKPOINT
from visionlora.hub import local_file
from visionlora.tasks import difference

BOX_TOLERANCE, SCORE_TOLERANCE = 0.01, 1e-4  # pixels of the input, and scores in [0, 1]


@dataclass(frozen=True)
class MergedModel:
    """A merged checkpoint: its file, classes, and how far its output is from the adapted base's.

    Attributes:
        path: the checkpoint.
        base: the base's file, found where only its name was given.
        names: its classes.
        image_size: side of the square input that the adapter was trained at, in pixels.
        box_error: largest difference of a box coordinate on the probe batch, in pixels of the input; 0 without boxes.
        score_error: largest difference of a score.
        bytes: size of the file.
        task: what it finds, as Ultralytics names it.
    """

    path: Path
    base: Path
    names: tuple[str, ...]
    image_size: int
    box_error: float
    score_error: float
    bytes: int
    task: str


def merge(model: Path | str, adapter: Path | str, out: Path | str, *, overwrite: bool = False) -> MergedModel:
    """Merge an adapter into its base and write an ordinary checkpoint of its family in float32.

    The file is read back and run on a probe batch beside the base with the adapter attached, as it was trained,
    before it is kept.

    Args:
        model: the base (.pt) that the adapter was trained on.
        adapter: the adapter file.
        out: the checkpoint to write (.pt).
        overwrite: replace an existing file.

    Raises:
        AdapterError: the adapter cannot be read, belongs to another base, or adds modules, which no weight can hold.
        ModelError: the base cannot be used, or the written file does not reproduce the adapted base.
        OutputError: `out` exists, or cannot be written.
        UsageError: `out` does not end in .pt, or is the base.

    Example:
        >>> import visionlora as vl
        >>> vl.merge("yolo11n.pt", "runs/steel/adapter.safetensors", "merged.pt")  # doctest: +SKIP
    """
    out = refuse_existing(out, overwrite=overwrite)
    CHECKPOINT.check_out(out)
    model, adapter = local_file(model, CHECKPOINT), local_file(adapter, ADAPTER)
    if out.resolve() == Path(model).resolve():
        raise UsageError(f"--out {out}: expected another file than the base; it would be replaced")
    family = family_of(model)
    base, loaded = family.load(model), load_adapter(adapter)
    check_merges(loaded.card.settings.method)
    merged = with_adapter(family, base, loaded, adapter)
    with atomic_output(out) as partial:
        partial.write_bytes(family.pack(merged, image_size=merged.image_size, card=merged.card or {}))
        box_error, score_error = _verify(family, base, loaded, partial, out)
    size, task = out.stat().st_size, merged.task.name
    return MergedModel(out, base.path, merged.names, merged.image_size, box_error, score_error, size, task)


def with_adapter(family: Family, base: Base, loaded: Adapter, path: Path | str) -> Base:
    """Return a base with an adapter in it, of the adapter's image size, with the card of a merged checkpoint.

    Args:
        family: of the base.
        base: that the adapter was trained on.
        loaded: the adapter.
        path: its file.

    Raises:
        AdapterError: the adapter belongs to another base, or does not fit.
    """
    adapted = family.with_adapter(base, loaded)
    card = make_card(
        "merged",
        names=adapted.names,
        image_size=loaded.card.image_size,
        parents={"base": base.fingerprint, "adapter": adapter_identity(path)},
        settings={
            "adapter": loaded.card.settings.to_fields(),
            "base": base.path.name,
            **data_hashes(loaded.card.training),
        },
        task=adapted.task,
        family=family.name,
    )
    if loaded.card.quantization:
        card["quantization"] = dict(loaded.card.quantization)  # trained ranges: export and quantize carry them on
    return replace(adapted, image_size=loaded.card.image_size, card=card)


@torch.no_grad()
def _verify(family: Family, base: Base, adapter: Adapter, written: Path, out: Path) -> tuple[float, float]:
    """Compare the written checkpoint with the base that carries the adapter unmerged; return box and score error."""
    adapted = family.adapted(replace(base, task=adapter.card.sized_task), adapter.card.names, adapter.card.settings)
    adapted.attach(adapter.tensors)
    probe = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    try:
        reread = family.load(written)
    except ModelError as error:  # it names the temporary file
        raise ModelError(f"{str(error).replace(str(written), str(out))}; no file is kept") from error
    expected, got = (family.raw_prediction(each, probe) for each in (adapted.model.eval(), reread.model))
    box_error, score_error = difference(reread.task, got, expected)
    if not (box_error <= BOX_TOLERANCE and score_error <= SCORE_TOLERANCE):  # NaN fails too
        raise ModelError(
            f"{out}: the merged checkpoint does not reproduce the adapted base: boxes differ by {box_error:.3g} px "
            f"(allowed {BOX_TOLERANCE}), scores by {score_error:.3g} (allowed {SCORE_TOLERANCE}); no file is kept"
        )
    return box_error, score_error
