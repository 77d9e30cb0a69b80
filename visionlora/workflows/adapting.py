"""The whole way in one call: train, merge, export, quantize, judge."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visionlora.adapters import AdapterSettings, read_adapter_card
from visionlora.adapters.factors import FactorTraining
from visionlora.adapters.methods import method_for
from visionlora.detectors import family_of
from visionlora.errors import QuantizationError, UsageError
from visionlora.exporting import ExportedModel, MergedModel, export, merge
from visionlora.files import exclusive
from visionlora.formats.kinds import ADAPTER, CHECKPOINT
from visionlora.formats.text import size_words
from visionlora.hub import local_file
from visionlora.patching import check_keep
from visionlora.progress import level, report
from visionlora.quantization import QuantizedModel, int8_files
from visionlora.quantization import quantize as quantize_model
from visionlora.reporting import Report, beside, change_words
from visionlora.scoring import Budget, check_budget
from visionlora.training import TrainedAdapter
from visionlora.training.earlier import settle
from visionlora.training.keeping import check_kept_settings, kept_costs
from visionlora.training.recipes import RecipeChoice
from visionlora.training.run_folder import FLOAT, RunFolder
from visionlora.training.settings import AUTO_BATCH, QAT_EPOCHS, QatSettings, Schedule, TrainingSettings
from visionlora.training.training import RunCall, run_training, warn_of_little
from visionlora.workflows.evaluating import evaluate

_LOGGER = logging.getLogger("visionlora")


@dataclass(frozen=True, repr=False)
class AdaptedModel:
    """What every stage left behind; the files lie in one folder. An adapter that adds modules is not merged."""

    adapter: TrainedAdapter
    merged: MergedModel | None
    exported: ExportedModel
    quantized: QuantizedModel
    report: Report

    def __repr__(self) -> str:
        made = (self.adapter, self.merged, self.exported, self.quantized)
        files = ", ".join(each.path.name for each in made if each is not None)
        rows = ", ".join(f"{row.label} {row.scores.map50_95:.3f}" for row in self.report.rows if row.scores is not None)
        return f"AdaptedModel({self.adapter.path.parent}: {files}; {self.report.measured.words[0]}: {rows})"


class BudgetMissed(QuantizationError):
    """The INT8 file cannot keep the budget: the message names the broken limits.

    Attributes:
        report: of all stages; its last row is the best file.
        page: report.html.
        advice: what can be done about it.
    """

    def __init__(self, message: str, *, report: Report, page: Path, advice: str) -> None:
        super().__init__(message)
        self.report, self.page, self.advice = report, page, advice


def adapt(
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    task: str | None = None,
    method: str = "lora",
    rank: int | None = None,
    alpha: float | None = None,
    block_size: int | None = None,
    form: str | None = None,
    border: int | None = None,
    tokens: int | None = None,
    start: str = "default",
    lora_plus: float = 1.0,
    recipe: str = "auto",
    budget: str | int | None = None,
    targets: str = "all",
    base_precision: str = "float32",
    epochs: int = 50,
    imgsz: int | None = None,
    batch: int | str = 16,
    device: str | None = None,
    seed: int = 0,
    lr0: float | None = None,
    lean: bool = False,
    quantize: str | None = None,
    qat_epochs: int = QAT_EPOCHS,
    qat_lr0: float | None = None,
    ranges: str = "learned",
    distill: float | None = None,
    activation: str = "silu",
    adapter: Path | str | None = None,
    images: int = 32,
    max_drop: float | None = None,
    max_class_drop: float | None = None,
    keep: str | None = None,
    joined: str | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
    quiet: bool = False,
) -> AdaptedModel:
    """Train an adapter, merge it, export to ONNX, quantize to INT8, and judge every stage on the val split.

    Leaves `adapter.safetensors`, `merged.pt`, `model.onnx`, `model.int8.onnx` (with `quantize="int4"` `model.int4.onnx`
    instead), `report.html`, `report.json`, `report.md` and pictures in `out`; without `merged.pt` where the method adds
    modules, which are exported as they stand. The arguments are those of `train`;
    `images` are the calibration images of `quantize` too, and `max_drop` and `max_class_drop` its budget: then its
    report, `model.int8.json`, lies there too. After `quantize` or `activation` the budget counts from the float adapter
    that these phases began with, `float` in the report. With `resume` and another budget the trained adapter is taken
    as it is. With `keep="exact"` the files find the base's classes too (docs/keeping.md): `targets` are then `from:N`,
    if not given the first N with which both compute at most 1.5 times the base; `joined` says who finds a class that
    base and adapter know by name; there is no `merged.pt`.

    Raises:
        BudgetMissed: the budget cannot be kept (a QuantizationError that has the report); the best file is
            `model.int8.best.onnx` (or `int4`), with its report beside, and the report judges it in place of
            `model.int8.onnx`.
        VisionLoraError: any stage's error; the files of the stages before it stay.

    Example:
        >>> import visionlora as vl
        >>> vl.adapt("yolo11n.pt", "data.yaml", "runs/steel", imgsz=320).report  # doctest: +SKIP
    """
    call = RunCall.asked(resume=resume, overwrite=overwrite, verbose=verbose, quiet=quiet)
    limits = Budget(max_drop, max_class_drop)
    check_budget(limits)
    check_keep(keep, joined)
    if keep and quantize:
        raise UsageError(
            f"--keep {keep} --quantize {quantize}: the adapter learns the rounding of a file without the base; leave "
            "--quantize out, the file is quantized with ranges from pictures"
        )
    model = local_file(model, CHECKPOINT)
    own = {"rank": rank, "alpha": alpha, "block_size": block_size, "form": form, "border": border, "tokens": tokens}
    chosen = method_for(method, own, imgsz=imgsz or Schedule.imgsz)
    settings = TrainingSettings(
        family_of(model),
        AdapterSettings(chosen, targets=targets, activation=activation, base_precision=base_precision),
        Schedule.asked(epochs=epochs, imgsz=imgsz, batch=batch, seed=seed, lr0=lr0),
        hyperparameters or {},
        device=device,
        qat=QatSettings.asked(quantize, epochs=qat_epochs, lr0=qat_lr0, ranges=ranges),
        distill=distill,
        lean=lean,
        factors=FactorTraining(start, lora_plus),
        start=None if adapter is None else Path(local_file(adapter, ADAPTER)),
        images=images,
        recipe=RecipeChoice(recipe, alpha=alpha, lr0=lr0, budget=budget),
        auto_batch=batch == AUTO_BATCH,
        task=task,
    )
    folder = RunFolder(Path(out))
    folder.refuse_as_base(Path(model))
    if imgsz is None:
        settings = settings.at_size_of(model)
    if keep:
        base = settings.family.load(model)
        if task not in (None, base.task.name):
            raise UsageError(f"--keep {keep} --task {task}: expected the base's own task, {base.task.name}")
        costs = kept_costs(base, settings.schedule.imgsz)
        settings = replace(settings, adapter=check_kept_settings(settings.adapter, costs))
    way = _Way(model, data, folder, settings, call, limits, keep, joined)
    with level(call.console), exclusive(folder.path):
        settle(folder)
        folder.refuse_earlier_stages(overwrite=way.replaces)
        trained = run_training(model, data, out, settings, replace(call, calibrates=True))
        try:
            made = way.later_stages(trained)
        except KeyboardInterrupt:
            _LOGGER.warning("%s: the trained adapter is kept; the same command with --resume makes what follows", out)
            raise
    warn_of_little(trained)
    return made


@dataclass(frozen=True)
class _Way:
    """What the stages after training need to know."""

    model: Path | str
    data: Path | str
    folder: RunFolder
    settings: TrainingSettings
    call: RunCall
    budget: Budget
    keep: str | None = None
    joined: str | None = None

    @property
    def replaces(self) -> bool:
        """Whether files of these stages are replaced: an interrupted run's are made again."""
        return self.call.overwrite or self.call.resume

    @property
    def weights(self) -> str:
        """What the weights of the shipped file are kept in."""
        return self.settings.qat.weights if self.settings.qat else "int8"

    @property
    def before(self) -> Path | None:
        """The float adapter that the last phase began with, which the budget counts from; None where it trained one."""
        if self.settings.start is not None:
            return self.settings.start
        path = self.folder.before[FLOAT].adapter
        return path if path.is_file() else None

    def later_stages(self, trained: TrainedAdapter) -> AdaptedModel:
        """Merge, export, quantize and judge."""
        folder = self.folder
        folder.clear_later()
        base, merged = self._merge(trained)
        adapter, source = (trained.path, base) if merged is None else (None, merged.path)
        imgsz = self.settings.schedule.imgsz
        kept: dict[str, Any] = {"keep": self.keep, "joined": self.joined}
        exported = export(source, folder.onnx, adapter=adapter, imgsz=imgsz, overwrite=self.replaces, **kept)
        self._say("export", exported.path, exported.bytes)
        try:
            quantized = self._quantize(base)
        except QuantizationError as error:
            best = int8_files(folder.quantized(self.weights))[2]
            if not best.is_file():
                raise
            report = self._judge(base, best)  # it passed every check but the budget
            raise BudgetMissed(
                _broken_limits(report) or str(error),
                report=report,
                page=folder.path / "report.html",
                advice=str(error),
            ) from error
        self._say("quantize", quantized.path, quantized.bytes, f", {quantized.images} calibration pictures")
        return AdaptedModel(trained, merged, exported, quantized, self._judge(base, quantized.path))

    def _merge(self, trained: TrainedAdapter) -> tuple[Path, MergedModel | None]:
        """Return the base's file, found where only its name was given, and the merged one where there can be one."""
        method = self.settings.adapter.method
        if self.keep:
            report("merge", 1, 1, "merge: none: the base stays as it is, the adapter stands beside it")
            return self.settings.family.load(self.model).path, None
        if method.merges:
            merged = merge(self.model, trained.path, self.folder.merged, overwrite=self.replaces)
            self._say("merge", merged.path, merged.bytes)
            return merged.base, merged
        report("merge", 1, 1, f"merge: none: {method.name} adds layers, which no weight can hold")
        return self.settings.family.load(self.model).path, None

    def _quantize(self, base: Path) -> QuantizedModel:
        """Quantize the exported file within the budget."""
        limited = self.budget != Budget()
        imgsz, before = self.settings.schedule.imgsz, self.before
        with _exported(base, before, imgsz) if limited and before else nullcontext() as reference:
            return quantize_model(
                self.folder.onnx,
                self.data,
                self.folder.quantized(self.weights),
                images=self.settings.images,
                seed=self.settings.schedule.seed,
                max_drop=self.budget.max_drop,
                max_class_drop=self.budget.max_class_drop,
                reference=reference,
                overwrite=self.replaces,
            )

    def _judge(self, base: Path, shipped: Path) -> Report:
        """Judge every stage on val; the base too, where it finds what the adapter does."""
        folder, before = self.folder, self.before
        same = self.settings.family.load(base).task == read_adapter_card(folder.adapter).sized_task
        stages = [
            *([f"base={base}"] if same else []),
            f"adapter={base}+{folder.adapter}",
            *([f"merged={folder.merged}"] if folder.merged.is_file() else []),
            f"onnx={folder.onnx}",
            *([] if before is None else [f"float={base}+{before}"]),  # what the next one is held against
            f"{self.weights}={shipped}",
        ]
        without = "" if same else ", without the base, which finds something else"
        report("judge", 0, None, f"judge: {len(stages)} models on val{without}")
        limited = self.budget != Budget()
        return evaluate(
            stages,
            self.data,
            imgsz=self.settings.schedule.imgsz,
            max_drop=self.budget.max_drop,
            max_class_drop=self.budget.max_class_drop,
            against="float" if before is not None else "onnx" if limited else None,
            out=folder.path,
            html=True,
            overwrite=self.replaces,
        )

    def _say(self, stage: str, path: Path, size: int, more: str = "") -> None:
        report(stage, 1, 1, f"{stage}: {path}, {size_words(size)}{more}")


