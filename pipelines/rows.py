"""The zoo's rows: list them, show one, add some to ``params.yaml`` with their datasets."""

import argparse
import io
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from pipelines.stage import run_safely
from segcore.errors import InputError, suggestion, validated
from segcore.files import written_whole
from segcore.params import Params, read_params

ZOO = Path(__file__).parent / "zoo.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the table")
    verbs = parser.add_subparsers(dest="verb", required=True)
    listing = verbs.add_parser("list", help="the zoo's rows, a line each")
    listing.add_argument("words", nargs="*", help="only rows whose names hold all of these")
    for verb, what in (("show", "a row in full"), ("add", "copy rows into the table")):
        verbs.add_parser(verb, help=what).add_argument("rows", nargs="+")
    arguments = parser.parse_args()
    run_safely(lambda: _act(arguments))


def _act(arguments: argparse.Namespace) -> None:
    zoo = read_params(ZOO)
    if arguments.verb == "list":
        for name in zoo.rows:
            if all(word in name for word in arguments.words):
                print(name)
    elif arguments.verb == "show":
        for name in arguments.rows:
            print(yaml.safe_dump({name: show(zoo, name)}, sort_keys=False).rstrip())
    else:
        add(zoo, arguments.rows, arguments.params)


def show(zoo: Params, name: str) -> dict[str, Any]:
    """A row as it stands in the zoo. Raises InputError on an unknown name."""
    if name not in zoo.rows:
        raise InputError(f"the zoo has no row {name!r}{suggestion(name, zoo.rows)}")
    return zoo.rows[name]


def add(zoo: Params, names: list[str], table: Path) -> None:
    """Copies rows, and datasets that the table lacks; comments, order and layout stay."""
    read_params(table)
    document = YAML()
    document.width = 100
    content, source = document.load(table.read_text()), document.load(ZOO.read_text())
    content.setdefault("rows", {})
    for name in names:
        dataset = show(zoo, name)["dataset"]
        if name in content["rows"]:
            raise InputError(f"{table} has a row {name!r} already; rename one of them")
        content["rows"][name] = source["rows"][name]
        content["datasets"].setdefault(dataset, source["datasets"][dataset])
    text = io.StringIO()
    document.dump(content, text)
    validated(Params, yaml.safe_load(text.getvalue()), str(table))
    with written_whole(table) as aside:
        aside.write_text(text.getvalue())
    print(f"{table} has {', '.join(names)}; run: dvc repro")


if __name__ == "__main__":
    main()
