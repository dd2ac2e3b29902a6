"""The training loop, as an iterator of what happened. It knows no engine."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from segcore.checkpoints import Checkpoint
from segcore.distributed import rank, share_buffers, synchronise_batchnorm, total, world_size
from segcore.errors import InputError
from segcore.metrics import Scores
from segcore.transforms import normalise
from segcore.types import IGNORE, Batch


@dataclass(frozen=True)
class Step:
    """One optimizer update. ``loss`` is the mean over the labelled pixels of the global batch;
    ``data_seconds`` of the step's ``seconds`` were spent waiting for the batch."""

    number: int
    loss: float
    learning_rate: float
    seconds: float
    data_seconds: float


@dataclass(frozen=True)
class Evaluated:
    """The scores of the weights after ``number`` steps; ``best`` so far or not."""

    number: int
    scores: Scores
    seconds: float
    best: bool


@dataclass(frozen=True)
class Saved:
    """The moment to write ``checkpoint``: training waits until the next event is asked for."""

    number: int
    checkpoint: Checkpoint


Event = Step | Evaluated | Saved


def prepare_model(
    network: nn.Module,
    device: torch.device,
    *,
    sync_batchnorm: bool = True,
    channels_last: bool = True,
    compile: bool = False,
) -> nn.Module:
    """Fits a finished network to where it runs, in this order and nowhere else:
    device, synchronised BatchNorm, channels last, compile, DistributedDataParallel."""
    network = network.to(device)
    if sync_batchnorm and world_size() > 1:
        network = synchronise_batchnorm(network)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    model = torch.compile(network) if compile else network
    if world_size() > 1:
        model = DistributedDataParallel(model)
    assert isinstance(model, nn.Module)
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and compile; its parameters are the same."""
    model = model.module if isinstance(model, DistributedDataParallel) else model
    return getattr(model, "_orig_mod", model)


@dataclass(frozen=True)
class Plan:
    """How long to train, and when to look. ``seed`` decides dropout, step by step.

    ``micro_batch`` is the most images of a worker that pass through the network at once; it must
    divide the shares of all workers into equally many parts, since they wait for each other.
    """

    steps: int
    evaluate_every: int
    save_every: int
    seed: int = 0
    micro_batch: int | None = None
    precision: torch.dtype = torch.float32

    def due(self, number: int, every: int) -> bool:
        return number % every == 0 or number == self.steps


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    criterion: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    evaluate: Callable[[nn.Module], Scores],
    plan: Plan,
    resumed: Checkpoint | None = None,
) -> Iterator[Event]:
    """Trains as it is iterated; whoever calls it must consume it.

    ``batches`` holds this worker's share of every step that is left; ``criterion`` gives sums
    over pixels. Everything random is a function of (seed, step, rank), so that a resumed
    training goes on exactly. Raises InputError when the loss is no longer finite.
    """
    network = unwrapped(model).train()
    parts = {"model": network, "optimizer": optimizer, "schedule": schedule}
    best_miou, best_weights, start = _restore(parts, resumed) if resumed else (-math.inf, None, 0)
    waiting = perf_counter()
    for number, batch in enumerate(batches, start=start + 1):
        begun = perf_counter()
        learning_rate = optimizer.param_groups[0]["lr"]
        loss = take_step(model, batch, criterion, optimizer, plan, number)
        schedule.step()
        ended = perf_counter()
        yield Step(number, loss, learning_rate, ended - waiting, begun - waiting)
        if plan.due(number, plan.evaluate_every):
            begun = perf_counter()
            share_buffers(network)  # what is scored are the weights that rank 0 keeps
            scores = evaluate(network)
            if better := scores.miou > best_miou:
                best_miou, best_weights = scores.miou, _copy_of(network)
            yield Evaluated(number, scores, perf_counter() - begun, better)
        if plan.due(number, plan.save_every):
            states = {name: part.state_dict() for name, part in parts.items()}
            yield Saved(number, Checkpoint(number, states, best_miou, best_weights))
        waiting = perf_counter()


def _restore(
    parts: dict[str, Any], resumed: Checkpoint
) -> tuple[float, dict[str, Tensor] | None, int]:
    try:
        for name, part in parts.items():
            part.load_state_dict(resumed.state[name])
    except (KeyError, RuntimeError, ValueError) as error:
        raise InputError(
            f"the checkpoint of step {resumed.step} is of another network or optimizer "
            f"({str(error).partition(chr(10))[0]}); delete it to start afresh"
        ) from None
    return resumed.best_miou, resumed.best_weights, resumed.step


def take_step(
    model: nn.Module,
    batch: Batch,
    criterion: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    number: int,
) -> float:
    """One update from the global batch; returns its loss per labelled pixel."""
    torch.manual_seed(_seed_of(plan.seed, number, rank()))
    device = next(model.parameters()).device
    labelled = total((batch.labels != IGNORE).sum().to(device)).clamp(min=1)
    loss = torch.zeros((), device=device)
    parts = list(_parts(batch, plan.micro_batch))
    for number_of_part, part in enumerate(parts, start=1):
        with _silent(model, last=number_of_part == len(parts)):
            loss = loss + _backward(model, *part, criterion, labelled, plan.precision)
    value = float(total(loss))
    if not math.isfinite(value):
        raise InputError(
            f"the loss is {value} at step {number} (samples {', '.join(batch.ids[:8])}); "
            "lower learning_rate or add warmup_steps"
        )
    optimizer.step()
    optimizer.zero_grad()
    return value


def _backward(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    criterion: Callable[..., Tensor],
    labelled: Tensor,
    precision: torch.dtype,
) -> Tensor:
    """Adds a part's gradients; returns its share of the loss of the step."""
    device = labelled.device
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        prediction = model(normalise(images.to(device, non_blocking=True)))
        loss = criterion(prediction, labels.to(device, non_blocking=True)) / labelled
    (loss * world_size()).backward()  # DDP averages; the loss is a sum over workers
    return loss.detach()


def _parts(batch: Batch, micro_batch: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    size = micro_batch or len(batch.ids)
    yield from zip(batch.images.split(size), batch.labels.split(size), strict=True)


def _silent(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Gradients travel once per step, with its last part."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _copy_of(network: nn.Module) -> dict[str, Tensor] | None:
    """The weights on the CPU, contiguous; rank 0 alone keeps them."""
    if rank():
        return None
    weights = network.state_dict()
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in weights.items()}
