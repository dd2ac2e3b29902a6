"""What a row's network is taught: its dataset's labels, or for SegFix what follows from them."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial, reduce

from jaxtyping import UInt8
from torch import Tensor

from segcore.errors import InputError, suggestion
from segcore.losses import Criterion
from segcore.row import Run
from segcore.segfix import MOVES, build_move_criterion, moves_of
from segcore.shards import ShardReader
from segcore.tables import Options
from segcore.types import ClassTable, Sample

__all__ = ["ChangedReader", "classes_of", "criterion_of", "reader_of", "relabelling"]

Relabelling = Callable[[UInt8[Tensor, "h w"]], UInt8[Tensor, "h w"]]
Change = Callable[[Sample], Sample]

SEGFIX = "segfix"
UNREAD = ("loss", "dice_weight", "lovasz_weight", "class_weights")
"""What a row of SegFix has no use for, beside what only other methods' outputs are weighted by."""


def classes_of(run: Run, classes: ClassTable) -> ClassTable:
    """What the row's network tells apart on a dataset with these classes."""
    return MOVES if run.method == SEGFIX else classes


def relabelling(run: Run) -> Relabelling | None:
    """What is made of a label map for the row's network; None where it stays as it is."""
    if run.method != SEGFIX:
        return None
    return partial(moves_of, **_options_of(moves_of, run))


def criterion_of(run: Run) -> Criterion | None:
    """The loss that the row's method brings along; None where the row names one.

    SegFix's ``loss_options`` are those of its targets too. Raises InputError where the row says
    something that this loss does not read.
    """
    if run.method != SEGFIX:
        return None
    for key in UNREAD:
        default = Run.model_fields[key].default
        if getattr(run, key) != default:
            raise InputError(f"method segfix has its own loss; set {key} to {default!r}")
    known = [*_keywords(moves_of), *_keywords(build_move_criterion)]
    for option, value in run.loss_options.items():
        if option not in known:
            remedy = suggestion(option, known)
            raise InputError(f"loss_options: method segfix has no {option!r}{remedy}")
        if type(value) not in (int, float) or value <= 0:
            raise InputError(f"loss_options: {option} must be a number above 0, not {value!r}")
    return build_move_criterion(**_options_of(build_move_criterion, run))


def reader_of(run: Run, shards: str, split: str, *changes: Change) -> ShardReader:
    """The samples of a split after ``changes``, labelled as the row's network is scored."""
    if relabel := relabelling(run):
        changes += (partial(_relabelled, relabel),)  # of what is left, as in training
    return ChangedReader(shards, split, changes)


class ChangedReader(ShardReader):
    """The samples of a split after ``changes``, one after the other."""

    def __init__(self, folder: str, split: str, changes: Sequence[Change]) -> None:
        super().__init__(folder, split)
        self.changes = changes

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return reduce(lambda changed, change: change(changed), self.changes, sample)


def _relabelled(relabel: Relabelling, sample: Sample) -> Sample:
    return sample._replace(labels=relabel(sample.labels))


def _options_of(function: Callable[..., object], run: Run) -> Options:
    known = _keywords(function)
    return {key: value for key, value in run.loss_options.items() if key in known}


def _keywords(function: Callable[..., object]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
