"""Damaged and hostile files: every mutant of a report or of a kept result gives a result or an error of ours."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from visionlora.errors import DataError, VisionLoraError
from visionlora.reporting import read_report
from visionlora.reporting.per_image import PerImage, read_image_results
from visionlora.scoring.cache import load_found
from visionlora.tasks import DETECT
from visionlora.workflows.comparing import compare
from visionlora.workflows.evaluating import evaluate
from visionlora.workflows.inspecting import inspect

_VALUES = (None, True, -1, 0, 1e300, 10**400, "", "\x1b[31m", "x" * 5000, [], {}, [[]], {"a": None}, float("nan"))


def byte_mutants(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield copies with bits turned, pieces cut out, doubled, zeroed or replaced."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            start = rng.randrange(len(data))
            end = min(len(data), start + rng.choice((1, 4, 64, 4096)))
            way = rng.randrange(5)
            if way == 0:
                data[start] ^= 1 << rng.randrange(8)
            elif way == 1 and len(data) > end - start:
                del data[start:end]
            elif way == 2:
                data[start:start] = data[start:end]
            elif way == 3:
                data[start:end] = bytes(end - start)
            else:
                data[start:end] = rng.randbytes(end - start)
        yield bytes(data)


def json_mutants(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield copies in which a value is another, is gone, or stands elsewhere."""
    rng = random.Random(seed)
    for _ in range(count):
        fields = json.loads(content)
        for _ in range(rng.choice((1, 1, 3))):
            place = fields
            while True:
                keys = list(place) if isinstance(place, dict) else range(len(place))
                if not keys:
                    break
                key = rng.choice(keys)
                if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
                    place = place[key]
                    continue
                if rng.random() < 0.2:
                    del place[key]
                else:
                    place[key] = rng.choice(_VALUES)
                break
        yield json.dumps(fields).encode()


def judged(work: object, *arguments: object) -> None:
    """Run something; any exception but one of ours fails the test."""
    try:
        str(work(*arguments))
    except VisionLoraError as error:
        assert str(error)


@pytest.fixture
def written(data, models, tmp_path) -> Path:
    evaluate(models, data, out=tmp_path / "out", max_drop=0.5)
    return tmp_path / "out" / "report.json"


@pytest.mark.parametrize("mutants", [byte_mutants, json_mutants])
def test_damaged_report_ends_in_a_result_or_in_our_error(written, tmp_path, mutants) -> None:
    whole = written.read_bytes()
    for content in mutants(whole, 150, seed=1):
        (tmp_path / "report.json").write_bytes(content)
        judged(compare, tmp_path / "report.json", written)
        judged(inspect, tmp_path / "report.json")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format": 2, "data": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": true}',
        b'{"format": "\\ud800"}',
        b"[]",
        b"2",
        b'"x"',
        b"\xff\xfe",
        b"",
    ],
    ids=["lists", "objects", "deep", "digits", "flag", "surrogate", "list", "number", "text", "no UTF-8", "empty"],
)
def test_report_that_is_none_is_refused(tmp_path, content) -> None:
    (tmp_path / "report.json").write_bytes(content)

    with pytest.raises(DataError, match=r"report\.json"):
        compare(tmp_path, tmp_path)
    with pytest.raises(VisionLoraError):
        inspect(tmp_path / "report.json")


def test_numbers_out_of_range_are_refused(written) -> None:
    for value in ("NaN", "Infinity", "1e999", "9" * 30):
        text = written.read_text(encoding="utf-8").replace('"seconds": ', f'"seconds": {value}, "was": ')
        written.with_name("odd.json").write_text(text, encoding="utf-8")

        with pytest.raises(DataError, match="out of range"):
            read_report(written.with_name("odd.json"))


def test_damaged_matches_whose_hash_is_right_end_in_our_error(written) -> None:
    report = read_report(written)
    file = written.with_name(report.per_image.file)
    whole = file.read_bytes()
    for content in byte_mutants(whole, 150, seed=2):
        file.write_bytes(content)
        judged(read_image_results, written, PerImage(file.name, hashlib.sha256(content).hexdigest()))
    outside = PerImage(f"../{written.parent.name}/{file.name}", "0" * 64)
    with pytest.raises(DataError, match="expected the name of a file beside the report"):
        read_image_results(written, outside)


def test_damaged_cache_is_a_miss(data, models, own_cache) -> None:
    first = evaluate(models[1:2], data)
    (file,) = own_cache.glob("*.found")
    whole = file.read_bytes()
    assert load_found(file.stem, task=DETECT) is not None
    for content in byte_mutants(whole, 200, seed=3):
        file.write_bytes(content)
        assert content == whole or load_found(file.stem, task=DETECT) is None
    file.write_bytes(whole[:-40] + b"x" * 40)

    assert evaluate(models[1:2], data).rows[0].scores == first.rows[0].scores
    assert load_found(file.stem, task=DETECT) is not None  # made anew
