"""The gate before the alias ``champion``, and the record of every move of an alias."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.lineage import who

COMPARED = {"data_hash": "scored on data", "measured": "measured on"}
"""The facts in which a model and its rival must agree, and how a refusal says so."""
BY_HAND = "promote by hand with a reason"


class Decision(NamedTuple):
    """What the gate before ``champion`` decided, and why."""

    promoted: bool
    reason: str


def decide(facts: dict[str, str], champion: dict[str, str] | None, because: str | None) -> Decision:
    """Whether a model becomes champion, from its facts and its rival's: ``score``, ``data_hash``,
    and ``measured``, the split and the protocol of the score.

    The first one passes; a later one must score higher on the same data, measured alike. Other
    scores say nothing about which model is better, and one that was ``withdrawn`` by a rollback
    had its reason: then only a person's (``because``) promotes.
    """
    if not math.isfinite(float(facts["score"])):
        return Decision(False, f"refused: its score is {facts['score']}")
    if because:
        return Decision(True, because)
    if why := facts.get("withdrawn"):
        return Decision(False, f"refused: it was withdrawn ({why}); {BY_HAND}")
    if champion is None:
        return Decision(True, f"first champion, score {facts['score']}")
    for fact, how in COMPARED.items():
        ours, theirs = (each.get(fact, "nothing that is known") for each in (facts, champion))
        if ours != theirs:
            told = f"refused: {how} {ours}, the champion on {theirs}"
            return Decision(False, f"{told}; score the champion so as well, or {BY_HAND}")
    old, new = champion["score"], facts["score"]
    if float(new) > float(old):
        return Decision(True, f"score {new} is better than {old} on the same data")
    return Decision(False, f"refused: score {new} is not better than {old} on the same data")


def move_record(root: Path, alias: str, before: int | None, after: int, why: str) -> dict[str, Any]:
    """One move of an alias from version ``before`` (None: it had none) to version ``after``."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": who(root),
        "why": why,
        "alias": alias,
        "from": before,
        "to": after,
    }
