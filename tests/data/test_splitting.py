"""No picture lost, none twice, no group parted, the same seed the same split; and what each option keeps together."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import visionlora as vl
from visionlora.data import load_dataset
from visionlora.data.grouping import join, near_duplicates
from visionlora.data.splitting import few_shots
from visionlora.data.stratify import assign


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of 8 boards, three each, without a val; every third has a scratch, every fourth nothing."""
    root = tmp_path_factory.mktemp("boards")
    (root / "data.yaml").write_text("train: images\nnames: [scratch, pit]\n")
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for number in range(24):
        name = f"b{number // 3}_{number % 3}"
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        lines = ["0 .5 .5 .2 .2\n"] * (number % 3 == 0) + ["1 .5 .5 .4 .4\n"] * (number % 4 != 0)
        (root / "labels" / f"{name}.txt").write_text("".join(lines))
    return root


def names_in(made: vl.SplitData, name: str) -> list[str]:
    return [Path(line).name for line in (made.out / f"{name}.txt").read_text().splitlines()]


@settings(max_examples=12)
@given(st.integers(0, 99), st.floats(0.1, 0.5), st.sampled_from([0.0, 0.2]), st.booleans())
def test_no_picture_is_lost_or_there_twice_and_no_board_is_parted(boards, tmp_path_factory, seed, val, test, grouped):
    group = "(b[0-9]+)_" if grouped else None
    first, second = (
        vl.split_data(boards, tmp_path_factory.mktemp("out"), val=val, test=test, seed=seed, group=group)
        for _ in range(2)
    )
    lists = {name: names_in(first, name) for name in first.pictures}
    assert lists == {name: names_in(second, name) for name in second.pictures}
    everything = [name for names in lists.values() for name in names]
    assert sorted(everything) == sorted(path.name for path in (boards / "images").iterdir())
    if grouped:
        parts = {(name.split("_")[0], part) for part, names in lists.items() for name in names}
        assert max(Counter(board for board, _ in parts).values()) == 1


@given(st.integers(0, 5), st.lists(st.sets(st.integers(0, 3)), min_size=8, max_size=60))
def test_every_class_gets_its_share_where_nothing_is_grouped(seed, shown):
    counts = np.array([[*(label in one for label in range(4)), not one] for one in shown], dtype=int)
    part = assign(counts, np.ones(len(shown)), [0.75, 0.25], seed=seed)
    assert set(part.tolist()) <= {0, 1} and (part == assign(counts, np.ones(len(shown)), [3, 1], seed=seed)).all()
    rarest = min((n for n in counts.sum(axis=0).tolist() if n), default=0)
    label = counts.sum(axis=0).tolist().index(rarest)
    assert abs(counts[part == 1, label].sum() - rarest / 4) < 1


def test_the_parts_are_what_training_reads(boards, tmp_path):
    made = vl.split_data(boards / "data.yaml", tmp_path / "out", val=0.25)
    dataset = load_dataset(made.files[0])
    assert {split: len(dataset.split(split)) for split in ("train", "val")} == dict(made.pictures)
    assert tuple(dataset.count_objects("val").values()) == made.objects["val"]


def test_each_picture_is_in_one_val_of_the_folds(boards, tmp_path):
    made = vl.split_data(boards, tmp_path / "out", folds=4, group="(b[0-9]+)_")
    vals = [name for fold in range(1, 5) for name in names_in(made, f"val-fold-{fold}")]
    assert len(made.files) == 4 and len(vals) == len(set(vals)) == 24
    for fold in range(1, 5):
        assert set(names_in(made, f"train-fold-{fold}")).isdisjoint(names_in(made, f"val-fold-{fold}"))


def test_shots_are_nested_and_show_each_class(boards, tmp_path):
    made = vl.split_data(boards, tmp_path / "out", shots=[4, 2])
    two, four, train = (set(names_in(made, name)) for name in ("train-2-shots", "train-4-shots", "train"))
    assert two < four < train and min(made.objects["train-2-shots"]) >= 2 and min(made.objects["train-4-shots"]) >= 4
    assert few_shots([0, 1, 2], np.array([[1, 0], [1, 0], [0, 1]]), 1, seed=0)[-1] == 2


