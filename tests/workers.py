"""Runs a function in processes of its own, as the workers of one gloo group or alone."""

import os
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Forked from a server that has imported torch once and has run nothing: quick, and clean.
CONTEXT = ForkServerContext()
CONTEXT.set_forkserver_preload(["segcore.runs", "timm"])


def run_workers(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``function(*arguments)`` in each of ``count`` workers; their results, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        processes = [
            CONTEXT.Process(target=_work, args=(rank, count, place, function, arguments))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            process.kill()  # where it hangs; else it has ended
        codes = [process.exitcode for process in processes]
        assert codes == [0] * count, f"workers ended with {codes}; their output stands above"
        return [torch.load(place / str(rank), weights_only=False) for rank in range(count)]


def exit_code_of(function: Callable[..., Any], *arguments: Any) -> int | None:
    """How a process that runs ``function(*arguments)`` ends: -9 where it was killed."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


def _work(
    rank: int, count: int, place: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{place / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    dist.barrier()  # one that leaves at once would end the others, which still connect to it
    result = function(*arguments)
    torch.save(result, place / str(rank))
    dist.destroy_process_group()
