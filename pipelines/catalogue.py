"""The registered models and their versions as tables on the terminal, and what one is called."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.tracking import Store, Version
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
    table = Table("version", "aliases", "score", "measured on", "data", "row", "gate")
    for each in versions:
        withdrawn = ["withdrawn"] if "withdrawn" in each.tags else []
        measured, row, gate = (
            escape(each.tags.get(key, "–")) for key in ("measured", "row", "gate")
        )
        data, aliases = each.tags.get("data_hash", "–")[:10], ", ".join(each.aliases + withdrawn)
        table.add_row(str(each.number), aliases, _score(each.tags), measured, data, row, gate)
    Console().print(table)
    for move in store.history(name):
        print("{when} {alias}: {from} -> {to}, by {who}: {why}".format(**move))


def _score(tags: dict[str, str]) -> str:
    return f"{float(tags['score']):.4f}" if "score" in tags else "–"


def found(store: Store, model: str) -> Version:
    """``NAME@ALIAS`` or ``NAME@VERSION``; the champion unless said. Raises InputError."""
    name, _, version = model.partition("@")
    return store.version(name, version or "champion")


def scored(version: Version) -> dict[str, str]:
    """The tags that the gate reads. Raises InputError where the version has no score yet."""
    if {"score", "data_hash"} <= version.tags.keys():
        return version.tags
    raise InputError(f"version {version.number} has no score yet; run: dvc repro evaluate@ROW")
