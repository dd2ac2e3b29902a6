"""The zoo's rows: list them, show one, add some to ``params.yaml``; and run several of that."""

import argparse
from pathlib import Path

from pipelines.adding import add
from pipelines.project import Project
from pipelines.stage import run_safely
from pipelines.zoo import FILTERS, ZOO, lines, select, show
from segcore.params import read_params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the table")
    verbs = parser.add_subparsers(dest="verb", required=True)
    listing = verbs.add_parser("list", help="the zoo's rows, a line each")
    listing.add_argument("words", nargs="*", help="only rows whose names hold all of these")
    for name in FILTERS:
        listing.add_argument(f"--{name}", help=f"only rows of this {name}")
    for verb, what in (("show", "a row in full"), ("add", "copy rows into the table")):
        verbs.add_parser(verb, help=what).add_argument("rows", nargs="+")
    running = verbs.add_parser("run", help="every stage of some of the table's rows, side by side")
    running.add_argument("rows", nargs="+")
    running.add_argument("--jobs", type=int, default=2, help="rows at once, at most (2)")
    arguments = parser.parse_args()
    run_safely(lambda: _act(arguments))


def _act(arguments: argparse.Namespace) -> None:
    if arguments.verb == "run":
        from pipelines.side_by_side import run_rows  # needs ray; the other verbs do not

        run_rows(Project(Path.cwd(), arguments.params), arguments.rows, arguments.jobs)
        return
    zoo = read_params(ZOO)
    if arguments.verb == "list":
        wanted = {name: getattr(arguments, name) for name in FILTERS if getattr(arguments, name)}
        print("\n".join(lines(select(zoo, arguments.words, wanted))))
    elif arguments.verb == "show":
        print("\n".join(show(zoo, name) for name in arguments.rows))
    else:
        add(zoo, arguments.rows, arguments.params)


if __name__ == "__main__":
    main()
