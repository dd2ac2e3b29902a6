"""The report: numbers equal to the inputs, one page that stands alone, whatever the names are."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segcore.errors import InputError
from segcore.pictures import save_png, strip
from segcore.reports import (
    CURVE_POINTS,
    confusions,
    leaderboard,
    loss_curve,
    pareto_front,
    picture,
    read_rows,
    spread_labels,
    write_leaderboard,
    write_page,
)
from segcore.samples import illustrate, prepared_data
from segcore.types import ClassTable

NASTY = "<b>&"
CONFUSION = [[80, 20, 0], [30, 60, 10], [0, 0, 0]]


def write_row(
    runs: Path, name: str, *, dataset: str, miou: float, classes: int = 3, side: int = 16
) -> str:
    folder = runs / name
    names = ["sky", NASTY, *(f"class {i}" for i in range(2, classes))]
    colours = [[i * 37 % 256, i * 91 % 256, 200] for i in range(classes)]
    counts = np.zeros((classes, classes), int)
    counts[:3, :3] = CONFUSION
    result = {
        "images": 3,
        "miou": miou,
        "pixel_accuracy": 0.7,
        "mean_accuracy": 0.65,
        "iou": [80 / 130, 60 / 120] + [None] * (classes - 2),
        "accuracy": [0.8, 0.6] + [None] * (classes - 2),
        "absent": names[2:],
        "confusion": counts.tolist(),
        "per_image": [{"id": f"image {i}", "miou": i / 4} for i in range(3)],
    }
    trials = [
        {
            "id": f"t{i}",
            "values": {"learning_rate": 0.01 * (i + 1), "optimizer": "sgd"},
            "miou": 0.2 + 0.1 * i,
            "steps": 10 * (i + 1),
            "status": "stopped" if i == 0 else "finished",
            "history": [[10 * (j + 1), 0.1 * j] for j in range(i + 1)],
        }
        for i in range(3 if dataset == "shapes" else 0)
    ]
    space = {
        "learning_rate": {"loguniform": [1e-3, 0.1]},
        "optimizer": {"choice": ["sgd", "adamw"]},
    }
    steps = [{"event": "step", "step": i, "loss": 2 / i} for i in range(1, 401)]
    evaluated = {"event": "evaluated", "step": 400, "miou": miou}
    method, backbone = name.split("-")[:2]
    config = {"key": name, "method": method, "backbone": backbone, "dataset": dataset}
    files = {
        "config": config | {"batch_size": 8, "steps": 400, "splits": ["val", "train"]},
        "scores": {
            "row": name,
            "dataset": dataset,
            "data_hash": "abc123",
            "classes": names,
            "colours": colours,
            "splits": {"train": result | {"miou": 0.99}, "val": result},
        },
        "benchmark": {
            "parameters": 12_345_678,
            "flops": 2_000_000_000,
            "image_size": [96, 128],
            "latency_ms": {"median": 10.0, "p90": 12.0},
            "fps": 100 * (1 - miou),
            "peak_memory_mb": 300.0,
            "device": "a processor",
            "precision": "float32",
            "threads": 2,
        },
        "search": {
            "metric": "miou",
            "space": space,
            "best": {"learning_rate": 0.03},
            "trials": trials,
        },
    }
    (folder / "overlays").mkdir(parents=True)
    for file, value in files.items():
        (folder / f"{file}.json").write_text(json.dumps(value))
    lines = [json.dumps(event) for event in [*steps, evaluated]]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    table = ClassTable(tuple(names), tuple(map(tuple, colours)), tuple(range(classes)))
    generator = torch.Generator().manual_seed(len(name))
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(side, side, dtype=torch.uint8)
    for kind in ("best", "median", "worst"):
        save_png(strip(image, labels, labels, table), folder / "overlays" / f"val-{kind}.png")
    return name


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    return [
        write_row(tmp_path, "fcn-resnet18-shapes", dataset="shapes", miou=0.41237),
        write_row(tmp_path, "pspnet-resnet18-shapes", dataset="shapes", miou=0.61239),
        write_row(tmp_path, "fcn-resnet18-camvid", dataset="camvid", miou=0.35),
    ]


class Page(HTMLParser):
    """What a browser would see: visible texts, references, tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts, self.references, self.tags = list[str](), list[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for key, value in attrs if key in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def written_page(runs: Path, names: list[str]) -> str:
    write_page(read_rows(runs, names), runs / "shards", runs / "index.html")
    return (runs / "index.html").read_text(encoding="utf-8")


def test_leaderboard_by_dataset_then_score(tmp_path: Path, names: list[str]) -> None:
    entries = leaderboard(read_rows(tmp_path, names))
    assert [entry["row"] for entry in entries] == [names[2], names[1], names[0]]
    assert entries[1] == {
        "dataset": "shapes",
        "row": "pspnet-resnet18-shapes",
        "method": "pspnet",
        "backbone": "resnet18",
        "split": "val",  # the first that the row names, not the first in scores.json
        "miou": 0.61239,
        "pixel_accuracy": 0.7,
        "mean_accuracy": 0.65,
        "fps": pytest.approx(38.761),
        "parameters": 12_345_678,
        "batch_size": 8,
        "steps": 400,
    }


def test_leaderboard_files(tmp_path: Path, names: list[str]) -> None:
    rows = read_rows(tmp_path, names)
    write_leaderboard(rows, tmp_path / "reports")
    assert json.loads((tmp_path / "reports/leaderboard.json").read_text()) == leaderboard(rows)
    lines = (tmp_path / "reports/leaderboard.md").read_text().splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells == [
        *("shapes", "pspnet-resnet18-shapes", "pspnet", "resnet18"),
        *("61.24", "70.00", "65.00", "38.8", "12.35", "8", "400"),
    ]


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("config.json", "train"),
        ("metrics.jsonl", "train"),
        ("scores.json", "evaluate"),
        ("overlays/val-worst.png", "evaluate"),
        ("benchmark.json", "benchmark"),
        ("search.json", "tune"),
    ],
)
def test_a_missing_file_names_its_stage(
    tmp_path: Path, names: list[str], file: str, stage: str
) -> None:
    (tmp_path / names[0] / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing; run: dvc repro {stage}@{names[0]}$"):
        read_rows(tmp_path, names)


def test_a_cut_metrics_file_is_named(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / names[0] / "metrics.jsonl").write_text('{"event": "step", "st')
    with pytest.raises(
        InputError, match=r"metrics\.jsonl: .*dvc repro -f train@fcn-resnet18-shapes"
    ):
        read_rows(tmp_path, names)


def test_page_refers_to_nothing_outside(tmp_path: Path, names: list[str]) -> None:
    html = written_page(tmp_path, names)
    page = Page(html)
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert sum(reference.startswith("data:image/webp") for reference in page.references) == 9
    assert not re.search(r"https?://|url\(|@import", html)
    anchors = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert anchors == set(re.findall(r'id="(d\d+(?:-r\d+)?)"', html))


def test_page_shows_every_row_and_class_as_text(tmp_path: Path, names: list[str]) -> None:
    html = written_page(tmp_path, names)
    page = Page(html)
    for text in [*names, "sky", NASTY, "class 2", "absent"]:
        assert text in page.texts, text
    assert "<b>&" not in html
    assert "&lt;b&gt;&amp;" in html


def test_page_numbers_equal_the_inputs(tmp_path: Path, names: list[str]) -> None:
    html = written_page(tmp_path, names)
    shown = re.findall(r'class="n main" data-value="([\d.]+)">([\d.]+)<', html)
    assert shown == [("0.35", "35.00"), ("0.61239", "61.24"), ("0.41237", "41.24")]
    assert html.count('--v:0.615"></i>61.5<') == 3  # IoU of sky, 80 / 130, once per row
    assert html.count(">80<") == 3
    assert html.count(">30<") >= 3
    assert "12,345,678" in html
    assert "12.35" in html


def test_names_of_rows_are_only_text(tmp_path: Path) -> None:
    name = 'x"><script>alert(1)</script>-y-{{ 7 * 7 }}'.replace("/", "∕")
    write_row(tmp_path, name, dataset="shapes", miou=0.5)
    html = written_page(tmp_path, [name])
    assert Page(html).tags.count("script") == 1
    assert "{{ 7 * 7 }}" in html


def test_equal_rows_give_equal_bytes(tmp_path: Path, names: list[str]) -> None:
    first = written_page(tmp_path, names)
    assert first == written_page(tmp_path, names[::-1])


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row to report"):
        write_page([], tmp_path, tmp_path / "index.html")


def test_twelve_rows_with_many_classes_stay_below_five_megabytes(tmp_path: Path) -> None:
    names = [
        write_row(
            tmp_path,
            f"fcn{i}-resnet18-d{i % 2}",
            dataset=f"d{i % 2}",
            miou=0.4 + i / 50,
            classes=60,
            side=128,
        )
        for i in range(12)
    ]
    assert 100_000 < len(written_page(tmp_path, names).encode()) < 5_000_000


def test_a_row_with_one_point_of_everything(tmp_path: Path) -> None:
    name = write_row(tmp_path, "fcn-resnet18-shapes", dataset="shapes", miou=0.5)
    (tmp_path / name / "metrics.jsonl").write_text('{"event": "step", "step": 1, "loss": NaN}\n')
    search = json.loads((tmp_path / name / "search.json").read_text())
    (tmp_path / name / "search.json").write_text(
        json.dumps(search | {"trials": search["trials"][:1]})
    )
    html = written_page(tmp_path, [name])
    assert "1 trial," in html
    # not in a coordinate, not in a text; the letters may well stand in a picture's base64
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", html), re.IGNORECASE)


def test_lineage_is_shown_where_it_is_known(tmp_path: Path, names: list[str]) -> None:
    assert "no <code>lineage.json" in written_page(tmp_path, names[:1])
    lineage = {"model": names[0], "version": "7", "aliases": ["champion"], "git_commit": "c0ffee"}
    (tmp_path / names[0] / "lineage.json").write_text(json.dumps(lineage))
    texts = Page(written_page(tmp_path, names[:1])).texts
    assert {"champion", "c0ffee", "7"} <= set(texts)


def test_pareto_front_against_every_pair() -> None:
    generator = np.random.default_rng(0)
    points = [tuple(map(float, point)) for point in generator.integers(0, 9, (40, 2))]
    beaten = {p for p in points for q in points if q[0] >= p[0] and q[1] >= p[1] and q != p}
    front = [points[index] for index in pareto_front(points)]
    assert set(front) == set(points) - beaten
    assert len(front) == len(set(front))
    assert front == sorted(front, reverse=True)


def test_labels_of_close_points_do_not_overlap() -> None:
    points = [(100.0 + 4 * i, 100.0) for i in range(5)]
    places = spread_labels(points, ["a name"] * 5, 400)
    for i, (x, y) in enumerate(places):
        assert 0 <= x <= 400 - 6.8 * 6
        for other_x, other_y in places[:i]:
            assert abs(y - other_y) >= 14 or abs(x - other_x) >= 6.8 * 6


def test_loss_curve_keeps_short_runs_and_averages_long_ones() -> None:
    short = [{"event": "step", "step": i, "loss": float(i)} for i in range(5)]
    assert loss_curve(short) == [(float(i), float(i)) for i in range(5)]
    long = [{"event": "step", "step": i, "loss": 2.0 * i} for i in range(10 * CURVE_POINTS)]
    curve = loss_curve(long)
    assert len(curve) == CURVE_POINTS
    assert curve[0] == (4.5, 9.0)
    assert curve[-1][0] == 10 * CURVE_POINTS - 5.5
    broken = [*short, {"event": "step", "step": 9, "loss": float("nan")}, {"event": "evaluated"}]
    assert loss_curve(broken) == loss_curve(short)


def test_worst_confusions_by_hand(tmp_path: Path, names: list[str]) -> None:
    (row,) = read_rows(tmp_path, names[:1])
    assert confusions(row) == [(0.3, NASTY, "sky"), (0.2, "sky", NASTY), (0.1, NASTY, "class 2")]
    assert row.shares.sum(axis=1).tolist() == pytest.approx([1, 1, 0])


def test_a_picture_shrinks_only_until_it_fits(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    exact, small = picture(tmp_path / "noise.png", 10**7), picture(tmp_path / "noise.png", 20_000)
    assert len(exact) > 3 * noise.size / 4
    assert len(small) < 20_000 * 4 / 3 + 40 < len(exact)


def test_the_data_section_states_the_audit(tmp_path: Path, names: list[str], tiny: str) -> None:
    assert "<h3>Data</h3>" not in written_page(tmp_path, names)
    folder = tmp_path / "shards/camvid"
    shutil.copytree(tiny, folder)
    assert prepared_data(folder) is None, "pictures are missing"
    illustrate(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["same_pictures"] = {
        "across_splits": 1,
        "within_splits": 7,
        "first": [[["train", NASTY], ["val", "b"]]],
    }
    manifest["skipped"] = [{"split": "val", "id": "x", "reason": "x.png is missing"}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    html = written_page(tmp_path, names)
    assert html.count("<h3>Data</h3>") == 1
    assert html.count("data:image/webp") == 3 * 3 + 2
    assert NASTY not in html
    section = html[html.index("<h3>Data</h3>") :]
    train = manifest["splits"]["train"]
    shown = re.search(r"<tr><th scope=\"row\">train</th>(.*)</tr>", section)
    assert shown
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown[1])
    ignored = f"{100 * train['ignored']:.2f}"
    assert cells == ["8", ignored, "0", "1", "48 × 64, 48 × 64", "none"]
    assert "in several splits: 1; more than once in one split: 7; samples left out: 1" in section
    assert "The same picture: train/&lt;b&gt;&amp;, val/b." in section
    assert "Left out: val/x, x.png is missing." in section
