"""Matches survive the file beside the report: every weighting of the images scores the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.reporting.cases import random_case
from visionlora.errors import DataError
from visionlora.reporting.per_image import FILE, read_image_results, write_image_results
from visionlora.scoring.bootstrap import draw_images
from visionlora.scoring.coco import score_and_match
from visionlora.scoring.matches import average_precision
from visionlora.tasks import DETECT


@pytest.fixture
def written(tmp_path, report):
    images, found = random_case(2, images=9, classes=3, detections=40)
    matches = {
        "merged": score_and_match(found, images, ["crack", "pit", "patch"], task=DETECT)[1],
        "int8": score_and_match([one.top(5) for one in found], images, ["crack", "pit", "patch"], task=DETECT)[1],
    }
    per_image = write_image_results(tmp_path / FILE, [f"{i:064x}" for i in range(9)], matches)
    return dataclasses.replace(report, per_image=per_image), matches, tmp_path / "report.json"


def test_matches_read_back_score_every_draw_alike(written) -> None:
    report, matches, path = written

    results = read_image_results(path, report.per_image)

    weights = draw_images(9, draws=30)
    assert results.image_hashes == tuple(f"{i:064x}" for i in range(9))
    for label, one in matches.items():
        again = results.matches[label]
        assert again.names == one.names and len(again.scores) <= len(one.scores)
        np.testing.assert_allclose(average_precision(again, weights), average_precision(one, weights), atol=1e-12)


def test_report_without_the_file_has_no_results(written, report) -> None:
    with_file, _, path = written

    assert read_image_results(path, report.per_image) is None
    path.with_name(FILE).unlink()
    assert read_image_results(path, with_file.per_image) is None


def test_file_of_another_report_is_refused(written) -> None:
    report, _, path = written
    path.with_name(FILE).write_bytes(b"other")

    with pytest.raises(DataError, match=r"expected the file that .* was written with"):
        read_image_results(path, report.per_image)
