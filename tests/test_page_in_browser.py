"""The report page in a real browser: no error, no request, every table sorts, images are exact."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segcore.report import leaderboard, read_rows, write_page
from segcore.samples import illustrate
from tests.synthetic_rows import write_row

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--virtual-time-budget=2000000", "--window-size=1800,1200", "--dump-dom"),
)
WIDTHS = (380, 900, 1600)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine: apt install chromium"),
]

WATCH = """<script>
const wrong = [];
addEventListener("error", event => wrong.push(`error: ${event.message}`));
addEventListener("unhandledrejection", event => wrong.push(`rejected: ${event.reason}`));
addEventListener("securitypolicyviolation", event => wrong.push(`refused: ${event.blockedURI}`));
console.error = console.warn = (...words) => wrong.push(`console: ${words.join(" ")}`);
</script>"""

# Draws every part, works every control, and tells the page around it what it found.
PROBE = """<script>
const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
// Charts are drawn in frames, and the time that a headless browser makes up outruns its frames.
const until = async condition => { for (let i = 0; i < 8000 && !condition(); i++) await wait(50); };
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const inOrder = (cells, numeric, sign) => cells.every((cell, i) => {
  if (!i) return true;
  const [a, b] = [cells[i - 1], cell].map(each => each.dataset.value ?? each.textContent.trim());
  if (!numeric) return sign * a.localeCompare(b, "en", {numeric: true}) <= 0;
  if (a === "" || b === "") return b === "";
  return sign * (Number(a) - Number(b)) <= 0;
});
async function probe() {
  dispatchEvent(new Event("beforeprint"));
  await until(() => all(".caption").length === 2 && all(".mark").length === 4);
  await wait(500);
  const found = {width: innerWidth, overflow: document.documentElement.scrollWidth - innerWidth};
  found.parts = all("section.part h3").map(head => head.textContent);
  found.empty = all("section.part .body").filter(body => !body.textContent.trim()).length;
  const section = document.querySelector("#d2"), film = section.querySelector(".film");
  const caption = () => section.querySelector(".caption strong").textContent;
  found.images = all(".film button img", section).map(image => image.alt);
  found.decoded = all("img").every(image => image.complete && image.naturalWidth > 0);
  found.first = caption();
  found.errors = all(".panel figcaption", section).map(each => each.textContent)
    .filter(text => text.includes("errors")).map(text => Number(text.match(/[\\d.]+(?= %)/)[0]));
  film.querySelector("[aria-selected=true]").dispatchEvent(
    new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  await until(() => caption() !== found.first);
  found.second = caption();
  const range = section.querySelector(".compare input");
  range.value = 25;
  range.dispatchEvent(new Event("input"));
  found.slid = section.querySelector(".over canvas + canvas").style.clipPath;
  found.chart = all("svg .label", section).map(text => text.getBoundingClientRect())
    .map(box => [box.left, box.top, box.right, box.bottom]);
  found.tables = found.headings = 0;
  found.unsorted = [];
  for (const table of all("table")) {
    found.tables++;
    all("thead th", table).forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      found.headings++;
      for (const _ of [0, 1]) {
        button.click();
        const sign = head.getAttribute("aria-sort") === "ascending" ? 1 : -1;
        const cells = [...table.tBodies[0].rows].map(row => row.cells[column]);
        if (!inOrder(cells, head.dataset.sort === "number", sign))
          found.unsorted.push(`${table.className}: ${button.textContent}`);
      }
    });
  }
  const filter = section.querySelector(".filter input");
  const shown = () => all(".leaderboard tbody tr", section).filter(line => !line.hidden).length;
  const type = text => {
    filter.value = text;
    filter.dispatchEvent(new Event("input"));
    return shown();
  };
  found.filtered = ["", "psp", "18 FCN", "nothing", ""].map(type);
  const heads = () => all(".classes thead th", section).map(head => head.textContent);
  found.both = heads().includes("B %");
  section.querySelector(".pick .b[aria-pressed=true]").click();
  dispatchEvent(new Event("beforeprint"));
  await wait(200);
  found.alone = !heads().includes("B %");
  await until(() => all(".mark", section).length === 3);
  section.querySelectorAll(".mark")[1].dispatchEvent(new MouseEvent("click"));
  await wait(200);
  const button = section.querySelector(".pick .a[aria-pressed=true]");
  found.picked = Number(button.closest("tr").dataset.row);
  found.unnamed = all("button, select, input").filter(each =>
    !(each.textContent.trim() || each.ariaLabel || each.closest("label") || each.title)).length;
  found.resources = performance.getEntriesByType("resource").map(each => each.name.slice(0, 60))
    .filter(name => !name.startsWith("data:"));
  found.wrong = wrong;
  parent.postMessage(JSON.stringify(found), "*");
}
probe().catch(error => parent.postMessage(JSON.stringify({failed: String(error.stack)}), "*"));
</script>"""

# Around the page: a window of any width, which a headless browser does not give by itself.
AROUND = """<!doctype html><meta charset="utf-8"><pre id="found"></pre>
<iframe src="watched.html" style="width:{width}px;height:1000px;border:0"></iframe>
<script>addEventListener("message", event => found.textContent = event.data)</script>"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Path:
    """Two datasets: many classes and a prepared data set; three rows, a search, images."""
    place = tmp_path_factory.mktemp("browser")
    write_row(place, "fcn-resnet18-camvid", dataset="camvid", miou=0.35, classes=40)
    for name, miou in {"fcn": 0.41, "pspnet": 0.61, "ocrnet": 0.5}.items():
        write_row(place, f"{name}-resnet18-shapes", dataset="shapes", miou=miou, side=48)
    shutil.copytree(tiny, place / "shards/camvid")
    illustrate(place / "shards/camvid")
    lineage = {"version": "3", "aliases": ["champion"], "run_id": "5" * 32, "commit": "c0ffee"}
    (place / "fcn-resnet18-shapes/lineage.json").write_text(json.dumps(lineage))
    names = sorted(path.parent.name for path in place.glob("*/scores.json"))
    rows = read_rows(place, names)
    write_page(rows, leaderboard(rows), place / "shards", place / "index.html")
    return place


