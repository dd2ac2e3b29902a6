"""Rows from the zoo: every one resolves and is whole, and adding some leaves a table as it was."""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import rows
from pipelines.adding import add
from pipelines.zoo import ZOO, lines, select, show
from segcore.datasets import list_datasets
from segcore.errors import InputError
from segcore.params import Params, read_params
from segcore.row import Run
from segcore.tables import TestTime

TABLE = """\
# mine
datasets:
  shapes: {}
defaults: {workers: 1}
rows:
  fcn-resnet18-shapes: {method: fcn, backbone: resnet18, dataset: shapes}  # the first
"""
FOLDER = {"form": "folder"}


@pytest.fixture(scope="module")
def zoo() -> Params:
    return read_params(ZOO)


@pytest.fixture(scope="module")
def runs(zoo: Params) -> dict[str, Run]:
    return {name: zoo.resolve(name) for name in zoo.rows}


@pytest.fixture(scope="module")
def published(runs: dict[str, Run]) -> dict[str, Run]:
    return {name: run for name, run in runs.items() if run.published}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(TABLE)
    return path


def with_datasets(table: Path, *names: str) -> Path:
    """A table whose owner has her own copies of some datasets."""
    values = yaml.safe_load(TABLE)
    values["datasets"] |= dict.fromkeys(names, FOLDER)
    table.write_text(yaml.safe_dump(values, sort_keys=False))
    return table


# --- the zoo ---------------------------------------------------------------------------------


def test_rows_are_named_for_what_they_are(runs: dict[str, Run]):
    for name, run in runs.items():
        assert name.startswith(f"{run.method}-{run.backbone}-{run.dataset}")


def test_every_published_row_is_there_once(published: dict[str, Run]):
    sources = Counter(run.published.source for run in published.values() if run.published)
    assert sources == {
        "MMSegmentation collection": 7,
        "openseg.pytorch": 76,
        "PyTorch segmentation toolkit": 13,
        "SotA-CV": 48,
    }
    methods = {run.method for run in published.values()}
    assert len(methods) == 17
    assert Counter(run.splits[0] for run in published.values()) == {"val": 124, "test": 20}


def test_rows_without_figures_are_ours_or_there_to_start_from(runs: dict[str, Run]):
    plain = {name: run for name, run in runs.items() if not run.published}
    started = {run.init for run in runs.values() if run.init}
    correctors = {name for name, run in plain.items() if run.method == "segfix"}
    assert correctors == {"segfix-hrnet_w48-cityscapes"}
    others = {name for name, run in plain.items() if run.dataset != "camvid"}
    assert others - correctors == started
    datasets = {"camvid": 4, "coco_voc21": 8, "cityscapes": 1}
    assert Counter(run.dataset for run in plain.values()) == datasets


