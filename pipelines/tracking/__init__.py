"""The record of what ran (MLflow's runs) and the shelf of what came out of it (its registry).

The stage's own process is the only writer. Once a run has started, its server may die: that costs
one printed line, and what MLflow missed is replayed from ``metrics.jsonl``, which is the truth.
"""

import logging
import os
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from pipelines.tracking.gate import Decision, decide
from pipelines.tracking.mirror import Mirror
from pipelines.tracking.registry import MODEL_FILES, Registry, Version
from pipelines.tracking.runs import Runs, status_of

__all__ = [
    "MODEL_FILES",
    "Decision",
    "Mirror",
    "Store",
    "Version",
    "decide",
    "open_store",
    "status_of",
]


def open_store(root: Path) -> "Store":
    """The store that MLFLOW_TRACKING_URI names, else ``mlflow.db`` and ``mlartifacts`` in ``root``.

    Raises InputError, within some ten seconds, where it does not answer or cannot be read.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"
    store = Store(uri, root)
    with store.asked(), store.locked():  # two processes that create a database at once ruin it
        if uri.startswith("http"):
            _knock(uri)
        store.answer()
    return store


def _knock(uri: str) -> None:
    try:
        urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
    except HTTPError as error:  # it answers; a gateway need not know this page
        error.close()


class Store(Runs, Registry):
    """Runs and registered models of one store. Made by ``open_store``."""
