"""A network as a file that other programs run: ONNX, or PyTorch's exported program (``.pt2``).

Both take one image, uint8 [1, 3, h, w] (RGB), and give ``labels``, uint8 [1, h, w], and ``logits``,
float32 at the network's own stride. Height and width may be any multiple of ``stride_of`` the
network from ``SMALLEST`` on. A file stays only if it answers as the network does.
"""

import copy
import io
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from segcore.errors import InputError, suggestion
from segcore.files import written_whole
from segcore.layers import resize
from segcore.segmenter import Segmenter
from segcore.transforms import MEAN, STD

TOLERANCE = 1e-3
"""Of the logits' standard deviation: what rounding in another order of sums may make of them."""
MOST_OTHERS = 1e-3
"""The share of pixels whose label may be another: where two classes are as likely."""
SMALLEST = 96
"""Pixels a side. Below, a map of the network can be a single row, which torch.export takes for a
case of its own."""
TRACED = 128, 192

Answer = tuple[Tensor, Tensor]
"""Labels and logits."""


class Difference(NamedTuple):
    """How far a file's answers are from the network's, at most, over all images."""

    logits: float
    """Of their standard deviation."""
    labels: float
    """The share of pixels."""


class FromPixels(nn.Module):
    """A network from pixels to labels, as one graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Answer:
        logits = self.network((images.float() - self.mean) / self.std).logits
        return resize(logits, images.shape[-2:]).argmax(1).to(torch.uint8), logits


def stride_of(network: Segmenter) -> int:
    return network.backbone.coarsest_stride


def export(
    network: Segmenter, form: str, path: Path, images: Sequence[UInt8[Tensor, "3 h w"]]
) -> Difference:
    """Writes ``path`` in a form of ``FORMS``; returns what it differs by on the images.

    Images are cut below and to the right to multiples of the stride. Raises InputError where one
    is too small, and, leaving no file, where the file answers otherwise than the network.
    """
    if form not in FORMS:
        raise InputError(f"no form {form!r}{suggestion(form, FORMS)}")
    model = FromPixels(copy.deepcopy(network).to(memory_format=torch.contiguous_format)).eval()
    cut = [_cut(image, stride_of(network))[None] for image in images]
    write, open_file = FORMS[form]
    with written_whole(path) as aside:
        aside.write_bytes(write(_traced(model)))
        difference = _difference(model, open_file(aside), cut)
        if difference.logits > TOLERANCE or difference.labels > MOST_OTHERS:
            raise InputError(
                f"{path.name} was not kept: on {len(cut)} image(s) its logits differ from the "
                f"network's by {difference.logits:.1e} of their deviation (at most {TOLERANCE}) "
                f"and {difference.labels:.2%} of the labels; use another form ({', '.join(FORMS)})"
            )
    return difference


def _cut(image: Tensor, stride: int) -> Tensor:
    height, width = (side // stride * stride for side in image.shape[-2:])
    if min(height, width) < SMALLEST:
        sides = "x".join(map(str, image.shape[-2:]))
        raise InputError(
            f"an image of {sides} pixels is too small to check an exported network, which takes "
            f"{SMALLEST} pixels a side or more, in multiples of {stride}"
        )
    return image[:, :height, :width]


def _traced(model: FromPixels) -> torch.export.ExportedProgram:
    stride = stride_of(model.network)
    least = -(-SMALLEST // stride)
    height, width = (
        stride * torch.export.Dim(f"{side}_strides", min=least, max=1024)
        for side in ("height", "width")
    )
    example = torch.randint(256, (1, 3, *TRACED), dtype=torch.uint8)
    return torch.export.export(model, (example,), dynamic_shapes={"images": {2: height, 3: width}})


@torch.no_grad()
def _difference(
    model: FromPixels, run: Callable[[Tensor], Answer], images: Sequence[Tensor]
) -> Difference:
    """nan and infinity count as the largest difference there is."""
    logits, labels = 0.0, 0.0
    for image in images:
        expected, found = model(image), run(image)
        if found[1].shape != expected[1].shape or not found[1].isfinite().all():
            return Difference(float("inf"), 1.0)
        apart = (found[1] - expected[1]).abs().max() / expected[1].std()
        logits = max(logits, float(apart))
        labels = max(labels, float((found[0] != expected[0]).float().mean()))
    return Difference(logits, labels)


def _write_program(program: torch.export.ExportedProgram) -> bytes:
    torch.export.save(program, file := io.BytesIO())
    return file.getvalue()


def _open_program(path: Path) -> Callable[[Tensor], Answer]:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


def _write_onnx(program: torch.export.ExportedProgram) -> bytes:
    _needed("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's, about its own code
        outputs = ["labels", "logits"]
        converted = torch.onnx.export(program, dynamo=True, verbose=False, output_names=outputs)
    assert converted is not None
    return converted.model_proto.SerializeToString()


def _open_onnx(path: Path) -> Callable[[Tensor], Answer]:
    session = _needed("onnxruntime").InferenceSession(path.read_bytes())

    def run(image: Tensor) -> Answer:
        (entry,) = session.get_inputs()
        labels, logits = session.run(["labels", "logits"], {entry.name: image.numpy()})
        return torch.from_numpy(labels), torch.from_numpy(logits)

    return run


def _needed(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise InputError(f"ONNX needs {package}; install it: pip install 'segcore[onnx]'") from None


FORMS = {"onnx": (_write_onnx, _open_onnx), "pt2": (_write_program, _open_program)}
"""Each with what makes its bytes and what runs a file of it."""
