"""What every file in segcore/models owes to the rest of the project."""

import inspect
import json
from pathlib import Path

import pytest
import torch

from segcore import models
from segcore.backbones import build_backbone
from segcore.errors import InputError
from segcore.types import Prediction
from tests.narrow_networks import CLASSES, build_narrow

CASES = ["narrow", pytest.param("mobilenetv2_100", marks=pytest.mark.long)]
ROWS = [
    row
    for row in json.loads((Path(__file__).parent / "parameters.json").read_text())
    if row["method"] in models.list_methods()
]


def build(method, backbone="narrow", **options):
    """A narrow network, or the published widths on a backbone that is dilated where it may be."""
    torch.manual_seed(0)
    if backbone == "narrow":
        return build_narrow(method, **options)
    dilated = set(models.method_class(method).needed_strides) <= {4, 8}
    built = build_backbone(backbone, output_stride=16 if dilated else None)
    return models.build_model(method, built, CLASSES, **options)


def outputs(prediction):
    present = () if prediction.presence is None else (prediction.presence,)
    return (prediction.logits, *prediction.auxiliary, *present)


@pytest.fixture(scope="module", params=models.list_methods())
def name(request):
    return request.param


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def model(name, case):
    """One model for all tests that leave it as it is."""
    return build(name, case).eval()


@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_scores_every_class_at_a_stride_of_its_backbone_or_of_the_image(model, size):
    with torch.no_grad():
        prediction = model(torch.rand(2, 3, *size))
    assert prediction.logits.shape[:2] == (2, CLASSES)
    sizes = {tuple(-(-each // stride) for each in size) for stride in (1, *model.backbone.strides)}
    assert tuple(prediction.logits.shape[2:]) in sizes


def test_eval_mode_gives_logits_alone_and_always_the_same(model):
    images = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        first, second = model(images), model(images)
    assert isinstance(first, Prediction)
    assert first.auxiliary == ()
    assert first.presence is None
    assert torch.equal(first.logits, second.logits)


def test_images_of_a_batch_do_not_know_each_other_in_eval_mode(model):
    images = torch.rand(3, 3, 65, 97)
    with torch.no_grad():
        together = model(images).logits
        alone = torch.cat([model(each[None]).logits for each in images])
    scale = together.abs().max().item()
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * scale)


def test_state_dict_round_trip(model, name, case):
    images = torch.rand(1, 3, 64, 96)
    other = build(name, case)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval()(images).logits, model(images).logits)


@pytest.mark.parametrize("backbone", CASES)
def test_gradient_reaches_every_parameter(name, backbone):
    model = build(name, backbone).train()
    prediction = model(torch.rand(2, 3, 65, 97))
    assert all(each.shape[1] == CLASSES for each in outputs(prediction))
    sum(each.square().mean() for each in outputs(prediction)).backward()
    missing = [key for key, each in model.named_parameters() if each.grad is None]
    assert missing == []
    assert all(each.grad.isfinite().all() for each in model.parameters())


def test_auxiliary_false_removes_auxiliary_heads_and_nothing_else(name):
    images = torch.rand(1, 3, 64, 96)
    full, bare = build(name).eval(), build(name, auxiliary=False).eval()
    removed = set(full.state_dict()) - set(bare.state_dict())
    assert bool(removed) == ("auxiliary" in models.list_options(name))
    assert all(key.startswith("auxiliary") for key in removed)
    assert set(bare.state_dict()) <= set(full.state_dict())
    with torch.no_grad():
        assert torch.equal(full(images).logits, bare(images).logits)


@pytest.mark.long
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['method']}-{row['parameters']}")
def test_parameters_to_the_last_digit(row):
    counts = []
    for auxiliary in (True, False):
        with torch.device("meta"):
            backbone = build_backbone(row["backbone"], **row["backbone_options"])
            options = {"auxiliary": auxiliary} | row["options"]
            model = models.build_model(row["method"], backbone, 19, **options)
        counts.append(sum(each.numel() for each in model.parameters()))
    assert counts == [row["parameters"], row["without_auxiliary"]]


def test_every_method_has_a_published_count(name):
    assert name in {row["method"] for row in ROWS}


def test_one_short_file_with_one_public_name(name):
    module = inspect.getmodule(models.method_class(name))
    source = Path(module.__file__).read_text()
    assert len(source.splitlines()) <= 150
    assert len(module.__all__) == 1
    assert "arXiv:" in source.splitlines()[0]


def test_unknown_option_is_named(name):
    with pytest.raises(InputError, match=f"method {name} has no option 'no_such_option'"):
        build(name, no_such_option=3)


def test_image_smaller_than_the_stride_is_refused(model):
    stride = model.backbone.coarsest_stride
    with pytest.raises(InputError, match=f"image of {stride - 1}x64 pixels is smaller"):
        model(torch.rand(1, 3, stride - 1, 64))
