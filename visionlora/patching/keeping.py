"""A base and adapters in one file: the base finds what it found, bit for bit, and each adapter adds its classes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from visionlora.adapters import ArrayAdapter, adapter_identity, load_arrays
from visionlora.adapters.folded_base import ENTRY
from visionlora.cards import data_hashes, family_in, make_card
from visionlora.errors import AdapterError, ModelError, UsageError
from visionlora.formats.parsing import parse_json
from visionlora.formats.seal import seal
from visionlora.formats.text import class_names
from visionlora.int8.adapter_recipe import check_constants
from visionlora.patching.base import KEPT_ENTRY, PatchableBase, parsed, patchable, read_whole
from visionlora.patching.graph import patched_model
from visionlora.patching.kept_graph import apart, branch_of, join
from visionlora.patching.weights import fitted
from visionlora.tasks import rows_of_parts, task_on, task_words

KEEP = "exact"
RULES = ("both", "base", "new")
"""Who finds a class that several parts of a file know by name: all, the first of them, or the last."""
SHARED = 16
"""The module of an Ultralytics detector up to which base and adapter share all, where nothing else is asked for."""
_ID = 8  # digits of an adapter's SHA-256 that tell it from the others in a file


@dataclass(frozen=True)
class KeptAdapter:
    """An adapter beside a base in one file.

    Attributes:
        id: what it is called in the file: the first digits of its SHA-256.
        name: of the file that it came from.
        sha256: of its tensors and card as they were trained.
        names: the classes that it finds.
        start: number of the first module of the base that it has for itself; those before are shared.
        data_sha256: of the splits that it was trained on, where its card says so.
    """

    id: str
    name: str
    sha256: str
    names: tuple[str, ...]
    start: int
    data_sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class KeptModel:
    """A base with adapters beside it.

    Attributes:
        base: the base, as its own file holds it.
        adapters: in the order of their classes.
        rule: who finds a class that several know by name, one of `RULES`.
        branches: the nodes and constants of each adapter.
    """

    base: PatchableBase
    adapters: tuple[KeptAdapter, ...] = ()
    rule: str = RULES[0]
    branches: tuple[onnx.GraphProto, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All classes, each once: the base's, then what each adapter adds."""
        return tuple(dict.fromkeys(name for part in self._parts for name in part))

    @property
    def rows(self) -> list[list[int | None]]:
        """For the base and each adapter, which of its rows each row of the output is; None where it has none."""
        return rows_of_parts(task_on(self.base.card, str(self.base.path)), self._parts, self.rule)

    @property
    def _parts(self) -> tuple[tuple[str, ...], ...]:
        return (self.base.names, *(each.names for each in self.adapters))


def check_keep(keep: str | None, joined: str | None, *, int8: bool = False) -> None:
    """Refuse what `keep` and `joined` cannot be.

    Args:
        keep: `exact`, or None where nothing is kept.
        joined: one of `RULES`, or None.
        int8: whether a file of the adapter alone would be quantized with its recipe.

    Raises:
        UsageError: they are others, or do not go together.
    """
    if keep not in (None, KEEP):
        raise UsageError(f"--keep: expected {KEEP}, got {keep!r:.40}")
    if joined is not None and (joined not in RULES or keep is None):
        expected = f"{', '.join(RULES)}" if keep else f"--keep {KEEP} with it"
        raise UsageError(f"--joined: expected {expected}, got {joined!r:.40}")
    if keep and int8:
        raise UsageError(
            f"--int8 --keep {KEEP}: the recipe that an adapter carries is of a file without the base's own classes; "
            f"quantize on the workstation: visionlora export --keep {KEEP}, then visionlora quantize"
        )


def keep_adapters(kept: KeptModel, adapters: Sequence[Path | str], joined: str | None) -> KeptModel:
    """Return a base with adapter files beside it.

    Args:
        kept: is not changed.
        adapters: the files, in the order of their classes.
        joined: one of `RULES`; None leaves the rule.

    Raises:
        AdapterError, ModelError, UsageError: as `with_kept`.
    """
    kept = replace(kept, rule=joined or kept.rule)
    for path in adapters:
        kept = with_kept(kept, load_arrays(path), path=path, adapter_sha256=adapter_identity(path))
    return kept


