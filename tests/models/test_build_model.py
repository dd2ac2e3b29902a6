"""What build_model tells those who ask for what it cannot give."""

import pytest
import torch
from torch import nn

from segcore import models
from segcore.backbones import Backbone, build_backbone
from segcore.errors import InputError
from segcore.segmenter import Segmenter


class Plain(Backbone):
    """Features of 8 channels at the given strides, without weights."""

    def __init__(self, *strides):
        super().__init__()
        self.strides = strides
        self.channels = (8,) * len(strides)

    def forward(self, images):
        size = images.shape[-2:]
        return [
            images.new_ones(len(images), 8, size[0] // each, size[1] // each)
            for each in self.strides
        ]


class NeedsAll(Segmenter):
    needed_strides = (4, 8, 16, 32)

    def __init__(self, backbone, num_classes):
        super().__init__()
        self.backbone = backbone


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("pspnett", {}, "no method 'pspnett'; did you mean 'pspnet'"),
        ("fcn", {"widht": 3}, "fcn has no option 'widht'; did you mean 'width'"),
        ("ocrnet", {"grids": [1]}, "ocrnet has no option 'grids'"),
        ("fcn", {"num_convs": 0}, "num_convs must be at least 1, not 0"),
        ("fcn", {"width": -3}, "method fcn with .*'width': -3.*negative dimension -3"),
        ("pspnet", {"grids": 3}, "method pspnet with .*'grids': 3"),
    ],
)
def test_wrong_names_and_values(method, options, message):
    with pytest.raises(InputError, match=message):
        models.build_model(method, Plain(4, 8), 3, **options)


def test_no_classes():
    with pytest.raises(InputError, match="at least one class, not 0"):
        models.build_model("fcn", Plain(4, 8), 0)


def test_too_few_features():
    with pytest.raises(InputError, match="strides 8; set auxiliary to false"):
        models.build_model("fcn", Plain(8), 3)
    with pytest.raises(InputError, match="ocrnet reads 2 features"):
        models.build_model("ocrnet", Plain(8), 3)
    model = models.build_model("fcn", Plain(8), 3, auxiliary=False)
    assert model.eval()(torch.rand(1, 3, 64, 64)).logits.shape == (1, 3, 8, 8)


def test_strides_that_a_method_needs(monkeypatch):
    monkeypatch.setattr(models, "_class_of", lambda _: NeedsAll)
    with pytest.raises(InputError, match=r"needs features at strides 4, 8, 16, 32.*16 is missing"):
        models.build_model("needs_all", Plain(4, 8, 8, 8), 3)
    assert isinstance(models.build_model("needs_all", Plain(4, 8, 16, 32), 3), NeedsAll)


def test_a_single_value_per_channel_in_training():
    model = models.build_model("pspnet", build_backbone("resnet18", output_stride=8), 3)
    with pytest.raises(InputError, match=r"1 image.s. of 64x96 .* at least 2 images per worker"):
        model.train()(torch.rand(1, 3, 64, 96))
    model.eval()(torch.rand(1, 3, 64, 96))


def test_other_value_errors_pass():
    class Broken(Segmenter):
        def __init__(self):
            super().__init__()
            self.backbone = Plain(8)
            self.layer = nn.Identity()

        def forward(self, images):
            raise ValueError("something else")

    with pytest.raises(ValueError, match="something else") as caught:
        Broken()(torch.rand(1, 3, 8, 8))
    assert not isinstance(caught.value, InputError)


def test_options_are_listed_with_their_defaults():
    options = models.list_options("pspnet")
    assert options["width"] == 512
    assert tuple(options["grids"]) == (1, 2, 3, 6)
    assert options["auxiliary"] is True
    assert "auxiliary" not in models.list_options("ocrnet")