def test_sources_that_print_figures_print_them_all(published: dict[str, Run]):
    for name, run in published.items():
        assert run.published
        assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", run.published.link), name
        if run.published.source in ("MMSegmentation collection", "SotA-CV"):
            assert run.published.score, name
        if run.published.source == "MMSegmentation collection":
            assert run.published.fps, name
        if run.published.source == "openseg.pytorch":
            assert run.published.score == (), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fcn-resnet50c-cityscapes", {"score": (72.25,), "fps": 4.17}),
        ("ocrnet-hrnet_w18_small_v2-cityscapes", {"score": (74.3,), "fps": 10.45}),
        (
            "deeplabv3-resnet101s-voc2012-jpu",
            {
                "metrics": ("pixel_accuracy", "miou"),
                "score": (94.81, 78.75),
                "crop_score": (95.17, 81.0),
                "paper_score": 77.02,
                "setting": "aux; trainaug 10,582; 50 epochs; base 540",
            },
        ),
        ("danet-resnet101s-cityscapes", {"score": (), "paper_score": 78.83}),
        (
            "pspnet-resnet269s-ade20k-ms",
            {"metrics": ("mean_of_both",), "score": (63.31,), "paper": "arXiv:1612.01105"},
        ),
        ("sdn-densenet161-voc2012-coco-stacks3-test", {"score": (86.6,), "pretraining": "COCO"}),
    ],
)
def test_figures_are_those_that_were_printed(
    published: dict[str, Run], name: str, expected: dict[str, Any]
):
    found = published[name].published
    assert found
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "pspnet-resnet50c-cityscapes",
            {"crop": (512, 1024), "batch_size": 8, "steps": 40000, "min_learning_rate": 1e-4},
        ),
        (
            "ocrnet-hrnet_w48-ade20k",
            {"crop": (520, 520), "steps": 150000, "learning_rate": 0.02, "loss": "ohem"},
        ),
        (
            "fcn-wide_resnet38_a1-cityscapes",
            {"crop": (800, 800), "batch_size": 8, "steps": 40000, "auxiliary_weight": 0.2},
        ),
        (
            "isanet-resnet101s-pascal_context_59",
            {"learning_rate": 0.001, "head_multiplier": 10.0, "steps": 30000},
        ),
        (
            "fcn-wide_resnet38_a2-cityscapes-2conv",
            {
                "loss": "ohem",
                "loss_options": {"threshold": 0.6, "min_kept": 256, "downsample_labels": True},
            },
        ),
        ("encnet-resnet101s-ade20k", {"learning_rate": 0.004, "auxiliary_weight": 0.2}),
        (
            "refinenet-resnet152-voc2012-test",
            {"schedule": "constant", "batch_size": 1, "freeze_batchnorm": True},
        ),
        (
            "deeplabv2-resnet101-voc2012",
            {"freeze_batchnorm": True, "head_multiplier": 10.0, "bias_multiplier": 2.0},
        ),
        ("fcn-wide_resnet38_a1-ade20k-2conv", {"bias_multiplier": 2.0, "decay_all": False}),
        ("danet-resnet101s-voc2012-jpu", {"resize": 540, "crop": (480, 480)}),
        ("ocrnet-hrnet_w48-voc2012", {"resize": 513, "crop": (513, 513)}),
        ("ccnet-resnet101s-voc2012-jpu", {"options": {"recurrence": 1}}),
    ],
)
def test_recipes_are_those_that_were_printed(
    published: dict[str, Run], name: str, expected: dict[str, Any]
):
    assert {key: getattr(published[name], key) for key in expected} == expected


CROPS = {"voc2012": 480, "cityscapes": 768}


def test_each_source_looks_at_images_in_its_own_way(published: dict[str, Run]):
    """What openseg scores follows from the dataset; the toolkit has figures on crops besides."""
    ways = {
        "cityscapes": TestTime(),
        "voc2012": TestTime(resize=513),
        "lip": TestTime(resize=(473, 473), flip=True),
    }
    for name, run in published.items():
        assert run.published
        match run.published.source:
            case "MMSegmentation collection":
                assert (run.test_time, run.protocols) == (TestTime(), {}), name
            case "openseg.pytorch":
                assert run.test_time == ways.get(run.dataset, TestTime(resize=520)), name
                assert run.protocols == {}, name
            case "PyTorch segmentation toolkit":
                side = CROPS[run.dataset]
                crop = TestTime(resize=side, crop=(side, side))
                assert (run.test_time, run.protocols) == (TestTime(), {"crop": crop}), name
            case _:
                assert run.protocols == {}, name


