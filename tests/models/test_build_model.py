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
        ("fcn", {"width": -3}, "fcn: width must be a whole number of at least 1, not -3"),
        ("fcn", {"width": 16.0}, "fcn: width must be a whole number of at least 1, not 16.0"),
        ("fcn", {"width": True}, "fcn: width must be a whole number of at least 1, not True"),
        ("fcn", {"kernel": 2}, "fcn: kernel must be an odd whole number, not 2"),
        ("fcn", {"dilation": 0}, "fcn: dilation must be a whole number of at least 1, not 0"),
        ("fcn", {"dropout": 1.0}, "fcn: dropout must be a share from 0 to below 1, not 1.0"),
        ("fcn", {"bias": "no"}, "fcn: bias must be true or false, not 'no'"),
        ("ocrnet", {"region_kernel": 4}, "ocrnet: region_kernel must be an odd whole number"),
        ("ocrnet", {"key_width": 0}, "ocrnet: key_width must be a whole number of at least 1"),
        ("deeplabv3", {"projection_kernel": 0}, "projection_kernel must be an odd whole number"),
        ("deeplabv3", {"num_convs": -1}, "num_convs must be a whole number of at least 0, not -1"),
        ("deeplabv3", {"dilations": [6, 0]}, r"dilations must be a list .*, not \[6, 0\]"),
        ("pspnet", {"grids": 3}, r"pspnet: grids must be a list .* as in \[1, 2\], not 3"),
        ("pspnet", {"grids": []}, r"pspnet: grids must be a list .*, not \[\]"),
        ("ann", {"grids": [0]}, r"ann: grids must be a list .*, not \[0\]"),
        ("ocnet", {"context": "pyramid", "grids": [0]}, r"ocnet: grids must be a list .*\[0\]"),
        ("encnet", {"num_codes": 0}, "encnet: num_codes must be a whole number of at least 1"),
        ("gcnet", {"ratio": "half"}, "gcnet: ratio must be a number above 0, not 'half'"),
        ("bisenet", {"spatial_widths": [4, 4, 4, 0]}, r"spatial_widths must be a list .* 0\]"),
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
    monkeypatch.setattr(models, "method_class", lambda _: NeedsAll)
    with pytest.raises(InputError, match=r"needs features at strides 4, 8, 16, 32.*16 is missing"):
        models.build_model("needs_all", Plain(4, 8, 8, 8), 3)
    assert isinstance(models.build_model("needs_all", Plain(4, 8, 16, 32), 3), NeedsAll)


@pytest.mark.parametrize("method", models.list_methods())
def test_no_option_of_a_method_fails_where_only_torch_would_say_why(method):
    """Every default is a value that its option may have, and none is a number below that."""
    for option, default in models.list_options(method).items():
        if option == "auxiliary" or isinstance(default, str):
            continue
        wrong = [-1] if isinstance(default, tuple) else -1
        wrong = ["none"] if option == "fusion" else wrong
        with pytest.raises(InputError, match=f"method {method}: {option} must "):
            models.build_model(method, Plain(4, 8, 16, 32), 3, **{option: wrong})


def test_a_method_s_own_mistake_is_not_the_user_s(monkeypatch):
    class Mistaken(NeedsAll):
        def __init__(self, backbone, num_classes):
            super().__init__(backbone, num_classes)
            self.weight = torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setattr(models, "method_class", lambda _: Mistaken)
    with pytest.raises(RuntimeError, match="size"):
        models.build_model("mistaken", Plain(4, 8, 16, 32), 3)


@pytest.mark.parametrize(
    ("name", "options", "stride"),
    [
        ("densenet121", {"growth_rate": 4, "pyramid": "joint"}, 32),
        ("resnet18", {"pyramid": "joint"}, 32),
        ("convnext_atto", {"pyramid": "concat"}, 32),
        ("hrnet_w18_small_v2", {"pyramid": "concat"}, 32),
        ("resnet18", {"output_stride": 8}, 8),
    ],
)
def test_an_image_smaller_than_the_coarsest_map_s_pixel(name, options, stride):
    with torch.device("meta"):
        model = models.build_model("fcn", build_backbone(name, **options), 3, width=8).eval()
        side = stride // 2
        with pytest.raises(InputError, match=f"image of {side}x{side} pixels is .* of {stride};"):
            model(torch.rand(1, 3, side, side))
        model(torch.rand(1, 3, stride, stride))


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