def save(path: Path, pixels: np.ndarray, time: str | None = None, **options) -> Path:
    exif = Image.Exif()
    exif[0x0110] = "cam"
    if time is not None:
        exif.get_ifd(0x8769)[0x9003] = time
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def smooth(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))


def test_a_picture_saved_again_is_a_near_duplicate(tmp_path):
    pytest.importorskip("imagehash")
    paths = [save(tmp_path / f"{i}.jpg", smooth(seed), quality=q) for i, (seed, q) in enumerate([(1, 95), (2, 95)])]
    paths.append(save(tmp_path / "again.jpg", smooth(1), quality=40))
    assert near_duplicates(paths, 6) == [(0, 2)]


def test_pictures_of_one_burst_stay_together(tmp_path):
    times = ["2024:05:01 10:00:00", "2024:05:01 10:00:05", "2024:05:01 11:00:00", None]
    for index, time in enumerate(times):
        save(tmp_path / f"{index}.jpg", smooth(index), time)
        (tmp_path / f"{index}.txt").write_text("0 .5 .5 .2 .2\n")
    made = vl.split_data(tmp_path, tmp_path / "out", names=["thing"], val=0.5, burst=10)
    assert made.groups == 3 and "1 of 4 pictures do not say" in made.notes[0]
    assert any({"0.jpg", "1.jpg"} <= set(names_in(made, name)) for name in ("train", "val"))


def test_files_of_the_same_bytes_stay_together(tmp_path):
    for index, seed in enumerate([1, 2, 1, 3]):
        save(tmp_path / f"{index}.png", smooth(seed))
    made = vl.split_data(tmp_path, tmp_path / "out", names=["thing"], val=0.5)
    assert made.groups == 3 and any({"0.png", "2.png"} <= set(names_in(made, name)) for name in made.pictures)


def test_links_join_whatever_they_reach():
    assert join(5, [(0, 4), (4, 2)]).tolist() == [0, 1, 0, 2, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 0}, "--val 0 --test 0: expected a val above 0"),
        ({"val": 0.6, "test": 0.4}, "leaves something to train on"),
        ({"folds": 1}, "--folds: expected at least 2, got 1"),
        ({"folds": 3, "shots": [1]}, "expected one of the two"),
        ({"group": "b[0-9]+"}, "expected a group in the pattern"),
        ({"group": "(b"}, "expected a regular expression"),
        ({"group": "(c)"}, r"b0_0.png: expected a name in which --group '\(c\)' matches"),
        ({"group": "(b)"}, "expected pictures for val, got 24 pictures in 1 groups"),
        ({"burst": 5}, "expected pictures whose EXIF says when"),
        ({"near_duplicates": 40}, "expected 0 to 31 bits"),
        ({"names": ["a"]}, "--names: expected none"),
    ],
)
def test_what_cannot_be_done_is_refused(boards, tmp_path, options, message):
    with pytest.raises(vl.VisionLoraError, match=message):
        vl.split_data(boards, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_of_the_user_is_replaced(boards, tmp_path):
    vl.split_data(boards, tmp_path / "out")
    with pytest.raises(vl.OutputError, match="exists already"):
        vl.split_data(boards, tmp_path / "out")
    with pytest.raises(vl.UsageError, match="expected another folder"):
        vl.split_data(boards, boards, overwrite=True)
    vl.split_data(boards, tmp_path / "out", overwrite=True, seed=1)
    assert not list((tmp_path / "out").glob(".split*"))


def test_wrong_labels_are_told_with_their_lines(tmp_path):
    save(tmp_path / "a.jpg", smooth(0))
    (tmp_path / "a.txt").write_text("0 .5 .5 .2 .2\n7 .5 .5 .2 .2\n")
    with pytest.raises(vl.DataError, match=re.escape("a.txt:2: expected a class id from 0 to 0, got 7")):
        vl.split_data(tmp_path, tmp_path / "out", names=["thing"])


def test_a_data_yaml_without_val_is_told_how_to_get_one(boards):
    with pytest.raises(vl.DataError, match=r"visionlora data split .*data.yaml --out split"):
        load_dataset(boards / "data.yaml")
