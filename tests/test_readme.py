"""The README is true: commands exist, links lead somewhere, its Python runs, its numbers are the committed ones."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from visionlora import cli
from visionlora.reporting import read_report
from visionlora.reporting.summary import summary_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_begins_with_the_two_commands() -> None:
    assert README.startswith("# visionlora\n\n```\nmake demo\nmake test\n```\n")


def test_make_knows_the_targets_of_the_readme() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    targets = re.findall(r"(?:^|`)make ([a-z0-9-]+)", README, re.M)
    assert targets and all(f"make {target} " in listed for target in set(targets) - {"help"})


def test_every_verb_of_the_readme_exists_with_its_options() -> None:
    for verb, text in re.findall(r"\| `visionlora (\w+)` \| (.*?) \|\n", README):
        parser = next(a for a in cli._parser()._actions if hasattr(a, "choices") and a.choices).choices[verb]
        assert all(option in parser._option_string_actions for option in re.findall(r"--[\w-]+", text)), verb


def test_links_lead_to_files() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("benchmarks/*/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page}: {link}"


def test_pages_name_files_that_are_there() -> None:
    """From the root, or modules from the package, as the page on architecture names them."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"(?<![\w/.-])((?:visionlora|tests|benchmarks|datasets|export|docs)/[\w./-]*\w)", text)
        named += re.findall(r"`([\w.-]+/[\w./-]*\.py)`", text)
        missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "visionlora" / name).exists()]
        assert not missing, f"{page}: {missing}"


