"""What a row's network is taught: the dataset's labels, and what SegFix makes of them."""

import numpy as np
import pytest
import torch

from segcore.errors import InputError
from segcore.inference import predict_labels
from segcore.metrics import Scores, confusion_matrix
from segcore.model_files import build_network
from segcore.row import Run
from segcore.runs import check, train
from segcore.segfix import MOVES, build_move_criterion, moves_of
from segcore.shards import Manifest, ShardReader
from segcore.targets import classes_of, criterion_of, reader_of, relabelling
from segcore.training import Evaluated, Saved, Step
from segcore.transforms import Augmentation
from segcore.types import Prediction

OPTIONS = {"boundary_width": 3, "smallest_region": 1, "direction_weight": 0.5}


def row(**values):
    plain = {
        "method": "segfix",
        "backbone": "mobilenetv2_035",
        "dataset": "tiny",
        "backbone_options": {"pyramid": "concat"},
        "options": {"width": 16},
        "loss_options": OPTIONS,
        "steps": 4,
        "batch_size": 4,
        "crop": (48, 48),
        "evaluate_every": 4,
        "save_every": 4,
        "device": "cpu",
    }
    return Run(**(plain | values))


def test_other_methods_are_taught_the_datasets_labels(tiny):
    fcn = row(method="fcn", options={}, loss_options={})
    classes = Manifest.read(tiny).classes
    assert classes_of(fcn, classes) == classes
    assert relabelling(fcn) is None
    assert criterion_of(fcn) is None
    ours, theirs = reader_of(fcn, tiny, "val")[1], ShardReader(tiny, "val")[1]
    assert torch.equal(ours.labels, theirs.labels)


def test_segfix_is_taught_moves(tiny):
    assert classes_of(row(), Manifest.read(tiny).classes) == MOVES
    ours, theirs = reader_of(row(), tiny, "val"), ShardReader(tiny, "val")
    assert len(ours) == len(theirs)
    for index in range(len(ours)):
        expected = moves_of(theirs[index].labels, boundary_width=3, smallest_region=1)
        assert torch.equal(ours[index].labels, expected)
        assert torch.equal(ours[index].image, theirs[index].image)


def test_its_options_reach_its_loss():
    torch.manual_seed(0)
    prediction, labels = Prediction(torch.randn(1, 9, 8, 8)), torch.randint(0, 9, (1, 8, 8))
    criterion = criterion_of(row())
    assert criterion is not None
    expected = build_move_criterion(direction_weight=0.5)(prediction, labels)
    assert criterion(prediction, labels) == expected
    assert build_move_criterion()(prediction, labels) > expected


def test_moves_are_those_of_the_crop_as_it_is(tiny):
    """Turned, mirrored, enlarged: what a sample is labelled with follows from what it shows."""
    sample = ShardReader(tiny, "train")[2]
    how = {"crop": (40, 40), "scale": (1.0, 2.0), "rotation": 30.0, "mirror": (0, 1, 2, 3)}
    for seed in range(5):
        plain, taught = (
            Augmentation(**how, relabel=relabel)(sample, np.random.default_rng(seed))
            for relabel in (None, relabelling(row()))
        )
        assert torch.equal(plain.image, taught.image)
        expected = moves_of(plain.labels, boundary_width=3, smallest_region=1)
        assert torch.equal(taught.labels, expected)


def test_it_is_trained_and_validated_by_the_same_loop(tiny):
    events = list(train(row(), tiny))
    losses = [event.loss for event in events if isinstance(event, Step)]
    (evaluated,) = (event for event in events if isinstance(event, Evaluated))
    (saved,) = (event for event in events if isinstance(event, Saved))
    assert len(losses) == 4
    assert all(0 < loss < 10 for loss in losses)
    network = build_network(row(), len(MOVES))
    network.load_state_dict(saved.checkpoint.best_weights)
    confusion = torch.zeros(9, 9, dtype=torch.int64)
    reader = ShardReader(tiny, "val")
    for sample in (reader[index] for index in range(len(reader))):
        moves = moves_of(sample.labels, boundary_width=3, smallest_region=1)
        found = predict_labels(network.eval(), sample.image[None])[0]
        confusion += confusion_matrix(moves, found, 9)
    assert evaluated.scores.miou == Scores(confusion.numpy()).miou


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loss": "ohem"}, "method segfix has its own loss; set loss to 'cross_entropy'"),
        ({"class_weights": "balanced"}, "set class_weights to None"),
        ({"loss_options": {"boundery_width": 3}}, "did you mean 'boundary_width'"),
        ({"loss_options": {"boundary_width": "wide"}}, "must be a number above 0, not 'wide'"),
        ({"loss_options": {"smallest_region": 0}}, "must be a number above 0, not 0"),
    ],
)
def test_what_its_loss_does_not_read_is_refused(values, said):
    with pytest.raises(InputError, match=said):
        check(row(**values), len(MOVES))
