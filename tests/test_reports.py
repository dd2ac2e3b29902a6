"""The report: numbers equal to the inputs, one page that stands alone, whatever the names are."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segcore.errors import InputError
from segcore.report import (
    finished_rows,
    leaderboard,
    read_rows,
    write_leaderboard,
    write_page,
)
from segcore.report.contents import LEAST_SHARE, confusions, pareto_front
from segcore.report.images import IMAGE_BYTES, listed_images, picture
from segcore.report.rows import CURVE_POINTS, mean_of_spans
from segcore.report.tables import MARKS, between_marks, comparison, with_table
from segcore.samples import illustrate, prepared_data
from tests.synthetic_rows import CONFUSION, NASTY, write_row

PUBLISHED = {
    "source": "a source",
    "paper": "arXiv:1234.56789",
    "metrics": ["miou"],
    "score": [62.5],
}


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    return [
        write_row(tmp_path, "fcn-resnet18-shapes", dataset="shapes", miou=0.41237),
        write_row(
            tmp_path, "pspnet-resnet18-shapes", dataset="shapes", miou=0.61239, published=PUBLISHED
        ),
        write_row(tmp_path, "fcn-resnet18-camvid", dataset="camvid", miou=0.35),
    ]


class Page(HTMLParser):
    """What a browser would see: visible texts, references, tags, and the JSON that it draws."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts, self.references, self.tags = list[str](), list[str](), list[str]()
        self.contents: list[dict[str, Any]] = []
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.inside = "contents" if ("id", "contents") in attrs else tag
        self.references += [value or "" for key, value in attrs if key in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        if self.inside == "contents" and data.strip():
            self.contents = json.loads(data)
        elif self.inside not in ("script", "style"):
            self.texts.append(data.strip())


def written_page(runs: Path, names: list[str]) -> str:
    rows = read_rows(runs, names)
    write_page(rows, leaderboard(rows), runs / "shards", runs / "index.html")
    return (runs / "index.html").read_text(encoding="utf-8")


# --- the leaderboard -----------------------------------------------------------------------------


def test_leaderboard_by_dataset_then_score(tmp_path: Path, names: list[str]) -> None:
    entries = leaderboard(read_rows(tmp_path, names))
    assert [entry["row"] for entry in entries] == [names[2], names[1], names[0]]
    assert entries[1] == {
        "dataset": "shapes",
        "board": "shapes",
        "row": "pspnet-resnet18-shapes",
        "method": "pspnet",
        "backbone": "resnet18",
        "split": "val",  # the first that the row names, not the first in scores.json
        "protocol": "whole",
        "miou": 0.61239,
        "interval": pytest.approx([0.59239, 0.64239]),
        "gap": None,  # it is the best
        "over_seeds": None,  # there is no other seed of it
        "pixel_accuracy": 0.7,
        "mean_accuracy": 0.65,
        "published_miou": 0.625,
        "published_pixel_accuracy": None,
        "published_mean_of_both": None,
        "published_crop_miou": None,
        "crop_miou": None,
        "paper_miou": None,
        "published_fps": None,
        "published_by": "a source, arXiv:1234.56789",
        "fps": pytest.approx(38.761),
        "latency_ms": pytest.approx(1000 / 38.761),
        "parameters": 12_345_678,
        "flops": 2_000_000_000,
        "benchmark_size": [96, 128],
        "batch_size": 8,
        "steps": 400,
        "hours": 0.11,  # 400 steps of 0.9 s and 36 s of evaluation; waiting is part of a step
    }


def test_leaderboard_files(tmp_path: Path, names: list[str]) -> None:
    rows = read_rows(tmp_path, names)
    entries = leaderboard(rows)
    write_leaderboard(entries, tmp_path / "reports")
    assert json.loads((tmp_path / "reports/leaderboard.json").read_text()) == entries
    lines = (tmp_path / "reports/leaderboard.md").read_text().splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells == [
        *("shapes", "pspnet-resnet18-shapes", "val", "62.50", "61.24", "70.00", "65.00"),
        *("59.24 – 64.24", "38.8", "12.35", "2.00", "8", "400", "0.11"),
    ]
    assert "published pixAcc" not in lines[0], "no row has one"
    with (tmp_path / "reports/leaderboard.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["row"] for line in table] == [entry["row"] for entry in entries]
    assert [float(line["miou_low"]) for line in table] == [e["interval"][0] for e in entries]
    assert (table[1]["benchmark_width"], table[0]["published_miou"]) == ("128", "")
    assert {float(line["miou"]) for line in table} == {0.35, 0.61239, 0.41237}


def changed(folder: Path, file: str, **values: Any) -> None:
    path = folder / f"{file}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_only_rows_that_were_measured_alike_are_ranked_together(
    tmp_path: Path, names: list[str]
) -> None:
    """The best number is one of six scales; it is neither first nor what others are behind of."""
    averaged = write_row(tmp_path, "ocrnet-resnet18-shapes", dataset="shapes", miou=0.7)
    changed(tmp_path / averaged, "scores", looked_at={"": "6 scales of 0.5 to 1.75 + flip"})
    other_split = write_row(tmp_path, "danet-resnet18-shapes", dataset="shapes", miou=0.9)
    scored = json.loads((tmp_path / other_split / "scores.json").read_text())["splits"]
    changed(tmp_path / other_split, "scores", splits={"train": scored["val"]})
    path = tmp_path / other_split / "overlays"
    (path / "val-images.json").rename(path / "train-images.json")
    rows = read_rows(tmp_path, [*names, averaged, other_split])
    shapes = [each for each in leaderboard(rows) if each["dataset"] == "shapes"]
    assert [(each["row"].split("-")[0], each["split"], each["protocol"]) for each in shapes] == [
        ("pspnet", "val", "whole"),
        ("fcn", "val", "whole"),
        ("ocrnet", "val", "6 scales of 0.5 to 1.75 + flip"),
        ("danet", "train", "whole"),
    ]
    html = written_page(tmp_path, [row.name for row in rows])
    shown = Page(html).contents[1]
    assert shown["fronts"]["fps"] == [1, 0]  # of the two that compare
    assert "<td>6 scales of 0.5 to 1.75 + flip</td>" in html
    assert html.count('aria-sort="descending"') == 1  # of camvid alone
    assert "Not every row was measured so" in html
    write_leaderboard(leaderboard(rows), tmp_path / "reports")
    head, *_ = (tmp_path / "reports/leaderboard.md").read_text().splitlines()
    assert "| split | looked at | published" in head


def test_moves_have_a_table_of_their_own(tmp_path: Path, names: list[str]) -> None:
    moves = write_row(tmp_path, "segfix-resnet18-shapes", dataset="shapes", miou=0.9)
    entries = leaderboard(read_rows(tmp_path, [*names, moves]))
    write_leaderboard(entries, tmp_path / "reports")
    ours, told, theirs = (tmp_path / "reports/leaderboard.md").read_text().split("\n\n")
    assert [line.split(" | ")[1] for line in ours.splitlines()[2:]] == [
        *(names[2], names[1], names[0]),
    ]
    assert told == "Rows of SegFix, scored on where pixels are to move (docs/segfix.md):"
    assert [line.split(" | ")[1] for line in theirs.splitlines()[2:]] == [moves]
    with (tmp_path / "reports/leaderboard.csv").open(newline="") as file:
        boards = [line["board"] for line in csv.DictReader(file)]
    assert boards == ["camvid", "shapes", "shapes", "shapes, moves of SegFix"]
    assert entries[3]["gap"] is None  # it is behind nobody


def test_what_a_source_prints_stands_beside_ours(tmp_path: Path, names: list[str]) -> None:
    printed = PUBLISHED | {"metrics": ["pixel_accuracy", "miou"], "score": [94.5, 76.89]}
    printed |= {"crop_score": [94.54, 78.31], "paper_score": 75.96, "fps": 4.17}
    changed(tmp_path / names[0], "scores", published=printed)
    scores = json.loads((tmp_path / names[0] / "scores.json").read_text())
    crop = {"val": scores["splits"]["val"] | {"miou": 0.44}}
    way = {"": "whole", "crop": "short side 96, its middle 96x96"}
    changed(tmp_path / names[0], "scores", protocols={"crop": crop}, looked_at=way)
    entry = leaderboard(read_rows(tmp_path, names))[2]
    figures = ("published_miou", "published_crop_miou", "crop_miou", "paper_miou", "published_fps")
    assert [entry[key] for key in figures] == pytest.approx([0.7689, 0.7831, 0.44, 0.7596, 4.17])
    html = written_page(tmp_path, names)
    tip = "on crops 78.31; 44.00 here\nthe paper itself 75.96\n4.17 images per second"
    assert tip in html
    assert Page(html).contents[1]["rows"][1]["looked_at"] == way
    write_leaderboard([entry], tmp_path / "reports")
    head, _, line = (tmp_path / "reports/leaderboard.md").read_text().splitlines()
    cells = dict(zip(head.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True))
    assert (cells["published crop mIoU %"], cells["crop mIoU %"]) == ("78.31", "44.00")
    assert (cells["the paper's mIoU %"], cells["published FPS"]) == ("75.96", "4.17")


def test_seeds_of_a_row_have_an_interval_together(tmp_path: Path) -> None:
    """By hand: 60 and 80 of 100 pixels right, in each of two images."""
    names = list[str]()
    for seed, right in enumerate((60, 80)):
        name = write_row(tmp_path, f"fcn-resnet18-shapes-seed{seed}", dataset="shapes", miou=0.5)
        counts = {"labelled": [100], "predicted": [right], "correct": [right], "classes": [0]}
        images = [{"id": f"image {number}", "miou": 0.5, **counts} for number in range(2)]
        scores = json.loads((tmp_path / name / "scores.json").read_text())
        scores["splits"]["val"]["per_image"] = images
        changed(tmp_path / name, "scores", **scores)
        changed(tmp_path / name, "config", seed=seed)
        names.append(name)
    first, second = leaderboard(read_rows(tmp_path, names))
    mean, low, high, count = first["over_seeds"]
    assert (mean, count) == (pytest.approx(0.7), 2)
    assert (low, high) == (pytest.approx(0.6), pytest.approx(0.8))  # one seed drawn twice
    assert second["over_seeds"] == first["over_seeds"]
    write_leaderboard([first, second], tmp_path / "reports")
    assert "70.00 (60.00 – 80.00), 2 seeds" in (tmp_path / "reports/leaderboard.md").read_text()
    changed(tmp_path / names[0], "config", steps=9)
    assert leaderboard(read_rows(tmp_path, names))[0]["over_seeds"] is None


def test_rows_that_are_not_finished_are_named_and_the_others_shown(
    tmp_path: Path, names: list[str]
) -> None:
    (tmp_path / names[0] / "scores.json").unlink()
    rows, unfinished = finished_rows(tmp_path, [*names, "absent"])
    assert [row.name for row in rows] == names[1:]
    remedies = {names[0]: f"dvc repro evaluate@{names[0]}", "absent": "dvc repro train@absent"}
    assert unfinished == remedies
    write_page(rows, leaderboard(rows), tmp_path / "shards", tmp_path / "page.html", unfinished)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<summary>2 rows not finished, so not shown</summary>" in html
    assert f"<code>{remedies[names[0]]}</code>" in html
    with pytest.raises(InputError, match=r"no row is finished; run: dvc repro train@absent"):
        finished_rows(tmp_path, ["absent", "other"])


def test_rows_without_intervals_have_no_such_column(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / names[2] / "scores.json"
    scores = json.loads(path.read_text())
    del scores["splits"]["val"]["intervals"]
    path.write_text(json.dumps(scores))
    rows = read_rows(tmp_path, names[2:])
    assert leaderboard(rows)[0]["interval"] is None
    write_leaderboard(leaderboard(rows), tmp_path)
    assert "interval" not in (tmp_path / "leaderboard.md").read_text()
    (contents,) = Page(written_page(tmp_path, names[2:])).contents
    figures = contents["rows"][0]["protocols"]["val"]["figures"]
    assert figures == {"miou": 0.35, "pixel_accuracy": 0.7, "mean_accuracy": 0.65}


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ({}, None),
        ({"published_miou": 0.8, "published_pixel_accuracy": 0.9}, ("miou", 0.8, 0.5)),
        ({"published_mean_of_both": 0.7}, ("mean_of_both", 0.7, 0.6)),
        ({"published_pixel_accuracy": 0.9}, ("pixel_accuracy", 0.9, 0.7)),
    ],
)
def test_what_is_compared_with_the_source(published: dict[str, float], expected: Any) -> None:
    nothing = dict.fromkeys(
        ("published_miou", "published_mean_of_both", "published_pixel_accuracy")
    )
    entry = {"miou": 0.5, "pixel_accuracy": 0.7, **nothing, **published}
    assert comparison(entry) == (pytest.approx(expected) if expected is None else expected)


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("config.json", "train"),
        ("metrics.jsonl", "train"),
        ("scores.json", "evaluate"),
        ("overlays/val-images.json", "evaluate"),
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