def test_rows_that_were_averaged_are(published: dict[str, Run]):
    papers = {name: run for name, run in published.items() if run.test_time != TestTime()}
    ways = {
        name: (len(run.test_time.scales), min(run.test_time.scales), max(run.test_time.scales))
        for name, run in papers.items()
        if run.published and run.published.source == "SotA-CV" and run.test_time.flip
    }
    to_175, to_200, three, flipped = (6, 0.5, 1.75), (7, 0.5, 2.0), (3, 0.75, 1.25), (1, 1.0, 1.0)
    assert ways == {
        "sdn-densenet161-voc2012-coco-ms-stacks2": to_175,
        "deeplabv3-xception65-voc2012-coco": to_175,
        "deeplabv3-xception65-voc2012-coco-test": to_175,
        "deeplabv3-mobilenetv2_100-voc2012-coco": to_175,
        "deeplabv3-mobilenetv2_100-voc2012-coco-test": to_175,
        "deeplabv3-xception65-ade20k": to_175,
        "pspnet-resnet269s-ade20k-ms": to_175,
        "deeplabv3-resnet101s-cityscapes-coco-ms-test": to_175,
        "fcn-wide_resnet38_a1-voc2012-coco-2conv-test": to_175,
        "encnet-resnet101s-voc2012-ms-test": to_200,
        "encnet-resnet101s-pascal_context_59-ms": to_200,
        "encnet-resnet101s-ade20k-ms-test": to_200,
        "deeplabv3-xception65-cityscapes": three,
        "deeplabv3-mobilenetv2_100-cityscapes-coco": three,
        "fcn-wide_resnet38_a1-cityscapes-2conv": flipped,
    }


def test_what_a_row_assumes_is_a_key_of_it(published: dict[str, Run]):
    for name, run in published.items():
        assert run.published
        assert set(run.published.assumed) <= set(Run.model_fields), name


def test_a_row_of_the_zoo_leaves_no_recipe_to_whoever_adds_it(zoo: Params):
    """Another table's defaults say how to compute, not what was published."""
    values = zoo.model_dump(exclude_unset=True)
    values["defaults"] = {
        "optimizer": "adamw",
        "learning_rate": 7.0,
        "momentum": 0.1,
        "weight_decay": 0.3,
        "head_multiplier": 3.0,
        "schedule": "cosine",
        "power": 3.0,
        "min_learning_rate": 0.5,
        "warmup_steps": 9,
        "loss": "ohem",
        "auxiliary_weight": 0.9,
        "presence_weight": 0.9,
        "dice_weight": 0.9,
        "lovasz_weight": 0.9,
        "scale": [1.0, 1.1],
        "flip": 0.1,
        "aspect": [0.5, 2.0],
        "rotation": 5.0,
        "brightness": 3,
        "resize": 64,
        "train_splits": ["train", "val"],
        "decay_all": False,
        "bias_multiplier": 9.0,
        "freeze_batchnorm": True,
        "clip_norm": 0.5,
        "ema_decay": 0.5,
        "class_weights": "balanced",
        "patience": 2,
        "auxiliary": False,
        "output_stride": 32,
        "max_class_share": 0.3,
        "photometric": True,
        "pretrained": False,
        "sync_batchnorm": False,
    }
    for dataset in values["datasets"].values():
        dataset["recipe"] = {}
    other = Params.model_validate(values)
    for name, row in zoo.rows.items():
        if row["dataset"] != "camvid":
            kept = {"splits", "benchmark_size"}
            assert other.resolve(name).model_dump(exclude=kept) == zoo.resolve(name).model_dump(
                exclude=kept
            )


# --- list and show -----------------------------------------------------------------------------


def test_the_list_shows_figures_in_columns(zoo: Params):
    found = select(zoo, ["voc2012", "jpu"], {"method": "deeplabv3"})
    head, line = (re.split(r" {2,}", line) for line in lines(found))
    assert head == ["row", "method", "backbone", "dataset", "split", "published", "fps"]
    name = "deeplabv3-resnet101s-voc2012-jpu"
    assert line == [name, "deeplabv3", "resnet101s", "voc2012", "val", "94.81/78.75", "-"]
    (_, fcn) = lines(select(zoo, [], {"method": "fcn", "backbone": "resnet50c"}))
    assert fcn.split()[-2:] == ["72.25", "4.17"]


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({"source": "SotA-CV", "split": "test"}, 20),
        ({"dataset": "lip"}, 12),
        ({"method": "sdn", "dataset": "voc2012"}, 4),
        ({"source": "none"}, 13),
    ],
)
def test_filters_leave_what_they_name(zoo: Params, wanted: dict[str, str], count: int):
    assert len(select(zoo, [], wanted)) == count


