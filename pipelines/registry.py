"""The registered models: what there is, what a version is worth, and which one is champion.

list [NAME]: the models, or one's versions and every move of its aliases; compare: two versions side
by side; promote: a version becomes champion if the gate lets it, or for a reason that you give;
rollback: the champion before this one is champion again, and this one does not come back unasked.
"""

import argparse
from pathlib import Path

from pipelines.catalogue import found, list_models, list_versions, scored
from pipelines.comparing import compare
from pipelines.stage import run_safely
from pipelines.tracking import Store, open_store
from segcore.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list").add_argument("name", nargs="?")
    comparing = verbs.add_parser("compare")
    comparing.add_argument("models", nargs=2, metavar="NAME@VERSION", help="or NAME@ALIAS")
    promoting, rolling = verbs.add_parser("promote"), verbs.add_parser("rollback")
    promoting.add_argument("model", metavar="NAME@VERSION", help="or NAME@ALIAS")
    promoting.add_argument("--because", help="a reason that stands above the scores; it is kept")
    rolling.add_argument("name")
    rolling.add_argument("--because", required=True, help="why; it is kept in the history")
    arguments = parser.parse_args()
    run_safely(lambda: act(arguments, open_store(Path.cwd())))


def act(arguments: argparse.Namespace, store: Store) -> None:
    match arguments.verb:
        case "list":
            list_models(store) if arguments.name is None else list_versions(store, arguments.name)
        case "compare":
            compare(store, *arguments.models)
        case "promote":
            promote(store, arguments.model, arguments.because)
        case "rollback":
            rollback(store, arguments.name, arguments.because)


def promote(store: Store, model: str, because: str | None) -> None:
    """Raises InputError where the gate refuses; says its reason."""
    version, name = found(store, model), model.partition("@")[0]
    tags = scored(version)
    gate = store.promote(
        name,
        version.number,
        score=float(tags["score"]),
        data_hash=tags["data_hash"],
        measured=tags.get("measured"),
        because=because,
    )
    if not gate.promoted:
        raise InputError(f"{name} version {version.number}: {gate.reason}; or say --because REASON")
    print(f"{name}: version {version.number} is champion; {gate.reason}")


def rollback(store: Store, name: str, because: str) -> None:
    """To the champion before this one; once more, to the one before that. The gate refuses the
    version that was left, so that no stage brings it back."""
    store.version(name, "champion")
    past = list[int]()
    for move in store.history(name):
        if move["alias"] == "champion":
            past = past[: past.index(move["to"])] if move["to"] in past else past
            past.append(move["to"])
    if len(past) < 2:
        raise InputError(f"{name} had no champion before version {past[-1]}; promote one by hand")
    promote(store, f"{name}@{past[-2]}", f"rolled back from version {past[-1]}: {because}")
    store.withdraw(name, past[-1], because)


if __name__ == "__main__":
    main()
