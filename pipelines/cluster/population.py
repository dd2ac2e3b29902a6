"""Population based training (Jaderberg et al., 2017, arXiv:1711.09846), in rounds.

All members train for ``grace`` steps; then the worst quarter go on from checkpoints of the best
quarter, with values near theirs. Whether members train side by side or in turn makes no
difference, and nothing random depends on more than (seed, round, member).
"""

from typing import Any

import numpy as np

from pipelines.cluster.proposing import Figures, Proposal
from segcore.search import Choice, Drawn, Int, LogUniform, Search
from segcore.tables import Options

QUANTILE, RESAMPLED = 0.25, 0.25
"""The share of members that is replaced, and how often a value is drawn anew rather than moved."""
FACTORS = 0.8, 1.25
"""What a value is moved by."""


class Population:
    """The strategy ``pbt``."""

    def __init__(self, search: Search, seed: int) -> None:
        self.search, self.seed = search, seed
        self.members = self.needed = range(search.most_trials)
        self.round = 0
        self.values = dict[int, Options]()
        self.scores = dict[int, float]()
        self.out = set[int]()
        self.waiting = [self._fresh(member) for member in self.members]
        self.training = set[int]()

    @property
    def exhausted(self) -> bool:
        return not self.waiting and not self.training

    def propose(self) -> Proposal | None:
        if not self.waiting:
            return None
        proposal = self.waiting.pop(0)
        self.values[proposal.number] = proposal.values
        self.training.add(proposal.number)
        return proposal

    def again(self, number: int) -> Proposal | None:
        return self.propose()

    def reported(self, number: int, step: int, figures: Figures) -> None:
        self.scores[number] = figures["miou"]

    def ended(self, number: int, status: str) -> None:
        self.training.discard(number)
        if status in ("failed", "stopped"):  # the latter when its patience was at its end
            self.out.add(number)
        start = (self.round + 1) * self.search.grace
        if self.exhausted and start < self.search.steps:
            self.round += 1
            self.waiting = self._next_round(start)

    def importance(self) -> dict[str, float]:
        """A member has had several values, so that none can be held responsible."""
        return {}

    def _until(self) -> int:
        return min((self.round + 1) * self.search.grace, self.search.steps)

    def _fresh(self, member: int) -> Proposal:
        draw = np.random.default_rng([self.seed, 0, member])
        values = {key: _drawn(space, draw) for key, space in self.search.space.items()}
        return Proposal(member, values, self._until())

    def _next_round(self, start: int) -> list[Proposal]:
        alive = [member for member in self.members if member not in self.out]
        ranked = sorted(alive, key=lambda member: (-self.scores[member], member))
        count = min(int(np.ceil(QUANTILE * len(ranked))), len(ranked) // 2)
        replaced = set(ranked[len(ranked) - count :])
        proposals = list[Proposal]()
        for member in alive:
            values, source = self.values[member], member
            if member in replaced:
                draw = np.random.default_rng([self.seed, self.round, member])
                source = ranked[int(draw.integers(count))]
                near = self.values[source]
                spaces = self.search.space.items()
                values = {key: _moved(space, near[key], draw) for key, space in spaces}
            proposals.append(Proposal(member, values, self._until(), (source, start)))
        return proposals


def _drawn(space: Drawn, draw: np.random.Generator) -> Any:
    if isinstance(space, Choice):
        return space.choice[int(draw.integers(len(space.choice)))]
    low, high = space.spread
    if isinstance(space, Int):
        return int(draw.integers(low, high + 1))
    if isinstance(space, LogUniform):
        return float(np.exp(draw.uniform(np.log(low), np.log(high))))
    return float(draw.uniform(low, high))


def _moved(space: Drawn, value: Any, draw: np.random.Generator) -> Any:
    """A value near ``value``, within the space: its neighbour among choices."""
    if draw.random() < RESAMPLED:
        return _drawn(space, draw)
    up = bool(draw.integers(2))
    if isinstance(space, Choice):
        place = space.choice.index(value) + (1 if up else -1)
        return space.choice[min(max(place, 0), len(space.choice) - 1)]
    low, high = space.spread
    moved = min(max(value * FACTORS[up], low), high)
    return round(moved) if isinstance(space, Int) else float(moved)
