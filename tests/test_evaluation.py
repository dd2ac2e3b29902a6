"""Images of different sizes, over one worker and two, against a plain loop."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch import nn

from segcore import sliding
from segcore.batches import evaluation_batches
from segcore.distributed import rank, world_size
from segcore.evaluation import Tally, evaluate, evaluate_images, merged
from segcore.inference import predict_labels, predictor
from segcore.memory import peak_memory
from segcore.shards import ShardReader
from segcore.tables import TestTime
from segcore.types import IGNORE, Batch, Prediction
from tests.workers import run_workers


class Pointwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.score = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.BatchNorm2d(4))

    def forward(self, images):
        return Prediction(self.score(images))


def images_of_three_sizes() -> list[Batch]:
    generator = np.random.default_rng(0)
    batches = []
    for number, (height, width) in enumerate([(5, 9), (16, 4), (7, 7)]):
        image = generator.integers(0, 256, (1, 3, height, width), dtype=np.uint8)
        labels = generator.choice([0, 1, 3, IGNORE], (1, height, width)).astype(np.uint8)
        batches.append(Batch(torch.tensor(image), torch.tensor(labels), (f"image {number}",)))
    return batches


def counted(labels: torch.Tensor, predicted: torch.Tensor) -> np.ndarray:
    """The confusion matrix, pixel by pixel."""
    matrix = np.zeros((4, 4), np.int64)
    for true, found in zip(labels.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if true != IGNORE:
            matrix[true, found] += 1
    return matrix


def test_images_of_different_sizes():
    network, batches = Pointwise(), images_of_three_sizes()
    results = list(evaluate_images(network, batches, 4))
    matrices = []
    for batch, result in zip(batches, results, strict=True):
        assert result.id == batch.ids[0]
        assert result.predicted.shape == batch.labels.shape[1:]
        assert torch.equal(result.predicted, predict_labels(network.eval(), batch.images)[0])
        matrices.append(matrix := counted(batch.labels[0], result.predicted))
        np.testing.assert_array_equal(result.confusion, matrix)
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        iou = [matrix[k, k] / union[k] for k in range(4) if union[k]]  # class 2 has no label
        assert result.miou == pytest.approx(sum(iou) / len(iou))
    scores = evaluate(network, batches, 4)
    np.testing.assert_array_equal(scores.confusion, sum(matrices))
    assert scores.confusion.any(axis=1).tolist() == [True, True, False, True]


def test_a_protocol_is_that_of_the_scores_too():
    network, batches = Pointwise().eval(), images_of_three_sizes()
    predict = predictor(TestTime(resize=11), range(4))
    scores = evaluate(network, batches, 4, predict)
    expected = [counted(batch.labels[0], predict(network, batch.images)[0]) for batch in batches]
    np.testing.assert_array_equal(scores.confusion, sum(expected))
    assert not np.array_equal(scores.confusion, evaluate(network, batches, 4).confusion)


def test_images_that_memory_was_short_for_are_counted(monkeypatch):
    class Greedy(Pointwise):
        def forward(self, images):
            if images.shape[-2] * images.shape[-1] > 50:
                raise MemoryError
            return super().forward(images)

    monkeypatch.setattr(sliding, "SMALLEST", 2)
    tally, plain = Tally(4), Tally(4)
    for result in evaluate_images(Greedy(), images_of_three_sizes(), 4):
        tally.add(result)  # of 5x9, 16x4 and 7x7 pixels
    for result in evaluate_images(Pointwise(), images_of_three_sizes(), 4):
        plain.add(result)
    names = ("a", "b", "c", "d")
    assert tally.as_dict(names)["seen_in_other_windows"] == 1
    assert merged([tally, plain, tally]).as_dict(names)["seen_in_other_windows"] == 2
    assert "seen_in_other_windows" not in plain.as_dict(names)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training):
    network = Pointwise().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    results = evaluate_images(network, images_of_three_sizes(), 4)
    next(results)
    assert not network.training
    results.close()  # an evaluation that is not read to its end
    assert network.training == training
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)


def scores_of(shards: str, split: str) -> np.ndarray:
    reader = ShardReader(shards, split)
    batches = evaluation_batches(reader, rank=rank(), ranks=world_size())
    return evaluate(Pointwise(), batches, 4).confusion


@pytest.mark.slow
def test_memory_is_flat_over_500_images():
    # in a process of its own: what others freed before may come back to use here
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        few, many = alone.submit(memory_of_scoring, 50, 450).result()
    assert many - few < 20e6  # the images alone would take 177 MB


def memory_of_scoring(*counts: int) -> list[int]:
    """The most bytes that scoring so many images takes, one count after the other."""
    network, tally = Pointwise().eval(), Tally(4)

    def score(images: int) -> None:
        generator = np.random.default_rng(0)
        for number in range(images):
            image = generator.integers(0, 256, (1, 3, 256, 384), dtype=np.uint8)
            labels = generator.integers(0, 4, (1, 256, 384), dtype=np.uint8)
            batch = Batch(torch.tensor(image), torch.tensor(labels), (str(number),))
            for result in evaluate_images(network, [batch], 4):
                tally.add(result)

    score(50)  # what is set up once is no part of it
    used = [peak_memory(partial(score, count), torch.device("cpu")) for count in counts]
    assert len(tally.images) == 50 + sum(counts)
    return used


@pytest.mark.long
def test_two_workers_count_what_one_counts(tiny):
    alone = scores_of(tiny, "val")
    assert alone.sum() == 48 * (4 * 64 - 3 * (0 + 1 + 2 + 3))  # four images, less their void
    for found in run_workers(2, scores_of, tiny, "val"):
        np.testing.assert_array_equal(found, alone)


@pytest.mark.long
def test_more_workers_than_images(tiny):
    found = run_workers(3, scores_of_one, tiny)
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])
    assert found[0].sum() == 5 * 9 - int((images_of_three_sizes()[0].labels == IGNORE).sum())


def scores_of_one(shards: str) -> np.ndarray:
    return evaluate(Pointwise(), images_of_three_sizes()[rank() : 1], 4).confusion
