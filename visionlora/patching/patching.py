"""Patching an adapter into an exported base on the device: no torch, one small file over the air."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx

from visionlora.adapters import ArrayAdapter, adapter_identity, load_arrays
from visionlora.errors import AdapterError, OutputError, UsageError
from visionlora.files import atomic_output, refuse_existing, sha256_of, sync
from visionlora.formats.kinds import ADAPTER, ONNX
from visionlora.formats.seal import seal
from visionlora.hub import local_file
from visionlora.int8.adapter_recipe import check_constants
from visionlora.patching.base import PatchableBase, load_patchable
from visionlora.patching.graph import patched_model
from visionlora.patching.keeping import check_keep, keep_adapters, kept_content, open_kept
from visionlora.patching.quantized import quantized_model
from visionlora.patching.selftest import self_test, self_test_kept
from visionlora.runtime import OnnxNetwork


@dataclass(frozen=True)
class PatchedModel:
    """A detector that was made on the device.

    Attributes:
        path: the file.
        names: its classes.
        image_size: side of the square input in pixels.
        bytes: its size.
        sha256: of its bytes.
        previous: the file that was there before, kept for `rollback`; None where there was none.
        seconds: what it took, with the self-test.
    """

    path: Path
    names: tuple[str, ...]
    image_size: int
    bytes: int
    sha256: str
    previous: Path | None
    seconds: float


def patch(
    model: Path | str,
    adapter: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    int8: bool = False,
    keep: str | None = None,
    joined: str | None = None,
    overwrite: bool = False,
) -> PatchedModel:
    """Patch an adapter into an exported base: the graph that merging and exporting give, to the bit, without torch.

    The new file is written beside, tried on this machine, and only then takes the place of the old one, which is kept
    as `<name>.previous.onnx`. Where anything fails, the old file stays what it was.

    With `keep` the base stays in the file as it is, and finds what it found bit for bit; each adapter's own part
    stands beside it and adds its classes.

    Args:
        model: the base's ONNX file, from `export` of the base's checkpoint; with `keep` also one that this made.
        adapter: the adapter file that was trained on this base; with `keep` also several.
        out: the detector to write (.onnx).
        int8: quantize with the recipe that the adapter carries (see `quantize --adapter`).
        keep: `exact` keeps the base's classes.
        joined: with `keep`, who finds a class that several parts know by name: `both`, all of them; `base`, the first,
            which is the base where it knows it; `new`, the last adapter. None leaves the rule of `model`, or is `both`.
        overwrite: replace an existing file.

    Raises:
        AdapterError: the adapter cannot be read, belongs to another base or image size, or does not give what the
            workstation had; with `keep`, it changes layers that are to be shared.
        ModelError: the base cannot be used, or the new file fails its self-test.
        OutputError: `out` exists, or cannot be written.
        QuantizationError: the recipe does not fit the graph.
        UsageError: `out` does not end in .onnx or is the base, the adapter carries no recipe, or the options do not go
            together.

    Example:
        >>> import visionlora as vl
        >>> vl.patch("base.onnx", "adapter.safetensors", "line3.onnx")  # doctest: +SKIP
    """
    started = time.perf_counter()
    out = refuse_existing(out, overwrite=overwrite)
    ONNX.check_out(out)
    check_keep(keep, joined, int8=int8)
    given = [adapter] if isinstance(adapter, Path | str) else list(adapter)
    if not given or (len(given) > 1 and keep is None):
        raise UsageError(
            f"--adapter: expected one file, got {len(given)}; with --keep exact several stand beside the base, and "
            "visionlora adapters merge makes one of adapters of the same classes"
        )
    model, paths = local_file(model, ONNX), [local_file(each, ADAPTER) for each in given]
    if out.resolve() == Path(model).resolve():
        raise UsageError(f"--out {out}: expected another file than the base; it would be replaced")
    if keep is not None:
        kept = keep_adapters(open_kept(model), paths, joined)
        base, names, content = kept.base, kept.names, kept_content(kept)
    else:
        base, loaded = load_patchable(model), load_arrays(paths[0])
        names, identity = loaded.card.names, adapter_identity(paths[0])
        content = patched_content(base, loaded, path=paths[0], adapter_sha256=identity, int8=int8)
    with atomic_output(out) as partial:
        partial.write_bytes(content)
        self_test(partial, names)
        if keep is not None:
            self_test_kept(partial, kept)
        previous = _keep(out)
    seconds = time.perf_counter() - started
    return PatchedModel(out, names, base.image_size, len(content), sha256_of(out), previous, seconds)


def rollback(model: Path | str) -> Path:
    """Put the detector that `patch` replaced back in its place, after a self-test.

    Args:
        model: the file that is to be undone.

    Raises:
        ModelError: the earlier file fails its self-test; nothing changes then.
        OutputError: there is no earlier file, or it cannot be moved.

    Example:
        >>> import visionlora as vl
        >>> vl.rollback("line3.onnx")  # doctest: +SKIP
    """
    model = Path(model)
    previous = previous_of(model)
    if not previous.is_file():
        raise OutputError(f"{previous}: expected the file that a patch has kept, found none; nothing is changed")
    self_test(previous, OnnxNetwork(previous).names)
    try:
        os.replace(previous, model)
        sync(model.parent)
    except OSError as error:
        raise OutputError(f"{model}: cannot be written: {error.strerror or error}") from error
    return model


def patched_content(
    base: PatchableBase, adapter: ArrayAdapter, *, path: Path | str, adapter_sha256: str, int8: bool
) -> bytes:
    """Return the bytes of the patched detector, checked against what the adapter says must come out.

    Args:
        base: to patch it into.
        adapter: as it was read.
        path: of its file.
        adapter_sha256: of its file, as `adapter_identity` gives it.
        int8: quantize with its recipe.

    Raises:
        AdapterError, ModelError, QuantizationError, UsageError: as `patch`.
    """
    try:
        model: onnx.ModelProto = patched_model(base, adapter, adapter_sha256=adapter_sha256)
        check_constants(model, adapter.card, "float")
        if int8:
            model = quantized_model(model, adapter.card)
            check_constants(model, adapter.card, "int8")
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error
    return seal(model.SerializeToString(deterministic=True))


def previous_of(path: Path) -> Path:
    """Return where `patch` keeps the file that it replaces."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _keep(path: Path) -> Path | None:
    """Give the file at `path` a second name, so that both are whole at any moment."""
    if not path.exists():
        return None
    previous = previous_of(path)
    with atomic_output(previous) as partial:
        with suppress(OSError):
            partial.unlink()
        try:
            os.link(path, partial)
        except OSError:  # a file system without hard links
            partial.write_bytes(path.read_bytes())
    return previous
