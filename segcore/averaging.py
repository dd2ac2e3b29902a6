"""The moving average of a network's weights, which often scores better than the last ones."""

import copy
from typing import Any

import torch
from torch import nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The exponential moving average of a network's weights, as a network of its own.

    After step n it is d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)), TensorFlow's
    form (ExponentialMovingAverage, num_updates): the weights that training began with are
    forgotten soon. Statistics of BatchNorm are averaged like weights; counters are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, number: int) -> None:
        """Takes in the weights after step ``number``, counted from 1."""
        share = 1 - min(self.decay, (1 + number) / (10 + number))
        own, new = self.network.state_dict(), network.state_dict()
        for name, value in own.items():
            if value.is_floating_point():
                value.lerp_(new[name], share)
            else:
                value.copy_(new[name])

    def state_dict(self) -> dict[str, Any]:
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state)
