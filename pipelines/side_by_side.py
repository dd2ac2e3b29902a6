"""Rows of the table side by side on one cluster: as many as have room there, each in its turn.

Each row is a ``dvc repro`` of its own: DVC holds the repository only between stages, and is told
to wait for that (docs/decisions/0008). The Ray cluster is there before and after all of them.
What measures speed comes last, when nothing else runs.
"""

import os
from collections.abc import Callable, Mapping, Sequence

from pipelines.cluster.connection import lent
from pipelines.cluster.requirements import needs
from pipelines.project import Project
from pipelines.repro import Repro
from pipelines.turns import Row, in_turn, side_by_side
from segcore.errors import InputError
from segcore.files import read_yaml

ALONE = "benchmark"
"""The stage that wants the machine to itself."""


def run_rows(project: Project, names: Sequence[str], jobs: int) -> None:
    """Every stage of the rows. Raises InputError that names those that failed, at the end."""
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}; at least one row runs at a time")
    runs = {name: project.row(name) for name in dict.fromkeys(names)}
    verbs = verbs_of_rows(project)
    data = sorted({f"prepare@{run.dataset}" for run in runs.values()})
    # once, since two processes cannot write the same data
    if in_turn(["data"], lambda name: Repro(name, project.root, data, os.environ)):
        raise InputError(f"{' '.join(data)} failed; why stands above")
    with lent(jobs) as (environment, has):
        rows = [
            Row(name, needs(run, jobs), frozenset(filter(None, (run.init, run.weights_of))))
            for name, run in runs.items()
        ]
        side = [verb for verb in verbs if verb != ALONE]
        failed = side_by_side(rows, jobs, has, stages_of_row(project, side, environment))
    left = [name for name in runs if name not in failed and ALONE in verbs]
    failed += in_turn(left, stages_of_row(project, [ALONE], os.environ))
    if failed:
        raise InputError(
            f"{len(failed)} of {len(runs)} rows failed: {', '.join(failed)}; why stands above; "
            "what was done is kept, and the same command goes on from there"
        )
    print(f"done: {', '.join(runs)}; the report: dvc repro report")


def verbs_of_rows(project: Project) -> list[str]:
    """The stages that every row has."""
    stages = read_yaml(project.root / "dvc.yaml")["stages"]
    return [verb for verb, stage in stages.items() if stage.get("foreach") == "${rows}"]


def stages_of_row(
    project: Project, verbs: Sequence[str], environment: Mapping[str, str]
) -> Callable[[str], Repro]:
    """What begins these stages of a row, and no others: the data that they stand on is made, and
    DVC would want it for itself to see that, while another row reads it."""

    def begin(name: str) -> Repro:
        targets = [f"{verb}@{name}" for verb in verbs]
        return Repro(name, project.root, ["--single-item", *targets], environment)

    return begin
