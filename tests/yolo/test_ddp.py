"""Two processes train one adapter: each sees its half of the images, and both end with the same tensors."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from visionlora import phase, training

WORKER = Path(__file__).with_name("ddp_worker.py")


class _Captured(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"lean": True}, {"quantize": "int8"}], ids=["float", "lean", "int8"])
def test_two_processes_end_with_equal_adapters(options, checkpoint, surface, tmp_path, monkeypatch) -> None:
    settings = {"rank": 2, "imgsz": 96, "batch": 4, "device": "cpu", "images": 2, "seed": 1}
    if "quantize" in options:
        given = training.train(checkpoint, surface, tmp_path / "float", epochs=1, **settings)
        options = {**options, "adapter": given.path, "qat_epochs": 2}

    def capture(job, hyperparameters) -> None:
        (tmp_path / "job.pkl").write_bytes(pickle.dumps((job, hyperparameters)))
        raise _Captured

    monkeypatch.setattr(phase, "run_job", capture)
    with pytest.raises(_Captured):
        training.train(checkpoint, surface, tmp_path / "run", epochs=2, **settings, **options)
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
    assert len(first["seen"]) == len(second["seen"]) == 12  # half of 12 images, two epochs
    assert {*first["seen"], *second["seen"]} == set(range(24))
    for kind in ("model", "ema"):
        assert all(torch.equal(first[kind][name], second[kind][name]) for name in first[kind])
    assert len(first["exchanged"]) == 6  # steps of two epochs
    for (own, mean), (other, same) in zip(first["exchanged"], second["exchanged"], strict=True):
        assert torch.equal(mean, same) and not torch.equal(own, other)
        torch.testing.assert_close(mean, (own + other) / 2)
    (_, mean), alone = first["exchanged"][0], first["alone"]
    assert (mean - alone).norm() < 1e-4 * alone.norm()
    assert (tmp_path / "run" / "adapter.safetensors").is_file()
