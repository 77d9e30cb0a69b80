"""The folder of a run: the files that its phases and the stages after them leave, and whether they may be replaced."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from visionlora.detectors.job import ADAPTER_FILE, RESULTS_FILE, RESUME_FILE
from visionlora.errors import OutputError, UsageError
from visionlora.files import refuse_existing, remove_partials
from visionlora.formats.kinds import ONNX
from visionlora.quantization import int8_files
from visionlora.reporting import refuse_existing_report, report_files

FLOAT, ACTIVATION, QAT = "float", "activation", "int8"
"""Kinds of phases, in their order; the folders of those before the last one are called so."""


@dataclass(frozen=True)
class PhaseFolder:
    """The files of one phase of a training.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def adapter(self) -> Path:
        """The adapter of the best epoch so far."""
        return self.path / ADAPTER_FILE

    @property
    def state(self) -> Path:
        """What the phase goes on from when it is resumed."""
        return self.path / RESUME_FILE

    @property
    def results(self) -> Path:
        """Losses and scores, a row an epoch."""
        return self.path / RESULTS_FILE

    @property
    def settings(self) -> Path:
        """What the phase was begun with."""
        return self.path / "training.json"

    @property
    def curves(self) -> Path:
        """`results`, drawn."""
        return self.path / "curves.png"

    @property
    def graph(self) -> Path:
        """The float graph that int8 training begins with; there while it runs."""
        return self.path / "start.onnx"

    @property
    def teacher(self) -> Path:
        """The graph of the adapter to learn from; there while it runs."""
        return self.path / "teacher.onnx"

    @property
    def kept(self) -> tuple[Path, ...]:
        """What a finished phase leaves, and what an interrupted one goes on with."""
        return self.adapter, self.state, self.results, self.settings, self.curves

    @property
    def temporary(self) -> tuple[Path, ...]:
        """What lies there while it runs; the last one of version 0.2."""
        return self.graph, self.teacher, self.path / "start.recipe.json"

    def has_progress(self) -> bool:
        """Whether it came to the end of an epoch and saved it whole, or came to the end of all."""
        return self.state.is_file() or (self.adapter.is_file() and not self._first_save_broke())

    def _first_save_broke(self) -> bool:
        """Whether a phase without a state to resume from has only the adapter of its first epoch, written first of all.

        Curves are drawn before a finished phase lets go of the state; a second row of results is written behind one.
        """
        if self.curves.exists() or not self.results.is_file():
            return False
        return self.results.read_bytes().strip().count(b"\n") <= 1  # the first line is the head

    def clear(self) -> None:
        """Remove the files of the phase."""
        for path in (*self.kept, *self.temporary):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunFolder:
    """The files of a run: its last phase in the folder itself, those before in folders of their own, then the stages.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def last(self) -> PhaseFolder:
        """Of the phase whose adapter is the result."""
        return PhaseFolder(self.path)

    @property
    def before(self) -> dict[str, PhaseFolder]:
        """Of the phases before the last one, by name."""
        return {name: PhaseFolder(self.path / name) for name in (FLOAT, ACTIVATION)}

    @property
    def phases(self) -> tuple[PhaseFolder, ...]:
        """Of all phases, the last one first."""
        return self.last, *self.before.values()

    @property
    def first_record(self) -> Path | None:
        """What the first phase that ended an epoch was begun with; None where none did."""
        phases = (*self.before.values(), self.last)
        return next((each.settings for each in phases if each.settings.is_file() and each.has_progress()), None)

    @property
    def adapter(self) -> Path:
        """The adapter that the training resulted in."""
        return self.last.adapter

    @property
    def merged(self) -> Path:
        """The adapter merged into its base."""
        return self.path / "merged.pt"

    @property
    def onnx(self) -> Path:
        """The exported float file."""
        return self.path / "model.onnx"

    def quantized(self, weights: str) -> Path:
        """Return the path of the file for devices, with `int8` or `int4` weights."""
        return self.path / f"model.{weights}{ONNX.suffix}"

    @property
    def models(self) -> tuple[Path, ...]:
        """The merged, the exported and the quantized files, with what lies beside them."""
        quantized = [path for weights in ("int8", "int4") for path in int8_files(self.quantized(weights))]
        return self.merged, self.onnx, *quantized

    @property
    def later(self) -> tuple[Path, ...]:
        """All that the stages after training leave, the last made first."""
        return (*reversed(report_files(self.path)), *reversed(self.models))

    def has_progress(self) -> bool:
        """Whether any phase saved an epoch."""
        return any(phase.has_progress() for phase in self.phases)

    def clear_phases(self) -> None:
        """Remove the files of all phases."""
        for phase in self.phases:
            phase.clear()

    def clear_later(self) -> None:
        """Remove what the stages after training left: it belongs to an adapter or a file that is to be replaced."""
        for path in self.later:
            path.unlink(missing_ok=True)

    def clear_partials(self) -> None:
        """Remove the half-written files of killed runs, by whose names their processes are known."""
        for phase in self.phases:
            if phase.path.is_dir():
                remove_partials(phase.path)

    def refuse_earlier_run(self, *, overwrite: bool) -> None:
        """Refuse a folder that holds a run any phase of which came to the end of an epoch.

        Raises:
            OutputError: it does and `overwrite` is false.
        """
        files = [path for phase in self.phases for path in phase.kept if path != phase.settings]
        present = [path.relative_to(self.path) for path in files if path.exists()]
        if present and not overwrite:
            raise OutputError(
                f"{self.path}: holds a training run already ({present[0]}); choose another --out, or pass --overwrite"
                + (", or --resume to go on with it" if self.has_progress() else "")
            )

    def refuse_earlier_stages(self, *, overwrite: bool) -> None:
        """Refuse a folder that holds a file of any stage, training included.

        Raises:
            OutputError: it does and `overwrite` is false.
        """
        self.refuse_earlier_run(overwrite=overwrite)
        for path in self.models:
            refuse_existing(path, overwrite=overwrite)
        refuse_existing_report(self.path, overwrite=overwrite)

    def refuse_as_base(self, base: Path) -> None:
        """Refuse a base that `clear_later` would remove.

        Raises:
            UsageError: it is one of the files of the stages.
        """
        if base.resolve() in [path.resolve() for path in self.models]:
            raise UsageError(
                f"--model {base}: the run in {self.path} would replace it; copy it, or choose another --out"
            )
