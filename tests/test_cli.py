"""The command line: a verb is a function, with its defaults; help with an example; exit codes and one-line errors."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import cv2
import pytest

import visionlora as vl
from tests.tiny_onnx import write_detector
from visionlora import cli
from visionlora.cli.training import _assignments

VERBS = (
    "adapt",
    "plan",
    "train",
    "merge",
    "export",
    "quantize",
    "eval",
    "compare",
    "bench",
    "predict",
    "inspect",
    "demo",
    "patch",
    "rollback",
    "bundle",
    "unbundle",
    "adapters merge",
    "adapters scale",
    "adapters rank",
    "adapters list",
    "adapters remove",
    "data check",
    "data split",
    "push",
    "pull",
)
FUNCTIONS = {"eval": "evaluate"} | {f"adapters {verb}": f"{verb}_adapter" for verb in ("scale", "rank", "remove")}
FUNCTIONS |= {f"adapters {verb}": f"{verb}_adapters" for verb in ("merge", "list")}
FUNCTIONS |= {"data check": "check_data", "data split": "split_data"}
FOR_PRINTING = ("help", "json", "trust")
"""Options that no function has."""


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb, or of a verb within one such as `adapters merge`."""
    parser = cli._parser()
    for word in verb.split():
        (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = verbs.choices[word]
    return parser


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_an_example_that_parses(verb: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*verb.split(), "--help"])
    example = capsys.readouterr().out.strip().splitlines()[-1].strip()
    assert stopped.value.code == 0 and example.startswith(f"visionlora {verb} ")
    assert cli._parser().parse_args(shlex.split(example)[1:]).verb == verb.split()[0]


