"""Ray: workers that train a row, trials that search, tasks that prepare; imported here alone."""

from pipelines.cluster.connection import cluster
from pipelines.cluster.preparing import on_cluster
from pipelines.cluster.searching import Listener, search_row
from pipelines.cluster.training import train_row

__all__ = ["Listener", "cluster", "on_cluster", "search_row", "train_row"]
