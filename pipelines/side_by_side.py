"""Rows of the table side by side on one cluster: as many as have room there, each in its turn.

Each row is a ``dvc repro`` of its own: DVC holds the repository only between stages, and is told
to wait for that (docs/decisions/0008). The Ray cluster is there before and after all of them.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines import cluster
from pipelines.project import Project
from pipelines.repro import Repro
from segcore.errors import InputError
from segcore.files import read_yaml

SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Row:
    """``needs`` is the most that it takes of the cluster at a time, by kind; ``after`` names the
    rows that it stands on."""

    name: str
    needs: Mapping[str, float]
    after: frozenset[str] = frozenset()


def next_row(
    waiting: Sequence[Row], running: Sequence[Row], has: Mapping[str, float]
) -> Row | None:
    """The first one that waits for no other row, once there is room for it.

    Smaller rows behind it do not overtake it: they could take its room for ever."""
    unfinished = {row.name for row in (*waiting, *running)}
    row = next((row for row in waiting if not row.after & unfinished), None)
    if row is None or not running:
        return row
    taken = {kind: sum(other.needs.get(kind, 0) for other in running) for kind in has}
    fits = all(count <= has.get(kind, 0) - taken.get(kind, 0) for kind, count in row.needs.items())
    return row if fits else None


def run_rows(project: Project, names: Sequence[str], jobs: int) -> None:
    """Every stage of the rows. Raises InputError that names those that failed, at the end."""
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}; at least one row runs at a time")
    runs = {name: project.row(name) for name in dict.fromkeys(names)}
    stages = read_yaml(project.root / "dvc.yaml")["stages"]
    of_rows = [name for name, stage in stages.items() if stage.get("foreach") == "${rows}"]
    data = sorted({f"prepare@{run.dataset}" for run in runs.values()})
    # once, since two processes cannot write the same data
    if not Repro("data", project.root, data, os.environ).succeeded():
        raise InputError(f"{' '.join(data)} failed; why stands above")
    with cluster.lent(jobs) as (environment, has):
        waiting = [
            Row(name, cluster.needs(run, jobs), frozenset(filter(None, (run.init, run.weights_of))))
            for name, run in runs.items()
        ]

        def begin(name: str) -> Repro:
            return Repro(name, project.root, [f"{each}@{name}" for each in of_rows], environment)

        failed = _run_all(waiting, jobs, has, begin)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(runs)} rows failed: {', '.join(failed)}; why stands above; "
            "what was done is kept, and the same command goes on from there"
        )
    print(f"done: {', '.join(runs)}; the report: dvc repro report")


def _run_all(
    waiting: list[Row], jobs: int, has: Mapping[str, float], begin: Callable[[str], Repro]
) -> list[str]:
    running, failed = dict[str, tuple[Row, Repro]](), list[str]()
    try:
        while waiting or running:
            rows = [row for row, _ in running.values()]
            row = next_row(waiting, rows, has) if len(running) < jobs else None
            if row:
                waiting.remove(row)
                if lost := row.after & set(failed):
                    print(f"[{row.name}] needs {', '.join(lost)}, which failed")
                    failed.append(row.name)
                else:
                    running[row.name] = row, begin(row.name)
                continue
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for name in [name for name, (_, repro) in running.items() if repro.ended()]:
                _, repro = running.pop(name)
                failed += [] if repro.succeeded() else [name]
    finally:
        for _, repro in running.values():
            repro.stop()
    return failed
