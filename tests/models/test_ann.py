"""Attention over averages against its loop, in float64, and the order of the two blocks."""

import torch
import torch.nn.functional as F

from segcore.backbones import build_backbone
from segcore.models import build_model
from segcore.models.ann import attend_averages

GRIDS = (1, 3, 2)


def slow(query, key, value):
    """Averages by torch's pooling, one query at a time."""
    tokens = [
        torch.cat([F.adaptive_avg_pool2d(each, grid).flatten(2) for grid in GRIDS], dim=2)
        for each in (key, value)
    ]
    assert tokens[0].shape[2] == 1 + 9 + 4
    images = []
    for b in range(query.shape[0]):
        columns = []
        for q in query[b].flatten(1).unbind(dim=1):
            likeness = (q @ tokens[0][b] / query.shape[1] ** 0.5).exp()
            columns.append(tokens[1][b] @ (likeness / likeness.sum()))
        images.append(torch.stack(columns, dim=1).unflatten(1, query.shape[-2:]))
    return torch.stack(images)


def test_attention_over_averages_equals_its_loop():
    torch.manual_seed(0)
    # The queries' map may be of another size than the keys'.
    shapes = ((2, 4, 5, 3), (2, 4, 7, 9), (2, 6, 7, 9))
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    ours, theirs = attend_averages(*inputs, GRIDS), slow(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn_like(theirs)
    expected = torch.autograd.grad(theirs, inputs, upstream)
    for gradient, each in zip(torch.autograd.grad(ours, inputs, upstream), expected, strict=True):
        torch.testing.assert_close(gradient, each, rtol=0, atol=1e-12)


def model_of_resnet18():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", output_stride=8)
    return build_model("ann", backbone, 3, width=16, key_width=8).eval()


def test_the_last_feature_attends_to_the_one_before_and_then_to_itself():
    model = model_of_resnet18()
    for block in (model.across, model.within):
        torch.nn.init.normal_(block.project.weight)
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        *_, middle, last = model.backbone(images)
        across = model.across.project(
            attend_averages(
                model.across.query(last),
                model.across.key(middle),
                model.across.value(middle),
                (1, 3, 6, 8),
            )
        )
        conv, norm = model.fuse
        x = model.reduce[1](norm(conv(torch.cat([across, last], dim=1))))
        shared = model.within.query(x)
        within = model.within.project(
            attend_averages(shared, shared, model.within.value(x), (1, 3, 6, 8))
        )
        expected = model.classify(model.join(torch.cat([within, x], dim=1)))
        torch.testing.assert_close(model(images).logits, expected)


def test_both_contexts_are_nothing_at_first():
    model = model_of_resnet18()
    with torch.no_grad():
        *_, middle, last = model.backbone(torch.rand(1, 3, 64, 96))
        assert torch.equal(model.across(last, middle), torch.zeros_like(last))
        x = model.reduce(last)
        assert torch.equal(model.within(x), torch.zeros_like(x))
