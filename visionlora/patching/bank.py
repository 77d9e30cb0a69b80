"""Many adapters on one base: a detector for each, switched in no time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from visionlora.adapters import ArrayAdapter, adapter_identity, load_arrays
from visionlora.errors import UsageError
from visionlora.formats.kinds import ADAPTER, ONNX
from visionlora.hub import local_file
from visionlora.patching.base import load_patchable
from visionlora.patching.keeping import RULES, KeptModel, check_keep, kept_content, with_kept
from visionlora.patching.patching import patched_content
from visionlora.runtime import Detector, OnnxNetwork
from visionlora.runtime.providers import Providers


@dataclass(frozen=True)
class _Entry:
    """An adapter in the bank: what it takes to make its detector (again)."""

    adapter: ArrayAdapter
    sha256: str
    path: Path


class AdapterBank:
    """One exported base and the adapters that were trained on it; each may have its own classes.

    An adapter costs its own size, a detector some tens of megabytes: only the `limit` detectors that were used last
    are kept. All methods may be called from several threads. A detector that is in use somewhere keeps working when
    its adapter is removed or makes room for another.

    Example:
        >>> import visionlora as vl
        >>> bank = vl.AdapterBank("base.onnx")  # doctest: +SKIP
        >>> bank.add("line-3", "line3.safetensors")  # doctest: +SKIP
        >>> bank.use("line-3").predict("picture.jpg")  # doctest: +SKIP
    """

    def __init__(
        self,
        base: Path | str,
        *,
        limit: int = 4,
        int8: bool = False,
        keep: str | None = None,
        joined: str | None = None,
        providers: Providers = "cpu",
        threads: int | None = None,
    ) -> None:
        """Read the base.

        Args:
            base: the base's ONNX file, from `export` of its checkpoint.
            limit: how many detectors are kept ready.
            int8: quantize with the recipe that each adapter carries.
            keep: `exact`: each detector finds the base's classes too, as for `patch`.
            joined: with `keep`, who finds a class that base and adapter know by name, as for `patch`.
            providers: what executes the detectors, as for `Detector`.
            threads: CPU threads of one prediction; None for all cores.

        Raises:
            ModelError: the file is no base that adapters can be patched into.
            UsageError: `limit` is below 1, or the options do not go together.
        """
        check_keep(keep, joined, int8=int8)
        if limit < 1:
            raise UsageError(f"limit: expected at least 1 detector, got {limit}")
        self._base = load_patchable(local_file(base, ONNX))
        self._keep_base, self._joined = keep is not None, joined
        self._limit, self._int8, self._providers, self._threads = limit, int8, providers, threads
        self._entries: dict[str, _Entry] = {}
        self._ready: OrderedDict[str, tuple[_Entry, Detector]] = OrderedDict()  # the one used last at the end
        self._lock = threading.Lock()  # of the two above; held for look-ups only
        self._making = threading.Lock()  # one detector at a time, while others predict

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters in the bank, in the order in which they came."""
        with self._lock:
            return tuple(self._entries)

    @property
    def ready(self) -> tuple[str, ...]:
        """The adapters whose detector is ready, the one used last at the end."""
        with self._lock:
            return tuple(self._ready)

    def add(self, name: str, adapter: Path | str) -> Detector:
        """Read an adapter, make its detector and try it; an adapter of this name is replaced.

        Raises:
            AdapterError: the file cannot be read, or does not fit the base; the bank is unchanged.
            ModelError, QuantizationError, UsageError: as `patch`; the bank is unchanged.
        """
        adapter = local_file(adapter, ADAPTER)
        entry = _Entry(load_arrays(adapter), adapter_identity(adapter), Path(adapter))
        with self._making:
            detector = self._make(entry)
            with self._lock:
                self._entries[name] = entry
                self._keep(name, entry, detector)
        return detector

    def use(self, name: str) -> Detector:
        """Return the detector of an adapter: at once if it is ready, else it is made again.

        Raises:
            UsageError: there is no adapter of this name.
        """
        found = self._look_up(name)
        if found is not None:
            return found
        with self._making:
            found = self._look_up(name)  # another thread may have made it meanwhile
            if found is not None:
                return found
            with self._lock:
                entry = self._entry(name)
            detector = self._make(entry)
            with self._lock:
                if self._entries.get(name) is entry:  # not removed meanwhile
                    self._keep(name, entry, detector)
            return detector

    def remove(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            UsageError: there is no adapter of this name.
        """
        with self._lock:
            self._entry(name)
            del self._entries[name]
            self._ready.pop(name, None)

    def _look_up(self, name: str) -> Detector | None:
        with self._lock:
            self._entry(name)
            if name not in self._ready:
                return None
            self._ready.move_to_end(name)
            return self._ready[name][1]

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            known = ", ".join(self._entries) or "none"
            raise UsageError(f"adapter {name!r}: not in the bank; it has {known}")
        return self._entries[name]

    def _keep(self, name: str, entry: _Entry, detector: Detector) -> None:
        self._ready[name] = (entry, detector)
        self._ready.move_to_end(name)
        while len(self._ready) > self._limit:
            self._ready.popitem(last=False)

    def _make(self, entry: _Entry) -> Detector:
        if self._keep_base:
            alone = KeptModel(self._base, rule=self._joined or RULES[0])
            content = kept_content(with_kept(alone, entry.adapter, path=entry.path, adapter_sha256=entry.sha256))
        else:
            content = patched_content(
                self._base, entry.adapter, path=entry.path, adapter_sha256=entry.sha256, int8=self._int8
            )
        network = OnnxNetwork(
            entry.path.with_suffix(ONNX.suffix), content=content, threads=self._threads, providers=self._providers
        )
        return Detector(network)
