"""Two processes train one adapter: each sees its half of the images, and both end with the same tensors."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import ultralytics.utils.dist
from ultralytics.utils.patches import torch_load

from visionlora.adapters import MAP50_95, read_adapter_card
from visionlora.detectors.ultralytics import trainer as trainer_module
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.detectors.ultralytics.trainer import AdapterTrainer
from visionlora.training import training
from visionlora.workflows.evaluating import evaluate

PARALLEL = "visionlora.detectors.ultralytics.parallel"
WORKER = Path(__file__).with_name("ddp_worker.py")


class _Captured(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "exchanges"),
    [
        ({}, 6),
        ({"lean": True}, 6),
        ({"quantize": "int8"}, 6),
        ({"recipe": "far"}, 6),
        ({"start": "gradient", "lora_plus": 4.0, "hyperparameters": {"close_mosaic": 0}}, 6),  # the same batches twice
        ({"batch": 8, "hyperparameters": {"nbs": 16}}, 2),  # 4 and 2 images a process; warm-up, then two batches a step
    ],
    ids=["float", "lean", "int8", "far", "starts", "uneven"],
)
def test_two_processes_end_with_equal_adapters(options, exchanges, checkpoint, surface, tmp_path, monkeypatch) -> None:
    settings = {"rank": 2, "imgsz": 96, "batch": 4, "device": "cpu", "images": 2, "seed": 1}
    if "quantize" in options:
        given = training.train(checkpoint, surface, tmp_path / "float", epochs=1, **settings)
        options = {**options, "adapter": given.path, "qat_epochs": 2}

    def capture(job) -> None:
        (tmp_path / "job.pkl").write_bytes(pickle.dumps(job))
        raise _Captured

    monkeypatch.setattr(ULTRALYTICS, "train", capture)
    with pytest.raises(_Captured):
        training.train(checkpoint, surface, tmp_path / "run", epochs=2, **{**settings, **options})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(WORKER), str(tmp_path / "job.pkl"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[:8000]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    seen = 12 if "start" not in options else 18  # half of 12 images, two epochs; the first one twice
    assert len(first["seen"]) == len(second["seen"]) == seen
    assert {*first["seen"], *second["seen"]} == set(range(24))
    for kind in ("model", "ema"):
        assert all(torch.equal(first[kind][name], second[kind][name]) for name in first[kind])
    assert len(first["exchanged"]) == exchanges  # steps of two epochs
    for (own, mean), (other, same) in zip(first["exchanged"], second["exchanged"], strict=True):
        assert torch.equal(mean, same) and not torch.equal(own, other)
        torch.testing.assert_close(mean, (own + other) / 2)
    (_, mean), alone = first["exchanged"][0], first["alone"]
    assert (mean - alone).norm() < 1e-4 * alone.norm()
    adapter = tmp_path / "run" / "adapter.safetensors"
    score = evaluate([f"{checkpoint}+{adapter}"], surface, imgsz=96, cache=False).rows[0].scores.map50_95
    assert "quantize" in options or read_adapter_card(adapter).scores[MAP50_95] == pytest.approx(score, abs=1e-3)


def test_launchers_file_brings_the_job_to_its_processes(checkpoint, surface, tmp_path, monkeypatch) -> None:
    """Ultralytics' launcher writes the trainer's callbacks to a file that each process reads."""
    made: list = []

    class Launched(AdapterTrainer):
        def train(self) -> None:
            made.append(self)
            raise _Captured

    monkeypatch.setattr(trainer_module, "AdapterTrainer", Launched)
    monkeypatch.setattr(ultralytics.utils.dist, "USER_CONFIG_DIR", tmp_path)
    with pytest.raises(_Captured):
        training.train(checkpoint, surface, tmp_path / "run", epochs=1, imgsz=96, batch=4, device="cpu")
    made[0].model = str(checkpoint)  # as where nothing was set up yet
    path = Path(ultralytics.utils.dist.generate_ddp_file(made[0]))

    state = torch_load(path.with_suffix(".pt"), map_location="cpu")

    again = AdapterTrainer(overrides=state["args"], _callbacks=state["callbacks"])
    job = made[0].job
    kept = {"images": {}, "ruler": len}  # neither is equal to its own copy
    assert replace(again.job, **kept) == replace(job, **kept) and again.args == made[0].args
    assert (again.job.ruler.func, again.job.ruler.keywords) == (job.ruler.func, job.ruler.keywords)
    for split, images in job.images.items():
        for own, sent in zip(images, again.job.images[split], strict=True):
            assert (own.path, own.size_wh) == (sent.path, sent.size_wh)
            assert np.array_equal(own.boxes_xyxy, sent.boxes_xyxy) and np.array_equal(own.class_ids, sent.class_ids)


@pytest.mark.parametrize("end", ["error", "parent", "launcher"])
def test_one_of_several_processes_ends_at_once(end, tmp_path) -> None:
    """With an error; and when its parent, or who that works for, has ended, however long it would take itself."""
    body = "raise OSError('disk full')" if end == "error" else "print('ready', flush=True); time.sleep(60)"
    (tmp_path / "child.py").write_text(
        f"import atexit, time\nfrom {PARALLEL} import ending_at_once\natexit.register(time.sleep, 60)\n"
        f"with ending_at_once():\n    {body}\n"
    )
    launcher = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, sys.argv[1]], timeout=50).returncode)"
    launch = [sys.executable, "-c", launcher, str(tmp_path / "child.py")]
    if end == "launcher":  # one process more, which calls the parent as `visionlora train` calls torch's launcher
        caller = f"import subprocess, sys\nfrom {PARALLEL} import launching\nwith launching():\n"
        launch = [sys.executable, "-c", f"{caller}    subprocess.run(sys.argv[1:])", *launch]
    process = subprocess.Popen(launch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if end == "error":
        _, error = process.communicate(timeout=50)
        assert process.returncode == 1 and "disk full" in error
        return
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    began = time.monotonic()
    assert process.stdout.read() == ""  # ends when the child has, which holds it open
    assert time.monotonic() - began < 30


def test_an_interruption_reaches_who_launched_alone_and_ends_all(tmp_path) -> None:
    """As Ctrl-C in a terminal does, the signal goes to the whole group of processes."""
    (tmp_path / "child.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    launched = "import subprocess, sys; subprocess.run([sys.executable, sys.argv[1]])"
    code = f"import sys\nfrom {PARALLEL} import launch\ntry:\n    launch([sys.executable, '-c', {launched!r}"
    code += ", sys.argv[1]])\nexcept KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "child.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=50)  # ends when the child has, which holds them open
    assert (process.returncode, out, error) == (0, "interrupted\n", "")