def test_rows_of_other_classes_do_not_share_a_board(tmp_path: Path, names: list[str]) -> None:
    write_row(tmp_path, "ocrnet-resnet18-shapes", dataset="shapes", miou=0.3, classes=5)
    with pytest.raises(InputError, match=r"different classes of shapes; run: dvc repro evaluate@"):
        read_rows(tmp_path, [*names, "ocrnet-resnet18-shapes"])
    write_row(tmp_path, "segfix-resnet18-shapes", dataset="shapes", miou=0.3, classes=5)
    page = Page(written_page(tmp_path, [*names, "segfix-resnet18-shapes"]))
    assert [each["board"] for each in page.contents] == [
        "camvid",
        "shapes",
        "shapes, moves of SegFix",
    ]


# --- the page ------------------------------------------------------------------------------------


def test_page_refers_to_nothing_outside(tmp_path: Path, names: list[str]) -> None:
    html = written_page(tmp_path, names)
    page = Page(html)
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp|sendBeacon|WebSocket", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    assert policy[1].startswith("default-src 'none'; ")
    assert {"data:", "'unsafe-inline'"} == set(re.findall(r"(?:-src )([^;]*)", policy[1])[1:])
    anchors = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert anchors == set(re.findall(r'id="(d\d+)"', html))


