"""What the tests of patching share: an exported base, random adapters, and what the workstation makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from visionlora.adapters import AdapterCard, AdapterSettings
from visionlora.adapters.methods import LoRA
from visionlora.adapters.torch import Adapter, save_adapter
from visionlora.adapters.torch.merge import expected_shapes
from visionlora.cards import preprocessing_card
from visionlora.detectors.ultralytics import load_base, plan_detector, set_classes
from visionlora.exporting import export, merge

IMAGE_SIZE = 96


@pytest.fixture(scope="session")
def base_onnx(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the ONNX file of the packaged base."""
    return export(checkpoint, tmp_path_factory.mktemp("base") / "base.onnx", imgsz=IMAGE_SIZE).path


def random_adapter(
    checkpoint: Path,
    path: Path,
    *,
    names: tuple[str, ...] = ("scratch", "pit"),
    settings: AdapterSettings | None = None,
    image_size: int = IMAGE_SIZE,
) -> Path:
    """Write an adapter with random tensors for a checkpoint."""
    settings = settings or AdapterSettings(LoRA(rank=3))
    base = load_base(checkpoint)
    whole = set_classes(base.model, names)
    shapes = expected_shapes(base.model, plan_detector(base.model, settings, whole=whole))
    generator = np.random.default_rng(0)
    tensors = {
        name: torch.from_numpy(generator.normal(0, 0.03, shape).astype(np.float32)) for name, shape in shapes.items()
    }
    card = AdapterCard(
        settings=settings,
        names=names,
        base={"name": checkpoint.name, "fingerprint": base.fingerprint},
        preprocessing=preprocessing_card(image_size),
        task=base.task.name,
        task_settings=base.task.settings(),
    )
    save_adapter(Adapter(card, tensors), path)
    return path


def exported_merged(checkpoint: Path, adapter: Path, folder: Path, image_size: int = IMAGE_SIZE) -> Path:
    """Return what the workstation makes: merged, exported."""
    merged = merge(checkpoint, adapter, folder / "merged.pt", overwrite=True)
    return export(merged.path, folder / "merged.onnx", imgsz=image_size, overwrite=True).path


def graph_bytes(path: Path) -> bytes:
    """Return the graph of an ONNX file, without its metadata.

    A constant that torch's exporter calls `onnx::Split_400` is called by its place, for the number counts tensors of
    the trace.
    """
    graph = onnx.load(path).graph
    names = {t.name: f"constant {i}" for i, t in enumerate(graph.initializer) if t.name.startswith("onnx::")}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return graph.SerializeToString(deterministic=True)
