"""The gate before the alias ``champion``, and the record of every move of an alias."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.lineage import who


class Decision(NamedTuple):
    """What the gate before ``champion`` decided, and why."""

    promoted: bool
    reason: str


def decide(facts: dict[str, str], champion: dict[str, str] | None, because: str | None) -> Decision:
    """Whether a model becomes champion, from its ``score`` and ``data_hash`` and its rival's.

    The first one passes; a later one must score higher on the same data. Scores on different data
    say nothing about which model is better: then only a person's reason (``because``) promotes.
    """
    if not math.isfinite(float(facts["score"])):
        return Decision(False, f"refused: its score is {facts['score']}")
    if because:
        return Decision(True, because)
    if champion is None:
        return Decision(True, f"first champion, score {facts['score']}")
    if champion.get("data_hash") != facts["data_hash"]:
        return Decision(
            False,
            f"refused: scored on data {facts['data_hash']}, the champion on "
            f"{champion.get('data_hash', 'none')}; score the champion on this data, or promote by "
            "hand with a reason",
        )
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
