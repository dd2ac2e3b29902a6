"""Two gloo workers against one process that holds both their batches."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from segcore.distributed import (
    SyncBatchNorm,
    all_sum,
    rank,
    share_buffers,
    synchronise_batchnorm,
    total,
    world_size,
)
from tests.workers import run_workers

pytestmark = pytest.mark.long

SHARES = 3, 1
"""Images per worker."""


def norm_of(kind: str) -> nn.Module:
    torch.manual_seed(1)
    norms = {
        "plain": lambda: nn.BatchNorm2d(5, momentum=0.3),
        "cumulative": lambda: nn.BatchNorm2d(5, momentum=None),
        "fixed": lambda: nn.BatchNorm2d(5, affine=False, track_running_stats=False),
        "flat": lambda: nn.BatchNorm1d(5),
        "timm": lambda: BatchNormAct2d(5, act_layer=nn.PReLU),
    }
    norm = norms[kind]().double()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.2, 2.0)
    return nn.Sequential(norm)


KINDS = "plain", "cumulative", "fixed", "flat", "timm"


def joint_batch(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and the gradient that comes from above."""
    generator = torch.Generator().manual_seed(2)
    size = (4, 5) if kind == "flat" else (4, 5, 6, 7)
    above = torch.randn(size, dtype=torch.float64, generator=generator)
    return torch.randn(size, dtype=torch.float64, generator=generator) * 3 + 40, above


def twice_through(norm, inputs, above):
    """Outputs, gradients and statistics of two passes, the second on other values."""
    found = []
    for factor in (1.0, -0.5):
        values = (inputs * factor).requires_grad_()
        output = norm(values)
        output.backward(above.clone())  # which torch may keep as a parameter's gradient
        found += [output.detach(), values.grad]
    gradients = {name: parameter.grad for name, parameter in norm.named_parameters()}
    return found, gradients, norm.state_dict()


def synchronised_part(kind):
    inputs, above = (part.split(SHARES)[rank()] for part in joint_batch(kind))
    norm = synchronise_batchnorm(norm_of(kind)) if kind != "fixed" else fixed()
    found, gradients, state = twice_through(norm, inputs, above)
    return found, {name: total(value) for name, value in gradients.items()}, state


def fixed():
    """Has no parameter to tell its device by."""
    return nn.Sequential(SyncBatchNorm(norm_of("fixed")[0]))


def synchronised_parts():
    return {kind: synchronised_part(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def parts():
    return run_workers(2, synchronised_parts)


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_normalise_as_one(parts, kind):
    expected, gradients, state = twice_through(norm_of(kind), *joint_batch(kind))
    joint = zip(*(part[kind][0] for part in parts), strict=True)
    for mine, theirs in zip(map(torch.cat, joint), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    for _, found, statistics in (part[kind] for part in parts):
        torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(statistics, dict(state), rtol=1e-9, atol=1e-9)


def test_low_precision_counts_and_sums_in_float32():
    (found,) = run_workers(1, bfloat16_alone)
    # 771 values per channel: bfloat16 would count 772, and its sum would be off by percents.
    torch.testing.assert_close(found["mean"], found["expected"], rtol=1e-6, atol=0)
    assert found["dtype"] == torch.bfloat16


def bfloat16_alone():
    import segcore.distributed

    segcore.distributed.world_size = lambda: 2  # the synchronised path; a group of one sums alone
    norm = SyncBatchNorm(nn.BatchNorm2d(2, momentum=1.0))
    values = (torch.rand(1, 2, 257, 3) + 30).bfloat16()
    output = norm(values)
    mean = values.float().mean((0, 2, 3))
    return {"mean": norm.running_mean, "expected": mean, "dtype": output.dtype}


def single_value():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        SyncBatchNorm(nn.BatchNorm2d(2))(torch.rand(1 - rank(), 2, 1, 1))
    # One value each is enough: two over both.
    norm = SyncBatchNorm(nn.BatchNorm2d(2, momentum=1.0))
    norm(torch.full((1, 2, 1, 1), float(rank())))
    return norm.running_mean.tolist(), norm.running_var.tolist()


def test_a_single_value_over_all_workers_is_refused():
    # The values are 0 and 1: mean 1/2, unbiased variance 1/2.
    assert run_workers(2, single_value) == [([0.5, 0.5], [0.5, 0.5])] * 2


def sums():
    value = torch.tensor([1.0, 10.0]) * (rank() + 1)
    value.requires_grad_()
    summed = all_sum(value)
    (summed * torch.tensor([2.0, 3.0]) * (rank() + 1)).sum().backward()
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(rank() + 7)
    share_buffers(norm)
    counts = total(torch.tensor([rank() + 1], dtype=torch.int64))
    return {
        "sum": summed.tolist(),
        "gradient": value.grad.tolist(),
        "buffer": norm.running_mean.tolist(),
        "counts": counts.tolist(),
        "place": (rank(), world_size()),
    }


def test_sums_gradients_and_buffers_over_two_workers():
    found = run_workers(2, sums)
    for place, each in enumerate(found):
        assert each == {
            "sum": [3.0, 30.0],
            "gradient": [2.0 * (1 + 2), 3.0 * (1 + 2)],
            "buffer": [7.0, 7.0],
            "counts": [3],
            "place": (place, 2),
        }


def test_alone_it_is_the_layer_it_replaces():
    assert (rank(), world_size()) == (0, 1)
    model = nn.Sequential(nn.Conv2d(3, 5, 1), norm_of("timm").float()[0], nn.BatchNorm2d(5))
    parameters = list(model.parameters())
    names = list(model.state_dict())
    values = torch.rand(2, 3, 6, 7)
    expected = model(values)
    replaced = synchronise_batchnorm(model)
    assert [type(each) for each in replaced][1:] == [SyncBatchNorm, SyncBatchNorm]
    assert list(replaced.state_dict()) == names
    assert all(a is b for a, b in zip(replaced.parameters(), parameters, strict=True))
    torch.testing.assert_close(replaced(values), expected, rtol=0, atol=0)


def test_what_follows_the_norm_knows_whether_it_trains():
    norm = nn.Sequential(BatchNormAct2d(4, drop_layer=nn.Dropout))
    norm = synchronise_batchnorm(norm).eval()
    values = torch.rand(2, 4, 3, 3)
    torch.testing.assert_close(norm(values), norm(values), rtol=0, atol=0)
    assert norm.train()(values).eq(0).float().mean() > 0.4