def _broken_limits(report: Report) -> str:
    """Return the limits that are broken in one line, empty if none is."""
    mean, other, of_class = report.measured.words
    names = {"max_drop": mean, "max_class_drop": of_class, "min_map50": other}
    broken = [
        f"{check.model}: {names.get(check.limit, check.limit)}"
        + (f" of {check.class_name}" if check.class_name else "")
        + (f" loses {beside(check.measured, check.allowed)}" if check.measured is not None else " cannot be judged")
        + f", allowed {check.allowed:g}"
        for check in (report.verdict.checks if report.verdict is not None else ())
        if not check.passed
    ]
    return f"the budget cannot be kept: {'; '.join(broken)}" if broken else ""


def int8_advice(report: Report, *, max_drop: float | None, quantize: str | None) -> str:
    """Return in a line how to lose less, where the quantized file measurably lost against the float one; else nothing.

    Args:
        report: of `adapt`; the last row is the quantized file.
        max_drop: what `adapt` was given.
        quantize: what `adapt` was given.
    """
    last = report.rows[-1]
    labels = [row.label for row in report.rows[:-1]]
    difference = last.difference_to("float" if "float" in labels else "onnx")
    if difference is None or not difference.map50_95.measurable or difference.map50_95.difference >= 0:
        return ""
    trains_on = quantize is None and not report.is_of_classes
    ways = [
        *(["--resume --max-drop 0.005 (leaves the layers that cost most in float)"] if max_drop is None else []),
        *(["--quantize int8 (trains on as the INT8 file computes)"] if trains_on else []),
    ]
    if not ways:
        return ""
    lost = change_words(difference.map50_95)
    return f"{last.label} loses against {difference.to}: {lost}; better with {', or '.join(ways)}"


@contextmanager
def _exported(base: Path | str, adapter: Path, imgsz: int) -> Iterator[Path]:
    """Write the ONNX file of a base and an adapter for a while."""
    with tempfile.TemporaryDirectory() as folder:
        yield export(base, Path(folder) / "model.onnx", adapter=adapter, imgsz=imgsz).path
