"""BatchNorm that training leaves alone."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from segcore.backbones import build_backbone
from segcore.distributed import synchronise_batchnorm
from segcore.frozen_norms import FrozenBatchNorm, freeze_batchnorm
from tests.small_training import Small, events_of, plan


def norm_of(kind: str) -> nn.Module:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(5, eps=0.1) if kind == "torch" else BatchNormAct2d(5, act_layer=nn.PReLU)
    for value in (*norm.parameters(), norm.running_mean, norm.running_var):
        nn.init.uniform_(value, 0.2, 2.0)
    return norm


@pytest.mark.parametrize("kind", ["torch", "timm"])
def test_it_normalises_in_training_as_the_layer_it_replaces_in_evaluation(kind):
    norm = norm_of(kind)
    plain = copy.deepcopy(norm).eval()
    before = copy.deepcopy(norm.state_dict())
    frozen = freeze_batchnorm(nn.Sequential(norm))[0].train()
    assert type(frozen) is FrozenBatchNorm
    values = torch.randn(2, 5, 4, 3, requires_grad=True)
    other = values.detach().clone().requires_grad_()
    found, expected = frozen(values), plain(other)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(values.grad, other.grad, rtol=0, atol=0)
    torch.testing.assert_close(frozen.state_dict(), before, rtol=0, atol=0)


def test_a_training_leaves_the_backbones_alone_and_learns_the_rest():
    network = Small()
    network.classify[0] = nn.BatchNorm2d(8)
    before = copy.deepcopy(network.state_dict())
    list(events_of(network, plan(3), frozen_batchnorm=True))
    after = network.state_dict()
    assert list(after) == list(before)
    same = {name for name in after if torch.equal(after[name], before[name])}
    assert same == {name for name in after if name.startswith("backbone.1.")}


def test_it_stays_frozen_where_workers_synchronise_the_rest():
    model = nn.Sequential(freeze_batchnorm(nn.BatchNorm2d(3)), nn.BatchNorm2d(3))
    kinds = [type(each).__name__ for each in synchronise_batchnorm(model)]
    assert kinds == ["FrozenBatchNorm", "SyncBatchNorm"]


def test_a_backbone_of_timm_keeps_its_names():
    torch.manual_seed(0)
    backbone = build_backbone("resnet10t").eval()
    image = torch.rand(1, 3, 64, 64)
    names, expected = list(backbone.state_dict()), backbone(image)
    freeze_batchnorm(backbone).train()
    assert list(backbone.state_dict()) == names
    torch.testing.assert_close(backbone(image), expected, rtol=0, atol=0)