@pytest.mark.parametrize(
    ("words", "wanted", "said"),
    [
        ([], {"method": "pspnte"}, "the zoo has no method 'pspnte'; did you mean 'pspnet'?"),
        ([], {"source": "SotA"}, "the zoo has no source 'SotA'; did you mean 'SotA-CV'?"),
        (["lip"], {"method": "danet"}, "no row with lip and --method danet; leave one of them out"),
    ],
)
def test_a_filter_that_finds_nothing_says_so(
    zoo: Params, words: list[str], wanted: dict[str, str], said: str
):
    with pytest.raises(InputError, match=re.escape(said)):
        select(zoo, words, wanted)


def test_a_row_is_shown_with_its_recipe_and_its_figures(zoo: Params):
    text = show(zoo, "pspnet-resnet269s-ade20k-ms")
    assert text.startswith("# https://arxiv.org/abs/1612.01105\n")
    (shown,) = yaml.safe_load(text).values()
    assert list(shown)[:3] == ["method", "backbone", "dataset"]
    assert shown["weights_of"] == "pspnet-resnet269s-ade20k"
    assert (shown["crop"], shown["learning_rate"]) == ([473, 473], 0.01)  # of the trained row
    assert shown["benchmark_size"] == [512, 512]  # of the dataset
    assert shown["published"]["score"] == [63.31]


