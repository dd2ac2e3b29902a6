"""What a search decides, without a cluster: trials are curves that are known beforehand."""

import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from pipelines.cluster.course import Course
from pipelines.cluster.population import Population
from pipelines.cluster.proposing import Proposal, Sampled
from pipelines.cluster.trials import _with_rates
from segcore.checkpoints import Checkpoint
from segcore.errors import InputError
from segcore.row import Run
from segcore.runs import optimization_of
from segcore.search import Search

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]
SPACE = {
    "learning_rate": {"loguniform": [0.001, 0.1]},
    "momentum": {"uniform": [0.5, 0.9]},
    "warmup_steps": {"int": [0, 9]},
    "crop": {"choice": [[32, 32], [48, 48]]},
}
PLAN = {"steps": 16, "evaluate_every": 2, "grace": 2}


def search(**changes: Any) -> Search:
    return Search.model_validate({"space": SPACE, **PLAN, **changes})


def score(values: dict[str, Any], step: int) -> float:
    """A curve that rises, best near a learning rate of 0.01, with noise of its own."""
    height = 1 - abs(math.log10(values["learning_rate"]) + 2) / 2
    noise = np.random.default_rng([step, round(1e6 * values["learning_rate"])]).normal(0, 0.02)
    return float(height * step / (step + 4) + noise)


def course_of(settings: Search, folder: Path, events: list[Any], concurrent: int = 1) -> Course:
    return Course(settings, 0, folder, {"CPU": 2.0}, concurrent, events.append)


def never(values: dict[str, Any], step: int) -> bool:
    return False


def drive(
    course: Course,
    budget: int = 10**6,
    curve: Callable[[dict[str, Any], int], float] = score,
    fails: Callable[[dict[str, Any], int], bool] = never,
    gives_up: Callable[[dict[str, Any], int], bool] = never,
) -> int:
    """Runs trials in turn, an evaluation each, as their processes would, which go on from their
    checkpoints; at most ``budget`` reports. Returns how many there were."""
    active, reports = dict[int, list[Any]](), 0
    while not course.is_over and reports < budget:
        while proposal := course.next():
            values, step = proposal.values, course.order(proposal)["reported"]
            source, step = proposal.source or (proposal.number, step)
            assert not step or checkpoint(course, source, step).exists()
            if gives_up(values, step):
                assert not course.reported(proposal.number, {"done": True})  # as Ray does
                course.ended(proposal.number)
            else:
                active[proposal.number] = [values, step, proposal.until]
        for number in list(active):
            if reports == budget:
                break
            values, step, until = active[number]
            step += course.search.evaluate_every
            reports += 1
            if fails(values, step):
                figures: dict[str, Any] = {"failed": "the loss is nan"}
            else:
                checkpoint(course, number, step).mkdir(parents=True, exist_ok=True)
                figures = {"step": step, "miou": curve(values, step), "seconds": 1.8}
            active[number][1] = step
            if course.reported(number, figures) or step >= until or gives_up(values, step):
                del active[number]
                course.ended(number)
    return reports


def checkpoint(course: Course, number: int, step: int) -> Path:
    return course.place(number) / f"step-{step:07d}"


def diverging(values: dict[str, Any], step: int) -> bool:
    """One in five trials, by chance, at one of its evaluations."""
    draw = np.random.default_rng([1, round(1e6 * values["learning_rate"])])
    return bool(draw.random() < 0.2) and step >= draw.choice([2, 4, 6, 8])


def impatient(values: dict[str, Any], step: int) -> bool:
    """Half of the trials at one of their evaluations."""
    draw = np.random.default_rng([2, round(1e6 * values["learning_rate"])])
    return bool(draw.random() < 0.5) and step >= draw.choice([2, 4, 6, 8])


def bare(events: list[Any]) -> list[Any]:
    """Without the time of the clock."""
    return [{k: v for k, v in event.items() if k != "elapsed"} for event in events]


def ends_of(events: list[Any]) -> dict[int, Any]:
    """Of each trial the last thing that was said of its status."""
    return {event["trial"]: event for event in events if "status" in event}


