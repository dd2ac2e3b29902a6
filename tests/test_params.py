import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from segcore.errors import InputError
from segcore.params import Params, read_params
from segcore.row import Run
from segcore.tables import merged, with_values

TABLE = {
    "datasets": {
        "shapes": {
            "recipe": {"crop": [64, 96], "learning_rate": 0.02, "options": {"width": 16, "a": 1}}
        }
    },
    "defaults": {
        "steps": 100,
        "batch_size": 8,
        "evaluate_every": 50,
        "save_every": 50,
        "learning_rate": 0.01,
        "momentum": 0.8,
        "options": {"width": 8, "b": 1},
    },
    "rows": {
        "fcn-resnet18-shapes": {
            "method": "fcn",
            "backbone": "resnet18",
            "dataset": "shapes",
            "options": {"width": 32},
        }
    },
}
ROW = "fcn-resnet18-shapes"
SEARCH = {
    "space": {"learning_rate": {"loguniform": [0.001, 0.1]}},
    "steps": 40,
    "evaluate_every": 10,
    "grace": 10,
}


def table(**row: Any) -> dict[str, Any]:
    values = copy.deepcopy(TABLE)
    values["rows"][ROW].update(row)
    return values


def read(tmp_path: Path, values: Any) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return read_params(path)


def refused(tmp_path: Path, values: Any) -> str:
    """The message, which names the file at its start."""
    with pytest.raises(InputError) as caught:
        read(tmp_path, values).resolve(ROW)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "params.yaml"))
    return message


# --- one rule: tuned > row > recipe > defaults --------------------------------------------------


def test_precedence_of_plain_and_nested_values(tmp_path):
    params = read(tmp_path, TABLE)
    run = params.resolve(ROW)
    assert run.momentum == 0.8  # only the defaults say it
    assert run.learning_rate == 0.02  # recipe over defaults
    assert run.crop == (64, 96)
    assert run.options == {"width": 32, "a": 1, "b": 1}  # row, recipe, defaults
    assert run.weight_decay == 5e-4  # nobody says it
    own = read(tmp_path, table(learning_rate=0.03)).resolve(ROW)
    assert own.learning_rate == 0.03


def test_tuned_values_win_by_dotted_key(tmp_path):
    params = read(tmp_path, TABLE)
    run = params.resolve(ROW, {"learning_rate": 0.5, "options.width": 4, "options.c.d": 9})
    assert run.learning_rate == 0.5
    assert run.options == {"width": 4, "a": 1, "b": 1, "c": {"d": 9}}
    assert params.resolve(ROW).options["width"] == 32, "resolving changed the table"


def test_tuned_values_are_checked(tmp_path):
    params = read(tmp_path, TABLE)
    with pytest.raises(InputError, match=rf"rows\.{ROW}, tuned: learning_rate: .*greater than 0"):
        params.resolve(ROW, {"learning_rate": -1.0})


def test_merged_leaves_its_arguments_alone():
    below, above = {"a": {"b": 1}, "c": 2}, {"a": {"d": 3}, "c": {"e": 4}}
    assert merged(below, above) == {"a": {"b": 1, "d": 3}, "c": {"e": 4}}
    assert (below, above) == ({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}, "c": {"e": 4}})
    assert with_values({"a": {"b": 1}}, {"a.b": 2, "x": 3}) == {"a": {"b": 2}, "x": 3}


def test_the_fingerprint_of_a_recipe_follows_what_decides_its_numbers(tmp_path):
    def fingerprint(**values: Any) -> str:
        return read(tmp_path, table(**values)).resolve(ROW).recipe_fingerprint()

    assert fingerprint() == fingerprint(search=SEARCH) == fingerprint(workers=2, threads=3)
    assert fingerprint() != fingerprint(seed=1) != fingerprint(steps=7)


