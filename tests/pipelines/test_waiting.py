from typing import Any

import pytest

from pipelines.waiting import STEPS, DataWait
from segcore.row import Run

VALUES = {"method": "fcn", "backbone": "resnet18", "dataset": "shapes", "steps": 100}
VALUES |= {"batch_size": 2, "crop": (32, 32), "evaluate_every": 10, "save_every": 10}


def step(waited: float) -> dict[str, Any]:
    return {"event": "step", "seconds": 1.0, "data_seconds": waited}


def hints(shares: list[float], **values: Any) -> list[str]:
    wait = DataWait(Run.model_validate(VALUES | values))
    return [said for share in shares if (said := wait.hint(step(share)))]


@pytest.mark.parametrize(("share", "told"), [(0.0, 0), (0.09, 0), (0.11, 1), (0.9, 1)])
def test_it_is_told_once_above_a_tenth(share, told):
    assert len(hints([share] * 5 * STEPS)) == told


def test_the_first_step_starts_the_loaders_and_does_not_count():
    assert hints([1.0] + [0.09] * 3 * STEPS) == []
    assert hints([0.5] * STEPS) == []
    assert hints([0.5] * (STEPS + 1)) != []


def test_a_loader_that_becomes_slow_is_noticed():
    assert len(hints([0.0] * (2 * STEPS + 1) + [0.5] * STEPS)) == 1


def test_other_events_are_no_steps():
    wait = DataWait(Run.model_validate(VALUES))
    assert not any(wait.hint({"event": "evaluated"}) for _ in range(5 * STEPS))


def test_the_hint_says_what_would_help():
    (plain,) = hints([0.42] * 2 * STEPS)
    assert "42% of the time" in plain
    assert "loader_workers (now 0)" in plain
    assert "decoded_cache" in plain
    (cached,) = hints([0.42] * 2 * STEPS, decoded_cache=4.0, loader_workers=3)
    assert "decoded_cache" not in cached
    assert "loader_workers (now 3)" in cached