@pytest.mark.slow
def test_python_blocks_run(checkpoint: Path, surface: Path, tmp_path: Path, monkeypatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    quick = re.sub(r"epochs=\d+", "epochs=1", re.sub(r"imgsz=\d+", "imgsz=96", "\n".join(blocks)))
    quick = quick.replace('"rtsp://camera", drop_oldest=True', '"images/val"')
    shutil.copytree(surface.parent, tmp_path, dirs_exist_ok=True)
    shutil.copy(checkpoint, tmp_path / "yolo11n.pt")
    monkeypatch.chdir(tmp_path)
    exec(compile(quick, "README.md", "exec"), {})
    left = {path.name for path in tmp_path.iterdir()}
    assert {"merged.pt", "model.onnx", "model.int8.onnx", "report", "found"} <= left


def load_script(path: str) -> ModuleType:
    """Return a script of benchmarks/, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), ROOT / "benchmarks" / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def read_results(folder: str, name: str = "results.json") -> list[dict]:
    return json.loads((ROOT / "benchmarks" / folder / name).read_text())


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("training", "results.json"),
        ("training", "results-cpu.json"),
        ("training", "results-faster-host.json"),
        ("accuracy", "results.json"),
        ("accuracy", "results-cpu.json"),
        ("rulers", "results.json"),
        ("tasks", "results.json"),
    ],
)
def test_pages_show_the_table_that_their_command_prints(folder: str, name: str) -> None:
    table = load_script(f"{folder}/run.py").summary(read_results(folder, name))
    assert table in (ROOT / "benchmarks" / folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("script", "function", "name"),
    [
        ("run.py", "parts", "results-parts.json"),
        ("kernels.py", "table", "kernels.json"),
        ("largest.py", "table", "largest.json"),
        ("whole.py", "summary", "whole.json"),
        ("whole.py", "summary", "gpus.json"),
    ],
)
def test_training_page_shows_the_tables_of_its_other_commands(script: str, function: str, name: str) -> None:
    table = getattr(load_script(f"training/{script}"), function)(read_results("training", name))
    assert table in (ROOT / "benchmarks" / "training" / "README.md").read_text(encoding="utf-8")


def test_quantization_page_shows_what_int8_costs_masks_and_keypoints() -> None:
    table = load_script("tasks/int8.py").summary(read_results("tasks", "int8.json"))
    assert table in (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")


def test_quantization_page_shows_what_saturation_costs() -> None:
    table = load_script("int8/saturation.py").table(read_results("int8", "saturation.json"))
    assert table in (ROOT / "docs" / "quantization.md").read_text(encoding="utf-8")


def test_device_page_shows_the_table_that_its_command_prints() -> None:
    table = load_script("device/run.py").summary(read_results("device"))
    assert table in (ROOT / "docs" / "device.md").read_text(encoding="utf-8")


def test_qalora_page_shows_the_tables_that_its_command_prints() -> None:
    tables = load_script("qalora/run.py").table(read_results("qalora")).split("\n\n")
    page = (ROOT / "benchmarks" / "qalora" / "README.md").read_text(encoding="utf-8")
    assert len(tables) == 2 and all(table in page for table in tables)
    latency = json.loads((ROOT / "benchmarks" / "qalora" / "latency.json").read_text(encoding="utf-8"))
    assert load_script("qalora/latency.py").table(latency) in page


def test_qalora_page_shows_the_tables_of_int4_weights() -> None:
    results = json.loads((ROOT / "benchmarks" / "qalora" / "int4-runtimes.json").read_text(encoding="utf-8"))
    tables = load_script("qalora/int4.py").table(results).split("\n\n")
    page = (ROOT / "benchmarks" / "qalora" / "README.md").read_text(encoding="utf-8")
    assert len(tables) == 2 and all(table in page for table in tables)


def test_qlora_page_shows_the_table_that_its_command_prints() -> None:
    table = load_script("qlora/memory.py").summary(read_results("qlora", "memory.json"))
    assert table in (ROOT / "benchmarks" / "qlora" / "README.md").read_text(encoding="utf-8")


def test_page_of_onnxruntimes_adapters_shows_the_tables_that_its_command_prints() -> None:
    runner, results = load_script("onnx_adapter/run.py"), read_results("onnx_adapter")
    page = (ROOT / "benchmarks" / "onnx_adapter" / "README.md").read_text(encoding="utf-8")
    assert all(table(results) in page for table in runner.TABLES)
    ratios = [runner.ratio(case, "active") for case in results["cases"]]
    methods = " ".join((ROOT / "docs" / "methods.md").read_text(encoding="utf-8").split())
    assert f"a run takes {min(ratios):.2f} to {max(ratios):.2f} times" in methods


def test_int8_page_shows_the_tables_that_its_command_prints() -> None:
    runner, results = load_script("int8/run.py"), read_results("int8")
    page = (ROOT / "benchmarks" / "int8" / "README.md").read_text(encoding="utf-8")
    assert len(results) >= 2 and all(table(results) in page for table in runner.TABLES)


def test_int8_page_names_the_commit_of_each_step_where_they_differ() -> None:
    runner, (case, *_) = load_script("int8/run.py"), read_results("int8")
    case["data"]["made_with"]["commit"], case["latency"]["1"]["made_with"]["commit"] = "abc1234", "def5678-dirty"
    items = runner.provenance_list([case]).splitlines()
    assert len(items) == 3 and items[0].startswith(f"- `{case['case']}` (accuracy): ") and "`abc1234`" in items[0]
    assert items[1].startswith(f"- `{case['case']}` (latency, threads: 1): ") and "`def5678-dirty`" in items[1]
    del case["accuracy"]
    assert len(runner.provenance_list([case]).splitlines()) == 2


def test_budget_page_is_what_its_command_writes() -> None:
    results = read_results("budget")
    page = (ROOT / "benchmarks" / "budget" / "README.md").read_text(encoding="utf-8")
    assert page == load_script("budget/run.py").page(results, "results.json")
    commits = {case["commit"] for case in results["cases"].values()} - {"unknown"}
    assert all(f"`{commit}`" in page for commit in commits) and "unknown" not in page


def test_a_benchmark_names_the_commit_and_whether_code_differs_from_it(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    commit = load_script("provenance.py").commit
    assert commit(tmp_path) == "unknown"
    git("init")
    (tmp_path / "a.py").write_text("1")
    git("add", ".")
    git("commit", "--message", "a")
    name = git("rev-parse", "--short", "HEAD").strip()
    (tmp_path / "results.json").write_text("{}")
    assert commit(tmp_path) == name
    (tmp_path / "a.py").write_text("2")
    assert commit(tmp_path) == f"{name}-dirty"


def test_int8_ratios_are_those_of_the_committed_turns() -> None:
    runner = load_script("int8/run.py")
    rows = {row["label"]: row for row in read_results("int8")[0]["latency"]["1"]["rows"]}
    ratios = [
        theirs / own
        for theirs, own in zip(rows[runner.STOCK]["turns_ms"], rows[runner.OURS_INT8]["turns_ms"], strict=True)
    ]
    assert rows[runner.OURS_INT8]["faster"] == pytest.approx(statistics.median(ratios), abs=1e-3)
    assert f"| {runner.STOCK} | {statistics.median(ratios):.2f} (" in runner.against_table(read_results("int8"))


def test_steps_take_the_shares_that_the_readme_says() -> None:
    run = load_script("training/run.py")
    tables = [run.summary(read_results("training", name)) for name in ("results.json", "results-faster-host.json")]
    share = [
        {
            (model, variant): (time, memory)
            for model, variant, time, memory in re.findall(
                r"^\| (.*?) \| (.*?) \|.*?\| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|$", table, re.M
            )
        }
        for table in tables
    ]
    small, large, lean = (
        share[0][each] for each in (("yolo11n", "lora"), ("yolo11x", "lora"), ("yolo11n", "lora, lean"))
    )
    said = f"a step of yolo11n takes {small[0]} of the time and {small[1]} of the memory on a data-centre GPU "
    said += f"({lean[1]} with `--lean`), one of yolo11x {large[0]} and {large[1]}"
    assert said in " ".join(README.split())


def test_int8_table_is_a_part_of_the_page() -> None:
    page = (ROOT / "benchmarks" / "int8" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| yolo11n-640 \|.*$", README, re.M)
    assert len(rows) == 6 and all(row in page for row in rows)


def test_stage_pages_show_the_numbers_of_their_reports() -> None:
    folder = ROOT / "benchmarks" / "stages"
    leads, losses = [], []
    for name in ("steel", "wildlife"):
        report = read_report(folder / name / "report.json")
        assert summary_table(report.rows, report.data) in (folder / name / "report.md").read_text(encoding="utf-8")
        score = {row.label: 100 * row.scores.map50_95 for row in report.rows if row.scores is not None}
        leads.append(f"{score['adapter'] - score['full']:.1f}")
        losses.append(f"{score['onnx'] - score['int8']:.1f}")
        megabytes = {row.label: f"{row.bytes / 1e6:.2f}" for row in report.rows}
        assert f"| file to keep, MB | {megabytes['full']} | {megabytes['adapter']} |" in README
    page = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    assert f"the adapter is {leads[0]} points ahead on steel and {leads[1]} on wildlife" in page
    assert f"INT8 loses {losses[0]} points on steel and {losses[1]} on wildlife" in page


def test_accuracy_table_is_that_of_the_committed_results() -> None:
    runner = load_script("accuracy/run.py")
    results = read_results("accuracy")
    rows = dict(zip(runner.SETS, README_ACCURACY, strict=True))
    for data, cells in rows.items():
        ours = ("auto", 8) if any(run["data"] == data and run["method"] == "auto" for run in results) else ("lora", 8)
        for cell, (method, rank) in zip(cells, (("full", None), ours), strict=True):
            scores = [run["map50_95"] for run in runner.kept_runs(results, data, method, rank)]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            assert cell.startswith(f"{statistics.mean(scores):.3f}{spread}"), (data, method)
            assert {1: "(one seed)", 2: "(two seeds)"}.get(len(scores), "") in cell


def test_table_of_shifts_is_that_of_the_committed_results() -> None:
    page = (ROOT / "benchmarks" / "accuracy" / "README.md").read_text(encoding="utf-8")
    for found in json.loads((ROOT / "benchmarks" / "accuracy" / "shift.json").read_text(encoding="utf-8")):
        numbers = [f"{found[name]:.3f}" for name in ("shift", "first_20", "first_5", "gray")]
        cells = [found["data"], *numbers, f"{found['detail']:.2f}", found["recipe"]]
        assert f"| {' | '.join(cells)} |" in page


README_ACCURACY = re.findall(
    r"^\| (?:steel d|African|far-|wildlife, |far, small)[^|]*\| ([^|]*) \| ([^|]*) \|$", README, re.M
)


def test_the_table_of_kept_bases_is_the_committed_one() -> None:
    results = json.loads((ROOT / "benchmarks/keeping/results.json").read_text())
    assert load_script("keeping/run.py").summary(results) in (ROOT / "docs" / "keeping.md").read_text(encoding="utf-8")
