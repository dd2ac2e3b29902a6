"""What ``search:`` may say, and what becomes of a search: by hand and by brute force."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from scipy import stats

from segcore.errors import InputError
from segcore.findings import found, note, over_seeds
from segcore.pictures import search_axes
from segcore.search import Search, as_trial, grid, under_seeds
from segcore.search_pictures import (
    early_stopping,
    importances,
    latency_front,
    parallel_coordinates,
    search_history,
)

PLAN = {"steps": 40, "evaluate_every": 10, "grace": 10}
RATE = {"learning_rate": {"loguniform": [0.001, 0.1]}}
CHOSEN = {"optimizer": {"choice": ["sgd", "adamw"]}}


def search(**changes: Any) -> Search:
    return Search.model_validate({"space": RATE, **PLAN, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "ahsa"}, "'asha', 'tpe', 'random', 'grid' or 'pbt'"),
        ({"algorithm": "grid"}, "space.learning_rate: a grid has choice and int only"),
        ({"algorithm": "pbt", "space": CHOSEN}, "space.optimizer cannot change within a training"),
        ({"latency": True}, "latency does not go with asha"),
        ({"latency": True, "algorithm": "pbt"}, "latency does not go with pbt"),
        ({"most_latency_ms": 5}, "most_latency_ms needs latency: true"),
        ({"hours": 0}, "greater than 0"),
        ({"seeds": 1}, "give at least 2"),
        ({"grace": 50}, "grace 50 is more than the 40 steps"),
        ({"algorithm": "pbt", "grace": 15}, "grace 15 is no multiple of evaluate_every 10"),
        ({"grace": 15}, "grace 15 is no multiple of evaluate_every 10"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValidationError) as refusal:
        search(**changes)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"optimiser": "sgd"}, "space.momentum.when: 'optimiser' must be searched, above"),
        ({"optimizer": "sdg"}, "optimizer is never 'sdg', only one of ['sgd', 'adamw']"),
        ({"optimizer": ["sgd", "lamb"]}, "optimizer is never 'lamb'"),
        ({"power": 1}, "'power' must be searched, above 'momentum'"),
        ({"warmup_steps": 1}, "'warmup_steps' must be a choice"),
        ({}, "at least 1 item"),
    ],
)
def test_a_condition_names_a_choice_above(when: dict[str, Any], message: str):
    space = {**CHOSEN, "warmup_steps": {"int": [0, 5]}}
    space |= {"momentum": {"uniform": [0.5, 0.9], "when": when}, "power": {"uniform": [0.5, 1]}}
    with pytest.raises(ValidationError) as refusal:
        search(space=space)
    assert message in str(refusal.value)


def test_a_condition_survives_json_and_its_absence_leaves_no_trace():
    space = {**CHOSEN, "momentum": {"uniform": [0.5, 0.9], "when": {"optimizer": "sgd"}}, **RATE}
    settings = search(space=space)
    dumped = json.loads(json.dumps(settings.model_dump(mode="json")))
    assert dumped["space"] == space
    assert Search.model_validate(dumped) == settings


def test_how_many_trials_there_are():
    hours = search(hours=2.5)
    assert [search().most_trials, search(trials=9).most_trials, hours.most_trials] == [6, 9, 1000]
    population = search(algorithm="pbt", space=RATE, hours=2.5)  # all train before any is judged
    assert population.most_trials == 6


def test_a_grid_by_hand():
    space = {"photometric": {"choice": [True, False]}, "warmup_steps": {"int": [2, 4]}}
    combinations = [tuple(each.values()) for each in grid(search(space=space).space)]
    assert combinations == [(p, w) for p in (True, False) for w in (2, 3, 4)]


def test_the_winner_under_seeds_is_a_grid_that_never_stops():
    again = under_seeds(search(seeds=3, algorithm="asha", trials=20, hours=1.0), 5)
    assert (again.algorithm, again.most_trials, again.steps) == ("grid", 3, 40)
    assert [each["seed"] for each in grid(again.space)] == [6, 7, 8]


def test_a_trial_as_a_row():
    row = {"method": "fcn", "steps": 900, "options": {"width": 4}, "search": {"space": {}}}
    trial = as_trial(row, search(), {"learning_rate": 0.01, "options.dropout": 0.5})
    assert trial == {
        "method": "fcn",
        "options": {"width": 4, "dropout": 0.5},
        "search": None,
        "steps": 40,
        "evaluate_every": 10,
        "save_every": 10,
        "workers": 1,
        "learning_rate": 0.01,
    }
    assert row["options"] == {"width": 4}


# --- the outcome ----------------------------------------------------------------------------------


def a_trial(number: int, miou: float | None, **more: Any) -> dict[str, Any]:
    values = {"learning_rate": 0.001 * (number + 1)}
    history = [] if miou is None else [[10, miou / 2], [20, miou]]
    return {
        "id": f"{number:03d}",
        "values": values,
        "miou": miou,
        "steps": 20,
        "status": "finished",
        "history": history,
        **more,
    }


def test_the_best_trial_has_the_highest_score_of_those_that_did_not_fail():
    broken = a_trial(2, 0.9, status="failed", error="the loss is nan")
    result = found(search(), [a_trial(0, 0.3), a_trial(1, 0.5, status="stopped"), broken], {})
    assert (result["best_trial"], result["best"]) == ("001", {"learning_rate": 0.002})
    assert "front" not in result


def test_a_search_whose_trials_all_failed_says_why():
    broken = [a_trial(n, None, status="failed", error=f"cause {n}") for n in range(2)]
    with pytest.raises(InputError, match="all 2 trials failed; the first: cause 0"):
        found(search(), broken, {})


def test_the_front_holds_who_is_beaten_by_no_other():
    draw = np.random.default_rng(0)
    trials = [
        a_trial(n, float(m), latency_ms=float(t)) for n, (m, t) in enumerate(draw.random((40, 2)))
    ]
    trials.append(a_trial(40, trials[7]["miou"], latency_ms=trials[7]["latency_ms"] + 0.1))
    result = found(search(latency=True, algorithm="tpe"), trials, {})
    beaten = {
        a["id"]
        for a in trials
        for b in trials
        if b["miou"] >= a["miou"]
        and b["latency_ms"] <= a["latency_ms"]
        and (b["miou"], b["latency_ms"]) != (a["miou"], a["latency_ms"])
    }
    assert set(result["front"]) == {trial["id"] for trial in trials} - beaten
    best = max(trials, key=lambda trial: trial["miou"])
    assert result["best_trial"] == best["id"]
    limit = sorted(trial["latency_ms"] for trial in trials)[5]
    limited = found(search(latency=True, algorithm="tpe", most_latency_ms=limit), trials, {})
    fast = [trial for trial in trials if trial["latency_ms"] <= limit]
    assert limited["best_trial"] == max(fast, key=lambda trial: trial["miou"])["id"]
    with pytest.raises(InputError, match="no trial is as fast as most_latency_ms 1e-09"):
        found(search(latency=True, algorithm="tpe", most_latency_ms=1e-9), trials, {})


def test_the_spread_over_seeds_is_students():
    scores = [0.61, 0.58, 0.66, 0.63]
    trials = [a_trial(n, score, values={"seed": n + 3}) for n, score in enumerate(scores)]
    spread = over_seeds([*trials, a_trial(4, None, status="failed", values={"seed": 7})])
    low, high = stats.t.interval(0.95, 3, np.mean(scores), stats.sem(scores))
    assert spread["interval"] == pytest.approx([low, high])
    assert spread["mean"] == pytest.approx(0.62)
    assert spread["deviation"] == pytest.approx(np.std(scores, ddof=1))
    assert spread["scores"] == {"3": 0.61, "4": 0.58, "5": 0.66, "6": 0.63}
    with pytest.raises(InputError, match="all seeds but one"):
        over_seeds(trials[:1])


def test_events_become_a_table():
    trials = dict[int, dict[str, Any]]()
    events = [
        {"event": "started", "trial": 0, "values": {"momentum": 0.5}},
        {"event": "reported", "trial": 0, "step": 5, "miou": 0.4, "latency_ms": 2.5},
        {"event": "reported", "trial": 0, "step": 10, "miou": 0.3, "latency_ms": 2.5},
        {"event": "ended", "trial": 0, "status": "paused"},
        {"event": "started", "trial": 0, "values": {"momentum": 0.6}},
        {"event": "ended", "trial": 0, "status": "failed", "error": "why"},
    ]
    for event in events:
        note(trials, event)
    assert trials[0] == {
        "id": "000",
        "values": {"momentum": 0.6},
        "miou": 0.4,
        "steps": 10,
        "status": "failed",
        "history": [[5, 0.4], [10, 0.3]],
        "latency_ms": 2.5,
        "former": [[10, {"momentum": 0.5}]],
        "error": "why",
    }


# --- pictures -------------------------------------------------------------------------------------


def a_search(trials: int) -> dict[str, Any]:
    space = {
        "learning_rate": {"loguniform": [1e-4, 1e-1]},
        "optimizer": {"choice": ["sgd", "adamw"]},
        "momentum": {"uniform": [0.0, 0.5], "when": {"optimizer": "sgd"}},
        "warmup_steps": {"int": [0, 40]},
    }
    listed = list[dict[str, Any]]()
    for i in range(trials):
        values = {"learning_rate": 10 ** (-4 + 3 * i / max(1, trials - 1))}
        values |= {"optimizer": ["sgd", "adamw"][i % 2], "warmup_steps": i % 41}
        values |= {"momentum": 0.25} if i % 2 == 0 else {}
        status = "stopped" if i % 3 else "finished"
        trial = a_trial(i, 0.3 + 0.3 * math.sin(i) ** 2, values=values, status=status)
        listed.append(trial | {"latency_ms": 1.0 + i % 7})
    failed = a_trial(trials, None, status="failed", error="why")
    found = {"space": space, "trials": [*listed, failed], "front": [t["id"] for t in listed[:2]]}
    return found | {"importance": {"learning_rate": 0.7, "optimizer": 0.2, "warmup_steps": 0.1}}


PICTURES = [search_history, early_stopping, parallel_coordinates, importances, latency_front]


@pytest.mark.long
@pytest.mark.parametrize("trials", [1, 50])
@pytest.mark.parametrize("draw", PICTURES)
def test_search_pictures(draw: Any, trials: int, tmp_path: Path):
    draw(a_search(trials), tmp_path / "first.png")
    draw(a_search(trials), tmp_path / "again.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with Image.open(tmp_path / "first.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert 0.005 < (pixels.min(axis=1) < 200).mean() < 0.6  # something is drawn, on white


@pytest.mark.parametrize("draw", [search_history, early_stopping, parallel_coordinates])
def test_a_search_without_trials_is_not_drawn(draw: Any, tmp_path: Path):
    with pytest.raises(InputError, match="no trial with a score"):
        draw(a_search(1) | {"trials": []}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_key_under_a_condition_has_its_axis():
    axis = search_axes(a_search(3))["momentum"]
    assert (axis.low, axis.high) == (0.0, 0.5)
