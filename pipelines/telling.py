"""What ``evaluate`` found, told to the row's run and to the registry, and in ``lineage.json``."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.lineage import lineage
from pipelines.tracking import Store, Version
from segcore.files import write_json
from segcore.protocols import as_seen
from segcore.score_pictures import draw_confusion

Results = dict[str, Any]  # what ``scores.json`` says


def tell(store: Store, version: Version, scores: Results, split: str, folder: Path) -> None:
    """``split`` is the one that decides, ``folder`` the row's, with ``scores.json`` in it."""
    key, run_id, data_hash = scores["row"], version.run_id, scores["data_hash"]
    _log(store, run_id, scores, split, folder)
    deciding = scores["splits"][split]
    miou, (low, high) = deciding["miou"], deciding["intervals"]["miou"]
    measured = f"{split}; {as_seen(scores['looked_at'][''], deciding)}"
    decision = store.promote(
        key, version.number, score=miou, data_hash=data_hash, measured=measured
    )
    trusted = f"{split} mIoU {miou:.4f} (95 %: {low:.4f} to {high:.4f})"
    print(f"{key} version {version.number}: {trusted}; champion: {decision.reason}")
    facts = {
        "model": key,
        "version": str(version.number),
        "aliases": store.aliases(key, version.number),
        "run_id": run_id,
        "data_hash": data_hash,
        "measured": measured,
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **lineage(store.root),
    }
    write_json(folder / "lineage.json", facts)


def _log(store: Store, run_id: str, scores: Results, split: str, folder: Path) -> None:
    named = dict(scores["splits"])
    for protocol, results in scores["protocols"].items():
        named |= {f"{protocol}.{split}": result for split, result in results.items()}
    for name, result in named.items():
        figures = {f"{name}.{figure}": result[figure] for figure in result["intervals"]}
        store.log_metrics(run_id, figures)
        rows = list(zip(scores["classes"], result["iou"], result["accuracy"], strict=True))
        store.log_table(run_id, f"{name}_classes", ["class", "iou", "accuracy"], rows)
    store.log_file(run_id, folder / "scores.json")
    for picture in sorted((folder / "overlays").glob("*.png")):
        store.log_file(run_id, picture, "overlays")
    with TemporaryDirectory() as place:
        drawn = Path(place) / "confusion.png"
        draw_confusion(scores["splits"][split]["confusion"], scores["classes"], drawn)
        store.log_file(run_id, drawn)
