"""Weights that MMSegmentation and torchvision publish, loaded into models of the zoo."""

from segcore.weights.conversion import Conversion, converted
from segcore.weights.loading import load_weights, read_state

__all__ = ["Conversion", "converted", "load_weights", "read_state"]
