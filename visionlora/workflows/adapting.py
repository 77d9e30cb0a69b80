"""The whole way in one call: train, merge, export, quantize, judge."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionlora.data import load_dataset
from visionlora.data.leakage import calibration_images
from visionlora.detectors.ultralytics.job import ADAPTER_FILE
from visionlora.errors import QuantizationError
from visionlora.exporting import ExportedModel, MergedModel, export, merge
from visionlora.files import exclusive
from visionlora.progress import LEVELS, say
from visionlora.quantization import QuantizedModel, int8_files
from visionlora.quantization import quantize as quantize_model
from visionlora.reporting import Report, change_words
from visionlora.scoring import Budget, check_budget
from visionlora.training import TrainedAdapter, train
from visionlora.training.earlier import settle
from visionlora.training.phase import FLOAT_FOLDER
from visionlora.training.run_folder import (
    INT4_FILE,
    INT8_FILE,
    MERGED_FILE,
    ONNX_FILE,
    clear_later_stages,
    refuse_clearing,
    refuse_earlier_stages,
)
from visionlora.training.settings import check_count
from visionlora.workflows.evaluating import evaluate

_LOGGER = logging.getLogger("visionlora")


@dataclass(frozen=True, repr=False)
class AdaptedModel:
    """What every stage left behind; the files lie in one folder."""

    adapter: TrainedAdapter
    merged: MergedModel
    exported: ExportedModel
    quantized: QuantizedModel
    report: Report

    def __repr__(self) -> str:
        files = ", ".join(each.path.name for each in (self.adapter, self.merged, self.exported, self.quantized))
        rows = ", ".join(f"{row.label} {row.scores.map50_95:.3f}" for row in self.report.rows if row.scores is not None)
        return f"AdaptedModel({self.adapter.path.parent}: {files}; mAP50-95: {rows})"


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
    rank: int = 8,
    alpha: float = 4.0,
    targets: str = "all",
    epochs: int = 50,
    imgsz: int = 640,
    batch: int = 16,
    device: str | None = None,
    seed: int = 0,
    lr0: float = 0.001,
    lean: bool = False,
    quantize: str | None = None,
    qat_epochs: int = 10,
    qat_lr0: float | None = None,
    ranges: str = "learned",
    distill: float | None = None,
    activation: str = "silu",
    adapter: Path | str | None = None,
    images: int = 32,
    max_drop: float | None = None,
    max_class_drop: float | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
    quiet: bool = False,
) -> AdaptedModel:
    """Train an adapter, merge it, export to ONNX, quantize to INT8, and judge every stage on the val split.

    Leaves `adapter.safetensors`, `merged.pt`, `model.onnx`, `model.int8.onnx` (with `quantize="int4"` `model.int4.onnx`
    instead), `report.html`, `report.json`, `report.md` and pictures in `out`. The arguments are those of `train`;
    `images` are the calibration images of `quantize` too, and `max_drop` and `max_class_drop` its budget: then its
    report, `model.int8.json`, lies there too. After `quantize` or `activation` the budget counts from the float adapter
    that these parts began with, `float` in the report. With `resume` and another budget the trained adapter is taken as
    it is.

    Raises:
        BudgetMissed: the budget cannot be kept (a QuantizationError that has the report); the best file is
            `model.int8.best.onnx` (or `int4`), with its report beside, and the report judges it in place of
            `model.int8.onnx`.
        VisionLoraError: any stage's error; the files of the stages before it stay.

    Example:
        >>> import visionlora as vl
        >>> vl.adapt("yolo11n.pt", "data.yaml", "runs/steel", imgsz=320).report  # doctest: +SKIP
    """
    out = Path(out)
    check_budget(Budget(max_drop, max_class_drop))
    check_count(images, "--images")
    replace = overwrite or resume  # an interrupted run's later stages are made again
    with exclusive(out):
        settle(out)
        refuse_earlier_stages(out, overwrite=replace)
        refuse_clearing(Path(model), out)
        if quantize is None:  # else training looks too; refused now, not after it
            calibration_images(load_dataset(data, splits=("train",)), images, seed=seed)
        trained = train(
            model,
            data,
            out,
            rank=rank,
            alpha=alpha,
            targets=targets,
            epochs=epochs,
            imgsz=imgsz,
            batch=batch,
            device=device,
            seed=seed,
            lr0=lr0,
            lean=lean,
            quantize=quantize,
            qat_epochs=qat_epochs,
            qat_lr0=qat_lr0,
            ranges=ranges,
            distill=distill,
            activation=activation,
            adapter=adapter,
            images=images,
            hyperparameters=hyperparameters,
            resume=resume,
            overwrite=overwrite,
            verbose=verbose,
            quiet=quiet,
        )
        try:
            return _later_stages(
                trained,
                model,
                data,
                out,
                before=_float_adapter(out, adapter),
                weights=quantize or "int8",
                imgsz=imgsz,
                images=images,
                seed=seed,
                budget=Budget(max_drop, max_class_drop),
                replace=replace,
                console=LEVELS[1 + verbose - quiet],
            )
        except KeyboardInterrupt:
            _LOGGER.warning("%s: the trained adapter is kept; the same command with --resume makes what follows", out)
            raise


def _later_stages(
    trained: TrainedAdapter,
    model: Path | str,
    data: Path | str,
    out: Path,
    *,
    before: Path | None,
    weights: str,
    imgsz: int,
    images: int,
    seed: int,
    budget: Budget,
    replace: bool,
    console: str,
) -> AdaptedModel:
    """Merge, export, quantize and judge; `before` is the float adapter that the budget counts from, if another."""
    clear_later_stages(out)
    merged = merge(model, trained.path, out / MERGED_FILE, overwrite=replace)
    say(f"merge: {merged.path}, {_megabytes(merged.bytes)}", console)
    exported = export(merged.path, out / ONNX_FILE, imgsz=imgsz, overwrite=replace)
    say(f"export: {exported.path}, {_megabytes(exported.bytes)}", console)
    shipped = out / (INT4_FILE if weights == "int4" else INT8_FILE)
    stages = [
        f"base={merged.base}",
        f"adapter={merged.base}+{trained.path}",
        f"merged={merged.path}",
        f"onnx={exported.path}",
        *([] if before is None else [f"float={merged.base}+{before}"]),  # what the next one is held against
    ]
    limited = budget != Budget()

    def judge(file: Path) -> Report:
        say(f"judge: {len(stages) + 1} models on val", console)
        return evaluate(
            [*stages, f"{weights}={file}"],
            data,
            imgsz=imgsz,
            max_drop=budget.max_drop,
            max_class_drop=budget.max_class_drop,
            against=None if not limited else "onnx" if before is None else "float",
            out=out,
            html=True,
            overwrite=replace,
        )

    try:
        with _exported(merged.base, before, imgsz) if limited and before else nullcontext() as reference:
            quantized = quantize_model(
                exported.path,
                data,
                shipped,
                images=images,
                seed=seed,
                max_drop=budget.max_drop,
                max_class_drop=budget.max_class_drop,
                reference=reference,
                overwrite=replace,
            )
    except QuantizationError as error:
        best = int8_files(shipped)[2]
        if not best.is_file():
            raise
        report = judge(best)  # it passed every check but the budget
        raise BudgetMissed(
            _broken_limits(report) or str(error), report=report, page=out / "report.html", advice=str(error)
        ) from error
    say(f"quantize: {quantized.path}, {_megabytes(quantized.bytes)}, {quantized.images} calibration pictures", console)
    return AdaptedModel(trained, merged, exported, quantized, judge(quantized.path))


def _broken_limits(report: Report) -> str:
    """Return the limits that are broken in one line, empty if none is."""
    names = {"max_drop": "mAP50-95", "max_class_drop": "AP50-95", "min_map50": "mAP50"}
    broken = [
        f"{check.model}: {names.get(check.limit, check.limit)}"
        + (f" of {check.class_name}" if check.class_name else "")
        + (f" loses {check.measured:.3f}" if check.measured is not None else " cannot be judged")
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
    apart = last.difference_to("float" if "float" in labels else "onnx")
    if apart is None or not apart.map50_95.measurable or apart.map50_95.difference >= 0:
        return ""
    ways = [
        *(["--resume --max-drop 0.005 (leaves the layers that cost most in float)"] if max_drop is None else []),
        *(["--quantize int8 (trains on as the INT8 file computes)"] if quantize is None else []),
    ]
    if not ways:
        return ""
    return f"{last.label} loses against {apart.to}: {change_words(apart.map50_95)}; better with {', or '.join(ways)}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _float_adapter(out: Path, adapter: Path | str | None) -> Path | None:
    """Return the float adapter that the last part of a training began with; None where that trained it."""
    if adapter is not None:
        return Path(adapter)
    path = out / FLOAT_FOLDER / ADAPTER_FILE
    return path if path.is_file() else None


@contextmanager
def _exported(base: Path | str, adapter: Path, imgsz: int) -> Iterator[Path]:
    """Write the ONNX file of a base and an adapter for a while."""
    with tempfile.TemporaryDirectory() as folder:
        merged = merge(base, adapter, Path(folder) / MERGED_FILE)
        yield export(merged.path, Path(folder) / ONNX_FILE, imgsz=imgsz).path
