"""What a file with adapters beside a base holds, and taking one of them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visionlora.errors import ModelError, UsageError
from visionlora.files import atomic_output, refuse_existing
from visionlora.formats.kinds import ONNX
from visionlora.formats.text import class_names, printable, size_words
from visionlora.hub import local_file
from visionlora.patching.keeping import (
    RULES,
    KeptAdapter,
    KeptModel,
    keep_adapters,
    kept_adapters,
    kept_content,
    open_kept,
    without_kept,
)
from visionlora.patching.selftest import self_test, self_test_kept
from visionlora.runtime import OnnxNetwork


@dataclass(frozen=True, repr=False)
class KeptFile:
    """What a file with adapters beside a base holds.

    Attributes:
        path: the file.
        base: file name of the base's checkpoint.
        base_names: the base's classes.
        adapters: those beside it, in the order of their classes; none of a base alone.
        joined: who finds a class that several parts know by name: `both`, `base` or `new`.
        bytes: size of the file.
        kind: `onnx`, in which the base finds what it finds alone bit for bit, or `int8`.
    """

    path: Path
    base: str
    base_names: tuple[str, ...]
    adapters: tuple[KeptAdapter, ...]
    joined: str
    bytes: int
    kind: str

    def __str__(self) -> str:
        whole = "unchanged" if self.kind == "onnx" else f"in {self.kind}"
        lines = [f"{self.path}: {size_words(self.bytes)}; {self.base} with {len(self.base_names)} classes, {whole}"]
        lines += [
            f"{each.id}  {each.name}, from module {each.start}: {', '.join(each.names)}" for each in self.adapters
        ]
        if shared := self.shared:
            finders = {"both": "every part that knows it", "base": "the first part", "new": "the last part"}
            lines.append(f"known to several parts, found by {finders[self.joined]}: {', '.join(shared)}")
        return "\n".join(map(printable, lines))

    def __repr__(self) -> str:
        return f"KeptFile({str(self.path)!r}, {len(self.base_names)} classes, {len(self.adapters)} adapters)"

    @property
    def shared(self) -> tuple[str, ...]:
        """The classes that several parts know by name."""
        parts = (self.base_names, *(each.names for each in self.adapters))
        names = dict.fromkeys(name for part in parts for name in part)
        return tuple(name for name in names if sum(name in part for part in parts) > 1)


def list_adapters(model: Path | str) -> KeptFile:
    """Say what a file holds that `--keep exact` made, float or int8.

    Args:
        model: the file (.onnx).

    Raises:
        ModelError: it is missing, broken, or no such file.

    Example:
        >>> import visionlora as vl
        >>> print(vl.list_adapters("kept.onnx"))  # doctest: +SKIP
    """
    path = Path(local_file(model, ONNX))
    card = OnnxNetwork(path).metadata or {}
    if "kept" not in card:
        raise ModelError(f"{path}: expected adapters beside a base, as --keep exact makes, found none")
    try:
        kept, adapters = card["kept"], kept_adapters(card["kept"])
        base, names, joined = kept["base"]["name"], class_names(kept["base"]["names"]), kept["joined"]
        if not isinstance(base, str) or joined not in RULES:
            raise ValueError(f"kept: expected the name of a base and one of {', '.join(RULES)}, got {joined!r:.40}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: its visionlora metadata is broken: {error!r:.200}") from error
    return KeptFile(path, base, names, adapters, joined, path.stat().st_size, str(card.get("kind")))


def remove_adapter(model: Path | str, name: str, out: Path | str, *, overwrite: bool = False) -> KeptFile:
    """Write a file that `--keep exact` made without one of its adapters: byte for byte as if it had never been in.

    Without its last adapter it is the base's own file.

    Args:
        model: the file (.onnx), float; it is not changed.
        name: id of the adapter or name of its file, as `list_adapters` tells them.
        out: the file to write (.onnx).
        overwrite: replace an existing file.

    Raises:
        ModelError: the file is missing, broken, or no such file, or the new one fails its self-test.
        OutputError: `out` exists, or cannot be written.
        UsageError: the file has no such adapter or several, or `out` does not end in .onnx or is the file.

    Example:
        >>> import visionlora as vl
        >>> vl.remove_adapter("kept.onnx", "line3.safetensors", "without.onnx")  # doctest: +SKIP
    """
    out = refuse_existing(out, overwrite=overwrite)
    ONNX.check_out(out)
    path = Path(local_file(model, ONNX))
    if out.resolve() == path.resolve():
        raise UsageError(f"--out {out}: expected another file than the one that is read; it would be replaced")
    kind = list_adapters(path).kind
    if kind != "onnx":
        raise ModelError(
            f"{path}: expected a float file, got {kind}; take the adapter out of the float file, and quantize that"
        )
    rest = without_kept(open_kept(path), name)
    with atomic_output(out) as partial:
        write_kept(partial, rest)
    base = rest.base
    return KeptFile(out, base.folded.name, base.names, rest.adapters, rest.rule, out.stat().st_size, "onnx")


def keep_adapters_in(path: Path, adapters: Sequence[Path | str], joined: str | None) -> KeptModel:
    """Put adapters beside the base in a file, in its place.

    Raises:
        AdapterError, ModelError, UsageError: as `patch`.
    """
    kept = keep_adapters(open_kept(path), adapters, joined)
    write_kept(path, kept)
    return kept


def write_kept(path: Path, kept: KeptModel) -> None:
    """Write a base with adapters beside it, and try it.

    Raises:
        ModelError: it fails its self-test, or the base in it does not find what it finds alone.
    """
    path.write_bytes(kept_content(kept))
    self_test(path, kept.names)
    if kept.adapters:
        self_test_kept(path, kept)
