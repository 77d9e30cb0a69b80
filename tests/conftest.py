"""What the tests share: the scripts in datasets/ as modules, a tiny detector, and a small generated data set."""

from __future__ import annotations

import importlib.util
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import settings
from ultralytics.nn.tasks import DetectionModel

from tests.classified import write_classified, write_classifier
from tests.hub_server import Hub, serving
from visionlora.demonstration.generate import write_dataset
from visionlora.demonstration.surface import SURFACE_NAMES, draw_surface
from visionlora.detectors.ultralytics.toy_base import BaseCard, save_base, write_base
from visionlora.exporting import ExportedModel, MergedModel, export, merge
from visionlora.isolation import isolate_hub
from visionlora.quantization import quantize
from visionlora.training import train
from visionlora.workflows.demonstrating import BASE_PATH

settings.register_profile("project", deadline=None, derandomize=True)  # the same examples on any machine
settings.load_profile("project")
DATASETS = Path(__file__).parents[1] / "datasets"
if threading.current_thread() is threading.main_thread():
    # Who starts tests in the background may have it ignored, and then every process that a test interrupts has it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what models find away from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return an empty hub on this machine, which is the one that is asked, without a token and with an empty cache."""
    isolate_hub()
    constants = pytest.importorskip("huggingface_hub.constants")
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET"):  # another test may have imported it before
        monkeypatch.setattr(constants, name, True)
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setenv("VISIONLORA_CACHE", str(folder / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Load a script such as `surface/prepare.py` from datasets/, which is no package."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name.replace("/", "_").removesuffix(".py"), DATASETS / name)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def toy(script: Callable[[str], ModuleType]) -> DetectionModel:
    """Return a randomly initialised model of the toy base's shape with three classes, in eval mode."""
    torch.manual_seed(0)
    model = DetectionModel(script("shapes/pretrain.py").model_description(3), ch=3, nc=3, verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model.half().float().eval()


@pytest.fixture(scope="session")
def toy_base(toy: DetectionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the .safetensors that holds the toy model."""
    path = tmp_path_factory.mktemp("toy") / "toy.safetensors"
    card = BaseCard(toy.yaml, ("one", "two", "three"), 96, {"date": "2025-01-01T00:00:00+00:00"}, {"mAP50": 0.5})
    save_base(toy, card, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an Ultralytics checkpoint of the packaged base: a trained detector of 14 classes, 0.9 M parameters."""
    path = tmp_path_factory.mktemp("checkpoint") / "base.pt"
    write_base(path, BASE_PATH)
    return path


@pytest.fixture(scope="session")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data.yaml of a few generated pictures of surface defects, 96 px."""
    folder = tmp_path_factory.mktemp("surface")
    return write_dataset(draw_surface, SURFACE_NAMES, folder, counts={"train": 12, "val": 6}, size=96, seed=1)


@pytest.fixture(scope="session")
def adapter(checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter trained for one epoch on the surface pictures."""
    out = tmp_path_factory.mktemp("adapter") / "run"
    return train(checkpoint, surface, out, rank=2, epochs=1, imgsz=96, batch=4, device="cpu", lr0=0.01).path


@pytest.fixture(scope="session")
def merged(checkpoint: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> MergedModel:
    """Return the checkpoint with that adapter merged in."""
    return merge(checkpoint, adapter, tmp_path_factory.mktemp("merged") / "merged.pt")


@pytest.fixture(scope="session")
def exported(merged: MergedModel, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    """Return its ONNX file."""
    return export(merged.path, tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture(scope="session")
def with_recipe(
    adapter: Path, exported: ExportedModel, surface: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Return a copy of the trained adapter that carries its quantization, and the workstation's INT8 file."""
    folder = tmp_path_factory.mktemp("recipe")
    copied = folder / "adapter.safetensors"
    copied.write_bytes(adapter.read_bytes())
    return copied, quantize(exported.path, surface, folder / "model.int8.onnx", images=4, adapter=copied).path


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an Ultralytics checkpoint of a tiny classifier that knows `red` and `stone`."""
    return write_classifier(tmp_path_factory.mktemp("classifier") / "base-cls.pt")


@pytest.fixture(scope="session")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures of `blue`, `green` and `red` things."""
    return write_classified(tmp_path_factory.mktemp("classified"), {"train": 6, "val": 4})
