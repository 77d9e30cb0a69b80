"""The README is true: commands exist, links lead somewhere, its Python runs, its numbers are the committed ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from visionlora import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_begins_with_the_two_commands() -> None:
    assert README.startswith("# visionlora\n\n```\nmake demo\nmake test\n```\n")


def test_make_knows_the_targets_of_the_readme() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    targets = re.findall(r"make ([a-z-]+)", README)
    assert targets and all(f"make {target} " in listed for target in set(targets) - {"help"})


def test_every_verb_of_the_readme_exists_with_its_options() -> None:
    for verb, text in re.findall(r"\| `visionlora (\w+)` \| (.*?) \|\n", README):
        parser = next(a for a in cli._parser()._actions if hasattr(a, "choices") and a.choices).choices[verb]
        assert all(option in parser._option_string_actions for option in re.findall(r"--[\w-]+", text)), verb


def test_links_lead_to_files() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("benchmarks/*/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page}: {link}"


@pytest.mark.slow
def test_python_block_runs(checkpoint: Path, surface: Path, tmp_path: Path, monkeypatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    quick = re.sub(r"epochs=\d+", "epochs=1", re.sub(r"imgsz=\d+", "imgsz=96", block))
    shutil.copytree(surface.parent, tmp_path, dirs_exist_ok=True)
    shutil.copy(checkpoint, tmp_path / "yolo11n.pt")
    monkeypatch.chdir(tmp_path)
    exec(compile(quick, "README.md", "exec"), {})
    left = {path.name for path in tmp_path.iterdir()}
    assert {"merged.pt", "model.onnx", "model.int8.onnx", "report", "found"} <= left


def test_tables_are_those_of_the_committed_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "accuracy" / "results.json").read_text())
    for variant in ("full", "lora-r8", "lora-r16"):
        scores = [run["map50_95"] for run in results if run["variant"] == variant]
        assert len(scores) == 3 and f"{sum(scores) / 3:.3f}" in README
    report = json.loads((ROOT / "benchmarks" / "stages" / "report.json").read_text())
    table = re.sub(r" +", " ", README)
    for row in report["rows"]:
        if row["scores"]:
            numbers = f"| {row['scores']['map50_95']:.3f} | {row['scores']['map50']:.3f} | 6/6 |"
            assert f"| `{row['label']}` {numbers}" in table and f"{row['ms_per_image']:.1f} |" in table
