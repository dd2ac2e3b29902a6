"""Learning rates by hand, and one step of each optimizer by its formula."""

import math

import pytest
import torch
from torch import nn

from segcore.optimization import build_optimizer, build_schedule


def model() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Linear(2, 2)
    model.classify = nn.Linear(2, 1)
    return model


def rates(name: str, steps: int, **options) -> list[list[float]]:
    """The learning rates of backbone and head in every step, and after the last one."""
    optimizer = build_optimizer("sgd", model(), learning_rate=0.1, head_multiplier=10.0)
    schedule = build_schedule(name, optimizer, steps=steps, **options)
    found = []
    for _ in range(steps + 1):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("name", "options", "shares"),
    [
        ("constant", {}, [1, 1, 1, 1, 1]),
        ("poly", {"power": 1.0}, [1, 0.75, 0.5, 0.25, 0]),
        ("poly", {"power": 2.0}, [1, 0.5625, 0.25, 0.0625, 0]),
        ("poly", {}, [1, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0]),
        ("cosine", {}, [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0]),
        ("constant", {"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1]),
        ("poly", {"power": 1.0, "warmup_steps": 2}, [0.5, 0.75, 0.5, 0.25, 0]),
        ("constant", {"warmup_steps": 1}, [1, 1, 1, 1, 1]),
    ],
)
def test_share_of_each_step(name, options, shares):
    for found, share in zip(rates(name, 4, **options), shares, strict=True):
        assert found == pytest.approx([0.1 * share, 1.0 * share], abs=1e-12)


def test_floor_is_a_learning_rate_and_not_a_share():
    found = rates("poly", 4, power=1.0, min_learning_rate=0.06)
    assert [backbone for backbone, _ in found] == pytest.approx([0.1, 0.075, 0.06, 0.06, 0.06])
    assert [head for _, head in found] == pytest.approx([1, 0.75, 0.5, 0.25, 0.06])


def test_sgd_step_by_hand():
    network = model()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = build_optimizer(
        "sgd", network, learning_rate=0.1, momentum=0.5, weight_decay=0.01, head_multiplier=10.0
    )
    for _ in range(2):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for name, value in network.named_parameters():
        rate, start = (0.1 if name.startswith("backbone") else 1.0), before[name]
        first = 1 + 0.01 * start
        middle = start - rate * first
        velocity = 0.5 * first + 1 + 0.01 * middle
        torch.testing.assert_close(value.detach(), middle - rate * velocity)


def test_adamw_step_by_hand():
    network = model()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimizer = build_optimizer(
        "adamw", network, learning_rate=0.1, weight_decay=0.02, head_multiplier=3.0
    )
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    optimizer.step()
    for name, value in network.named_parameters():
        rate = 0.1 if name.startswith("backbone") else 0.3
        # The first step of Adam is as long as the rate, whatever the gradient's size.
        expected = before[name] * (1 - rate * 0.02) - rate
        torch.testing.assert_close(value.detach(), expected)


def test_every_parameter_is_in_one_group():
    network = model()
    groups = build_optimizer("adamw", network, learning_rate=1.0).param_groups
    backbone, rest = ({id(p) for p in group["params"]} for group in groups)
    assert backbone == {id(p) for p in network.backbone.parameters()}
    assert rest == {id(p) for p in network.classify.parameters()}


class Mixed(nn.Module):
    """Every kind of parameter, in the backbone and outside."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.classify = nn.Conv2d(4, 2, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.shared = self.classify  # known by two names, learnt once


def settings_of(**options) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter, by its name."""
    network = Mixed()
    optimizer = build_optimizer(
        "sgd", network, learning_rate=0.1, weight_decay=0.01, head_multiplier=10.0, **options
    )
    names = {id(each): name for name, each in network.named_parameters()}
    found = [
        (names[id(each)], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for each in group["params"]
    ]
    assert len(found) == len(names)
    return dict(found)


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("bias", [1.0, 2.0])
def test_each_kind_of_parameter_has_its_rate_and_its_decay(bias, decay_all):
    less = 0.01 if decay_all else 0.0
    assert settings_of(bias_multiplier=bias, decay_all=decay_all) == {
        "backbone.0.weight": (0.1, 0.01),
        "backbone.0.bias": (0.1 * bias, less),
        "backbone.1.weight": (0.1, less),
        "backbone.1.bias": (0.1, less),  # of a norm: no bias of a product
        "classify.weight": (1.0, 0.01),
        "classify.bias": (1.0 * bias, less),
        "gamma": (1.0, less),
    }


def test_the_first_group_has_the_rate_that_is_reported():
    options = {"bias_multiplier": 2.0, "decay_all": False, "head_multiplier": 3.0}
    groups = build_optimizer("adamw", Mixed(), learning_rate=0.1, **options).param_groups
    assert groups[0]["lr"] == 0.1
    assert [len(group["params"]) for group in groups] == [1, 2, 1, 1, 1, 1]


def test_a_schedule_goes_on_where_it_was():
    def after(steps: int, start: int = 0, state=None) -> tuple[dict, list[float]]:
        optimizer = build_optimizer("sgd", model(), learning_rate=0.1, head_multiplier=10.0)
        schedule = build_schedule("poly", optimizer, steps=10, warmup_steps=3)
        if state:
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
        for _ in range(start, steps):
            optimizer.step()
            schedule.step()
        states = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        return states, [group["lr"] for group in optimizer.param_groups]

    halfway, _ = after(5)
    assert after(8, 5, halfway)[1] == after(8)[1] == pytest.approx([0.1 * 0.2**0.9, 0.2**0.9])
