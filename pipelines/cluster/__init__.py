"""Ray: workers that train a row, trials that search, tasks that prepare; imported here alone.

Each process of a cluster imports only the module that it needs: there are three of them one after
the other before a training takes its first step.
"""

import os

from pipelines.cluster.watchdog import STALL_SECONDS
from pipelines.processes import is_this_machine

# Ray reads these while it is imported, here and in the processes that it starts. Its own values
# cost two seconds per report, and wait a minute for the workers of a node that has died and half
# a minute for one that cannot answer any more.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", f"{STALL_SECONDS:.0f}")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "3")
_ALONE = is_this_machine(os.environ.get("RAY_ADDRESS"))
# Named for the systems where 0 is the default: a cluster of this machine alone then listens on
# loopback only, and who joins it must say the same. Otherwise Ray takes an address of loopback
# for this machine's public one.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0" if _ALONE else "1")
# One process less to start: nobody takes back the one machine with notice.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0" if _ALONE else "1")