def with_kept(kept: KeptModel, adapter: ArrayAdapter, *, path: Path | str, adapter_sha256: str) -> KeptModel:
    """Return a base with one more adapter beside it.

    Args:
        kept: is not changed.
        adapter: as it was read.
        path: of its file.
        adapter_sha256: of its file, as `adapter_identity` gives it.

    Raises:
        AdapterError: it does not fit the base, changes a layer that is to be shared, or nothing at all.
        ModelError: the base is none that can be kept.
        UsageError: the file has this adapter already.
    """
    base, card = kept.base, adapter.card
    task = task_on(base.card, str(base.path))
    if task.outputs != 1 or not task.boxes or not base.folded.class_outputs:
        raise ModelError(
            f"{base.path}: --keep exact: expected an Ultralytics detector of boxes, keypoints or oriented boxes, got "
            f"{family_in(base.card)}, task {task_words(task)}; keep its own file beside the adapter's"
        )
    identity = adapter_sha256[:_ID]
    if identity in {each.id for each in kept.adapters}:
        raise UsageError(f"--adapter {path}: the file has this adapter ({identity}) already")
    try:
        start = _start(base, adapter)
        patched = patched_model(base, adapter, adapter_sha256=adapter_sha256)
        check_constants(patched, card, "float")
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error
    branch = branch_of(base.model.graph, patched.graph, f"{identity}/")
    if not branch.node:
        raise AdapterError(f"{path}: --keep exact: the adapter changes nothing of {base.path}; train it first")
    hashes = data_hashes(card.training).get("data_sha256", {})
    added = KeptAdapter(identity, Path(path).name, adapter_sha256, card.names, start, hashes)
    return replace(kept, adapters=(*kept.adapters, added), branches=(*kept.branches, branch))


def _start(base: PatchableBase, adapter: ArrayAdapter) -> int:
    """Return the first module that an adapter has for itself.

    Raises:
        AdapterError: it changes a layer before, or the first module.
    """
    fitting, targets = fitted(base, adapter), adapter.card.settings.targets.strip()
    modules = {layer: _module(layer) for layer in (*fitting.adapted, *fitting.whole)}
    stated = re.fullmatch(r"from:(\d+)", targets)
    start = int(stated[1]) if stated else min(modules.values(), default=0)
    before = [layer for layer, module in modules.items() if module < max(start, 1)]
    if not before and start:
        return start
    raise AdapterError(
        f"--keep exact: expected an adapter that leaves the first layers to the base, got one of --targets {targets} "
        f"that changes {len(before)} of them, such as {', '.join(before[:3])}; train one with --targets from:{SHARED}, "
        "or another module of the base to begin at"
    )


def _module(layer: str) -> int:
    """Return the number of the module that a layer is in; 0 where its name has none."""
    found = re.match(r"model\.(\d+)\.", layer)
    return int(found[1]) if found else 0


def without_kept(kept: KeptModel, name: str) -> KeptModel:
    """Return a base without one of the adapters beside it.

    Args:
        kept: is not changed.
        name: id of the adapter, or the name of its file, where only one has it.

    Raises:
        UsageError: there is no such adapter, or several.
    """
    found = [i for i, each in enumerate(kept.adapters) if name in (each.id, each.name, each.sha256)]
    if len(found) != 1:
        known = ", ".join(f"{each.id} ({each.name})" for each in kept.adapters)
        raise UsageError(
            f"--name {name!r:.80}: expected one of the adapters in the file by its id or the name of its file, got "
            f"{'several of this name' if found else 'none of them'}; it has {known}"
        )
    rest = [i for i in range(len(kept.adapters)) if i != found[0]]
    adapters, branches = tuple(kept.adapters[i] for i in rest), tuple(kept.branches[i] for i in rest)
    return replace(kept, adapters=adapters, branches=branches)


