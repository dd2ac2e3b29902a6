"""Ray: workers that train a row, trials that search, tasks that prepare; imported here alone."""

from pipelines.cluster.connection import cluster, lent
from pipelines.cluster.preparing import on_cluster
from pipelines.cluster.requirements import needs
from pipelines.cluster.searching import search_row
from pipelines.cluster.training import train_row
from pipelines.cluster.watchdog import written_stacks

__all__ = [
    "cluster",
    "lent",
    "needs",
    "on_cluster",
    "search_row",
    "train_row",
    "written_stacks",
]
