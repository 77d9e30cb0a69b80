"""Damaged checkpoints and toy bases: each gives a detector or a ModelError, and nothing else."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from visionlora.detectors.ultralytics import load_base
from visionlora.detectors.ultralytics.toy_base import write_base
from visionlora.errors import ModelError

_COUNT = 60  # mutants of each file and kind


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Return the bytes with one to eight changed, the end cut off, or a few taken out or doubled."""
    changed = bytearray(data)
    places = generator.integers(0, len(data), size=generator.integers(1, 9))
    how = generator.integers(0, 10)
    if how < 7:
        for place in places:
            changed[place] = generator.choice([0, 1, 46, 127, 128, 255, generator.integers(0, 256)])
    elif how == 7:
        del changed[places[0] :]
    elif how == 8:
        del changed[places[0] : places[0] + generator.integers(1, 64)]
    else:
        changed[places[0] : places[0]] = changed[places[0] : places[0] + generator.integers(1, 64)]
    return bytes(changed)


def mutate_pickle(data: bytes, generator: np.random.Generator) -> bytes:
    """Return a checkpoint whose pickle alone is damaged; its checksum is right, or torch would look no further."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(written, "w") as after:
        for entry in before.infolist():
            content = before.read(entry)
            after.writestr(
                entry.filename, mutate(content, generator) if entry.filename.endswith("data.pkl") else content
            )
    return written.getvalue()


def mutate_header(data: bytes, generator: np.random.Generator) -> bytes:
    """Return a .safetensors file whose header alone is damaged, with or without its length put right."""
    size = int.from_bytes(data[:8], "little")
    header = mutate(data[8 : 8 + size], generator)
    length = len(header) if generator.random() < 0.9 else int(generator.integers(0, 1 << 62))
    return length.to_bytes(8, "little") + header + data[8 + size :]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [mutate, mutate_pickle], ids=["anywhere", "in the pickle"])
@pytest.mark.parametrize("which", ["checkpoint", "merged"])
def test_a_damaged_checkpoint_is_a_model_error(which, damage, request, tmp_path: Path) -> None:
    made = request.getfixturevalue(which)
    data, path = Path(getattr(made, "path", made)).read_bytes(), tmp_path / "damaged.pt"
    generator, refused = np.random.default_rng(7), 0
    for _ in range(_COUNT):
        path.write_bytes(damage(data, generator))
        try:
            load_base(path)
        except ModelError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > _COUNT / 3


@pytest.mark.parametrize("damage", [mutate, mutate_header], ids=["anywhere", "in the header"])
def test_a_damaged_toy_base_is_a_model_error(damage, toy_base: Path, tmp_path: Path) -> None:
    data, path = toy_base.read_bytes(), tmp_path / "damaged.safetensors"
    generator, refused = np.random.default_rng(7), 0
    for _ in range(_COUNT):
        path.write_bytes(damage(data, generator))
        try:
            write_base(tmp_path / "base.pt", path)
        except ModelError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0
