"""Every method as another program runs it: compiled whole, exported with sizes left open, as ONNX.

Logits are compared on a scale of one, with BatchNorm's statistics and the gates that start at
zero drawn at random: an exchange that lost a branch or a statistic would show.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import config
from torch import nn

from segcore import models
from segcore.errors import InputError
from segcore.segmenter import Segmenter
from tests.narrow_networks import build_narrow

TOLERANCE = 1e-4
TRACED = (128, 192)
OTHERS = [(96, 256), (192, 128), (160, 96)]
SMALLEST = 96
"""Pixels a side. In an exported program a map, or a cell of one, has two rows and columns at least:
to torch.export a single one is a case of its own."""

PUBLISHED_FORMS: list[tuple[str, dict[str, Any]]] = [
    ("fcn", {"num_convs": 1, "kernel": 1, "concat_input": False}),
    ("ocrnet", {"bias": True}),
    ("fcn", {"num_convs": 1, "concat_input": False, "bias": True, "classifier_bias": False}),
    ("ocnet", {"context": "pyramid", "grids": [1, 3]}),
    ("ocnet", {"context": "asp"}),
    ("deeplabv3", {"projection_kernel": 1}),
    ("non_local", {"mode": "dot_product"}),
    ("gcnet", {"fusion": ["multiply", "add"]}),
    ("encnet", {"lateral": True}),
    ("sdn", {"stacks": 3}),
    ("fcn", {"pyramid": "joint"}),
    ("fcn", {"pyramid": "concat"}),
]
FORMS = [(name, dict[str, Any]()) for name in models.list_methods()]
FORMS += [form for form in PUBLISHED_FORMS if form[0] in models.list_methods()]


@pytest.fixture(scope="module", autouse=True)
def _unchecked() -> Iterator[None]:
    """As outside pytest: the compiler cannot trace through the checks of shapes."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def describe(form: tuple[str, dict[str, Any]]) -> str:
    return "-".join((form[0], *(f"{key}={value}" for key, value in form[1].items())))


@pytest.fixture(scope="module", params=FORMS, ids=describe)
def model(request: pytest.FixtureRequest) -> Segmenter:
    """A narrow network of the form, every value in it at work."""
    method, options = request.param
    torch.manual_seed(0)
    built = build_narrow(method, **options).eval()
    awaken(built)
    return built


def awaken(model: nn.Module) -> None:
    """Random statistics, and random values where training starts from zero."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.uniform_(parameter, 0.2, 0.5)


def images_of(size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size[0] * 1000 + size[1])
    return torch.randn(1, 3, *size, generator=generator)


@torch.no_grad()
def scores(model: Segmenter, size: tuple[int, int]) -> torch.Tensor:
    return model(images_of(size)).logits


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = expected.std()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def exported(model: Segmenter) -> torch.export.ExportedProgram:
    """Height and width may be any multiple of the coarsest stride, from ``SMALLEST`` on."""
    stride = model.backbone.coarsest_stride
    height, width = (
        stride * torch.export.Dim(f"{side}_strides", min=SMALLEST // stride, max=1024)
        for side in ("height", "width")
    )
    shapes = {"images": {2: height, 3: width}}
    return torch.export.export(model, (images_of(TRACED),), dynamic_shapes=shapes)


@pytest.mark.long
def test_compiles_as_one_graph(model):
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        prediction = compiled(images_of((65, 97)))
    assert prediction.auxiliary == ()
    assert_same(prediction.logits, scores(model, (65, 97)))


@pytest.mark.long
def test_exports_with_height_and_width_left_open(model, exported):
    program = exported.module()
    for size in (TRACED, *OTHERS):
        with torch.no_grad():
            assert_same(program(images_of(size)).logits, scores(model, size))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_runs_at_sizes_that_were_not_traced(model, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    converted = torch.onnx.export(exported, (images_of(TRACED),), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(converted.model_proto.SerializeToString())
    (entry,) = session.get_inputs()
    assert [isinstance(side, str) for side in entry.shape] == [False, False, True, True]
    for size in OTHERS:
        (found,) = session.run(None, {entry.name: images_of(size).numpy()})
        assert found.dtype == np.float32
        assert_same(torch.from_numpy(found), scores(model, size))


@pytest.mark.long
@pytest.mark.timeout(900)  # a C++ compiler at work, perhaps beside other tests
@pytest.mark.parametrize("method", ["fcn", "non_local"])
def test_compiles_to_machine_code(method):
    torch.compiler.reset()
    torch.manual_seed(0)
    model = build_narrow(method).eval()
    awaken(model)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        assert_same(compiled(images_of((65, 97))).logits, scores(model, (65, 97)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 4, 64), "image of 4x64 pixels is smaller than the network's stride of 8"),
        ((1, 3, 64, 64), r"training on 1 image.s. of 64x64 leaves BatchNorm a single value"),
    ],
)
def test_a_compiled_model_tells_its_caller_what_is_wrong(shape, message):
    torch.compiler.reset()
    compiled = torch.compile(build_narrow("pspnet").train(), backend="eager")
    with pytest.raises(InputError, match=message):
        compiled(torch.rand(shape))