# --- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 12},
        {"trials": 14, "algorithm": "tpe", "steps": 4},
        {"trials": 5, "algorithm": "random"},
        {"space": {"learning_rate": {"choice": [0.1, 0.01, 0.001]}}, "algorithm": "grid"},
        {"space": {"learning_rate": SPACE["learning_rate"]}, "algorithm": "pbt", "grace": 4},
    ],
    ids=["asha", "tpe", "random", "grid", "pbt"],
)
@pytest.mark.parametrize("concurrent", [1, 3])
@pytest.mark.parametrize(("fails", "gives_up"), [(never, never), (diverging, impatient)])
def test_a_search_that_is_cut_off_anywhere_goes_on_to_the_same_end(
    changes: dict[str, Any],
    concurrent: int,
    fails: Callable[[dict[str, Any], int], bool],
    gives_up: Callable[[dict[str, Any], int], bool],
    tmp_path: Path,
):
    settings, whole = search(**changes), list[Any]()
    drive(
        course_of(settings, tmp_path / "whole", whole, concurrent), fails=fails, gives_up=gives_up
    )
    known = bare(whole)
    statuses = {end["status"] for end in ends_of(known).values()}
    assert statuses <= {"finished", "stopped", *(["failed"] if fails is diverging else [])}
    for cut in {1, 2, 3, len(whole) // 3, len(whole) // 2, len(whole) - 2, len(whole) - 1}:
        events = whole[:cut]
        course = course_of(settings, tmp_path / str(cut), events, concurrent)
        for event in events:
            if event["event"] == "reported":
                checkpoint(course, event["trial"], event["step"]).mkdir(parents=True)
        course.replay(list(events))
        drive(course, fails=fails, gives_up=gives_up)
        if concurrent == 1:
            assert bare(events) == known, cut
        names = [(e["trial"], e["step"]) for e in events if e["event"] == "reported"]
        assert len(names) == len(set(names)), "no step is reported twice"
        started = [e for e in events if e["event"] == "started"]
        assert len(started) == len([e for e in known if e["event"] == "started"])


def test_a_finished_search_has_nothing_to_go_on_with(tmp_path: Path):
    events = list[Any]()
    drive(course_of(search(trials=3), tmp_path, events))
    again = list(events)
    course = course_of(search(trials=3), tmp_path, again)
    course.replay(events)
    assert course.is_over
    assert again == events
    assert course.next() is None


def test_a_ledger_of_another_search_is_refused(tmp_path: Path):
    events = list[Any]()
    drive(course_of(search(trials=3), tmp_path, events))
    events[0]["values"]["momentum"] = 0.6
    with pytest.raises(InputError, match=r"no continuation.*delete it"):
        course_of(search(trials=3), tmp_path, []).replay(events)


def test_more_trials_may_be_asked_for_later(tmp_path: Path):
    short, long = list[Any](), list[Any]()
    drive(course_of(search(trials=3, algorithm="random"), tmp_path, short))
    drive(course_of(search(trials=7, algorithm="random"), tmp_path, long))
    course = course_of(search(trials=7, algorithm="random"), tmp_path, short)
    course.replay(list(short))
    drive(course)
    assert bare(short) == bare(long)


def test_more_trials_than_have_been_halved_may_be_asked_for(tmp_path: Path):
    """A trial had gone on before others were asked for: it keeps what it won."""
    events = list[Any]()
    drive(course_of(search(trials=4), tmp_path, events), budget=6)
    assert events[-1]["trial"] in [event["trial"] for event in events[:-2]], "one has gone on"
    course = course_of(search(trials=9), tmp_path, events)
    course.replay(list(events))
    drive(course)
    names = [(e["trial"], e["step"]) for e in events if e["event"] == "reported"]
    assert len(names) == len(set(names))
    assert sorted(ends_of(events)) == list(range(9))
    assert {end["status"] for end in ends_of(events).values()} == {"finished", "stopped"}


# --- what is proposed, and what is stopped --------------------------------------------------------


def test_values_are_those_of_rays_own_wrapper_of_optuna():
    """Past the ten random ones, too, where the scores of earlier trials decide."""
    ours = Sampled(search(trials=16, algorithm="tpe"), 7)
    domains = {
        "learning_rate": tune.loguniform(0.001, 0.1),
        "momentum": tune.uniform(0.5, 0.9),
        "warmup_steps": tune.randint(0, 10),
        "crop": tune.choice([0, 1]),
    }
    theirs = OptunaSearch(domains, metric="miou", mode="max", seed=7)
    for number in range(16):
        proposal = ours.propose()
        expected = theirs.suggest(str(number))
        assert proposal is not None
        assert expected is not None
        expected["crop"] = [[32, 32], [48, 48]][expected["crop"]]
        assert proposal == Proposal(number, expected, 16)
        miou = score(proposal.values, 16)
        ours.reported(number, 16, {"miou": miou})
        ours.ended(number, "finished")
        theirs.on_trial_complete(str(number), {"miou": miou})
    assert ours.propose() is None


def test_the_better_half_goes_on_at_every_rung(tmp_path: Path):
    """Twelve trials, rungs at 2, 4, 8 and 16 steps, against halving written as a loop."""
    events, settings = list[Any](), search(trials=12)
    drive(course_of(settings, tmp_path, events))
    curves = dict[int, dict[int, float]]()
    for event in events:
        if event["event"] == "reported":
            curves.setdefault(event["trial"], {})[event["step"]] = event["miou"]
    alive, reached = list(range(12)), dict[int, int]()
    for rung in (2, 4, 8, 16):
        reached |= dict.fromkeys(alive, rung)
        best = {n: max(miou for step, miou in curves[n].items() if step <= rung) for n in alive}
        alive = sorted(alive, key=lambda number: -best[number])[: len(alive) // 2]
    assert {number: max(curve) for number, curve in curves.items()} == reached
    assert sorted(reached.values()) == [2] * 6 + [4] * 3 + [8] * 2 + [16]
    assert {n: end["status"] for n, end in ends_of(events).items()} == {
        number: "finished" if step == 16 else "stopped" for number, step in reached.items()
    }
    optuna = [event["trial"] for event in events if event["event"] == "started"]
    assert optuna[:12] == list(range(12)), "new ones come first"


def test_where_hours_end_a_search_trials_go_on_as_soon_as_they_can(tmp_path: Path):
    """The second trial makes one of two the better half: it goes on before a third one starts."""
    events = list[Any]()
    drive(course_of(search(hours=1000.0, trials=4), tmp_path, events))
    started = [event["trial"] for event in events if event["event"] == "started"]
    scores = {e["trial"]: e["miou"] for e in events if e["event"] == "reported" and e["step"] == 2}
    assert started[:3] == [0, 1, max((0, 1), key=lambda number: scores[number])]
    assert sorted(set(started)) == [0, 1, 2, 3]
    assert any(end["status"] == "finished" for end in ends_of(events).values())


@pytest.mark.parametrize(("trials", "finished"), [(1, 1), (2, 1), (3, 1), (40, 5)])
def test_halving_finishes_one_trial_at_least(trials: int, finished: int, tmp_path: Path):
    events = list[Any]()
    drive(course_of(search(trials=trials), tmp_path, events))
    statuses = [end["status"] for end in ends_of(events).values()]
    assert statuses.count("finished") == finished
    assert statuses.count("stopped") == trials - finished


def test_another_goes_on_for_one_that_fails(tmp_path: Path):
    """The two best of four diverge when they go on: the third takes their place."""
    tried = list[float]()

    def fails(values: dict[str, Any], step: int) -> bool:
        tried.extend([values["learning_rate"]] if step == 2 else [])
        best = sorted(tried, key=lambda rate: -score({"learning_rate": rate}, 2))[:2]
        return step > 2 and values["learning_rate"] in best

    events = list[Any]()
    drive(course_of(search(trials=4), tmp_path, events), fails=fails)
    statuses = sorted(end["status"] for end in ends_of(events).values())
    assert statuses == ["failed", "failed", "finished", "stopped"]


def test_a_conditional_key_exists_only_where_its_parent_has_the_value():
    space = {
        "optimizer": {"choice": ["sgd", "adamw"]},
        "momentum": {"uniform": [0.5, 0.9], "when": {"optimizer": "sgd"}},
        "schedule": {"choice": ["poly", "cosine"]},
        "power": {"uniform": [0.5, 2], "when": {"optimizer": ["sgd"], "schedule": "poly"}},
    }
    strategy = Sampled(search(space=space, trials=24, algorithm="tpe"), 0)
    kinds = set[tuple[Any, ...]]()
    for number in range(24):
        proposal = strategy.propose()
        assert proposal is not None
        values = proposal.values
        sgd = values["optimizer"] == "sgd"
        assert ("momentum" in values) == sgd
        assert ("power" in values) == (sgd and values["schedule"] == "poly")
        assert [key for key in space if key in values] == list(values)
        kinds.add(tuple(values))
        strategy.reported(number, 16, {"miou": 0.9 if sgd else 0.1 + number / 1e3})
        strategy.ended(number, "finished")
    assert len(kinds) == 3
    shares = strategy.importance()
    assert set(shares) == set(space)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_a_grid_tries_every_combination_once():
    space = {
        "optimizer": {"choice": ["sgd", "adamw"]},
        "momentum": {"choice": [0.5, 0.9], "when": {"optimizer": "sgd"}},
        "warmup_steps": {"int": [0, 1]},
    }
    strategy = Sampled(search(space=space, algorithm="grid"), 0)
    tried = list[Any]()
    while proposal := strategy.propose():
        tried.append(tuple(proposal.values.values()))
        strategy.ended(proposal.number, "failed")
    sgd = [("sgd", momentum, steps) for momentum in (0.5, 0.9) for steps in (0, 1)]
    assert tried == [*sgd, ("adamw", 0), ("adamw", 1)]
    few = search(space=space, algorithm="grid", trials=4)
    assert (few.most_trials, search(space=space, algorithm="grid").most_trials) == (4, 6)


def test_what_made_trials_good_is_the_most_important(tmp_path: Path):
    events = list[Any]()
    course = course_of(search(trials=40, algorithm="random", steps=2), tmp_path, events)
    drive(course)
    shares = course.strategy.importance()
    assert list(shares) == list(SPACE)
    assert max(shares, key=lambda key: shares[key]) == "learning_rate"
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_no_importance_from_one_trial_or_from_equal_ones(tmp_path: Path):
    for trials in (1, 4):
        course = course_of(search(trials=trials), tmp_path, [])
        drive(course, curve=lambda values, step: 0.25)
        assert course.strategy.importance() == {}


# --- failures and budgets -------------------------------------------------------------------------


def test_a_search_goes_on_without_trials_that_fail(tmp_path: Path):
    events = list[Any]()

    def fails(values: dict[str, Any], step: int) -> bool:
        return values["learning_rate"] > 0.03 and step > 2

    drive(course_of(search(trials=8, algorithm="tpe"), tmp_path, events), fails=fails)
    ends = {e["trial"]: e for e in events if e["event"] == "ended"}
    rates = {e["trial"]: e["values"]["learning_rate"] for e in events if e["event"] == "started"}
    failed = {number for number, end in ends.items() if end["status"] == "failed"}
    assert failed == {number for number, rate in rates.items() if rate > 0.03}
    assert 0 < len(failed) < 8
    assert {ends[number]["error"] for number in failed} == {"the loss is nan"}
    assert len(ends) == 8


def test_a_trial_that_reports_nothing_has_failed(tmp_path: Path):
    events = list[Any]()
    course = course_of(search(trials=1), tmp_path, events)
    proposal = course.next()
    assert proposal is not None
    course.ended(proposal.number)
    assert events[-1] == {
        "event": "ended",
        "trial": 0,
        "status": "failed",
        "error": "it ended without a score",
    }
    assert course.is_over


@pytest.mark.parametrize(
    ("budget", "reports"),
    [({"cpu_hours": 0.0095}, 10), ({"gpu_hours": 0.004}, None), ({"trials": 2}, 16)],
)
def test_a_budget_ends_the_search(budget: dict[str, Any], reports: int | None, tmp_path: Path):
    """Two CPUs for 1.8 s per report are 0.001 CPU-hours; no GPU is held, and none is spent."""
    events = list[Any]()
    plan = {"trials": 6, "algorithm": "random", **budget}
    course = course_of(search(**plan), tmp_path, events)
    assert drive(course) == (reports or 48)
    assert course.is_over
    again = course_of(search(**plan), tmp_path, list(events))
    again.replay(events)
    assert again.is_over


def test_the_clock_of_earlier_processes_counts(tmp_path: Path):
    events = list[Any]()
    settings = search(hours=1.0, algorithm="random")
    drive(course_of(settings, tmp_path, events), budget=3)
    events[-1]["elapsed"] = 3000.0
    course = course_of(settings, tmp_path, events)
    course.replay(list(events))
    assert not course.budget_is_spent
    assert course.earlier == 3000.0
    course.begun -= 700  # as if so much time had passed
    drive(course, budget=1)
    assert course.budget_is_spent
    assert [event["event"] for event in events[-2:]] == ["reported", "ended"]
    assert events[-2]["elapsed"] >= 3700


@pytest.mark.parametrize("concurrent", [1, 3])
@pytest.mark.parametrize("changes", [{"trials": 8}, {"trials": 24, "hours": 1000.0}])
def test_checkpoints_stay_while_one_may_go_on_from_them(
    changes: dict[str, Any], concurrent: int, tmp_path: Path
):
    """Of those that wait at a rung, those that train, and the best."""
    course = course_of(search(**changes), tmp_path, [], concurrent)

    def curve(values: dict[str, Any], step: int) -> float:
        held = {int(path.parent.name) for path in tmp_path.glob("trials/*/step-*")}
        assert course.paused <= held <= course.paused | course.running.keys() | {course.best}
        return score(values, step)

    drive(course, curve=curve, fails=diverging)
    best = max(course.scores, key=lambda number: course.scores[number])
    assert {path.parent for path in tmp_path.glob("trials/*/step-*")} == {course.place(best)}


@pytest.mark.parametrize("seed", range(40))
def test_halving_ends_whatever_its_trials_do(seed: int, tmp_path: Path):
    """Some fail, some lose patience: nobody who goes on begins anew, and nobody waits for ever."""
    plan = {"trials": 9, "reduction": 2 + seed % 2, "space": {"seed": {"int": [0, 10**6]}}}
    course = Course(search(**plan), seed, tmp_path, {"CPU": 1.0}, 1 + seed % 3, lambda event: None)

    def chance(share: float, *key: int) -> bool:
        return bool(np.random.default_rng([seed, *key]).random() < share)

    drive(
        course,
        curve=lambda values, step: float(np.random.default_rng([seed, values["seed"]]).random()),
        fails=lambda values, step: chance(0.1, 0, step, values["seed"]),
        gives_up=lambda values, step: step > 0 and chance(0.1, 1, step, values["seed"]),
    )
    assert course.is_over
    assert not course.paused
    assert len(course.values) == 9
    ended = course.scores.keys() - course.failed.keys()
    assert course.best == max(ended, key=lambda number: course.scores[number], default=None)


# --- a population ---------------------------------------------------------------------------------


def test_the_worst_quarter_goes_on_from_the_best(tmp_path: Path):
    space = {"learning_rate": SPACE["learning_rate"], "flip": {"choice": [0.0, 0.5]}}
    settings = search(space=space, algorithm="pbt", trials=8, grace=4)
    events, orders = list[Any](), list[Any]()
    course = course_of(settings, tmp_path, events)
    order = course.order
    course.order = lambda proposal: orders.append((proposal, order(proposal))) or orders[-1][1]
    drive(course)
    rounds = [orders[first : first + 8] for first in range(0, 32, 8)]
    assert len(orders) == 32
    curves = {(e["trial"], e["step"]): e["miou"] for e in events if e["event"] == "reported"}
    for number, members in enumerate(rounds):
        assert [proposal.number for proposal, _ in members] == list(range(8))
        assert {proposal.until for proposal, _ in members} == {4 * (number + 1)}
        if number == 0:
            assert {proposal.source for proposal, _ in members} == {None}
            continue
        ranked = sorted(range(8), key=lambda member: -curves[member, 4 * number])
        before = {proposal.number: proposal.values for proposal, _ in rounds[number - 1]}
        for proposal, told in members:
            assert proposal.source is not None
            source, step = proposal.source
            assert step == 4 * number
            assert told["source"] == (str(course.place(source)), step, before[source])
            if proposal.number in ranked[-2:]:
                assert source in ranked[:2]
                assert 0.001 <= proposal.values["learning_rate"] <= 0.1
                assert proposal.values["flip"] in (0.0, 0.5)
            else:
                assert (source, proposal.values) == (proposal.number, before[source])
    ends = [e["status"] for e in events if e["event"] == "ended"]
    assert ends == 24 * ["paused"] + 8 * ["finished"]


def test_a_moved_value_is_a_fifth_less_a_quarter_more_or_new():
    settings = search(space={"learning_rate": SPACE["learning_rate"]}, algorithm="pbt", trials=40)
    population = Population(settings, 3)
    before = dict[int, float]()
    while proposal := population.propose():
        before[proposal.number] = proposal.values["learning_rate"]
        population.reported(proposal.number, 2, {"miou": proposal.number / 40})
        population.ended(proposal.number, "paused")
        if len(before) == 40:
            break
    ratios = list[float]()
    while proposal := population.propose():
        assert proposal.source is not None
        if proposal.source[0] != proposal.number:
            assert proposal.number < 10
            assert proposal.source[0] >= 30
            ratios.append(proposal.values["learning_rate"] / before[proposal.source[0]])
        if proposal.number == 39:
            break
    near = [r for r in ratios if any(r == pytest.approx(f) for f in (0.8, 1.25))]
    assert len(ratios) == 10
    assert 5 <= len(near) <= 10


def test_a_population_without_members_left_is_over(tmp_path: Path):
    settings = search(
        space={"learning_rate": SPACE["learning_rate"]}, algorithm="pbt", trials=3, grace=4
    )
    events = list[Any]()
    drive(course_of(settings, tmp_path, events), fails=lambda values, step: True)
    assert [e["status"] for e in events if e["event"] == "ended"] == ["failed"] * 3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_under_other_rates_is_that_of_a_training_with_them(optimizer: str):
    """The rates after two steps, and what the next step makes of them."""
    base = {"method": "fcn", "backbone": "resnet18", "dataset": "tiny", "steps": 9, "crop": [8, 8]}
    base |= {"batch_size": 2, "evaluate_every": 1, "save_every": 1, "optimizer": optimizer}
    runs = [
        Run.model_validate(base | {"learning_rate": rate, "weight_decay": decay, "momentum": m})
        for rate, decay, m in ((0.1, 0.01, 0.9), (0.02, 0.04, 0.5))
    ]
    states = list[dict[str, Any]]()
    for run in runs:
        layers = {"backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)}
        network = torch.nn.Sequential(OrderedDict(layers))
        parts = _parts(run, network)
        for _ in range(2):
            network(torch.ones(1, 2)).sum().backward()
            parts["optimizer"].step()
            parts["schedule"].step()
        states.append({name: part.state_dict() for name, part in parts.items()})
    changed = _with_rates(Checkpoint(2, states[0]), *runs).state
    for ours, fresh in zip(
        changed["optimizer"]["param_groups"], states[1]["optimizer"]["param_groups"], strict=True
    ):
        assert ours.keys() == fresh.keys()
        for name, value in fresh.items():
            assert ours[name] == (pytest.approx(value) if isinstance(value, float) else value)
    assert changed["schedule"]["base_lrs"] == pytest.approx(states[1]["schedule"]["base_lrs"])
    assert changed["schedule"]["_last_lr"] == pytest.approx(states[1]["schedule"]["_last_lr"])


def _parts(run: Run, network: torch.nn.Module) -> dict[str, Any]:
    return dict(zip(("optimizer", "schedule"), optimization_of(run, network), strict=True))
