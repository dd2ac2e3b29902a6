"""The three contexts of OCNet: how their parts join, and what they are at first."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.layers import attend_grid
from segcore.models import build_model

FORMS = {
    "base": {},
    "pyramid": {"value_width": 16, "shared": True},
    "asp": {"value_width": 4, "key_width": 4},
}


def build(context, **options):
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", output_stride=8)
    options = {"width": 16, "key_width": 8, "value_width": 8} | FORMS[context] | options
    return build_model("ocnet", backbone, 3, context=context, **options).eval()


def wake(model):
    """Gives the convolutions that start at zero something to say."""
    for module in model.context.modules():
        if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
            torch.nn.init.normal_(module.weight)


def attention_of(unit, x, grid=1):
    key = unit.key(x)
    query = key if unit.query is None else unit.query(x)
    return unit.project(attend_grid(query, key, unit.value(x), grid))


def pyramid(context, x):
    parts = [
        attention_of(unit, x, grid)
        for unit, grid in zip(context.attentions, (1, 2, 3, 6), strict=True)
    ]
    return [*parts, context.widen(x)]


def asp(context, x):
    inner = attention_of(context.attention, F.max_pool2d(context.enter(x), 2))
    inner = F.interpolate(inner, x.shape[-2:], mode="bilinear")
    point, *atrous = context.pyramid.branches
    assert [branch[0].dilation for branch in atrous] == [(12, 12), (24, 24), (36, 36)]
    return [context.leave(inner), point(x), *(branch(x) for branch in atrous)]


JOINED = {
    "base": lambda context, x: [attention_of(context.attentions[0], x), x],
    "pyramid": pyramid,
    "asp": asp,
}


@pytest.mark.parametrize("context", FORMS)
def test_what_is_joined(context):
    model = build(context)
    wake(model)
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        x = model.enter(model.backbone(images)[-1])
        joined = torch.cat(JOINED[context](model.context, x), dim=1)
        expected = model.classify(model.context.join(joined))
        torch.testing.assert_close(model(images).logits, expected)


@pytest.mark.parametrize("context", FORMS)
def test_every_context_is_nothing_at_first(context):
    x = torch.rand(1, 16, 8, 12)
    parts = build(context).context
    units = [parts.attention] if context == "asp" else parts.attentions
    assert len(units) == {"base": 1, "pyramid": 4, "asp": 1}[context]
    for unit in units:
        y = unit(x[:, : unit.value.in_channels])
        assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize("context", FORMS)
def test_every_form_trains_at_odd_sizes_and_without_its_auxiliary_head(context):
    images = torch.rand(2, 3, 65, 97)
    full, bare = build(context), build(context, auxiliary=False)
    with torch.no_grad():
        assert torch.equal(full(images).logits, bare(images).logits)
    prediction = full.train()(images)
    sum(each.square().mean() for each in (prediction.logits, *prediction.auxiliary)).backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in full.parameters())


class Largest(TorchDispatchMode):
    """The most elements that the result of any operation has."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_map_of_all_pixels_by_all_pixels_is_held():
    torch.manual_seed(0)
    unit = build("base").context.attentions[0]
    pixels = 4096
    with Largest() as largest:
        unit(torch.rand(1, 16, 64, pixels // 64)).sum().backward()
    assert 0 < largest.elements <= pixels**2 // 2


def test_an_unknown_context_is_named():
    with pytest.raises(InputError, match="context is base, pyramid or asp, not 'paramid'"):
        build_model("ocnet", build_backbone("resnet18"), 3, context="paramid")
