"""The examples run as they stand: what they print and write, and that each is short."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import visionlora as vl
from tests.test_architecture import imports
from tests.tiny_onnx import own_metadata, write_detector

EXAMPLES = Path(__file__).parents[2] / "export" / "examples"
CLEAN = np.zeros((64, 64, 3), np.uint8)
FAULTY = np.random.default_rng(3).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def command(name: str, **options) -> list[str]:
    flags = [[f"--{flag}", *map(str, value if isinstance(value, list) else [value])] for flag, value in options.items()]
    return [sys.executable, str(EXAMPLES / name), *(part for flag in flags for part in flag)]


def run(name: str, **options) -> str:
    return subprocess.run(command(name, **options), capture_output=True, text=True, check=True).stdout


@pytest.fixture
def model(tmp_path) -> Path:
    """Finds nothing in a clean picture and something in a faulty one."""
    card = {**own_metadata(), "thresholds": [0.6] * 3}
    path = write_detector(tmp_path / "model.onnx", properties={"visionlora": json.dumps(card)})
    assert len(vl.Detector(path).predict(CLEAN)) == 0 < len(vl.Detector(path).predict(FAULTY))
    return path


def record(folder: Path, frames: str) -> Path:
    """Write a picture a letter: `.` is clean, `x` faulty."""
    folder.mkdir()
    for number, letter in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:03d}.png"), FAULTY if letter == "x" else CLEAN)
    return folder


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_takes_the_public_names_alone(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    assert {module for module in imports(path) if module.startswith("visionlora")} == {"visionlora"}


@pytest.mark.parametrize(
    ("frames", "rejected"),
    [
        ("..........", []),
        ("..x..xx...", []),
        ("..xxx.....", [4]),
        ("xxxxxx.x.xxxx......xxx", [2, 21]),
        ("xxx....xxx.....xxx", [2, 17]),
    ],
    ids=["clean", "flicker", "one part", "a part that flickers, then another", "a gap that is too short"],
)
def test_the_line_rejects_each_faulty_part_once(model, tmp_path, frames, rejected):
    said = run("inspection_line.py", model=model, camera=record(tmp_path / "frames", frames)).splitlines()
    assert [json.loads(line)["frame"] for line in said] == rejected
    assert {json.loads(line)["reject"] for line in said} <= {"scratch", "pit", "inclusion"}


def test_the_line_looks_at_its_region_alone(model, tmp_path):
    frames = record(tmp_path / "frames", "xxxxx")
    assert run("inspection_line.py", model=model, camera=frames, region=[-9, -9, -1, -1]) == ""
    assert run("inspection_line.py", model=model, camera=frames, region=[0, 0, 64, 64]).count("reject") == 1


def test_the_trap_counts_species_a_picture(model, tmp_path):
    folder = record(tmp_path / "card", ".x.")
    os.utime(folder / "001.png", (1_000_000_000, 1_000_000_000))
    totals = run("camera_trap.py", model=model, folder=folder, out=tmp_path / "counts.csv")
    rows = list(csv.DictReader((tmp_path / "counts.csv").open(encoding="utf-8")))
    expected = Counter(vl.Detector(model).predict(FAULTY).labels)
    assert {row["species"]: int(row["count"]) for row in rows if row["picture"] == "001.png"} == expected
    assert [row["count"] for row in rows if row["picture"] != "001.png"] == ["0", "0"]
    assert {row["time"][:4] for row in rows if row["picture"] == "001.png"} == {"2001"}
    assert all(f"{count} {species}" in totals for species, count in expected.items())


def test_the_trap_writes_names_that_a_spreadsheet_does_not_compute(model, tmp_path):
    folder = record(tmp_path / "card", ".")
    (folder / "000.png").rename(folder / "=1+1\udcff\n\u202eé.png")
    run("camera_trap.py", model=model, folder=folder, out=tmp_path / "counts.csv")
    (row,) = csv.DictReader((tmp_path / "counts.csv").open(encoding="utf-8"))
    assert row["picture"] == r"'=1+1\udcff\n\u202eé.png"


def test_the_trap_stays_at_its_folder_until_it_is_told_to_stop(model, tmp_path):
    folder, out = record(tmp_path / "incoming", "."), tmp_path / "counts.csv"
    with subprocess.Popen(
        [*command("camera_trap.py", model=model, folder=folder, out=out), "--watch"], stdout=subprocess.PIPE, text=True
    ) as trap:
        for rows, name in ((2, "later.png"), (3, None)):
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and not (out.exists() and out.read_bytes().count(b"\n") == rows):
                time.sleep(0.05)
            assert out.read_bytes().count(b"\n") == rows
            if name:
                cv2.imwrite(str(folder / name), CLEAN)
        trap.send_signal(signal.SIGTERM)
        assert trap.communicate(timeout=30)[0] == "no animals\n" and trap.returncode == 0
