"""Ray Tune: trials that search the space of one row."""

from pathlib import Path
from typing import Any, Protocol

import ray.tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from pipelines.cluster.connection import resources
from segcore.errors import InputError
from segcore.row import Run
from segcore.runs import train
from segcore.search import Choice, Int, LogUniform, Search, Uniform
from segcore.tables import with_values
from segcore.training import Evaluated


class Listener(Protocol):
    """Who is told about trials, in the process that searches."""

    def started(self, trial: str, values: dict[str, Any]) -> None: ...
    def reported(self, trial: str, step: int, miou: float) -> None: ...
    def ended(self, trial: str, status: str) -> None: ...


def search_row(
    values: dict[str, Any], run: Run, shards: str, name: str, storage: Path, listener: Listener
) -> None:
    """Tries ``run.search.trials`` settings of its space; ``values`` are those of the row.

    A trial trains in one process and reports each evaluation; ASHA (Li et al., 2020,
    arXiv:1810.05934) stops the worse ones early, and Optuna's TPE proposes the next.
    """
    assert run.search is not None
    search = run.search
    trial = ray.tune.with_resources(
        ray.tune.with_parameters(_trial, base=values, shards=shards), resources(run)
    )
    tuner = ray.tune.Tuner(
        trial,
        tune_config=ray.tune.TuneConfig(
            num_samples=search.trials,
            max_concurrent_trials=search.concurrent,
            reuse_actors=True,  # a process imports torch once, not once per trial
            search_alg=OptunaSearch(_space(search), metric="miou", mode="max", seed=run.seed),
            scheduler=ASHAScheduler(
                time_attr="step",
                metric="miou",
                mode="max",
                max_t=search.steps + 1,  # a trial that reaches max_t counts as stopped
                grace_period=search.grace,
                reduction_factor=search.reduction,
            ),
        ),
        run_config=ray.tune.RunConfig(
            name=name,
            storage_path=str(storage),
            verbose=0,
            callbacks=[_Forward(listener)],
        ),
    )
    failed = tuner.fit().errors
    if failed:
        raise InputError(f"{len(failed)} trial(s) failed; the first: {_last_line(failed[0])}")


def _trial(config: dict[str, Any], *, base: dict[str, Any], shards: str) -> None:
    run = Run.model_validate(with_values(base, config))
    for event in train(run, shards):
        if isinstance(event, Evaluated):
            ray.tune.report({"step": event.number, "miou": event.scores.miou})


def _last_line(error: BaseException) -> str:
    return [line for line in str(error).splitlines() if line.strip()][-1]


def _space(search: Search) -> dict[str, Any]:
    return {key: _domain(domain) for key, domain in search.space.items()}


def _domain(domain: Choice | Uniform | LogUniform | Int) -> Any:
    match domain:
        case Choice(choice=values):
            return ray.tune.choice(values)
        case Uniform(uniform=(low, high)):
            return ray.tune.uniform(low, high)
        case LogUniform(loguniform=(low, high)):
            return ray.tune.loguniform(low, high)
        case Int(int=(low, high)):
            return ray.tune.randint(low, high + 1)


class _Forward(ray.tune.Callback):
    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.listener.started(trial.trial_id, trial.config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
    ) -> None:
        if "miou" in result:
            self.listener.reported(trial.trial_id, result["step"], result["miou"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.listener.ended(trial.trial_id, "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.listener.ended(trial.trial_id, "FAILED")
