"""Ray: workers that train one row, trials that search. Nothing outside this folder imports ray."""

from pipelines.cluster.connection import cluster
from pipelines.cluster.searching import Listener, search_row
from pipelines.cluster.training import train_row

__all__ = ["Listener", "cluster", "search_row", "train_row"]
