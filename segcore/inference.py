"""Labels for whole images of any size."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from segcore.layers import resize
from segcore.tables import TestTime
from segcore.transforms import normalise
from segcore.types import Images


def predictor(how: TestTime, mirror: Sequence[int]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Labels for images by one view or by many; ``mirror`` is the class table's."""
    if how == TestTime():
        return predict_labels
    return partial(predict_labels_over_views, scales=how.scales, flip=how.flip, mirror=mirror)


@torch.inference_mode()
def predict_labels(network: nn.Module, images: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w"]:
    """The most likely class of every pixel, at the images' own size, on the network's device."""
    device = next(network.parameters()).device
    logits = network(normalise(images.to(device))).logits
    return resize(logits.float(), images.shape[-2:]).argmax(1).to(torch.uint8)


@torch.inference_mode()
def predict_labels_over_views(
    network: nn.Module,
    images: UInt8[Tensor, "b 3 h w"],
    *,
    scales: Sequence[float],
    flip: bool,
    mirror: Sequence[int],
) -> UInt8[Tensor, "b h w"]:
    """Multi-scale testing: the class that is most likely on the mean over all views.

    The image is resized by every factor of ``scales`` (bilinearly, not below one pixel), and
    with ``flip`` each is also seen mirrored, where class i stands for class ``mirror[i]``. The
    probabilities of a view are enlarged as scores, before the softmax, as MMSegmentation does.
    """
    device = next(network.parameters()).device
    pixels = normalise(images.to(device))
    size = images.shape[-2:]
    total = torch.zeros((), device=device)
    for scale in scales:
        view = resize(pixels, torch.Size(max(round(side * scale), 1) for side in size))
        total = total + _probabilities(network, view, size)
        if flip:
            mirrored = _probabilities(network, view.flip(-1), size).flip(-1)
            total = total + mirrored[:, list(mirror)]
    return total.argmax(1).to(torch.uint8)


def _probabilities(
    network: nn.Module, view: Images, size: torch.Size
) -> Float[Tensor, "b k new_h new_w"]:
    return resize(network(view).logits.float(), size).softmax(dim=1)
