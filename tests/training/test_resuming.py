"""A run that goes on: where its files lie, for how long, which damage is found; what an earlier run becomes."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.hostile import Call
from visionlora.adapters.torch import load_adapter
from visionlora.detectors.resume import read_resume_state, write_resume_state
from visionlora.detectors.ultralytics import trainer
from visionlora.detectors.ultralytics.family import ULTRALYTICS
from visionlora.errors import ModelError, OutputError, UsageError, VisionLoraError
from visionlora.files import exclusive
from visionlora.training import earlier, train, training
from visionlora.training.recipes import RecipeChoice
from visionlora.training.record import check_same
from visionlora.training.run_folder import RunFolder

QUICK = {"imgsz": 96, "batch": 4, "device": "cpu", "rank": 2, "quiet": True, "hyperparameters": {"close_mosaic": 1}}


@pytest.fixture(scope="module")
def run(checkpoint: Path, surface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of two epochs."""
    out = tmp_path_factory.mktemp("run") / "a"
    train(checkpoint, surface, out, epochs=2, **QUICK)
    return out


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_a_finished_run_goes_on_with_more_epochs(copied, checkpoint, surface) -> None:
    rows = (copied / "results.csv").read_text()
    longer = train(checkpoint, surface, copied, epochs=4, resume=True, **QUICK)
    written = (copied / "results.csv").read_text()
    assert written.startswith(rows) and [row.split(",")[0] for row in written.splitlines()] == ["epoch", *"1234"]
    last = dict(zip(written.splitlines()[0].split(","), written.splitlines()[-1].split(","), strict=True))
    assert float(last["lr/pg0"]) == pytest.approx(0.001 * (1 - 3 / 4 * 0.99), rel=1e-4)  # the schedule of four epochs
    assert json.loads((copied / "training.json").read_text())["hyperparameters"]["epochs"] == 4
    before = longer.path.read_bytes()
    assert train(checkpoint, surface, copied, epochs=4, resume=True, **QUICK).path.read_bytes() == before
    with pytest.raises(UsageError, match=r"; --epochs: was 4, now 3 \(a run cannot become shorter\)"):
        train(checkpoint, surface, copied, epochs=3, resume=True, **QUICK)


