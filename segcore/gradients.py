"""One update of the weights: the gradient of the global batch, checked, clipped, and applied."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from segcore.distributed import gathered, rank, total, world_size
from segcore.errors import InputError
from segcore.measure import is_channels_last
from segcore.memory import named_shortage
from segcore.transforms import normalise
from segcore.types import IGNORE, Batch

__all__ = ["Update", "Updates"]

NAMED = 8
"""Of the samples of a bad batch."""


class Update(NamedTuple):
    """``loss`` is the mean over the labelled pixels of the global batch; a ``skipped`` update
    left everything as it was."""

    loss: float
    skipped: bool


class Updates:
    """Takes the updates of a training, and holds what has to survive from one to the next.

    Low precision is autocast's; under float16 the loss is scaled, so that small gradients do not
    vanish (Micikevicius et al., 2018, arXiv:1710.03740, section 3.2). ``micro_batch`` is the most
    images at once. ``clip_norm`` is the greatest length that the gradient of all parameters
    together keeps (Pascanu et al., 2013, arXiv:1211.5063, algorithm 1).

    An update whose loss or gradient is not finite is skipped. After more than ``max_skipped`` in
    succession ``take`` raises InputError. A gradient that overflows under the scale of float16
    alone does not count, as long as that scale can still be halved.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Tensor],
        optimizer: Optimizer,
        *,
        seed: int = 0,
        micro_batch: int | None = None,
        precision: torch.dtype = torch.float32,
        clip_norm: float | None = None,
        max_skipped: int = 0,
    ) -> None:
        self.model, self.criterion, self.optimizer = model, criterion, optimizer
        self.seed, self.micro_batch, self.precision = seed, micro_batch, precision
        self.clip_norm, self.max_skipped = clip_norm, max_skipped
        self.device = next(model.parameters()).device
        self.channels_last = is_channels_last(model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == torch.float16)
        self.skipped = 0

    def state_dict(self) -> dict[str, Any]:
        return {"scaler": self.scaler.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]

    def take(self, batch: Batch, number: int) -> Update:
        """Step ``number`` from this worker's share of the global batch."""
        torch.manual_seed(_seed_of(self.seed, number, rank()))
        buffers = self._copies_of_buffers()
        losses = self._accumulate(batch)
        loss = float(total(torch.stack(losses).sum()))
        self.scaler.unscale_(self.optimizer)
        parameters = [each for each in self.model.parameters() if each.grad is not None]
        length = get_total_norm([each.grad for each in parameters if each.grad is not None])
        skipped = not (math.isfinite(loss) and math.isfinite(length))
        if skipped:
            self._note_skipped(loss, float(length), number, self._suspects(batch, losses))
            for buffer, copy in buffers:
                buffer.copy_(copy)
        else:
            if self.clip_norm is not None:
                clip_grads_with_norm_(parameters, self.clip_norm, length)
            self.scaler.step(self.optimizer)
            self.skipped = 0
        self.scaler.update()
        self.optimizer.zero_grad()
        return Update(loss, skipped)

    def _copies_of_buffers(self) -> list[tuple[Tensor, Tensor]]:
        """BatchNorm's statistics, which the forward pass of a skipped update has changed."""
        may_skip = self.max_skipped > 0 or self.scaler.is_enabled()
        return [(each, each.clone()) for each in self.model.buffers()] if may_skip else []

    def _note_skipped(self, loss: float, length: float, number: int, suspects: list[str]) -> None:
        """Every worker decides alike: all that it is given is of all workers."""
        if math.isfinite(loss) and self.scaler.get_scale() > 1:
            return
        self.skipped += 1
        if self.skipped <= self.max_skipped:
            return
        what = f"gradient's length is {length}" if math.isfinite(loss) else f"loss is {loss}"
        again = f", {self.skipped} steps in succession" if self.skipped > 1 else ""
        narrow = ", or train in bfloat16" if self.scaler.is_enabled() else ""
        raise InputError(
            f"the {what} at step {number} (samples {', '.join(suspects[:NAMED])}){again}; "
            f"lower learning_rate or add warmup_steps{narrow}"
        )

    def _accumulate(self, batch: Batch) -> list[Tensor]:
        """Adds up the gradient; returns the share of each of this worker's parts in the loss."""
        labelled = total((batch.labels != IGNORE).sum().to(self.device)).clamp(min=1)
        losses, parts = list[Tensor](), list(_parts(batch, self.micro_batch))
        for number, part in enumerate(parts, start=1):
            with (
                _silent(self.model, last=number == len(parts)),
                named_shortage(len(part[0]), part[0].shape[2:]),
            ):
                losses.append(self._backward(*part, labelled))
        return losses

    def _suspects(self, batch: Batch, losses: list[Tensor]) -> list[str]:
        """The samples, of all workers, of the parts whose loss is not finite; of all parts where
        only the gradient is not."""
        size = self.micro_batch or len(batch.ids)
        bad = [not math.isfinite(loss) for loss in losses]
        own = [each for number, each in enumerate(batch.ids) if bad[number // size]]
        return gathered(own) or gathered(list(batch.ids))

    def _backward(self, images: Tensor, labels: Tensor, labelled: Tensor) -> Tensor:
        low = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision, enabled=low):
            pixels = images.to(self.device, non_blocking=True)
            prediction = self.model(normalise(pixels, channels_last=self.channels_last))
            labels = labels.to(self.device, non_blocking=True)
            loss = self.criterion(prediction, labels) / labelled
        # DDP averages; the loss is a sum over workers.
        self.scaler.scale(loss * world_size()).backward()
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
