"""Tables of the registered models, on the terminal: all of them, one's versions, two compared."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.tracking import Store, Version, decide
from segcore.errors import InputError


def list_models(store: Store) -> None:
    table = Table("model", "versions", "candidate", "champion", "score", "row")
    for name in store.names():
        versions = store.versions(name)
        owners = {alias: each for each in versions for alias in each.aliases}
        cells = [str(owners[a].number) if a in owners else "–" for a in ("candidate", "champion")]
        tags = owners["champion"].tags if "champion" in owners else dict[str, str]()
        table.add_row(name, str(len(versions)), *cells, _score(tags), tags.get("row", "–"))
    Console().print(table)


def list_versions(store: Store, name: str) -> None:
    versions = store.versions(name)
    if not versions:
        store.version(name, "champion")  # says what there is instead
    table = Table("version", "aliases", "score", "data", "row", "gate")
    for each in versions:
        facts = (escape(each.tags.get(key, "–")) for key in ("row", "gate"))
        data = each.tags.get("data_hash", "–")[:10]
        table.add_row(str(each.number), ", ".join(each.aliases), _score(each.tags), data, *facts)
    Console().print(table)
    for move in store.history(name):
        print("{when} {alias}: {from} -> {to}, by {who}: {why}".format(**move))


def _score(tags: dict[str, str]) -> str:
    return f"{float(tags['score']):.4f}" if "score" in tags else "–"


def compare(store: Store, one: str, other: str) -> None:
    """Scores of both runs, the values of the configuration that differ, and what a gate says."""
    pair = [found(store, model) for model in (one, other)]
    (scores, config), (other_scores, other_config) = (store.figures(each) for each in pair)
    table = Table("", one, other, "difference")
    for name in sorted(scores.keys() & other_scores.keys()):
        a, b = scores[name], other_scores[name]
        table.add_row(name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}")
    table.add_section()
    for name in sorted(config.keys() | other_config.keys()):
        values = config.get(name, "–"), other_config.get(name, "–")
        if values[0] != values[1]:
            table.add_row(name, *map(escape, values), "")
    Console().print(table)
    print(f"{other} against {one}: {decide(scored(pair[1]), scored(pair[0]), None).reason}")


def found(store: Store, model: str) -> Version:
    """``NAME@ALIAS`` or ``NAME@VERSION``; the champion unless said. Raises InputError."""
    name, _, version = model.partition("@")
    return store.version(name, version or "champion")


def scored(version: Version) -> dict[str, str]:
    """The tags that the gate reads. Raises InputError where the version has no score yet."""
    if {"score", "data_hash"} <= version.tags.keys():
        return version.tags
    raise InputError(f"version {version.number} has no score yet; run: dvc repro evaluate@ROW")
