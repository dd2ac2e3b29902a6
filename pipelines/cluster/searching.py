"""Ray Tune: trials that search the space of one row.

Ray Tune places trials, brings their reports and starts one again whose process died. What comes
next and what is over decides a ``Course``: Ray's own snapshots of a search forget which trials it
has judged, and may be cut short by a kill.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from shutil import rmtree
from typing import Any

import ray.tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipelines.cluster.course import Course, Event
from pipelines.cluster.probes import check_places
from pipelines.cluster.recording import LAST_WORDS, noted
from pipelines.cluster.requirements import resources, trials_at_once
from pipelines.cluster.trials import SLIVER, many_workers, one_process
from pipelines.cluster.watchdog import STALL_SECONDS
from segcore.row import Run
from segcore.tables import Options

RESTARTS = 2
"""How often a trial whose process died goes on from its last checkpoint."""


def search_row(
    values: Options,
    run: Run,
    shards: str,
    folder: Path,
    past: Iterable[Event],
    listener: Callable[[Event], None],
) -> dict[str, float]:
    """Tries settings of the space of ``run.search``; returns how important each key was.

    ``values`` are those of the row as a trial trains it. ``past`` is what the listener heard
    before this search was cut off: it goes on there, its trials from their checkpoints. A trial
    has failed whose loss is no longer finite or whose values do not fit together; the search goes
    on without it. Raises InputError where a node does not see the folder or the shards.
    """
    search = run.search
    assert search is not None
    check_places(folder, shards)
    hold = {kind: count * search.workers for kind, count in resources(run).items()}
    concurrent = search.concurrent or trials_at_once(run, search.workers)
    course = Course(search, run.seed, folder, hold, concurrent, listener)
    course.replay(past)
    if not course.is_over:
        _tuner(course, values, shards, hold).fit()
    if not course.is_over:  # Ray has taken an interrupt for an end
        raise KeyboardInterrupt
    return course.strategy.importance()


def _tuner(course: Course, values: Options, shards: str, hold: dict[str, float]) -> ray.tune.Tuner:
    alone = course.search.workers == 1
    rmtree(course.folder / "ray", ignore_errors=True)
    shared = {
        "base": values,
        "shards": shards,
        "latency": course.search.latency,
        "stall_seconds": STALL_SECONDS,
    }
    trial = ray.tune.with_parameters(one_process if alone else many_workers, shared=shared)
    proposals = _Proposals(course)
    return ray.tune.Tuner(
        ray.tune.with_resources(trial, hold if alone else {"CPU": SLIVER}),
        tune_config=ray.tune.TuneConfig(
            num_samples=-1,
            reuse_actors=alone,  # a process imports torch once, not once per trial
            search_alg=proposals,
            scheduler=_Decisions(proposals),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray.tune.RunConfig(
            name="ray",
            storage_path=str(course.folder),
            verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=RESTARTS),
        ),
    )


class _Proposals(Searcher):
    """Ray Tune asks here for the next trial, and tells here that one is over."""

    def __init__(self, course: Course) -> None:
        super().__init__()
        self.course = course
        self.numbers = dict[str, int]()

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self.course.is_over:
            return Searcher.FINISHED
        proposal = self.course.next()
        if proposal is None:
            return None
        self.numbers[trial_id] = proposal.number
        return self.course.order(proposal)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        number = self.numbers.pop(trial_id)
        if error:
            words = noted(self.course.place(number), LAST_WORDS)
            what = f"it ended {RESTARTS + 1} times before its time"
            self.course.failed[number] = f"{what}: {words}" if words else what
        self.course.ended(number)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass  # the scheduler has heard it


class _Decisions(FIFOScheduler):
    """Ray Tune asks here after every report."""

    def __init__(self, proposals: _Proposals) -> None:
        super().__init__()
        self.proposals = proposals

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = self.proposals.numbers[trial.trial_id]
        stops = self.proposals.course.reported(number, result)
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE
