"""report.html: whole in itself, true to report.json, and alive in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from visionlora.reporting import Report
from visionlora.reporting.formatting import alarms_words, misses_words, speed_words
from visionlora.reporting.markdown import sizes
from visionlora.workflows.evaluating import evaluate

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ODD = "<script>alert(1)</script>&\"'"
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on PATH: apt-get install chromium")


@pytest.fixture
def made(data, models, tmp_path) -> tuple[Report, str]:
    """A report of three models with a budget and a retention set, and its page."""
    named = [models[0], f"perfect={models[1]}", models[2].replace("half=", f"{ODD.replace('/', '')}=")]
    report = evaluate(named, data, out=tmp_path / "out", html=True, max_drop=0.1, retention=data, cache=False)
    return report, (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_page_refers_to_nothing_outside_itself(made) -> None:
    page = made[1]

    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert "http" not in re.sub(r'http-equiv="', "", page) and "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page
    assert set(re.findall(r'href="#(picture\d+)"', page)) <= set(re.findall(r' id="(picture\d+)"', page))
    assert set(re.findall(r'<a href="#(\w+)"', page)) <= set(re.findall(r'<section id="(\w+)"', page))


def test_names_are_text_and_never_markup(made) -> None:
    assert "<script>alert" not in made[1] and "&lt;script&gt;alert" in made[1]
    assert made[1].count("<script>") == 1


def test_numbers_are_those_of_the_report(made) -> None:
    report, page = made

    for row in report.rows:
        assert f"<b>{row.scores.map50_95:.3f}</b>" in page and row.sha256[:16] in page
        assert f">{misses_words(row.operating)}</td>" in page and f">{alarms_words(row.operating)}</td>" in page
    assert "1000 images" not in page
    assert f'<dd class="note">{speed_words(report.rows[-1]).replace("`", "")}</dd>' in html.unescape(page)
    assert "✗ not passed" in page and "loses 0.500 of mAP50-95, 0.1 is allowed</li>" in page
    assert report.retention.sentence.split(" has ")[0] in page and html.escape(report.command, quote=False)[:40] in page


def test_model_of_some_classes_has_a_star_and_few_objects_no_score(onnx_model, data, tmp_path) -> None:
    whole = onnx_model(("scratch", "pit"), [(16, 20, 20, 24), (44, 40, 24, 20)], file="whole.onnx")
    part = onnx_model(("scratch",), [(16, 20, 20, 24)], file="part.onnx")

    report = evaluate([whole, part], data, out=tmp_path / "out", html=True)

    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "</i>part.onnx*</th>" in page and "</i>whole.onnx</th>" in page and "A star: on some" in page
    assert "at score 0.25, of the classes that it knows" in page
    assert all(f">{size}</td>" in page for row in report.rows for size in sizes(row))
    assert "object)</td>" in page or "objects)</td>" in page


def test_page_of_models_without_scores_is_written(onnx_model, data, tmp_path) -> None:
    stranger = onnx_model(("dog", "cat"), file="stranger.onnx")

    evaluate([f"a={stranger}"], data, out=tmp_path / "out", html=True)

    assert "knows none of the 2 classes" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


_PROBE = """
const frame = document.querySelector("iframe");
const said = {errors: []};
frame.addEventListener("load", () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const table = page.querySelector("#stages table.sortable");
  const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
  const colour = () => view.getComputedStyle(page.body).backgroundColor;
  const shown = (list) => [...list].filter((one) => one.getClientRects().length).length;
  said.sections = [...page.querySelectorAll("section")].map((one) => one.id);
  said.wide = page.documentElement.scrollWidth;
  said.first = order();
  table.tHead.rows[0].cells[1].querySelector("button").click(); said.down = order();
  table.tHead.rows[0].cells[1].querySelector("button").click(); said.up = order();
  said.sorted = table.tHead.rows[0].cells[1].getAttribute("aria-sort");
  const before = colour(); page.getElementById("theme").click(); said.themes = [before, colour()];
  const curves = page.querySelectorAll("#curves .m1 .curve"); said.curves = [shown(curves)];
  page.querySelector('#curves button[data-model="m1"]').click(); said.curves.push(shown(curves));
  said.pictures = [...page.querySelectorAll("#pictures svg.panel")].map((one) => one.getBoundingClientRect().width);
  const drawn = [...page.querySelectorAll(".chart, .panel, .forest")].map((one) => one.outerHTML).join("");
  said.nan = (page.querySelector("main").innerText + drawn).match(/NaN|undefined|None|Infinity|\\bnan\\b/);
  said.unreadable = [...page.querySelectorAll(".chart text")].filter((one) => {
    const box = one.getBoundingClientRect(); return box.width && box.height < 8; }).length;
  document.getElementById("said").textContent = JSON.stringify(said);
});
"""


def _seen(page: str, folder: Path, width: int) -> dict:
    """Open a page in a frame of some width and return what a script in it sees."""
    holder = folder / f"{width}.html"
    holder.write_text(
        f'<meta charset="utf-8"><pre id="said"></pre>'
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        f"<script>{_PROBE}</script>",
        encoding="utf-8",
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    command += ["--virtual-time-budget=4000", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, holder.as_uri()], capture_output=True, text=True, timeout=120)
    said = re.search(r'<pre id="said">(.+?)</pre>', done.stdout, re.S)
    assert said, done.stderr[-2000:]
    return {**json.loads(html.unescape(said[1])), "console": re.findall(r"CONSOLE.*", done.stderr)}


@browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_page_lives_in_a_browser(made, tmp_path, width) -> None:
    seen = _seen(made[1], tmp_path, width)

    assert seen["console"] == [] and seen["nan"] is None and not seen["unreadable"]
    assert seen["wide"] <= width  # nothing but the tables' own frames scrolls sideways
    assert {"stages", "retention", "classes", "curves", "cost", "scores", "confusion", "pictures", "sign"} < set(
        seen["sections"]
    )
    assert seen["up"] == seen["down"][::-1] and seen["down"] != seen["first"] and seen["sorted"] == "ascending"
    assert seen["themes"][0] != seen["themes"][1]
    assert seen["curves"][0] > 0 and seen["curves"][1] == 0
    assert seen["pictures"] and all(size > 90 for size in seen["pictures"])


@browser
@pytest.mark.slow
def test_page_prints(made, tmp_path) -> None:
    page = tmp_path / "out" / "report.html"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={tmp_path / 'a.pdf'}"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}"]

    subprocess.run([*command, page.as_uri()], capture_output=True, timeout=120, check=True)

    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "a.pdf").stat().st_size > 20_000


def test_page_of_models_that_find_nothing_is_written(onnx_model, data, tmp_path) -> None:
    blind = [onnx_model(("scratch", "pit"), file=f"{name}.onnx") for name in "ab"]

    report = evaluate(blind, data, out=tmp_path / "out", html=True)

    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert [row.scores.map50_95 for row in report.rows] == [0, 0]
    assert "<li>the same as <code>a.onnx</code></li>" in page and page.count("AP50-95 with its 95% interval") == 1


def test_page_of_pictures_without_objects_is_written(onnx_model, data, tmp_path) -> None:
    ground_truth = data.parent / "empty.json"
    pictures = [{"id": i, "file_name": f"val/{i}.png"} for i in range(4)]
    categories = [{"id": 0, "name": "scratch"}, {"id": 1, "name": "pit"}]
    ground_truth.write_text(json.dumps({"images": pictures, "annotations": [], "categories": categories}))
    sure = onnx_model(("scratch", "pit"), [(16, 20, 20, 24)], file="sure.onnx")

    report = evaluate([f"a={sure}"], ground_truth, out=tmp_path / "out", html=True, min_map50=0.5)

    assert report.rows[0].scores.map50_95 is None and report.rows[0].operating.false_alarms == 4
    assert report.rows[0].operating.recall is None and not report.passed
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert (
        "there is nothing to measure it by" in page and "<dd>0 of 0</dd>" in page and "<dd>4 in 4 images</dd>" in page
    )
