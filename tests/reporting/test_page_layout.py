"""report.html as a reader sees it: no label hides another, nothing leaves the window, the first page can be signed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.generated import made_report
from visionlora.reporting.page import report_page
from visionlora.scoring.budget import Budget

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH: apt-get install chromium"),
]
LONG = "a_model_with_quite_a_long_name_trained_on_tuesday_with_rank_16"
ODD = "<script>alert(1)</script>&\"' `x` \u202e| $a$"
CASES = {
    "one": (["int8"], ["scratch"], Budget(min_map50=0.99)),
    "five": (["base", "adapter", "merged", "onnx", "int8"], ["zebra", "rhino", "buffalo"], Budget(0.0, 0.0, 0.99)),
    "eight, long": ([f"{LONG}_{i}" for i in range(8)], ["Donaudampfschifffahrt" * 3, "短い", "x"], Budget(0, 0, 1)),
    "hostile": ([ODD, "</style>b"], [ODD, "<b>bold</b>", "=cmd()"], None),
    "80 classes": (["float", "int8"], [f"class {i}" for i in range(80)], None),
}
A4_MM, MARGINS_MM = (210, 297), (26, 32)  # of the page and of the style sheet's @page
_PER_MM = 96 / 25.4  # CSS pixels

_PROBE = """() => {
  const shown = (one) => one.getClientRects().length > 0;
  const box = (one) => { const b = one.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
  const common = (a, b, low, high) => Math.min(a[high], b[high]) - Math.max(a[low], b[low]) > 0.75;
  const meet = (a, b) => common(a, b, 0, 2) && common(a, b, 1, 3);
  const covered = (selector, kind) => [...document.querySelectorAll(selector)].flatMap((drawing) => {
    const labels = [...drawing.querySelectorAll(kind)].filter(shown).map(box);
    return labels.flatMap((a, i) => labels.slice(i + 1).filter((b) => meet(a, b)).map((b) => [a, b]));
  });
  const outside = (selector, kind) => [...document.querySelectorAll(selector)].flatMap((drawing) => {
    const [left, top, right, bottom] = box(drawing);
    return [...drawing.querySelectorAll(kind)].filter(shown).map(box).filter(
      (b) => b[0] < left - 2 || b[2] > right + 2 || b[1] < top - 2 || b[3] > bottom + 2);
  });
  return {
    wide: document.documentElement.scrollWidth, panels: document.querySelectorAll(".panel .plate").length,
    covered: [...covered(".panel", ".plate"), ...covered("#cost .chart", ".name")],
    outside: [".panel .plate", "#cost .chart .name", "#classes .chart .label"].flatMap(
      (path) => outside(path.slice(0, path.lastIndexOf(" ")), path.slice(path.lastIndexOf(" ") + 1))),
    spilled: [...document.querySelectorAll(".panel g:has(> .plate)")].filter((one) =>
      box(one.querySelector("text"))[2] > box(one.querySelector(".plate"))[2] + 1).map((one) => one.textContent),
    headline: document.querySelector("h1").getClientRects()[0].height
      / parseFloat(getComputedStyle(document.querySelector("h1")).lineHeight),
    signs: [...document.querySelectorAll(".scroll")].filter((one) => one.scrollWidth > one.clientWidth + 1).map(
      (one) => getComputedStyle(one).backgroundImage.split("linear-gradient").length - 1),
    reversed: /[\\u202a-\\u202e\\u2066-\\u2069]/.test(document.documentElement.innerHTML),
  };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=CASES)
def page_file(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    labels, names, budget = CASES[request.param]
    made = made_report(folder / "pictures", labels, names, pictures=6, objects=8, budget=budget)
    path = folder / f"{request.param}.html"
    path.write_text(report_page(*made), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_no_label_hides_another_and_nothing_leaves_the_window(page_file, browser, width) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(page_file.as_uri())

    seen = page.evaluate(_PROBE)
    page.close()

    assert seen["wide"] <= width
    assert seen["covered"] == [] and seen["outside"] == [] and seen["spilled"] == []
    assert seen["panels"] > 0 or page_file.stem == "one"  # a lone model has nothing to be compared with
    assert seen["headline"] < (1.5 if width > 1000 else 3.5)
    assert all(layers == 4 for layers in seen["signs"]) and (seen["signs"] or width > 1000)
    assert not seen["reversed"]


def test_verdict_and_signature_stand_on_the_first_printed_page(page_file, browser) -> None:
    width, height = (round((side - margin) * _PER_MM) for side, margin in zip(A4_MM, MARGINS_MM, strict=True))
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(page_file.as_uri())
    page.emulate_media(media="print")

    signature = page.locator("#sign").bounding_box()
    sizes = page.evaluate("""() => [...document.querySelectorAll("td small")].map((one) =>
      [parseFloat(getComputedStyle(one).fontSize), parseFloat(getComputedStyle(one.parentElement).fontSize)])""")
    pages = page.pdf(prefer_css_page_size=True).count(b"/Type /Page\n")
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.close()

    assert signature is not None and signature["y"] + signature["height"] < height
    assert sizes == [] or all(interval < number for interval, number in sizes)
    assert wide <= width + 1 and pages != 1


def test_page_has_rules_for_paper_and_no_text_of_others_in_its_style(tmp_path) -> None:
    labels, names, _ = CASES["hostile"]
    page = report_page(*made_report(tmp_path, labels, names, pictures=4))

    style = page[page.index("<style>") : page.index("</style>")]
    assert "counter(page)" in style and "table-header-group" in style and "break-inside: avoid" in style
    assert not re.search(r"<script>alert|</style>b|<b>bold", page)
    assert page.count("<script>") == page.count("<style>") == 1
