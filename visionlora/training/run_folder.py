"""The files that the stages after training leave in a run's folder."""

from __future__ import annotations

from pathlib import Path

from visionlora.errors import UsageError
from visionlora.files import refuse_existing
from visionlora.quantization import int8_files
from visionlora.reporting import refuse_existing_report, report_files
from visionlora.training.phase import refuse_earlier_run

MERGED_FILE, ONNX_FILE = "merged.pt", "model.onnx"
INT8_FILE, INT4_FILE = "model.int8.onnx", "model.int4.onnx"


def refuse_earlier_stages(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds a file of any stage, training included.

    Raises:
        OutputError: it does and `overwrite` is false.
    """
    refuse_earlier_run(out, overwrite=overwrite)
    for path in _model_files(out):
        refuse_existing(path, overwrite=overwrite)
    refuse_existing_report(out, overwrite=overwrite)


def later_files(out: Path) -> tuple[Path, ...]:
    """Return the paths of all that the stages after training leave, the last made first."""
    return (*reversed(report_files(out)), *reversed(_model_files(out)))


def clear_later_stages(out: Path) -> None:
    """Remove what the stages after training left: it belongs to an adapter or a file that is to be replaced."""
    for path in later_files(out):
        path.unlink(missing_ok=True)


def refuse_clearing(base: Path, out: Path) -> None:
    """Refuse a base that `clear_later_stages` would remove.

    Raises:
        UsageError: it is one of the files of `out`.
    """
    if base.resolve() in [path.resolve() for path in _model_files(out)]:
        raise UsageError(f"--model {base}: the run in {out} would replace it; copy it, or choose another --out")


def _model_files(out: Path) -> tuple[Path, ...]:
    """Return the paths of the merged, the exported and the quantized files, with what lies beside them."""
    shipped = [path for name in (INT8_FILE, INT4_FILE) for path in int8_files(out / name)]
    return out / MERGED_FILE, out / ONNX_FILE, *shipped