def test_page_shows_every_row_as_text(tmp_path: Path, names: list[str]) -> None:
    html = written_page(tmp_path, names)
    heads = re.findall(r'<th scope="row">(.*?)</th>', html)
    short = [re.sub(r"<wbr>", "", head) for head in heads]
    assert short == ["fcn-resnet18", "pspnet-resnet18", "fcn-resnet18"]
    assert "<b>&" not in html
    page = Page(html)
    assert page.contents[0]["classes"] == ["sky", NASTY, "class 2"]
    assert "Not in the labels of this split, so left out of every mean: class 2." in page.texts


def test_page_numbers_equal_the_inputs(tmp_path: Path, names: list[str]) -> None:
    html = written_page(tmp_path, names)
    shown = re.findall(r'class="n main" data-value="([\d.]+)">([\d.]+)<', html)
    assert shown == [("0.35", "35.00"), ("0.61239", "61.24"), ("0.41237", "41.24")]
    assert '62.50 <small class="down">−1.3</small>' in html
    camvid, shapes = Page(html).contents
    top = shapes["rows"][0]
    assert top["iou"] == [round(80 / 130, 4), round(60 / 120, 4), None]
    assert top["confusion"] == [[[0, 0.8], [1, 0.2]], [[1, 0.6], [0, 0.3], [2, 0.1]], []]
    assert shapes["pixels"] == [100, 100, 0]
    assert shapes["fronts"] == {"fps": [1, 0], "parameters": [0], "flops": [0]}
    assert top["curve"] == [[400, 0.61239]]
    assert len(top["loss"]) == 134  # spans of three steps
    assert top["loss"][0] == [2.0, pytest.approx((2 + 1 + 2 / 3) / 3, rel=1e-3)]
    assert top["search"]["best_trial"] == "t2"
    assert camvid["rows"][0]["search"] is None
    protocol = top["protocols"]["val"]
    assert protocol["images"] == 4
    assert protocol["intervals"]["miou"] == pytest.approx([0.59239, 0.64239])
    assert shapes["rows"][1]["scores"] == {f"image {i}": i / 4 for i in range(4)}


