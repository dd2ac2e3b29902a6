"""Copies rows of the zoo into a table of one's own, written out in full."""

import io
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from segcore.datasets import list_datasets
from segcore.errors import InputError, suggestion, validated
from segcore.files import read_yaml, written_whole
from segcore.params import LINKS, Params, read_params
from segcore.row import Run

NULL = "tag:yaml.org,2002:null"
SHORT = 70
"""Characters up to which a table within a row stands on one line."""


def add(zoo: Params, names: list[str], table: Path) -> None:
    """Adds rows, those that they stand on, and datasets or recipes that the table lacks.

    The table's comments, order and layout stay. Raises InputError where a row is there already,
    or its dataset is one that nobody can read; then nothing is written.
    """
    there = read_params(table)
    document = YAML()
    document.width = 100
    document.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar(NULL, "null")
    )
    content = document.load(table.read_text())
    content.setdefault("rows", {})
    added = list(dict.fromkeys(each for name in names for each in (*_below(zoo, name), name)))
    added = [name for name in added if name in names or name not in there.rows]
    for name in added:
        if name in there.rows:
            raise InputError(f"{table} has a row {name!r} already; rename one of them")
        dataset = str(zoo.rows[name]["dataset"])
        _check_reader(name, dataset, there if dataset in there.datasets else zoo)
        content["rows"][name] = written(in_order(zoo.rows[name]))
        values = zoo.dataset(dataset).model_dump(exclude_unset=True)
        held = content["datasets"].setdefault(dataset, written(values))
        held.setdefault("recipe", written(values)["recipe"])
    text = io.StringIO()
    document.dump(content, text)
    with written_whole(table) as aside:
        aside.write_text(text.getvalue())
        copied = validated(Params, read_yaml(aside), str(table))
        for name in added:
            copied.resolve(name)
    print(f"{table} has {', '.join(added)}; run: dvc repro")


def require(zoo: Params, name: str) -> None:
    """Raises InputError where the zoo has no such row."""
    if name not in zoo.rows:
        near = get_close_matches(name, zoo.rows, n=1, cutoff=0.6)
        remedy = suggestion(name, near) or "; python -m pipelines.rows list names those there are"
        raise InputError(f"the zoo has no row {name!r}{remedy}")


def _below(zoo: Params, name: str) -> list[str]:
    """The rows that a row stands on, the lowest first. Raises InputError on an unknown name."""
    require(zoo, name)
    others = [str(zoo.rows[name][key]) for key in sorted(LINKS & zoo.rows[name].keys())]
    return [each for other in others for each in (*_below(zoo, other), other)]


def _check_reader(row: str, dataset: str, holder: Params) -> None:
    if (holder.dataset(dataset).form or dataset) not in list_datasets():
        raise InputError(
            f"{row}: dataset {dataset} has no reader in this version (there is "
            f"{', '.join(list_datasets())}); prepare your copy of it with form: folder, under "
            f"datasets.{dataset} of your table, then add the row"
        )


def in_order(row: dict[str, Any]) -> dict[str, Any]:
    """What a row is comes first, whatever it took over from others."""
    return {key: row[key] for key in Run.model_fields if key in row}


def written(values: dict[str, Any]) -> CommentedMap:
    """As a person would write it: a line per key, short tables on one line."""
    result = CommentedMap()
    for key, value in values.items():
        result[key] = value
        if isinstance(value, dict):
            result[key] = written(value)
            if len(str(value)) <= SHORT:
                result[key].fa.set_flow_style()
        elif isinstance(value, list):
            result[key] = CommentedSeq(value)
            result[key].fa.set_flow_style()
    return result
