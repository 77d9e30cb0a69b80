"""A file of LyCORIS, and what makes an adapter of it."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load

from visionlora.adapters.torch import from_lycoris
from visionlora.errors import AdapterError
from visionlora.exporting.adapter_results import Reader


def lycoris_reader(path: Path) -> Reader:
    """Read a file; return what makes an adapter of it for a base.

    Raises:
        AdapterError: it cannot be read.
    """
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: expected a .safetensors file, as LyCORIS saves it: {error}") from error
    return lambda model, plan, plan_for: from_lycoris(model, plan, tensors, plan_for)
