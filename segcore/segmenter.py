"""What every method is: images in, a prediction out."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import skip_code

from segcore.backbones import Backbone
from segcore.errors import InputError
from segcore.types import Images, Prediction


def _ahead_of_the_compiler(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function that ``torch.compile`` leaves as it is where compiling would begin with it. What
    torch offers in public, ``torch.compiler.disable(recursive=False)``, cannot be exported."""
    for each in (call, inspect.unwrap(call)):  # pytest wraps what has its types checked
        skip_code(each.__code__)
    return call


class Segmenter(nn.Module):
    """A method on a backbone; everything between images and prediction is its own business.

    The constructor takes the backbone, the number of classes and keywords, the method's options.
    A method whose constructor has the keyword ``auxiliary`` has heads that only training needs.
    Logits come at the method's own stride. In eval mode a prediction holds logits alone.
    """

    needed_strides: ClassVar[tuple[int, ...]] = ()
    """Strides at which the backbone must have a feature; empty where any will do."""
    needed_features: ClassVar[int] = 1
    """How many features the method reads, without those of auxiliary heads."""

    backbone: Backbone
    auxiliary: Any
    """The heads that only training needs, or None."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = None

    def forward(self, images: Images) -> Prediction:
        raise NotImplementedError  # every method has its own

    def prediction(self, logits: Tensor, features: Sequence[Tensor]) -> Prediction:
        """``logits``, and in training the auxiliary head's of the last feature but one."""
        if self.training and self.auxiliary:
            return Prediction(logits, auxiliary=(self.auxiliary(features[-2]),))
        return Prediction(logits)

    @_ahead_of_the_compiler
    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """``forward``, with what torch would only say in its own terms said to the caller.

        Raises InputError for an image smaller than the stride and, in training, for a batch that
        leaves BatchNorm a single value per channel.
        """
        if torch.compiler.is_compiling():  # sizes are symbols there; nobody reads messages
            return super().__call__(*inputs, **keywords)
        images = inputs[0] if inputs else keywords["images"]
        batch, height, width = images.shape[0], *images.shape[-2:]
        stride = self.backbone.coarsest_stride
        if min(height, width) < stride:
            raise InputError(
                f"an image of {height}x{width} pixels is smaller than the network's stride of "
                f"{stride}; give at least {stride}x{stride}, or a smaller output stride"
            )
        try:
            return super().__call__(*inputs, **keywords)
        except (ValueError, RuntimeError) as error:  # the compiler makes it a RuntimeError
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                f"training on {batch} image(s) of {height}x{width} leaves BatchNorm a single value "
                "per channel (a pooled map of 1x1); give at least 2 images per worker and step, "
                "or larger images, or synchronise BatchNorm over workers"
            ) from error
