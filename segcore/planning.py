"""What a training will need, said before it starts: memory of a device, seconds, what fits."""

import os
from collections.abc import Sequence
from functools import cache
from itertools import islice
from time import perf_counter
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segcore.frozen_norms import freeze_batchnorm
from segcore.inference import predict_labels
from segcore.model_files import build_network, in_layout
from segcore.row import Run
from segcore.runs import device_of, loss_of, precision_of, train
from segcore.shards import ShardReader
from segcore.training import Step
from segcore.transforms import normalise
from segcore.types import Prediction

__all__ = ["expected_memory", "expected_seconds", "images_at_once", "memory_of", "most_images"]

Output = tuple[tuple[int, ...], torch.dtype]
SAMPLE = 64
"""Height and width of what the losses are tried on."""
TIMED_STEPS = 2
"""After one that is not."""
IMAGES_ON_A_CPU = 2


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that exist at a time: ``now``, and at most, ``peak``.

    What an operator takes for itself while it computes is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held = dict[int, int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._held:  # a view, or the result of an operation in place
            return
        self._held[place] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        finalize(storage, self._free, place)

    def _free(self, place: int) -> None:
        self.now -= self._held.pop(place)


def images_at_once(run: Run, workers: int) -> int:
    """The most images that a worker takes through the network in one pass."""
    share = -(-run.batch_size // workers)
    return min(run.micro_batch or share, share)


def memory_of(device: str) -> float | None:
    """Bytes that a device of this machine has; None where there is none."""
    if device == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return float(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None


def expected_memory(run: Run, num_classes: int, images: int, workers: int, device: str) -> int:
    """Bytes that training holds at its peak on each worker's device, ``images`` in a pass.

    Weights, gradients, the optimizer's state, what the backward pass needs, the losses. A step is
    taken with tensors that have sizes and no values, so that any network is planned on any
    machine. ``device``, cpu or cuda, decides the precision. Not seen: what kernels take for
    themselves while they run, what the allocator keeps in reserve, and CUDA's own context.
    """
    precision = precision_of(run, torch.device(device))
    with FakeTensorMode(), LiveBytes() as live:
        network = build_network(run.model_copy(update={"pretrained": False}), num_classes).train()
        if run.freeze_batchnorm:
            freeze_batchnorm(network.get_submodule("backbone"))
        weights = live.now
        at_outputs, outputs = _pass(network, images, run.crop, precision, live)
        if images * workers < run.batch_size:  # later parts find the gradients of the first
            at_outputs, _ = _pass(network, images, run.crop, precision, live)
    in_losses = at_outputs + _loss_bytes(run, num_classes, outputs)
    copies = {"adamw": 2, "sgd": 1 if run.momentum else 0}[run.optimizer]
    copies += workers > 1  # DistributedDataParallel's gradients on their way
    copies += run.ema_decay is not None  # their moving average
    return max(live.peak, in_losses) + weights * copies


def _pass(
    network: nn.Module, images: int, crop: Sequence[int], precision: torch.dtype, live: LiveBytes
) -> tuple[int, list[Output]]:
    """Forward and backward; returns the bytes alive between the two, and what the outputs are."""
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        pixels = torch.empty(images, 3, *crop, dtype=torch.uint8)
        outputs = _outputs(network(normalise(pixels)))
    at_outputs = live.now
    torch.autograd.backward(outputs, [torch.empty_like(each) for each in outputs])
    return at_outputs, [(tuple(each.shape), each.dtype) for each in outputs]


def _outputs(prediction: Prediction) -> list[Tensor]:
    presence = [] if prediction.presence is None else [prediction.presence]
    return [prediction.logits, *prediction.auxiliary, *presence]


def _loss_bytes(run: Run, num_classes: int, outputs: Sequence[Output]) -> int:
    """What the losses hold at their peak, forward and backward, beside the network's outputs.

    Some look at values (which pixels are hard, which classes occur), so they are computed on a
    small image in which every class occurs; all of them grow with the number of pixels.
    """
    height, width = run.crop
    criterion = loss_of(run, [1] * num_classes)
    labels = torch.arange(SAMPLE * SAMPLE).remainder(num_classes).to(torch.uint8)
    small = [
        torch.zeros(
            1,
            shape[1],
            *[max(SAMPLE * side // of, 1) for side, of in zip(shape[2:], run.crop, strict=False)],
            dtype=dtype,
            requires_grad=True,
        )
        for shape, dtype in outputs
    ]
    presence = small.pop() if small[-1].ndim == 2 else None
    with LiveBytes() as live:
        prediction = Prediction(small[0], tuple(small[1:]), presence)
        criterion(prediction, labels.view(1, SAMPLE, SAMPLE)).backward()
    images = outputs[0][0][0]
    return live.peak * images * height * width // SAMPLE**2


def most_images(run: Run, num_classes: int, workers: int, device: str, limit: int) -> int:
    """The most images in a pass whose ``expected_memory`` is within ``limit`` bytes, beside the
    gradients of an earlier pass: so many are right as ``micro_batch`` of any batch.

    Zero where not even two fit, the fewest that BatchNorm takes everywhere.
    """

    @cache
    def memory(images: int) -> int:
        longer = run.model_copy(update={"batch_size": 2 * images * workers})
        return expected_memory(longer, num_classes, images, workers, device)

    low, high = 2, 4
    if memory(low) > limit:
        return 0
    while memory(high) <= limit:  # memory is a straight line, or nearly: two points show the end
        slope = (memory(high) - memory(low)) / (high - low)
        low, high = high, high + int((limit - memory(high)) / slope) + 1
    while high - low > 1:
        share = (limit - memory(low)) / (memory(high) - memory(low))
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        low, high = (middle, high) if memory(middle) <= limit else (low, middle)
    return low


def expected_seconds(run: Run, num_classes: int, shards: str, workers: int) -> tuple[float, float]:
    """Of a training step and of all evaluations of a training, on workers like this machine.

    Measured here: steps with their loading, of two images on a CPU, where time grows with their
    number; and one image of the row's first split. Raises InputError where the row does not fit
    the data or this machine.
    """
    device = device_of(run)
    images = images_at_once(run, workers)
    if device.type == "cpu":
        images = min(images, IMAGES_ON_A_CPU)
    unseen = TIMED_STEPS + 2  # the step that would be evaluated
    short = {"steps": unseen, "evaluate_every": unseen, "save_every": unseen}
    short |= {"batch_size": images, "micro_batch": None, "workers": 1, "decoded_cache": 0.0}
    tried = run.model_copy(update={**short, "init": None, "pretrained": False})
    step = _seconds_of_a_step(tried, shards)
    reader = ShardReader(shards, run.splits[0])
    looks = -(-run.steps // run.evaluate_every) * len(reader)
    network = in_layout(build_network(tried, num_classes), tried).to(device)
    look = _seconds_of_labels(network, reader[0].image[None])
    return step * run.batch_size / images / workers, look * looks / workers


def _seconds_of_a_step(run: Run, shards: str) -> float:
    steps = (event for event in train(run, shards) if isinstance(event, Step))
    return min(step.seconds for step in islice(steps, 1, TIMED_STEPS + 1))


def _seconds_of_labels(network: nn.Module, images: Tensor) -> float:
    predict_labels(network.eval(), images)  # what is set up once is no part of it
    begun = perf_counter()
    predict_labels(network, images).cpu()
    return perf_counter() - begun
