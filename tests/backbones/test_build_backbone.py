"""What backbones of the published rows owe: their strides at any size, compiled and exported."""

import pytest
import torch
from jaxtyping import config

from segcore.backbones import build_backbone, list_backbones

ROWS = [
    ("resnet18", 32), ("resnet50c", 8), ("resnet50s", 8), ("resnet101", 8), ("resnet101", 32),
    ("resnet101c", 8), ("resnet101s", 8), ("resnet101s", 32), ("resnet152", 32), ("resnet50d", 8),
    ("resnet269s", 8), ("mobilenetv2_100", 8), ("mobilenetv2_100", 16), ("xception65", 8),
    ("xception65", 16), ("densenet161", 16), ("densenet161", 8), ("wide_resnet38_a1", 8),
    ("wide_resnet38_a2", 8), ("hrnet_w18_small_v2", None), ("hrnet_w18", None), ("hrnet_w48", None),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("name", "output_stride"), ROWS)
def test_builds_and_runs_at_the_strides_of_the_published_rows(name, output_stride):
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride=output_stride).eval()
        assert backbone.strides[:2] == (4, 8)
        assert backbone.strides[-1] == (output_stride or 32)
        for size in ((360, 480), (97, 129)):
            features = backbone(torch.rand(1, 3, *size))
            assert tuple(each.shape[1] for each in features) == backbone.channels
            for feature, stride in zip(features, backbone.strides, strict=True):
                for got, pixels in zip(feature.shape[2:], size, strict=True):
                    # DenseNet's average pooling leaves a last odd row out.
                    down = pixels // stride if name.startswith("densenet") else -1
                    assert got in (-(-pixels // stride), down)


def test_names_are_timm_s_and_ours():
    names = list_backbones()
    assert names == sorted(names)
    ours = {"resnet269c", "resnet269s", "wide_resnet38_a", "wide_resnet38_a1", "wide_resnet38_a2"}
    assert {"resnet50c", "hrnet_w48", *ours} <= set(names)


FORMS = {
    "joint": ("resnet18", {"channels": (4, 8, 16, 32), "pyramid": "joint"}),
    "multi_grid": (
        "resnet18",
        {"channels": (4, 8, 16, 32), "output_stride": 8, "multi_grid": [1, 2]},
    ),
    "concat": ("hrnet_w18_small_v2", {"pyramid": "concat"}),
    "first blocks": (
        "mobilenetv2_035",
        {"output_stride": 8, "dilate_first_block_only": True},
    ),
    "densenet": ("densenet121", {"growth_rate": 4, "output_stride": 8}),
    "wide_resnet38_a": ("wide_resnet38_a", {"width": 2, "output_stride": 8}),
    "wide_resnet38_a1": ("wide_resnet38_a1", {"width": 2, "output_stride": 8}),
    "wide_resnet38_a2": ("wide_resnet38_a2", {"width": 2, "output_stride": 16}),
}


@pytest.fixture(params=FORMS)
def backbone(request):
    torch.manual_seed(0)
    name, options = FORMS[request.param]
    return build_backbone(name, **options).eval()


@pytest.fixture
def _unchecked():
    """As outside pytest: the compiler cannot trace through the checks of shapes."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def check(compiled, backbone, sizes):
    for size in sizes:
        images = torch.rand(2, 3, *size)
        with torch.no_grad():
            for got, want in zip(compiled(images), backbone(images), strict=True):
                scale = want.abs().max().item()  # untrained, HRNet's reach ten thousand
                torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * scale)


@pytest.mark.long
@pytest.mark.usefixtures("_unchecked")
def test_compiles_as_one_graph(backbone):
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, dynamic=True, backend="eager")
    check(compiled, backbone, [(64, 96), (97, 129), (65, 161)])


@pytest.mark.long
@pytest.mark.usefixtures("_unchecked")
def test_exports_with_dynamic_size(backbone):
    multiple = 32
    height = multiple * torch.export.Dim("height", min=2, max=16)
    width = multiple * torch.export.Dim("width", min=2, max=16)
    exported = torch.export.export(
        backbone, (torch.rand(2, 3, 64, 96),), dynamic_shapes=({2: height, 3: width},)
    )
    check(exported.module(), backbone, [(64, 96), (128, 64), (96, 160)])


@pytest.mark.parametrize(
    ("name", "options", "strides", "coarsest"),
    [
        ("resnet18", {}, (4, 8, 16, 32), 32),
        ("resnet18", {"output_stride": 8}, (4, 8, 8, 8), 8),
        ("resnet18", {"pyramid": "joint"}, (4, 8, 16, 8), 32),
        ("resnet18", {"pyramid": "concat", "output_stride": 16}, (4, 4), 16),
        ("hrnet_w18_small_v2", {"pyramid": "concat"}, (4, 4), 32),
        ("convnext_atto", {"pyramid": "concat"}, (4, 4), 32),
    ],
)
def test_the_coarsest_stride_is_that_of_what_a_pyramid_stands_on(name, options, strides, coarsest):
    with torch.device("meta"):
        backbone = build_backbone(name, **options)
    assert backbone.strides == strides
    assert backbone.coarsest_stride == coarsest


@pytest.mark.parametrize(
    ("name", "options", "stride", "index"),
    [
        ("resnet18", {"output_stride": 8}, 4, 0),
        ("resnet18", {"output_stride": 8}, 8, 3),
        ("resnet18", {"pyramid": "joint"}, 8, 3),
        ("resnet18", {"pyramid": "joint"}, 16, 2),
        ("wide_resnet38_a1", {"width": 1}, 16, 2),
        ("wide_resnet38_a1", {"width": 1}, 32, 4),
    ],
)
def test_of_several_features_at_one_stride_the_last_is_meant(name, options, stride, index):
    with torch.device("meta"):
        assert build_backbone(name, **options).index_of(stride) == index