def test_a_recipe_is_the_row_without_what_comes_after_training(tmp_path):
    def recipe(**values: Any) -> Run:
        return read(tmp_path, table(**values)).resolve(ROW).recipe()

    crops = {"crop": [40, 40], "resize": 50}
    after = {"protocols": {"crops": crops}, "splits": ["val", "train"], "benchmark_size": [64, 64]}
    after["test_time"] = {
        "scales": [0.5, 1.0],
        "flip": True,
        "window": [32, 32],
        "stride": [16, 16],
    }
    bare = recipe(test_time={"window": [32, 32], "stride": [16, 16]})
    assert recipe(**after) == bare != recipe()  # validation in training goes through windows, too
    assert recipe(splits=["test", "val"]).splits == ("test",)
    timed = {**SEARCH, "algorithm": "random", "latency": True}
    assert recipe(search=timed, benchmark_size=[64, 64]).benchmark_size == (64, 64)
    assert recipe(search=SEARCH, benchmark_size=[64, 64]).benchmark_size is None


def test_a_run_survives_json(tmp_path):
    run = read(tmp_path, table(search=SEARCH)).resolve(ROW)
    assert Run.model_validate(run.model_dump(mode="json")) == run


def test_class_weights_are_a_word_or_numbers(tmp_path):
    for value, expected in (("balanced", "balanced"), ([1, 2.5], (1.0, 2.5)), (None, None)):
        assert read(tmp_path, table(class_weights=value)).resolve(ROW).class_weights == expected


# --- misspelt keys -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "place", "meant"),
    [
        ("datasts", "datasts", "datasets"),
        ("datasets.shapes.optoins", "datasets.shapes.optoins", "options"),
        ("datasets.shapes.recipe.learnig_rate", None, "learning_rate"),
        ("defaults.momentun", None, "momentum"),
        (f"rows.{ROW}.bacth_size", None, "batch_size"),
        (f"rows.{ROW}.search.trails", None, "trials"),
    ],
)
def test_misspelt_key_gets_a_suggestion(tmp_path, path, place, meant):
    values = with_values(table(search=SEARCH), {path: 1})
    expected = f"unknown key {place or path!r}; did you mean {meant!r}?"
    assert expected in refused(tmp_path, values)


@pytest.mark.parametrize(
    ("drawn", "remedy"),
    [
        ({"unifrom": [0.1, 1]}, "did you mean 'uniform'?"),
        ({"chioce": [1]}, "did you mean 'choice'?"),
        ({"uniform": [0.1, 1], "choice": [1]}, "there is choice, int, loguniform, uniform"),
        ([0.1, 1], "there is choice, int, loguniform, uniform"),
    ],
)
def test_misspelt_way_to_draw_gets_a_suggestion(tmp_path, drawn, remedy):
    values = table(search=SEARCH | {"space": {"momentum": drawn}})
    message = refused(tmp_path, values)
    assert f"rows.{ROW}.search.space.momentum: {drawn!r} fits no form; {remedy}" in message
    assert len(message.splitlines()) == 1


def test_misspelt_row_and_dataset_get_a_suggestion(tmp_path):
    params = read(tmp_path, TABLE)
    with pytest.raises(InputError, match=rf"no row 'fcn-resnet-shapes'; did you mean '{ROW}'"):
        params.resolve("fcn-resnet-shapes")
    with pytest.raises(InputError, match="no dataset 'shape'; did you mean 'shapes'"):
        params.dataset("shape")
    assert "no dataset 'shape'" in refused(tmp_path, table(dataset="shape"))


@pytest.mark.parametrize("key", ["method", "backbone", "dataset"])
def test_a_row_always_says_what_it_is(tmp_path, key):
    values = with_values(table(), {f"defaults.{key}": "shapes"})
    del values["rows"][ROW][key]
    assert f"rows.{ROW}: {key!r} is missing" in refused(tmp_path, values)


# --- the search ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"learning_rate": 0.1}, "learning_rate"),
        ({}, "options.width"),
        ({}, "options"),
        ({"output_stride": None}, "output_stride"),
    ],
)
def test_a_key_is_set_or_searched(tmp_path, row, key):
    values = table(**row, search=SEARCH | {"space": {key: {"choice": [8]}}})
    message = refused(tmp_path, values)
    assert f"{key!r} is set by the row and searched; remove one of them" in message


def test_a_search_may_cover_what_the_row_leaves_open(tmp_path):
    space = {
        "learning_rate": {"loguniform": ["1e-3", 0.1]},
        "options.a": {"choice": [1, 2]},  # the recipe says it, the row does not
        "warmup_steps": {"int": [0, 9]},
        "momentum": {"uniform": [0.5, 0.9]},
    }
    search = read(tmp_path, table(search=SEARCH | {"space": space})).resolve(ROW).search
    assert search is not None
    assert search.model_dump()["space"]["learning_rate"] == {"loguniform": (0.001, 0.1)}
    assert list(search.space) == list(space)