@pytest.mark.parametrize("verb", VERBS)
def test_help_begins_with_what_must_be_given(verb: str) -> None:
    required = [action.required for action in verb_parser(verb)._actions if action.dest != "help"]
    assert required[0] or not any(required)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_and_function_have_equal_names_and_defaults(verb: str) -> None:
    parameters = inspect.signature(getattr(vl, FUNCTIONS.get(verb, verb))).parameters
    names = {"model": "models"} if verb in ("eval", "bench") else {"file": "path", "bundle": "path"}
    names |= {"set": "hyperparameters"}
    printing = set(FOR_PRINTING) - set(parameters)
    actions = [action for action in verb_parser(verb)._actions if action.dest not in printing]
    for action in actions:
        parameter = parameters[names.get(action.dest, action.dest)]
        if parameter.default is not inspect.Parameter.empty and action.dest != "set":
            assert action.default == parameter.default, action.dest
    assert len(parameters) == len(actions)


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["merge"], ["train", "--model", "a.pt", "--data", "d", "--out", "o", "--rank", "many"]],
    ids=["no verb", "unknown verb", "options missing", "not a number"],
)
def test_wrong_usage_exits_with_2(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    first, second = capsys.readouterr().err.splitlines()
    verb = f" {arguments[0]}" if arguments and arguments[0] != "fly" else ""
    assert stopped.value.code == 2 and first.startswith(f"visionlora{verb}: ") and "error" not in first
    assert second == f"`visionlora{verb} --help` explains it"


_SLOW_TO_END = """
import sys, threading, time
from visionlora import cli
def run(options):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        time.sleep(60)
cli._run = run
sys.argv = ["visionlora", "inspect", "x"]
raise SystemExit(cli.main())
"""


@pytest.mark.parametrize("late", [False, True], ids=["while cleaning up", "while Python ends"])
def test_a_second_interruption_ends_with_one_line(late) -> None:
    code = _SLOW_TO_END
    if late:
        code = code.replace(
            'print("ending", flush=True)\n        time.sleep(60)', "threading.Thread(target=slow).start()"
        )
        code = code.replace("def run(", 'def slow():\n    print("ending", flush=True)\n    time.sleep(60)\ndef run(')
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    for line in ("begun\n", "ending\n"):
        assert process.stdout.readline() == line
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    said = [line for line in process.stderr.read().splitlines() if line]
    assert set(said) == {"visionlora inspect: interrupted"}


def test_an_error_of_a_library_behind_an_interruption_is_an_interruption(monkeypatch, capsys) -> None:
    def run(options) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise RuntimeError("a worker exited unexpectedly")

    monkeypatch.setattr(cli, "_run", run)
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(["inspect", "x"]) == 130
    assert capsys.readouterr().err == "visionlora inspect: interrupted\n" and signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "mosiac=0.5"], "did you mean mosaic"),
        (["--set", "mosaic"], "expected NAME=VALUE"),
        (["--set", "mosaic=1", "--set", "mosaic=0"], "mosaic is set already"),
        (["--lr0", "1.5"], "--lr0: expected a learning rate"),
        (["--device", "cuda:9"], "--device cuda:9: "),
        (["--device", "foo"], "expected cpu, 0 or 0,1"),
        (["--rank", "0"], "--rank: expected"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_setting_exits_with_2(arguments, message, checkpoint, surface, tmp_path, capsys) -> None:
    command = ["train", "--model", str(checkpoint), "--data", str(surface), "--out", str(tmp_path / "x"), *arguments]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bench --model a.onnx --threads two", "visionlora bench: --threads: expected counts such as 1,2, got 'two'"),
        (
            "train --epoch 1 --learning 2",
            "visionlora train: --epoch: no such option; did you mean --epochs?; --learning: ",
        ),
        (
            "eval --model=m.onnx --data d --max-dorp=1",
            "visionlora eval: --max-dorp: no such option; did you mean --max-drop?",
        ),
        (
            "adapters merge --overwite",
            "visionlora adapters merge: --overwite: no such option; did you mean --overwrite?",
        ),
        ("inspect m.onnx more.onnx", "visionlora inspect: expected nothing more, got more.onnx\n"),
        ("trian --model m.pt", "visionlora: VERB: expected adapt, "),
        ("trian --model m.pt", ", got 'trian'; did you mean train?\n"),
        ("adapters merg", "got 'merg'; did you mean merge?\n"),
        ("train --method lorra", "visionlora train: --method: expected lora, "),
        ("predict --model {exported} --source . --out x --conf 25", "--conf: expected a number in [0, 1], got 25\n"),
        ("predict --model {exported} --source nope --out x", "nope: it does not exist; expected an image"),
        ("quantize --model m.pt --data {surface} --out x.onnx", "visionlora export --model m.pt --out m.onnx"),
        ("plan --data {surface} --model yolo11n", "did you mean yolo11n.pt?"),
        ("eval --data {surface} --model yolo11n", "did you mean yolo11n.pt?"),
        ("plan --data {surface} --model nope.pt", "nope.pt: no such file, and no name of a published model"),
        ("eval --data {surface} --model nope.pt", "nope.pt: no such file, and no name of a published model"),
    ],
    ids=[
        *("threads", "beginning", "letters", "inner verb's", "more", "verb", "verb meant", "inner verb", "choice"),
        *("conf", "source", "checkpoint", "base", "model", "no base", "no model"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(command, message, exported, surface, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):
        assert cli.main(shlex.split(command.format(exported=exported.path, surface=surface))) in (1, 2)
    assert message in capsys.readouterr().err


def test_missing_file_is_one_line_and_exits_with_1(tmp_path, capsys) -> None:
    assert cli.main(["inspect", str(tmp_path / "a.onnx")]) == 1
    assert capsys.readouterr().err == f"visionlora inspect: {tmp_path / 'a.onnx'}: no such file\n"


def test_broken_labels_are_listed_together_and_nothing_is_written(checkpoint, surface, tmp_path, capsys) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        (data / "images" / split).mkdir(parents=True)
        (data / "labels" / split).mkdir(parents=True)
        picture = next((surface.parent / "images" / split).iterdir())
        (data / "images" / split / "a.png").write_bytes(picture.read_bytes())
        (data / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n0 1.27 0.5 0.1 0.1\n9 0.5 0.5 0.1 0.1\n")
    (data / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch]\n")
    command = ["train", "--model", str(checkpoint), "--data", str(data / "data.yaml"), "--out", str(tmp_path / "x")]
    assert cli.main([*command, "--imgsz", "96"]) == 1
    error = capsys.readouterr().err
    assert error.count("a.txt:2") == 2 and error.count("a.txt:3") == 2
    assert not (tmp_path / "x").exists()


def test_verbs_work_on_files(merged, exported, checkpoint, adapter, surface, tmp_path, capsys) -> None:
    out = str(tmp_path)
    picture = str(next((surface.parent / "images" / "val").iterdir()))
    for command in (
        ["merge", "--model", str(checkpoint), "--adapter", str(adapter), "--out", f"{out}/m.pt"],
        ["export", "--model", f"{out}/m.pt", "--out", f"{out}/m.onnx"],
        ["eval", "--model", f"{out}/m.onnx", "--model", f"ad={checkpoint}+{adapter}", "--data", str(surface)],
        ["predict", "--model", f"{out}/m.onnx", "--source", picture, "--out", f"{out}/found"],
        ["inspect", f"{out}/m.onnx"],
        ["inspect", str(adapter)],
    ):
        assert cli.main(command) == 0, command
    printed = capsys.readouterr().out
    assert "mAP50-95" in printed and "`ad`" in printed and "kind" not in printed and "parents:" in printed
    assert cv2.imread(f"{out}/found/{picture.rsplit('/', 1)[1]}") is not None


def test_full_disk_is_one_line_and_leaves_nothing(checkpoint, adapter, tmp_path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    command = ["merge", "--model", str(checkpoint), "--adapter", str(adapter), "--out", str(tmp_path / "m.pt")]
    code = f"{limit}; from visionlora.cli import main; raise SystemExit(main({command!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and f"{tmp_path / 'm.pt'}: cannot be written: File too large" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "value"), [("5e-4", 5e-4), ("0.5", 0.5), ("true", True), ("SGD", "SGD"), ("3", 3)])
def test_hyperparameters_are_read_as_they_are_written(text, value) -> None:
    assert _assignments([f"x={text}"]) == {"x": value}


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "visionlora", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["visionlora", version("visionlora")]


def test_who_stops_reading_gets_no_traceback(tmp_path) -> None:
    path = write_detector(tmp_path / "model.onnx")
    command = [sys.executable, "-m", "visionlora", "inspect", "--json", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
