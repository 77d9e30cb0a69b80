"""Nothing asks the network, installs a package, or writes outside of --out and visionlora's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import visionlora as vl
from visionlora.detectors.ultralytics import checkpoint as checkpoints
from visionlora.detectors.ultralytics import load_base, loggers
from visionlora.detectors.ultralytics.loggers import chosen_loggers
from visionlora.errors import ModelError, UsageError

ROOT = Path(__file__).parents[1]
WATCH = """
import os, socket

def _note(name):
    def refuse(*arguments, **options):
        with open(os.environ["NOTES"], "a") as notes:
            print(name, arguments, file=notes)
        raise OSError("no network in this test")
    return refuse

for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, _note(name))
_connect = socket.socket.connect
def _only_here(self, address):
    return _connect(self, address) if self.family == socket.AF_UNIX else _note("connect")(address)
socket.socket.connect = _only_here
"""


class Process:
    """Runs Python where no connection can be made unnoticed, for a user whose home folder is empty."""

    def __init__(self, folder: Path) -> None:
        self.home, self.notes, self.out = folder / "home", folder / "notes", folder / "out"
        self.temporary = folder / "temporary"
        for made in (self.home, self.out, self.temporary, folder / "watch"):
            made.mkdir()
        (folder / "watch/sitecustomize.py").write_text(WATCH)
        dropped = ("XDG_", "YOLO_", "MPL", "ORT_", "VISIONLORA_", "ULTRALYTICS_", "TRITON_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        paths = {"HOME": self.home, "NOTES": self.notes, "VISIONLORA_CACHE": folder / "cache", "TMPDIR": self.temporary}
        self.environment = {
            **kept,
            **{name: str(path) for name, path in paths.items()},
            "PYTHONPATH": os.pathsep.join([str(folder / "watch"), str(ROOT)]),
        }

    def run(self, *arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.out, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def traces(self) -> list[str]:
        """Return what was asked of the network, and what lies in the home folder and among temporary files."""
        asked = self.notes.read_text().splitlines() if self.notes.exists() else []
        return asked + [str(path) for folder in (self.home, self.temporary) for path in folder.rglob("*")]


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def test_the_watch_sees_what_ultralytics_does_by_itself(process: Process) -> None:
    process.run("-c", "import ultralytics")
    assert any("getaddrinfo" in trace for trace in process.traces())
    assert any("settings.json" in trace for trace in process.traces())


@pytest.mark.slow
def test_training_and_judging_leave_no_trace(process: Process, checkpoint: Path, surface: Path) -> None:
    small = ["--epochs", 1, "--imgsz", 96, "--batch", 4, "--rank", 2, "--device", "cpu", "--images", 4]
    process.run("-m", "visionlora", "adapt", "--model", checkpoint, "--data", surface, "--out", "run", *small)
    assert process.traces() == []


def test_looking_at_a_checkpoint_leaves_no_trace(process: Process, merged) -> None:
    assert "merged" in process.run("-m", "visionlora", "inspect", merged.path)
    assert process.traces() == []


KERNEL = """
from visionlora.detectors.ultralytics.feature_kernels import _pass
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

