"""Labels for whole images of any size."""

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from segcore.layers import resize
from segcore.transforms import normalise


@torch.inference_mode()
def predict_labels(network: nn.Module, images: UInt8[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w"]:
    """The most likely class of every pixel, at the images' own size, on the network's device."""
    device = next(network.parameters()).device
    logits = network(normalise(images.to(device))).logits
    return resize(logits.float(), images.shape[-2:]).argmax(1).to(torch.uint8)