def test_a_row_replaces_how_its_recipe_draws(tmp_path):
    values = with_values(table(), {"datasets.shapes.recipe.search": SEARCH})
    values = with_values(values, {f"rows.{ROW}.search.space.learning_rate": {"choice": [0.5]}})
    search = read(tmp_path, values).resolve(ROW).search
    assert search is not None
    assert search.model_dump()["space"] == {"learning_rate": {"choice": [0.5]}}


def test_a_row_may_refuse_the_search_of_its_recipe(tmp_path):
    values = with_values(table(search=None), {"datasets.shapes.recipe.search": SEARCH})
    assert read(tmp_path, values).resolve(ROW).search is None


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"space": {"learnig_rate": {"choice": [1]}}}, "no key 'learnig_rate'; did you mean"),
        ({"space": {"steps": {"choice": [1]}}}, "'steps' cannot be searched"),
        ({"space": {"workers": {"int": [1, 2]}}}, "'workers' cannot be searched"),
        ({"space": {"momentum": {"uniform": [0.9, 0.5]}}}, "must run from low to high"),
        ({"space": {"momentum": {"uniform": [0.9]}}}, "uniform.1: Field required (got [0.9])"),
        ({"space": {"momentum": {"loguniform": [0, 1]}}}, "greater than 0 (got 0)"),
        ({"space": {"momentum": {"choice": []}}}, "at least 1 item"),
        ({"space": {"momentum": {"choice": [0.9, 7]}}}, "search.space.momentum: momentum: "),
        ({"space": {"momentum.x": {"choice": [1]}}}, "(got {'x': 1})"),
        ({"space": {}}, "at least 1 item"),
        ({"grace": 50}, "grace 50 is more than the 40 steps of a trial"),
        ({"reduction": 1}, "greater than 1 (got 1)"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_it_starts(tmp_path, search, message):
    assert message in refused(tmp_path, table(search=SEARCH | search))


# --- rows that stand on others -------------------------------------------------------------------

MULTI = {"scales": [0.5, 1.0], "flip": True}


def linked(tmp_path, **row: Any) -> Params:
    """A table with a second row on the first."""
    values = copy.deepcopy(TABLE)
    values["rows"]["second"] = {**TABLE["rows"][ROW], **row}
    return read(tmp_path, values)


def test_a_row_on_anothers_weights_is_that_row_but_for_its_protocol(tmp_path):
    names = {key: TABLE["rows"][ROW][key] for key in ("method", "backbone", "dataset")}
    values = table(search=SEARCH, steps=70)
    values["rows"]["second"] = names | {"weights_of": ROW, "splits": ["test"], "test_time": MULTI}
    params = read(tmp_path, values)
    first, second = params.resolve(ROW), params.resolve("second", {"options.width": 4})
    changed = {"weights_of", "splits", "test_time", "search", "options"}
    assert second.model_dump(exclude=changed) == first.model_dump(exclude=changed)
    assert (second.splits, second.test_time.scales) == (("test",), (0.5, 1.0))
    assert second.search is None
    assert second.options == first.options | {"width": 4}


def test_a_row_on_anothers_weights_replaces_its_protocols_whole(tmp_path):
    """Half of a protocol is none: no window of the trained row stays under other scales."""
    window = {"window": [32, 32], "stride": [16, 16]}
    crop = {"resize": 64, "crop": [64, 64]}
    names = {key: TABLE["rows"][ROW][key] for key in ("method", "backbone", "dataset")}
    values = table(test_time=window, protocols={"crop": crop})
    on_it = {**names, "weights_of": ROW}
    values["rows"] |= {"same": on_it, "other": on_it | {"test_time": MULTI, "protocols": {}}}
    params = read(tmp_path, values)
    same, other = params.resolve("same"), params.resolve("other")
    assert (same.test_time.window, same.protocols["crop"].crop) == ((32, 32), (64, 64))
    assert (other.test_time.window, other.test_time.scales) == (None, (0.5, 1.0))
    assert other.protocols == {}


def test_a_row_on_anothers_weights_says_how_many_processes_score_it(tmp_path):
    names = {key: TABLE["rows"][ROW][key] for key in ("method", "backbone", "dataset")}
    values = table(workers=2)
    values["rows"]["second"] = {**names, "weights_of": ROW, "workers": 4}
    assert read(tmp_path, values).resolve("second").workers == 4


@pytest.mark.parametrize("name", ["", "Many", "val.crop", "a/b", "two words"])
def test_a_protocol_s_name_can_be_that_of_a_file_and_a_figure(tmp_path, name):
    assert "protocols" in refused(tmp_path, table(protocols={name: {"flip": True}}))
    assert read(tmp_path, table(protocols={"val-crop_2": {}})).resolve(ROW).protocols


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"weights_of": "nobody"}, "weights_of: no row 'nobody'"),
        ({"init": "fcn-resnet18-shape"}, f"init: no row .*did you mean '{ROW}'"),
        ({"init": "second"}, "init: 'second' must stand above it"),
        ({"weights_of": ROW}, "'options' says nothing beside weights_of; remove one of them"),
        ({"init": ROW, "search": SEARCH}, f"a search has no place beside init.*{ROW} is trained"),
    ],
)
def test_a_row_that_stands_on_nothing_fit_is_refused(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        linked(tmp_path, **row).resolve("second")


def test_a_network_is_not_evaluated_as_another(tmp_path):
    values = copy.deepcopy(TABLE)
    second = {"method": "pspnet", "backbone": "resnet18", "dataset": "shapes", "weights_of": ROW}
    values["rows"] |= {"second": second, "third": second | {"method": "fcn"}}
    values["rows"]["fourth"] = second | {"weights_of": "third"}
    params = read(tmp_path, values)
    with pytest.raises(InputError, match=f"method 'pspnet' is not that of {ROW}, 'fcn'"):
        params.resolve("second")
    assert params.resolve("third").weights_of == ROW
    with pytest.raises(InputError, match=f"'third' has no training of its own; name '{ROW}'"):
        params.resolve("fourth")


@pytest.mark.parametrize("key", ["init", "weights_of"])
def test_only_a_row_stands_on_another(tmp_path, key):
    for place in ("defaults", "datasets.shapes.recipe"):
        message = refused(tmp_path, with_values(TABLE, {f"{place}.{key}": ROW}))
        assert f"{place} says {key!r}; only a row may" in message


def test_what_was_published_changes_nothing_in_the_run(tmp_path):
    figures = {"source": "x", "paper": "arXiv:1411.4038", "metrics": ["miou"], "score": [72.25]}
    plain, told = (
        read(tmp_path, table(**row)).resolve(ROW) for row in ({}, {"published": figures})
    )
    assert told.published is not None
    assert told.published.score == (72.25,)
    assert told.published.link == "https://arxiv.org/abs/1411.4038"
    assert told.recipe() == plain.recipe()
    assert told.model_dump(exclude={"published"}) == plain.model_dump(exclude={"published"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": [72.25, 90.0]}, "score [72.25, 90.0] must be one figure per metric"),
        ({"score": [172.25]}, "less than or equal to 100"),
        ({"metrics": ["mIoU"]}, "(got 'mIoU')"),
        ({"paper": "1411.4038"}, "(got '1411.4038')"),
        ({"scroe": [1.0]}, "published.scroe'; did you mean 'score'?"),
    ],
)
def test_a_wrong_figure_is_told(tmp_path, change, message):
    figures = {"source": "x", "paper": "arXiv:1411.4038", "metrics": ["miou"], "score": [72.25]}
    assert message in refused(tmp_path, table(published=figures | change))


def test_tables_share_by_yaml_s_merge_key(tmp_path):
    text = (
        yaml.safe_dump(TABLE)
        + """
shared: {base: &base {method: fcn, backbone: resnet18, dataset: shapes, momentum: 0.1}}
"""
    )
    text = text.replace("rows:", "rows:\n  second: {<<: *base, momentum: 0.2}", 1)
    text = "shared:" + text.partition("shared:")[2] + text.partition("shared:")[0]
    params = read(tmp_path, text)
    assert params.resolve("second").momentum == 0.2  # and no complaint of a key that stands twice
    twice = text.replace("momentum: 0.2", "momentum: 0.2, momentum: 0.3")
    assert "the key 'momentum' stands twice" in refused(tmp_path, twice)


# --- the file and its values ---------------------------------------------------------------------


def test_missing_file_is_told(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml is missing; --params names another"):
        read_params(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("[]", "holds a list"),
        ("- a\n- b\n", "holds a list"),
        ("just text", "holds a str"),
        ("0", "holds a int"),
    ],
)
def test_what_is_no_table_is_told(tmp_path, text, found):
    message = refused(tmp_path, text)
    assert f"params.yaml {found}; a table with datasets, defaults and rows is expected" in message


def test_rows_given_twice_are_refused(tmp_path):
    text = yaml.safe_dump(TABLE)
    again = text + f"  {ROW}: {{method: pspnet, backbone: resnet18, dataset: shapes}}\n"
    assert f"the key {ROW!r} stands twice; remove one" in refused(tmp_path, again)


@pytest.mark.parametrize("path", [f"rows.{ROW}", "rows", "datasets.shapes", "datasets"])
def test_an_empty_entry_is_told(tmp_path, path):
    values = with_values(TABLE, {path: None})
    assert f"params.yaml: {path} is empty; give it a value" in refused(tmp_path, values)


def test_numbers_in_every_notation_are_numbers(tmp_path):
    text = f"""
datasets: {{shapes: {{recipe: {{learning_rate: 1e-3, weight_decay: '5e-5'}}}}}}
defaults: {{momentum: 8e-1, crop: [64, 64]}}
rows:
  {ROW}:
    {{method: fcn, backbone: resnet18, dataset: shapes, options: {{rate: 1e-3}},
    steps: 1e2, batch_size: 2, evaluate_every: 1, save_every: 1,
    search: {{space: {{min_learning_rate: {{choice: [1e-5, 0]}}}}, steps: 4, evaluate_every: 2,
    grace: 2}}}}
"""
    run = read(tmp_path, text).resolve(ROW)
    assert (run.momentum, run.learning_rate, run.weight_decay) == (0.8, 0.001, 5e-5)
    assert (run.options, run.steps) == ({"rate": 0.001}, 100)
    assert run.search is not None
    assert run.search.model_dump()["space"]["min_learning_rate"] == {"choice": [1e-5, 0]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"crop": [64]}, "crop.1: Field required (got [64])"),
        ({"crop": [64, 64, 64]}, "at most 2 items"),
        ({"crop": 64}, "crop: Input should be a valid tuple (got 64)"),
        ({"scale": [2.0, 0.5]}, "scale (2.0, 0.5) runs backwards"),
        ({"steps": 0}, "steps: Input should be greater than 0 (got 0)"),
        ({"steps": 1.5}, "(got 1.5)"),
        ({"flip": 1.5}, "less than or equal to 1 (got 1.5)"),
        ({"learning_rate": "fast"}, "(got 'fast')"),
        ({"splits": []}, "at least 1 item"),
        ({"optimizer": "sdg"}, "'sgd' or 'adamw' (got 'sdg')"),
        ({"workers": 9}, "batch_size 8 is less than 9 workers"),
        ({"class_weights": "even"}, "class_weights"),
        ({"class_weights": [1, -1]}, "greater than or equal to 0 (got -1)"),
        ({"lovasz_weight": -1}, "lovasz_weight: Input should be greater than or equal to 0"),
        ({"options": [1]}, "options: Input should be a valid dictionary (got [1])"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(tmp_path, row, message):
    found = refused(tmp_path, table(**row))
    assert message in found
    assert f"rows.{ROW}" in found


def test_a_wrong_value_is_told_where_it_was_written(tmp_path):
    values = with_values(TABLE, {"defaults.save_every": 0, "datasets.shapes.recipe.crop": [1]})
    message = refused(tmp_path, values)
    assert "defaults.save_every: Input should be greater than 0" in message
    assert "datasets.shapes.recipe.crop.1: Field required" in message
    assert f"rows.{ROW}" not in message


def test_a_value_nobody_gives_is_told(tmp_path):
    values = copy.deepcopy(TABLE)
    del values["defaults"]["steps"]
    assert f"'rows.{ROW}.steps' is missing" in refused(tmp_path, values)