def test_an_extension_killed_before_its_first_epoch_goes_on(copied, checkpoint, surface, monkeypatch) -> None:
    monkeypatch.setattr(ULTRALYTICS, "train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, surface, copied, epochs=3, resume=True, **QUICK)
    monkeypatch.undo()
    train(checkpoint, surface, copied, epochs=3, resume=True, **QUICK)
    assert len((copied / "results.csv").read_text().splitlines()) == 4


def test_a_run_goes_on_lean_as_it_would_without(copied, checkpoint, surface, tmp_path) -> None:
    """Who ran out of memory may turn it on; the adapter is the same but for rounding."""
    other = Path(shutil.copytree(copied, tmp_path / "other"))
    usual = train(checkpoint, surface, copied, epochs=3, resume=True, **QUICK)
    lean = train(checkpoint, surface, other, epochs=3, resume=True, lean=True, **QUICK)
    expected, got = load_adapter(usual.path).tensors, load_adapter(lean.path).tensors
    size = max(float(tensor.abs().max()) for tensor in expected.values())
    assert all(torch.allclose(got[name], expected[name], atol=1e-3 * size) for name in expected)


def test_a_run_goes_on_where_its_base_and_data_lie_elsewhere(copied, checkpoint, surface, tmp_path) -> None:
    data = Path(shutil.copytree(surface.parent, tmp_path / "moved")) / surface.name
    base = shutil.copy(checkpoint, tmp_path / "moved.pt")
    train(base, data, copied, epochs=3, resume=True, **QUICK)
    assert json.loads((copied / "training.json").read_text())["data"] == str(data)


def test_a_run_begun_before_there_were_recipes_goes_on_near(copied, checkpoint, surface, tmp_path) -> None:
    usual = Path(shutil.copytree(copied, tmp_path / "usual"))
    record = json.loads((copied / "training.json").read_text())
    del record["recipe"], record["adapter"]["full"], record["adapter"]["normalization"]
    (copied / "training.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"; --recipe: was near, now far$"):
        train(checkpoint, surface, copied, epochs=3, recipe="far", alpha=4.0, lr0=0.001, resume=True, **QUICK)
    runs = [train(checkpoint, surface, out, epochs=3, resume=True, **QUICK).path for out in (copied, usual)]
    first, second = (load_adapter(path).tensors for path in runs)
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_a_run_goes_on_at_its_own_learning_rate_alone(copied, checkpoint, surface) -> None:
    """Taken from the record it would be that of the first phase, and not of those behind it."""
    record = json.loads((copied / "training.json").read_text())
    record["hyperparameters"]["lr0"] = 0.01
    (copied / "training.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"; --lr0: was 0\.01, now 0\.001"):
        train(checkpoint, surface, copied, epochs=3, resume=True, **QUICK)


@pytest.mark.parametrize("changed", [{"rank": "x"}, {"size": 1}, {"normalization": "none"}], ids=str)
def test_a_record_of_an_unknown_adapter_is_refused(changed, copied, checkpoint, surface) -> None:
    record = json.loads((copied / "training.json").read_text())
    record["adapter"] |= changed
    (copied / "training.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"training\.json: damaged"):
        train(checkpoint, surface, copied, epochs=3, resume=True, **QUICK)


def test_a_run_does_not_go_on_with_other_names_or_another_order(copied, checkpoint, surface, tmp_path) -> None:
    data = Path(shutil.copytree(surface.parent, tmp_path / "moved")) / surface.name
    text = data.read_text()
    data.write_text(text.replace("scratch", "scrape"))
    with pytest.raises(UsageError, match=r"; --data \(names of its classes\): was"):
        train(checkpoint, data, copied, epochs=2, resume=True, **QUICK)
    data.write_text(text)
    first = min((data.parent / "images" / "train").iterdir())
    label = data.parent / "labels" / "train" / f"{first.stem}.txt"
    first.rename(first.with_stem("zz"))
    if label.exists():
        label.rename(label.with_stem("zz"))
    with pytest.raises(UsageError, match=r"; --data: other file names of its pictures than the run began with$"):
        train(checkpoint, data, copied, epochs=2, resume=True, **QUICK)


FAR = {"adapter": {"normalization": "live", "full": 20000, "alpha": 8.0}, "hyperparameters": {"lr0": 0.002}}
INT8 = {"quantize": {"to": "int8", "images": 2, "learned": True}, "teacher": {"adapter": "a", "distill": 1.0}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (FAR, "--recipe: was near, now far"),
        ({"adapter": {"full": 4608}}, r"--budget \(most weights of a layer at full rank\): was 0, now 4608"),
        ({"adapter": {"method": "x", "rank": 3}}, "--method: was lora, now x; --rank: was 2, now 3"),
        ({"adapter": {"alpha": 1.0, "targets": "head"}}, "--alpha: was 4.0, now 1.0; --targets: was all, now head"),
        ({"adapter": {"activation": "relu"}}, "--activation: was silu, now relu"),
        ({"hyperparameters": {"batch": 8, "nbs": 8}}, "--batch: was 4, now 8"),
        ({"hyperparameters": {"nbs": 8}}, "--set nbs: was 4, now 8"),
        ({"hyperparameters": {"lr0": 0.01, "imgsz": 64}}, "--imgsz: was 96, now 64; --lr0: was 0.001, now 0.01"),
        ({"hyperparameters": {"seed": 1, "mosaic": 0.5}}, "--seed: was 0, now 1; --set mosaic: was not set, now 0.5"),
        (
            {"hyperparameters": {"epochs": 1, "close_mosaic": 3}},
            r"--epochs: was 2, now 1 \(a run cannot become shorter\)",
        ),
        ({"base": "x"}, "--model: other weights than the run began with"),
        ({"order_sha256": "x"}, "--data: other file names of its pictures than the run began with"),
        (
            {"data_sha256": {"train": "x", "val": "y"}, "order_sha256": "z"},
            "--data: other pictures or labels in train than the run began with; "
            "--data: other pictures or labels in val than the run began with",
        ),
        ({"start": "x"}, "--adapter, or that of the phase before: another one than the run began with"),
        ({"teacher": {"adapter": "x", "distill": 0.5}}, "--distill: was 0, now 0.5"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_differs_is_told_as_what_is_typed(change, told, run) -> None:
    before = json.loads((run / "training.json").read_text())
    with pytest.raises(UsageError, match=f"began with; {told}$"):
        check_same(before, merged(before, change), run, ULTRALYTICS, choice=RecipeChoice(), fixed="")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quantize": {"images": 4, "learned": False}}, "--images: was 2, now 4; --ranges: was learned, now fixed"),
        ({"teacher": {"distill": 0.5}}, "--distill: was 1.0, now 0.5"),
        ({"hyperparameters": {"lr0": 0.01, "batch": 8}}, "--batch: was 4, now 8; --qat-lr0: was 0.001, now 0.01"),
        ({"hyperparameters": {"epochs": 1}}, r"--qat-epochs: was 2, now 1 \(a run cannot become shorter\)"),
    ],
    ids=str,
)
def test_what_differs_in_an_int8_phase_too(change, told, run) -> None:
    before = merged(json.loads((run / "training.json").read_text()), INT8)
    with pytest.raises(UsageError, match=f"began with; {told}$"):
        check_same(before, merged(before, change), run, ULTRALYTICS, choice=RecipeChoice(), fixed="")


def test_what_was_typed_beside_another_recipe_is_told_too(run) -> None:
    before = json.loads((run / "training.json").read_text())
    with pytest.raises(UsageError, match=r"; --alpha: was 4\.0, now 8\.0; --recipe: was near, now far$"):
        check_same(before, merged(before, FAR), run, ULTRALYTICS, choice=RecipeChoice(alpha=8.0), fixed="")


def merged(record: dict, change: dict) -> dict:
    """Return a record with a change in it, one level deep."""
    inner = {name: {**record.get(name, {}), **own} for name, own in change.items() if isinstance(own, dict)}
    return {**record, **change, **inner}


def test_another_recipe_or_budget_is_refused_by_its_option(copied, checkpoint, surface) -> None:
    with pytest.raises(UsageError, match=r"began with; --recipe: was near, now far$"):
        train(checkpoint, surface, copied, epochs=2, recipe="far", resume=True, **QUICK)
    with pytest.raises(UsageError, match=r"began with; --budget \(most weights .* at full rank\): was 0, now \d+$"):
        train(checkpoint, surface, copied, epochs=2, budget="50%", resume=True, **QUICK)


def test_advice_for_a_run_without_a_whole_epoch_is_one_that_works(checkpoint, surface, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"train without --resume$"):
        train(checkpoint, surface, tmp_path / "none", epochs=1, resume=True, **QUICK)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter.safetensors").touch()
    (tmp_path / "broken" / "training.json").touch()
    (tmp_path / "broken" / "results.csv").write_text("epoch\n1\n")
    with pytest.raises(UsageError, match="pass --overwrite instead of --resume to begin anew"):
        train(checkpoint, surface, tmp_path / "broken", epochs=1, resume=True, **QUICK)


# -- damage


def mutants(content: bytes, count: int, seed: int) -> list[bytes]:
    """Return damaged copies: bits flipped, cut off, overwritten, repeated, emptied."""
    draw = random.Random(seed)
    found = [b"", b"\0" * len(content), content[::-1]]
    for number in range(count):
        at = draw.randrange(len(content))
        changed = bytearray(content)
        if number % 4 == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif number % 4 == 1:
            del changed[at:]
        elif number % 4 == 2:
            changed[at : at + 16] = draw.randbytes(16)
        else:
            changed[at:at] = changed[: draw.randrange(1, 64)]
        found.append(bytes(changed))
    return [each for each in found if each != content]


def test_every_damaged_state_is_one_error_that_says_what_to_do(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {"run": "r", "model": {"a": torch.rand(8, 8, generator=generator)}, "results": "epoch\n1\n", "epoch": 0}
    path = tmp_path / "resume.pt"
    write_resume_state(state, path)
    assert torch.equal(read_resume_state(path, run="r")["model"]["a"], state["model"]["a"])
    for mutant in mutants(path.read_bytes(), 400, seed=0):
        path.write_bytes(mutant)
        with pytest.raises(ModelError, match="--overwrite instead of --resume"):
            read_resume_state(path, run="r")


def test_a_state_of_another_run_or_version_is_refused(tmp_path) -> None:
    path = tmp_path / "resume.pt"
    write_resume_state({"run": "a"}, path)
    with pytest.raises(ModelError, match="the state of another run"):
        read_resume_state(path, run="b")
    torch.save({"format": 2}, path)
    with pytest.raises(ModelError, match="begun by another version"):
        read_resume_state(path, run="a")


def test_what_the_process_allows_is_not_called_for_a_state(tmp_path) -> None:
    path, marker = tmp_path / "resume.pt", tmp_path / "marker"
    write_resume_state({"run": "a", "model": Call(exec, f"open({str(marker)!r}, 'w')")}, path)
    with torch.serialization.safe_globals([exec]), pytest.raises(ModelError, match="cannot be read"):
        read_resume_state(path, run="a")
    assert not marker.exists()


def test_every_damaged_file_of_settings_is_an_error(copied, checkpoint, surface, monkeypatch) -> None:
    monkeypatch.setattr(ULTRALYTICS, "train", lambda *_: pytest.fail("it trained"))
    path = copied / "training.json"
    content = path.read_bytes()
    base = ULTRALYTICS.load(checkpoint)
    dataset = training.load_dataset(surface)
    monkeypatch.setattr(ULTRALYTICS, "load", lambda _: base)
    monkeypatch.setattr(training, "load_dataset", lambda *_, **__: dataset)
    ended = {"same": 0, "refused": 0}
    for mutant in mutants(content, 60, seed=1):
        path.write_bytes(mutant)
        try:
            train(checkpoint, surface, copied, epochs=2, resume=True, **QUICK)
            ended["same"] += 1  # a place or a version, which do not count
        except VisionLoraError:
            ended["refused"] += 1
    assert ended["refused"] > 40


@pytest.mark.parametrize("content", [b"", b"epoch,time\n1", b"\xff\xfe", b'"', None], ids=repr)
def test_damaged_results_are_written_again_from_the_state(content, run, copied, checkpoint, surface) -> None:
    (copied / "curves.png").unlink()
    (copied / "results.csv").unlink()
    if content is not None:
        (copied / "results.csv").write_bytes(content)
    train(checkpoint, surface, copied, epochs=2, resume=True, **QUICK)
    assert (copied / "results.csv").read_bytes() == (run / "results.csv").read_bytes()
    assert (copied / "curves.png").is_file()


# -- an earlier run, and others at the same time


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_run_is_back_where_the_new_one_saves_no_epoch(copied, checkpoint, surface, monkeypatch) -> None:
    (copied / "merged.pt").write_text("made of it")
    kept = {
        name: content for name, content in files(copied).items() if name not in ("args.yaml", "train.txt", "val.txt")
    }
    monkeypatch.setattr(trainer.AdapterTrainer, "_setup_train", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(checkpoint, surface, copied, epochs=1, overwrite=True, **QUICK)
    assert kept.items() <= files(copied).items()
    assert not [path for path in copied.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("at", [1, 3, 6])
def test_an_earlier_run_survives_a_kill_while_it_is_put_aside(at, copied, monkeypatch) -> None:
    before = files(copied)
    moves = iter(range(100))
    replace = earlier.os.replace

    class Killed(BaseException):
        pass

    def killed(*names) -> None:
        if next(moves) == at:
            raise Killed
        replace(*names)

    monkeypatch.setattr(earlier.os, "replace", killed)
    with pytest.raises(Killed), earlier.replacing(RunFolder(copied), stages=True):
        pass
    monkeypatch.undo()
    earlier.settle(RunFolder(copied))
    assert files(copied) == before


def test_an_earlier_run_comes_back_with_the_next_run_after_a_kill(copied, checkpoint, surface) -> None:
    before = files(copied)
    earlier._put_aside(RunFolder(copied), stages=True)
    (copied / "training.json").write_text("of the new run, which was killed")
    with pytest.raises(OutputError, match="holds a training run already"):
        train(checkpoint, surface, copied, epochs=1, **QUICK)
    assert files(copied) == before


def test_two_runs_do_not_write_into_one_folder(copied, checkpoint, surface) -> None:
    before = files(copied)
    code = (
        f"from visionlora import train\ntrain({str(checkpoint)!r}, {str(surface)!r}, {str(copied)!r}, overwrite=True)"
    )
    with exclusive(copied):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "is writing there; wait for it, end it, or choose another --out" in done.stderr
    assert files(copied) == before


def test_half_written_files_of_ended_processes_are_removed(copied, checkpoint, surface) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale, live = (copied / f".resume.{number}.partial.pt" for number in (ended.pid, 1))
    stale.touch()
    live.touch()
    train(checkpoint, surface, copied, epochs=2, resume=True, **QUICK)
    assert not stale.exists() and live.exists()


def test_the_int8_phase_becomes_longer(adapter, checkpoint, surface, tmp_path) -> None:
    settings = {**QUICK, "quantize": "int8", "adapter": adapter, "images": 2}
    train(checkpoint, surface, tmp_path, qat_epochs=1, **settings)
    first = load_adapter(tmp_path / "adapter.safetensors").card.quantization["recipe"]
    train(checkpoint, surface, tmp_path, qat_epochs=2, resume=True, **settings)
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
    assert load_adapter(tmp_path / "adapter.safetensors").card.quantization["recipe"].keys() == first.keys()


def test_a_phase_that_another_goes_on_from_is_not_made_longer(copied, checkpoint, surface, tmp_path) -> None:
    (tmp_path / "run2").mkdir()
    copied.rename(tmp_path / "run2" / "float")
    settings = {**QUICK, "quantize": "int8", "images": 2}
    with pytest.raises(UsageError, match=r"; --epochs: was 2, now 3 \(another phase goes on from this one"):
        train(checkpoint, surface, tmp_path / "run2", epochs=3, resume=True, **settings)
