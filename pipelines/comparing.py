"""Two versions of registered models side by side, on the terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.catalogue import found, scored
from pipelines.tracking import Store, Version, decide
from segcore.files import read_json
from segcore.report.gaps import paired


def compare(store: Store, one: str, other: str) -> None:
    """Scores of both runs, the values of the configuration that differ, whether the difference in
    mIoU is more than chance of the images, and what a gate says."""
    pair = [found(store, model) for model in (one, other)]
    (scores, config), (other_scores, other_config) = (store.figures(each) for each in pair)
    table = Table("", one, other, "difference")
    for name in sorted(scores.keys() & other_scores.keys()):
        a, b = scores[name], other_scores[name]
        table.add_row(name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}")
    files = [_scores_file(store, each) for each in pair]
    looks = [each["looked_at"][""] if each else "–" for each in files]
    if looks[0] != looks[1]:
        table.add_row("looked at", *looks, "")
    table.add_section()
    for name in sorted(config.keys() | other_config.keys()):
        values = config.get(name, "–"), other_config.get(name, "–")
        if values[0] != values[1]:
            table.add_row(name, *map(escape, values), "")
    Console().print(table)
    for split, (value, low, high) in _differences(*files).items():
        print(f"{split} mIoU: {value:+.4f} (95 %, paired over images: {low:+.4f} to {high:+.4f})")
    print(f"{other} against {one}: {decide(scored(pair[1]), scored(pair[0]), None).reason}")


def _scores_file(store: Store, version: Version) -> dict[str, Any] | None:
    file = store.fetch_file(version.run_id, "scores.json")
    return read_json(file) if file else None


def _differences(
    theirs: dict[str, Any] | None, ours: dict[str, Any] | None
) -> dict[str, list[float]]:
    """By split that both were scored on alike, the second one's mIoU minus the first one's, and
    the ends of its interval."""
    if not theirs or not ours or _basis(theirs) != _basis(ours):
        return {}
    classes = len(ours["classes"])
    shared = {split: theirs["splits"].get(split) for split in ours["splits"]}
    gaps = {
        split: paired(ours["splits"][split], other, classes)
        for split, other in shared.items()
        if other
    }
    return {split: each for split, each in gaps.items() if each}


def _basis(scores: dict[str, Any]) -> tuple[Any, ...]:
    return scores["data_hash"], scores["classes"], scores["looked_at"][""]