def test_names_of_rows_are_only_text(tmp_path: Path) -> None:
    name = 'x"><script>alert(1)</script>-y-{{ 7 * 7 }}'.replace("/", "∕")
    write_row(tmp_path, name, dataset="shapes", miou=0.5)
    html = written_page(tmp_path, [name])
    assert Page(html).tags.count("script") == 2  # the JSON and the program
    assert "{{ 7 * 7 }}" in html
    assert Page(html).contents[0]["rows"][0]["row"] == name


def test_equal_rows_give_equal_bytes(tmp_path: Path, names: list[str]) -> None:
    first = written_page(tmp_path, names)
    assert first == written_page(tmp_path, names[::-1])


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row to report"):
        write_page([], [], tmp_path, tmp_path / "index.html")


def test_a_row_with_one_point_of_everything(tmp_path: Path) -> None:
    name = write_row(tmp_path, "fcn-resnet18-shapes", dataset="shapes", miou=0.5, images=1)
    (tmp_path / name / "metrics.jsonl").write_text('{"event": "step", "step": 1, "loss": NaN}\n')
    search = json.loads((tmp_path / name / "search.json").read_text())
    (tmp_path / name / "search.json").write_text(
        json.dumps(search | {"trials": search["trials"][:1]})
    )
    (row,) = Page(written_page(tmp_path, [name])).contents[0]["rows"]
    assert (row["loss"], row["curve"], row["hours"]) == ([], [], 0.0)
    assert len(row["search"]["trials"]) == 1