def visit(runs: Path, folder: Path, width: int, probe: str = PROBE) -> dict[str, Any]:
    """What the probe finds in the page at that width."""
    page = (runs / "index.html").read_text(encoding="utf-8")
    watched = page.replace("<head>", f"<head>{WATCH}", 1).replace("</body>", f"{probe}</body>")
    (folder / "watched.html").write_text(watched, encoding="utf-8")
    (folder / "around.html").write_text(AROUND.format(width=width))
    address, profile = (folder / "around.html").as_uri(), f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [str(BROWSER), *OPTIONS, profile, address], capture_output=True, text=True, timeout=120
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    assert found[1], "the page told nothing"
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_works_at_any_width(runs: Path, tmp_path: Path, width: int) -> None:
    found = visit(runs, tmp_path, width)
    assert "failed" not in found, found
    assert found["wrong"] == []
    assert found["resources"] == []
    assert found["width"] == width
    assert found["overflow"] <= 0, "the page itself scrolls sideways"
    parts = ["Accuracy against cost", "Training", "Classes", "Confusion", "Images", "Search"]
    assert found["parts"] == [*parts, "Facts", "Data", "Lineage", *parts, "Facts", "Lineage"]
    assert found["empty"] == 0
    assert found["decoded"]
    assert found["tables"] == 11
    assert found["headings"] > 60
    assert found["unsorted"] == []
    assert found["filtered"] == [3, 1, 1, 0, 3]
    assert (found["both"], found["alone"], found["picked"]) == (True, True, 1)
    assert found["unnamed"] == 0
    assert not overlapping(found["chart"])
    assert found["slid"] == "inset(0px 0px 0px 25%)"
    assert (found["first"], found["second"]) == ("image 0", "image 1")  # scores 0 and 0.25
    assert found["images"] == [f"image {i}" for i in range(4)]
    assert found["errors"] == [share_of_errors(runs, name) for name in ("pspnet", "ocrnet")]


def test_a_request_would_be_seen(runs: Path, tmp_path: Path) -> None:
    """The control: one that is added to the page is refused, and the watch says so."""
    probe = """<script>
    document.body.append(Object.assign(new Image(), {src: "http://127.0.0.1:9/picture"}));
    console.error("told");
    setTimeout(() => parent.postMessage(JSON.stringify({wrong}), "*"), 500);
    </script>"""
    found = visit(runs, tmp_path, 900, probe)
    assert found["wrong"] == ["console: told", "refused: http://127.0.0.1:9/picture"]


def overlapping(boxes: list[list[float]]) -> list[tuple[list[float], list[float]]]:
    return [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if a[0] < b[2] and b[0] < a[2] and a[1] + 2 < b[3] - 2 and b[1] + 2 < a[3] - 2
    ]


def share_of_errors(runs: Path, method: str) -> float:
    """Of the labelled pixels of image 0, in percent, as the page rounds it."""
    images = json.loads((runs / f"{method}-resnet18-shapes/overlays/val-images.json").read_text())
    label, found = (grey(images[0][key]) for key in ("label", "predicted"))
    return round(100 * float(np.mean((label != found)[label != 255])), 1)


def grey(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        return np.asarray(image.convert("L"))
