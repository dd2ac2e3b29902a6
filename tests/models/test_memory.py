"""No method holds a map of all pixels by all pixels, in inference or in training.

Beside FCN, whose memory is that of its feature maps. The networks are narrow and the image large,
so that such a map would be several times all the rest; on full widths ``benchmarks/memory.py``
measures the same.
"""

from typing import Any

import pytest
import torch

from segcore.losses import build_criterion
from segcore.memory import peak_memory
from tests.narrow_networks import build_narrow

SIZE = 512, 1024
CPU = torch.device("cpu")
WHOLE_MAP = (64 * 128) ** 2 * 4
"""Bytes: at stride 8, float32, one image. Blocks of a map are a few times 32 MiB."""
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("non_local", {}),
    ("ocnet", {"context": "base"}),
    ("ocnet", {"context": "pyramid", "value_width": 16, "shared": True}),
    ("ocnet", {"context": "asp", "key_width": 4, "value_width": 4}),
    ("danet", {}),
    ("ccnet", {}),
    ("isanet", {}),
    ("encnet", {}),
]


def inference_memory(method: str, **options: Any) -> int:
    model = build_narrow(method, **options).eval()
    images = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        model(torch.rand(1, 3, 64, 64))
        return peak_memory(lambda: model(images), CPU)


def training_memory(method: str, **options: Any) -> int:
    model = build_narrow(method, **options).train()
    criterion = build_criterion("cross_entropy")
    images, labels = torch.rand(2, 3, *SIZE), torch.zeros(2, *SIZE, dtype=torch.uint8)
    criterion(model(images[..., :64, :64]), labels[:, :64, :64]).backward()
    return peak_memory(lambda: criterion(model(images), labels).backward(), CPU)


@pytest.fixture(scope="module")
def of_fcn() -> tuple[int, int]:
    return inference_memory("fcn"), training_memory("fcn")


@pytest.mark.long
@pytest.mark.parametrize(("method", "options"), FORMS, ids=str)
def test_memory_is_that_of_feature_maps(method, options, of_fcn):
    assert inference_memory(method, **options) < of_fcn[0] + WHOLE_MAP // 2
    # The maps of two images, and the gradients of both, would be four.
    assert training_memory(method, **options) < of_fcn[1] + 3 * WHOLE_MAP // 2
