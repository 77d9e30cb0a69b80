"""No verb runs the code in a checkpoint, unless --trust is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.hostile import KINDS, Harmless
from visionlora.cli import main
from visionlora.detectors.job import TrainingJob
from visionlora.trust import trusted

TAKES_A_CHECKPOINT = ("adapt", "plan", "train", "merge", "export", "eval", "eval with adapter", "predict")
TAKES_OTHERS = ("quantize", "patch", "bundle", "unbundle", "compare")


def arguments(verb: str, model: Path, data: Path, adapter: Path, out: Path) -> list[str]:
    """Return a command line of a verb that is right but for the model."""
    file = str(model)
    both = ["--model", file, "--data", str(data)]
    small = ["--epochs", "1", "--imgsz", "96", "--batch", "4", "--rank", "2", "--device", "cpu"]
    return {
        "adapt": ["adapt", *both, *small, "--out", f"{out}/run"],
        "plan": ["plan", *both, "--imgsz", "96", "--batch", "2", "--device", "cpu"],
        "train": ["train", *both, *small, "--out", f"{out}/run"],
        "merge": ["merge", "--model", file, "--adapter", str(adapter), "--out", f"{out}/merged.pt"],
        "export": ["export", "--model", file, "--out", f"{out}/model.onnx", "--imgsz", "96"],
        "eval": ["eval", *both, "--imgsz", "96"],
        "eval with adapter": ["eval", "--model", f"{file}+{adapter}", "--data", str(data), "--imgsz", "96"],
        "bench": ["bench", "--model", file, "--imgsz", "96", "--rounds", "1", "--threads", "1"],
        "predict": ["predict", "--model", file, "--source", str(data.parent / "images/val"), "--out", f"{out}/found"],
        "inspect": ["inspect", file],
        "quantize": ["quantize", *both, "--out", f"{out}/model.int8.onnx"],
        "patch": ["patch", "--model", file, "--adapter", str(adapter), "--out", f"{out}/patched.onnx"],
        "bundle": ["bundle", "--model", file, "--out", f"{out}/bundle"],
        "unbundle": ["unbundle", file, "--out", f"{out}/opened"],
        "compare": ["compare", file, file],
    }[verb]


@pytest.fixture(scope="module")
def evil(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return who finds an evil checkpoint of a kind, and the file that it touches where it is run."""
    folder = tmp_path_factory.mktemp("evil")
    for number, (write, _) in enumerate(KINDS.values()):
        content = torch.load(checkpoint, weights_only=False)
        (folder / f"{number}.pt").write_bytes(write(content, folder / f"{number}.marker"))
    return lambda kind: [folder / f"{[*KINDS].index(kind)}{ending}" for ending in (".pt", ".marker")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", TAKES_A_CHECKPOINT)
def test_no_verb_runs_the_code_in_a_checkpoint(verb, kind, evil, surface, adapter, tmp_path, capsys) -> None:
    model, marker = evil(kind)
    assert main(arguments(verb, model, surface, adapter, tmp_path)) == 1
    assert not marker.exists()
    message = capsys.readouterr().err
    assert "refused: it needs" in message and "--trust" in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_says_what_a_checkpoint_is_and_runs_nothing(kind, evil, surface, adapter, tmp_path) -> None:
    model, marker = evil(kind)
    assert main(arguments("inspect", model, surface, adapter, tmp_path)) in (0, 1)
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in the model", "in the older format"])
def test_bench_does_not_either_in_a_process_of_its_own(kind, evil, surface, adapter, tmp_path, capsys) -> None:
    model, marker = evil(kind)
    assert main(arguments("bench", model, surface, adapter, tmp_path)) == 1
    assert not marker.exists() and "refused: it needs" in capsys.readouterr().err


@pytest.mark.parametrize("verb", TAKES_OTHERS)
def test_verbs_that_take_no_checkpoint_do_not_open_one(verb, evil, surface, adapter, tmp_path, capsys) -> None:
    model, marker = evil("as a plain pickle")
    assert main(arguments(verb, model, surface, adapter, tmp_path)) in (1, 2)
    assert not marker.exists() and "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "export", "eval", "bench"])
def test_what_is_trusted_is_loaded_with_a_word_on_stderr(verb, checkpoint, surface, adapter, tmp_path, capfd) -> None:
    content = torch.load(checkpoint, weights_only=False)
    content["model"].model[0].note = Harmless()
    torch.save(content, tmp_path / "own.pt")
    assert main([*arguments(verb, tmp_path / "own.pt", surface, adapter, tmp_path), "--trust"]) == 0
    assert f"visionlora {verb}: --trust: code in the checkpoint runs with your rights" in capfd.readouterr().err


def test_a_training_hands_trust_to_its_processes() -> None:
    needed = [field for field in dataclasses.fields(TrainingJob) if field.default is field.default_factory]
    fields = dict.fromkeys(field.name for field in needed)  # both are missing
    assert TrainingJob(**fields).trust is False  # type: ignore[arg-type]
    with trusted():
        job = TrainingJob(**fields)  # type: ignore[arg-type]
    assert job.trust is True