fixed = {"BLOCK": 256, "VECTOR": 8, "ACTIVATES": True, "ADDS": True}
names = _pass.arg_names
types = {name: "constexpr" if name in fixed else "*fp16" if name.endswith("_ptr") else "i32" for name in names}
values = {(number,): fixed[name] for number, name in enumerate(names) if name in fixed}
triton.compile(ASTSource(fn=_pass, signature=types, constexprs=values, attrs={}), target=GPUTarget("cuda", 90, 32))
"""


def test_gpu_kernels_are_kept_in_the_cache(process: Process) -> None:
    pytest.importorskip("triton")
    process.run("-c", KERNEL)
    assert list((process.home.parent / "cache" / "triton").rglob("*.cubin")) and process.traces() == []


def test_openvino_does_not_report_that_it_is_imported(process: Process) -> None:
    pytest.importorskip("openvino")
    process.run("-c", "from visionlora.exporting.converters import require_converter; require_converter('openvino')")
    assert process.traces() == []


def test_a_name_on_the_hub_asks_the_hub_alone_and_leaves_the_home_folder_empty(process: Process) -> None:
    process.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    code = "import visionlora as vl\ntry: vl.Detector('hf://owner/steel')\nexcept vl.HubError as error: print(error)"
    assert "cannot be reached" in process.run("-c", code)
    assert process.traces() and all("127.0.0.1" in trace for trace in process.traces())


def test_settings_of_the_user_are_neither_read_nor_changed(process: Process) -> None:
    own = process.home / ".config/Ultralytics/settings.json"
    own.parent.mkdir(parents=True)
    own.write_text('{"sync": true, "weights_dir": "/nowhere"}')
    settings = process.run(
        "-c",
        "import visionlora.detectors.ultralytics; from ultralytics import settings; print(settings['weights_dir'])",
    )
    assert settings.strip().endswith("weights") and own.read_text() == '{"sync": true, "weights_dir": "/nowhere"}'


def test_nothing_is_installed(process: Process) -> None:
    code = (
        "import subprocess, visionlora.detectors.ultralytics; from ultralytics.utils.checks import check_requirements; "
        "subprocess.run = subprocess.check_output = subprocess.Popen = None; print(check_requirements('no-such-thing'))"
    )
    assert process.run("-c", code).strip().endswith("False")


@pytest.mark.parametrize("module", ["visionlora.runtime", "visionlora.quantization", "visionlora.patching"])
def test_onnxruntime_is_told_before_it_is_imported(module: str, process: Process) -> None:
    code = f"import os, {module}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert process.run("-c", code).strip() == "1"


def test_the_detector_in_one_file_tells_onnxruntime_too(process: Process) -> None:
    code = "import sys, os; sys.path.insert(0, sys.argv[1]); import detect; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert process.run("-c", code, ROOT / "export").strip() == "1"


def test_a_model_that_is_asked_for_by_name_is_downloaded(checkpoint: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "attempt_download_asset", lambda name: checkpoint)
    assert load_base("yolo11n.pt").path == checkpoint


def test_a_model_that_cannot_be_downloaded_is_said_to_be_missing(tmp_path, monkeypatch) -> None:
    def offline(name: str) -> Path:
        raise ConnectionError("Environment may be offline.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "attempt_download_asset", offline)
    with pytest.raises(
        ModelError,
        match=r"no such file here, and it cannot be downloaded: .* offline; pass the path of a checkpoint on",
    ):
        load_base("yolo11n.pt")


def test_loggers_are_those_that_are_asked_for(monkeypatch) -> None:
    assert chosen_loggers() == ()
    monkeypatch.setattr(loggers, "find_spec", lambda package: object())
    monkeypatch.setenv("VISIONLORA_LOGGERS", "tensorboard, mlflow,tensorboard")
    assert chosen_loggers() == ("tensorboard", "mlflow")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("tensorbord,foo", "got 'tensorbord', 'foo'"),
        ("tensorboard,comet", "comet would log nothing, .* pip install comet-ml, or take it out"),
    ],
)
def test_loggers_that_cannot_log_are_refused_before_anything_is_written(
    asked, message, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None if package == "comet_ml" else object())
    monkeypatch.setenv("VISIONLORA_LOGGERS", asked)
    with pytest.raises(UsageError, match=f"VISIONLORA_LOGGERS: .*{message}"):
        vl.train(checkpoint, "never_read.yaml", tmp_path / "run", device="cpu")
    assert not list(tmp_path.iterdir())


def test_packages_of_loggers_are_those_that_ultralytics_imports() -> None:
    for name, package in loggers.LOGGERS.items():
        source = find_spec(f"ultralytics.utils.callbacks.{'wb' if name == 'wandb' else name}")
        assert source is not None and source.origin is not None
        words = Path(source.origin).read_text().split()
        assert any(word.split(".")[-1] == package for word in words)