def test_lineage_is_shown_where_it_is_known(tmp_path: Path, names: list[str]) -> None:
    assert Page(written_page(tmp_path, names[:1])).contents[0]["rows"][0]["lineage"] is None
    lineage = {"model": names[0], "version": "7", "aliases": ["champion"], "commit": "c0ffee"}
    (tmp_path / names[0] / "lineage.json").write_text(json.dumps(lineage))
    (row,) = Page(written_page(tmp_path, names[:1])).contents[0]["rows"]
    assert row["lineage"] == lineage
    assert (row["data_hash"], row["config"]["batch_size"]) == ("abc123", 8)


def test_the_data_section_holds_the_audit(tmp_path: Path, names: list[str], tiny: str) -> None:
    assert all(each["data"] is None for each in Page(written_page(tmp_path, names)).contents)
    folder = tmp_path / "shards/camvid"
    shutil.copytree(tiny, folder)
    assert prepared_data(folder) is None, "pictures are missing"
    illustrate(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    camvid, shapes = Page(written_page(tmp_path, names)).contents
    assert shapes["data"] is None
    data = camvid["data"]
    assert data["data_hash"] == manifest["data_hash"]
    assert data["same_pictures"] == manifest["same_pictures"]
    for split, facts in data["splits"].items():
        assert facts.items() <= manifest["splits"][split].items()
        assert {"pixels", "images_with", "ignored", "absent", "smallest"} <= facts.keys()
    assert data["sheet"].startswith("data:image/webp;base64,")


# --- its parts -----------------------------------------------------------------------------------


def test_pareto_front_against_every_pair() -> None:
    generator = np.random.default_rng(0)
    points = [tuple(map(float, point)) for point in generator.integers(0, 9, (40, 2))]
    beaten = {p for p in points for q in points if q[0] >= p[0] and q[1] >= p[1] and q != p}
    front = [points[index] for index in pareto_front(points)]
    assert set(front) == set(points) - beaten
    assert len(front) == len(set(front))
    assert front == sorted(front, reverse=True)


def test_loss_curve_keeps_short_runs_and_averages_long_ones() -> None:
    short = [(step, float(step)) for step in range(5)]
    assert mean_of_spans(short) == short
    curve = mean_of_spans([(step, 2.0 * step) for step in range(10 * CURVE_POINTS)])
    assert len(curve) == CURVE_POINTS
    assert curve[0] == (4.5, 9.0)
    assert curve[-1][0] == 10 * CURVE_POINTS - 5.5
    assert mean_of_spans([*short, (9, float("nan")), (10, None)]) == short


def test_confusions_against_the_whole_matrix() -> None:
    assert confusions(CONFUSION) == [[(0, 0.8), (1, 0.2)], [(1, 0.6), (0, 0.3), (2, 0.1)], []]
    counts = np.random.default_rng(3).integers(1, 40, (150, 150)) ** 3
    shares = counts / counts.sum(axis=1, keepdims=True)
    for label, found in enumerate(confusions(counts.tolist())):
        assert found[0][0] == label
        assert 1 < len(found) <= 13
        for other, share in found:
            assert share == pytest.approx(shares[label, other], abs=5e-4)
        kept = {other for other, _ in found}
        left_out = [shares[label, other] for other in range(150) if other not in kept]
        assert max(left_out) <= max(LEAST_SHARE, found[-1][1] + 5e-4)


def test_images_are_shared_by_the_rows_of_a_dataset(tmp_path: Path, names: list[str]) -> None:
    rows = read_rows(tmp_path, names[:2])
    listed = listed_images({"shapes": rows})["shapes"]
    assert list(listed) == [f"image {i}" for i in range(4)]
    for i, image in enumerate(listed.values()):
        assert image["input"] == rows[0].images[i]["input"]
        assert image["predicted"] == {row.name: row.images[i]["predicted"] for row in rows}


def test_as_many_images_as_the_budget_allows(tmp_path: Path, names: list[str]) -> None:
    rows = read_rows(tmp_path, names[:2])
    for row in rows:
        for image in row.images:
            image["predicted"] = "x" * (IMAGE_BYTES // 6)
    assert len(listed_images({"shapes": rows})["shapes"]) == 2  # with 3, a little too much
    for row in rows:
        row.images[0]["predicted"] = "x" * IMAGE_BYTES
    assert listed_images({"shapes": rows}) == {"shapes": {}}


def test_a_picture_shrinks_only_until_it_fits(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    large, small = picture(tmp_path / "noise.png", 10**7), picture(tmp_path / "noise.png", 20_000)
    assert len(small) < 20_000 * 4 / 3 + 40 < len(large)


def test_a_table_between_marks_is_replaced_and_nothing_else() -> None:
    begin, end = MARKS
    text = f"above\n\n{begin}\n\n| old |\n\n{end}\n\nbelow\n"
    assert between_marks(text, "README.md") == "| old |\n"
    changed = with_table(text, "| new |\n", "README.md")
    assert changed == f"above\n\n{begin}\n\n| new |\n\n{end}\n\nbelow\n"
    for broken in ("nothing", f"{end}\n{begin}", f"{text}{text}"):
        with pytest.raises(InputError, match=r"README\.md must hold these two lines once"):
            with_table(broken, "| new |\n", "README.md")


@pytest.mark.long
def test_rows_of_the_whole_zoo_fit_into_a_page(tmp_path: Path) -> None:
    """144 rows on eight datasets, one of 150 classes."""
    names = [
        write_row(
            tmp_path,
            f"method{i}-resnet101-d{i % 8}",
            dataset=f"d{i % 8}",
            miou=0.4 + i / 500,
            classes=150 if i % 8 == 0 else 19,
            side=96,
            images=6,
        )
        for i in range(144)
    ]
    html = written_page(tmp_path, names)
    assert 1_000_000 < len(html.encode()) < 9_000_000
    assert sum(len(board["rows"]) for board in Page(html).contents) == 144
