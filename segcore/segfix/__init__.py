"""SegFix: labels of any model, corrected at their boundaries (arXiv:2007.04269).

The network is the method ``segfix`` (``segcore/models/segfix.py``), trained as any other on labels
that say where a pixel has to go; ``refine`` lets the pixels of predicted labels go there.
"""

from segcore.segfix.criterion import build_move_criterion
from segcore.segfix.gain import BANDS, Gain
from segcore.segfix.moves import MOVES, OFFSETS, STAY, distances_and_bins, moves_of
from segcore.segfix.refinement import refine

__all__ = [
    "BANDS",
    "MOVES",
    "OFFSETS",
    "STAY",
    "Gain",
    "build_move_criterion",
    "distances_and_bins",
    "moves_of",
    "refine",
]