def test_the_command_line_reaches_all_three_verbs(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rows", "--params", str(table), *arguments])
        rows.main()
        return capsys.readouterr().out

    assert said("list", "--dataset", "camvid").count("resnet18-camvid") == 4
    assert "steps: 800" in said("show", "fcn-resnet18-camvid")
    assert "has fcn-resnet18-camvid; run: dvc repro" in said("add", "fcn-resnet18-camvid")


def test_an_unknown_row_gets_a_suggestion(zoo: Params, table: Path):
    for act in (lambda name: show(zoo, name), lambda name: add(zoo, [name], table)):
        with pytest.raises(InputError, match="did you mean 'fcn-resnet18-camvid'"):
            act("fcn-resnet18-camvit")
        with pytest.raises(InputError, match=r"no row 'x'; python -m pipelines\.rows list names"):
            act("x")
    assert table.read_text() == TABLE


# --- add ---------------------------------------------------------------------------------------


def test_adding_appends_and_keeps_what_stood_there(zoo: Params, table: Path):
    add(zoo, ["fcn-resnet18-camvid"], table)
    lines = table.read_text().splitlines()
    assert [line for line in TABLE.splitlines() if line not in lines] == []
    added = read_params(table)
    assert list(added.rows) == ["fcn-resnet18-shapes", "fcn-resnet18-camvid"]
    assert added.rows["fcn-resnet18-camvid"] == zoo.rows["fcn-resnet18-camvid"]
    assert added.dataset("camvid") == zoo.dataset("camvid")


def test_what_a_row_took_over_is_written_out(zoo: Params, table: Path):
    with_datasets(table, "cityscapes")
    add(zoo, ["ocrnet-wide_resnet38_a1-cityscapes"], table)
    text = table.read_text()
    assert "<<" not in text
    assert "*" not in text
    assert "    clip_norm: null\n" in text, "and what is unset says so"
    added = read_params(table)
    assert added.rows["ocrnet-wide_resnet38_a1-cityscapes"] == dict(
        zoo.rows["ocrnet-wide_resnet38_a1-cityscapes"]
    )
    assert list(added.rows["ocrnet-wide_resnet38_a1-cityscapes"])[:2] == ["method", "backbone"]


def test_small_numbers_stay_numbers(zoo: Params, table: Path):
    add(zoo, ["refinenet-resnet101-cityscapes-test"], with_datasets(table, "cityscapes"))
    values = read_params(table).rows["refinenet-resnet101-cityscapes-test"]
    assert values["learning_rate"] == 5e-5


def test_rows_that_a_row_stands_on_come_with_it_and_above_it(zoo: Params, table: Path):
    with_datasets(table, "voc2012", "coco_voc21")
    names = [
        "deeplabv3-xception65-coco_voc21",
        "deeplabv3-xception65-voc2012-coco",
        "deeplabv3-xception65-voc2012-coco-test",
    ]
    add(zoo, [names[-1]], table)
    added = read_params(table)
    assert list(added.rows)[1:] == names
    tested, trained = added.resolve(names[2]), added.resolve(names[1])
    assert (tested.weights_of, trained.init) == (names[1], names[0])
    same = {"weights_of", "init", "splits", "published", "search"}
    assert tested.model_dump(exclude=same) == trained.model_dump(exclude=same)
    assert tested.splits == ("test",)


def test_a_row_that_is_there_already_is_stood_on_as_it_is(zoo: Params, table: Path):
    with_datasets(table, "ade20k")
    add(zoo, ["pspnet-resnet269s-ade20k"], table)
    table.write_text(table.read_text().replace("steps: 150000", "steps: 7"))
    add(zoo, ["pspnet-resnet269s-ade20k-ms"], table)
    assert read_params(table).resolve("pspnet-resnet269s-ade20k-ms").steps == 7


def test_a_dataset_that_nobody_reads_is_told_and_nothing_is_written(zoo: Params, table: Path):
    unread = sorted({str(row["dataset"]) for row in zoo.rows.values()} - set(list_datasets()))
    for dataset in unread:
        name = next(name for name, row in zoo.rows.items() if row["dataset"] == dataset)
        with pytest.raises(InputError, match=f"dataset {dataset} has no reader in this version"):
            add(zoo, ["fcn-resnet18-camvid", name], table)
        assert table.read_text() == TABLE


def test_a_dataset_that_the_table_has_stays_the_table_s(zoo: Params, table: Path):
    table.write_text(TABLE.replace("shapes: {}", "shapes: {}\n  camvid: {drop: /mnt/camvid}"))
    add(zoo, ["fcn-resnet18-camvid"], table)
    added = read_params(table)
    assert added.dataset("camvid").drop == "/mnt/camvid"
    assert added.dataset("camvid").recipe == zoo.dataset("camvid").recipe  # it had none
    own = "  camvid: {recipe: {steps: 9, batch_size: 2, crop: [64, 64], evaluate_every: 3,"
    table.write_text(TABLE.replace("  shapes: {}", f"  shapes: {{}}\n{own} save_every: 3}}}}"))
    add(zoo, ["fcn-resnet18-camvid"], table)
    assert read_params(table).resolve("fcn-resnet18-camvid").steps == 9
    table.write_text(TABLE.replace("shapes: {}", "shapes: {}\n  camvid: {recipe: {steps: 9}}"))
    before = table.read_text()
    with pytest.raises(InputError, match=r"'rows\.fcn-resnet18-camvid\.batch_size' is missing"):
        add(zoo, ["fcn-resnet18-camvid"], table)
    assert table.read_text() == before


def test_a_row_is_not_added_twice(zoo: Params, table: Path):
    add(zoo, ["fcn-resnet18-camvid"], table)
    before = table.read_text()
    with pytest.raises(InputError, match="has a row 'fcn-resnet18-camvid' already"):
        add(zoo, ["fcn-resnet18-camvid"], table)
    assert table.read_text() == before
