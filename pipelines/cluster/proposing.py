"""What a search tries next: decisions over what trials reported.

The same calls in the same order make the same decisions. So a search that was killed goes on
exactly where it was by telling its ledger to a new strategy.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol

import optuna
from optuna.samplers import RandomSampler, TPESampler
from optuna.study import StudyDirection

from segcore.search import Choice, Drawn, Int, LogUniform, Search, grid
from segcore.tables import Options

Figures = Mapping[str, float]
"""What a trial reports of itself: ``miou``, and ``latency_ms`` where it is measured."""


class Proposal(NamedTuple):
    """Trial ``number`` with these values up to the step ``until``, from the checkpoint that
    another trial wrote at a step (``source``: both numbers), else from its own, else afresh."""

    number: int
    values: Options
    until: int
    source: tuple[int, int] | None = None


class Strategy(Protocol):
    def propose(self) -> Proposal | None:
        """The next trial; None where another one must end first, or where there is none."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will be proposed."""
        ...

    def again(self, number: int) -> Proposal | None:
        """What ``propose`` answered before a search was cut off: trial ``number``."""
        ...

    def reported(self, number: int, step: int, figures: Figures) -> None: ...

    def ended(self, number: int, status: str) -> None:
        """As the event of the course says it: a trial that stopped did not reach its ``until``."""
        ...

    @property
    def needed(self) -> Collection[int]:
        """Trials besides those that are paused, from whose checkpoints one may go on."""
        ...

    def importance(self) -> dict[str, float]:
        """The share of each key in what made trials good; empty where there are too few."""
        ...


class Sampled:
    """Trials that all run to their end, with values by Optuna's samplers."""

    needed = ()

    def __init__(self, search: Search, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.search = search
        objectives = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]  # mIoU, latency
        random = search.algorithm in ("random", "grid")
        sampler = RandomSampler(seed) if random else TPESampler(seed=seed)
        directions = objectives if search.latency else objectives[:1]
        self.study = optuna.create_study(directions=directions, sampler=sampler)
        self.grid = grid(search.space)
        self.trials = list[optuna.Trial]()
        self.last = dict[int, Figures]()

    @property
    def exhausted(self) -> bool:
        return len(self.trials) >= self.search.most_trials

    def propose(self) -> Proposal | None:
        if self.exhausted:
            return None
        number = len(self.trials)
        if self.search.algorithm == "grid":
            self.study.enqueue_trial(_coded(next(self.grid), self.search))
        trial = self.study.ask()
        self.trials.append(trial)
        return Proposal(number, _draw(trial, self.search), self.search.steps)

    def again(self, number: int) -> Proposal | None:
        return self.propose()

    def reported(self, number: int, step: int, figures: Figures) -> None:
        self.last[number] = figures

    def ended(self, number: int, status: str) -> None:
        last = self.last.get(number)
        if status == "failed" or last is None:
            self.study.tell(self.trials[number], state=optuna.trial.TrialState.FAIL)
            return
        objectives = [last["miou"], last["latency_ms"]] if self.search.latency else [last["miou"]]
        self.study.tell(self.trials[number], objectives)

    def importance(self) -> dict[str, float]:
        complete = [t for t in self.study.trials if t.state == optuna.trial.TrialState.COMPLETE]
        if len({tuple(trial.values) for trial in complete}) < 2:
            return {}
        found = optuna.importance.get_param_importances(self.study)
        return {key: round(found[key], 6) for key in self.search.space if key in found}


def _draw(trial: optuna.Trial, search: Search) -> Options:
    values = Options()
    for key, space in search.space.items():
        if space.applies(values):
            values[key] = _drawn(trial, key, space)
    return values


def _drawn(trial: optuna.Trial, key: str, space: Drawn) -> Any:
    if isinstance(space, Choice):  # by its place, since Optuna takes plain values only
        return space.choice[trial.suggest_categorical(key, range(len(space.choice)))]
    low, high = space.spread
    if isinstance(space, Int):
        return trial.suggest_int(key, low, high)
    return trial.suggest_float(key, low, high, log=isinstance(space, LogUniform))


def _coded(values: Options, search: Search) -> Options:
    """The same values as ``_drawn`` names them."""
    spaces = search.space
    return {
        key: space.choice.index(value) if isinstance(space := spaces[key], Choice) else value
        for key, value in values.items()
    }
