"""Training steps of one network in a process of its own, measured on command.

Run as ``benchmarks.worker`` is, and spoken to alike; a size is (images, height, width). Each
library takes its own reference step: MMSegmentation's ``loss`` under mmengine's order of update,
torchvision's of references/segmentation/train.py, Segcore's of ``segcore.gradients``. Images and
labels lie on the device; ours are bytes that the step normalises, theirs are normalised before.
"""

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import CLASSES, read_cases
from benchmarks.worker import serve
from segcore.memory import peak_memory

WARM_UP_STEPS = {"cpu": 1, "cuda": 5}
REPEATS = {"cpu": 1, "cuda": 10}
"""Steps per timing: a single one of a GPU would be timed while its clock still rises."""
IGNORE = 255

Step = Callable[[], object]


class Data(NamedTuple):
    """A batch as decoded and as peers want it, on the device."""

    pixels: Tensor
    images: Tensor
    labels: Tensor


class TrainingBench:
    """The steps of all variants asked for so far."""

    def __init__(self, library: str, case: str, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        self.library, self.case, self.device = library, case, torch.device(device)
        self.steps = dict[str, Step]()
        build_network(library, case)  # what cannot be built says so at once

    def parameters(self) -> int:
        network = build_network(self.library, self.case)
        return sum(each.numel() for each in network.parameters())

    def memory(self, variant: dict[str, Any], size: list[int]) -> float:
        """Megabytes (10^6 bytes) that a step adds at its peak to weights and momentum."""
        return peak_memory(self._warm(variant, size), self.device) / 1e6

    def time(self, variant: dict[str, Any], size: list[int]) -> float:
        """Milliseconds per step."""
        step, repeats = self._warm(variant, size), REPEATS[self.device.type]
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        self._synchronise()
        return (time.perf_counter() - start) * 1000 / repeats

    def _warm(self, variant: dict[str, Any], size: list[int]) -> Step:
        key = json.dumps([variant, size])
        if key not in self.steps:
            step = self._build(variant, size)
            for _ in range(WARM_UP_STEPS[self.device.type]):
                step()
            self._synchronise()
            self.steps[key] = step
        return self.steps[key]

    def _build(self, variant: dict[str, Any], size: list[int]) -> Step:
        torch.manual_seed(0)
        builders = {"segcore": step_of_segcore, "mmseg": step_of_mmseg}
        build = builders.get(self.library, step_of_torchvision)
        network = build_network(self.library, self.case).to(self.device).train()
        return build(network, variant, made_up(size, self.device, variant["channels_last"]))

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def made_up(size: list[int], device: torch.device, channels_last: bool) -> Data:
    count, height, width = size
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, device=device)
    labels = torch.randint(0, CLASSES, (count, height, width), dtype=torch.uint8, device=device)
    pixels = pixels.contiguous(memory_format=layout)
    return Data(pixels, (pixels.float() - 116) / 58, labels)


def build_network(library: str, case: str) -> nn.Module:
    """With the heads that training has; random weights."""
    described = read_cases()[case]
    if library == "mmseg":
        from benchmarks.parity import published

        return published.build_model(published.load_registry(), described)
    if library == "torchvision":
        from torchvision.models import segmentation

        constructor = getattr(segmentation, described["constructor"])
        nothing: dict[str, Any] = {"weights": None, "weights_backbone": None}
        return constructor(**nothing, num_classes=CLASSES, aux_loss=True)
    from segcore.backbones import build_backbone
    from segcore.models import build_model

    backbone = build_backbone(**described["backbone"])
    return build_model(case.partition("-")[0], backbone, CLASSES, **described.get("options", {}))


def step_of_segcore(network: nn.Module, variant: dict[str, Any], data: Data) -> Step:
    from segcore.gradients import Updates
    from segcore.losses import build_criterion
    from segcore.optimization import build_optimizer
    from segcore.training import prepare_model
    from segcore.types import Batch

    model = prepare_model(
        network,
        data.labels.device,
        channels_last=variant["channels_last"],
        compile=variant["compiled"],
    )
    updates = Updates(
        model,
        build_criterion("cross_entropy"),
        build_optimizer("sgd", network, learning_rate=0.01),
        precision=getattr(torch, variant["precision"]),
    )
    batch = Batch(data.pixels, data.labels, ("made up",) * len(data.labels))
    return lambda: updates.take(batch, 1)


def step_of_mmseg(network: Any, variant: dict[str, Any], data: Data) -> Step:
    from mmengine.structures import PixelData  # pyright: ignore[reportMissingImports]
    from mmseg.structures import SegDataSample  # pyright: ignore[reportMissingImports]

    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=each[None].long()),
            metainfo={"img_shape": tuple(each.shape), "ori_shape": tuple(each.shape)},
        )
        for each in data.labels
    ]

    def loss() -> Tensor:
        return network.parse_losses(network.loss(data.images, samples))[0]

    return _plain_step(network, loss, variant, data)


def step_of_torchvision(network: nn.Module, variant: dict[str, Any], data: Data) -> Step:
    labels = data.labels.long()

    def loss() -> Tensor:
        outputs = network(data.images)
        losses = {k: F.cross_entropy(v, labels, ignore_index=IGNORE) for k, v in outputs.items()}
        return losses["out"] + 0.5 * losses["aux"]

    return _plain_step(network, loss, variant, data)


def _plain_step(
    network: nn.Module, loss: Callable[[], Tensor], variant: dict[str, Any], data: Data
) -> Step:
    """Autocast around forward and loss, then SGD; the loss is logged, as both libraries do."""
    if variant["channels_last"]:
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    precision, kind = getattr(torch, variant["precision"]), data.labels.device.type
    compute: Any = torch.compile(loss) if variant["compiled"] else loss

    def step() -> float:
        with torch.autocast(kind, precision, enabled=precision != torch.float32):
            value = compute()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.item()

    return step


if __name__ == "__main__":
    serve(TrainingBench)