def kept_content(kept: KeptModel) -> bytes:
    """Return the bytes of a base with adapters beside it; of a base without any, those of its own file."""
    model = onnx.ModelProto()
    model.CopyFrom(kept.base.model)
    if kept.adapters:
        model.graph.CopyFrom(join(kept.base.model.graph, kept.branches, kept.rows))
        _describe(model, kept)
    return seal(model.SerializeToString(deterministic=True))


def _describe(model: onnx.ModelProto, kept: KeptModel) -> None:
    """Say what the file is and holds; the base's own entries stay in one of them."""
    base, (first, *rest) = kept.base, kept.adapters
    same = all(each.data_sha256 == first.data_sha256 for each in rest)
    settings = {name: value for name, value in base.card.get("settings", {}).items() if name != "data_sha256"}
    settings |= {"patched": True, **({"data_sha256": dict(first.data_sha256)} if same and first.data_sha256 else {})}
    numbered = {f"adapter_{number}": each.sha256 for number, each in enumerate(rest, 2)}
    card = make_card(
        "onnx",
        names=kept.names,
        image_size=base.image_size,
        parents={"base_onnx": base.sha256, "base": base.folded.fingerprint, "adapter": first.sha256, **numbered},
        settings=settings,
        task=task_on(base.card, str(base.path)),
        family=family_in(base.card),
    )
    card["kept"] = {
        "joined": kept.rule,
        "base": {"name": base.folded.name, "names": list(base.names)},
        "adapters": [asdict(each) for each in kept.adapters],
    }
    own = [[entry.key, entry.value] for entry in base.model.metadata_props]
    entries = {key: value for key, value in own if key != ENTRY}
    entries |= {
        "names": str(dict(enumerate(kept.names))),
        "visionlora": json.dumps(card, sort_keys=True),
        KEPT_ENTRY: json.dumps(own),
    }
    helper.set_model_props(model, entries)


def open_kept(path: Path | str) -> KeptModel:
    """Read a base with adapters beside it, or a base without any.

    Raises:
        ModelError: the file is missing, broken, or no float file that holds a base.
    """
    path = Path(path)
    content = read_whole(path)
    model = parsed(path, content)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    if KEPT_ENTRY not in entries:
        return KeptModel(patchable(path, content))
    try:
        card = parse_json(entries["visionlora"])
        described, kind = card["kept"], card["kind"]
        adapters, rule = kept_adapters(described), described["joined"]
        own = {key: value for key, value in parse_json(entries[KEPT_ENTRY]) if isinstance(value + key, str)}
        expected = card["parents"]["base_onnx"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: its visionlora metadata is broken: {error!r:.200}") from error
    if kind != "onnx" or rule not in RULES or not adapters or len(model.graph.output) != 1:
        raise ModelError(
            f"{path}: expected a float file with adapters beside a base, got {kind!r:.40}; an int8 file is made anew "
            "from the float one"
        )
    graph, branches = apart(model.graph, [f"{each.id}/" for each in adapters])
    model.graph.CopyFrom(graph)
    helper.set_model_props(model, own)
    base = patchable(path, seal(model.SerializeToString(deterministic=True)))
    if base.sha256 != expected or not all(branch.node for branch in branches):
        raise ModelError(f"{path}: the base in it is not the one that it names; the file was edited: make it again")
    return KeptModel(base, adapters, rule, tuple(branches))


def kept_adapters(described: Any) -> tuple[KeptAdapter, ...]:
    """Return the adapters that the `kept` of a file's card names.

    Raises:
        KeyError, TypeError, ValueError: it is broken.
    """
    adapters = []
    for each in described["adapters"]:
        texts = (each["id"], each["name"], each["sha256"])
        if not all(isinstance(text, str) and text for text in texts) or type(each["start"]) is not int:
            raise ValueError(f"kept: expected id, name, sha256 and start of an adapter, got {each!r:.80}")
        hashes = data_hashes(each).get("data_sha256", {})
        adapters.append(KeptAdapter(*texts, class_names(each["names"]), each["start"], hashes))
    return tuple(adapters)
