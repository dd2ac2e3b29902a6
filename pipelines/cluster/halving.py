"""Asynchronous successive halving (Li et al., 2018, arXiv:1810.05934, algorithm 2).

All trials train for ``grace`` steps. The best of them go on, from their checkpoints, to
``reduction`` times as many, the best of those further, up to the full length. The others stay
where they are.
"""

from pipelines.cluster.proposing import Figures, Proposal, Sampled
from segcore.search import Search


class Halving:
    """The strategy ``asha``.

    Where the number of trials is known, all come to a rung before the first goes on from there:
    none does for want of better ones, unless the cluster would idle. Where hours end the search,
    trials go on as soon as they can, as in the paper.

    Optuna is told every trial's score at the first rung: scores of one length can be compared.
    """

    needed = ()

    def __init__(self, search: Search, seed: int) -> None:
        self.search, self.drawn = search, Sampled(search, seed)
        self.counted = not (search.hours or search.cpu_hours or search.gpu_hours)
        self.rungs = rungs(search)
        self.scores = [dict[int, float]() for _ in self.rungs]
        """At each rung, of the trials that reached it or ended on their way there."""
        self.proposed = dict[int, Proposal]()
        """Of each trial the last one: what it trains for, or where it waits."""
        self.best = dict[int, float]()
        self.training = set[int]()
        self.through = set[int]()
        """Ended between two rungs, by their own patience or the budget: these train no further."""

    @property
    def exhausted(self) -> bool:
        return self.drawn.exhausted and not self.training and self._next() is None

    def propose(self) -> Proposal | None:
        number = None if self.counted and not self.drawn.exhausted else self._next()
        return self._fresh() if number is None else self._further(number)

    def again(self, number: int) -> Proposal | None:
        return self._further(number) if number in self.proposed else self._fresh()

    def reported(self, number: int, step: int, figures: Figures) -> None:
        self.best[number] = max(figures["miou"], self.best.get(number, 0.0))
        if self._rung(number) == 0:
            self.drawn.reported(number, step, figures)

    def ended(self, number: int, status: str) -> None:
        self.training.discard(number)
        rung = self._rung(number)
        if rung == 0:
            self.drawn.ended(number, status)
        if status == "failed":
            for scores in self.scores:
                scores.pop(number, None)
            return
        self.scores[rung][number] = self.best[number]
        if status == "stopped":
            self.through.add(number)

    def importance(self) -> dict[str, float]:
        return self.drawn.importance()

    def _fresh(self) -> Proposal | None:
        drawn = self.drawn.propose()
        return drawn and self._sent(drawn, 0)

    def _further(self, number: int) -> Proposal:
        return self._sent(self.proposed[number], self._rung(number) + 1)

    def _sent(self, proposal: Proposal, rung: int) -> Proposal:
        self.training.add(proposal.number)
        self.proposed[proposal.number] = proposal._replace(until=self.rungs[rung])
        return self.proposed[proposal.number]

    def _next(self) -> int | None:
        """The trial that goes on: the best that may, of the lowest rung that has one, or, where
        more are always to come, of the highest. Where none would come to the end any more, the
        best of those that have come furthest does."""
        for rung in self._places if self.counted else reversed(self._places):
            count = len(self.scores[rung]) // self.search.reduction
            for number in self._waiting(rung, count):
                return number
        if self.drawn.exhausted and not self.training and not self.scores[-1]:
            for rung in reversed(self._places):
                for number in self._waiting(rung):
                    return number
        return None

    @property
    def _places(self) -> range:
        """The rungs from which trials go on."""
        return range(len(self.rungs) - 1)

    def _waiting(self, rung: int, count: int | None = None) -> list[int]:
        """Those of the best ``count`` of a rung that have not gone on from there, best first."""
        scores = self.scores[rung]
        ranked = sorted(scores, key=lambda number: (-scores[number], number))[:count]
        return [n for n in ranked if self._rung(n) == rung and n not in self.through]

    def _rung(self, number: int) -> int:
        return self.rungs.index(self.proposed[number].until)


def rungs(search: Search) -> list[int]:
    """The steps at which trials are compared; the last is their full length."""
    found, step = list[int](), search.grace
    while step < search.steps:
        found.append(step)
        step *= search.reduction
    return [*found, search.steps]
