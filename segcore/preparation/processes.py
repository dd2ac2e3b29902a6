"""Tasks side by side in processes of this machine."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import Any

from segcore.errors import InputError

Mapper = Callable[[Callable[[Any], Any], Sequence[Any], int], Iterator[tuple[Any, Any]]]
"""Calls a function on each task, somewhere, at most so many at once; gives task and result as
they are ready."""


KILLED = (
    "a process that prepares images was killed; was memory short? Run the stage again: finished "
    "shards are kept"
)


def in_processes(
    function: Callable[[Any], Any], tasks: Sequence[Any], most: int, killed: str = KILLED
) -> Iterator[tuple[Any, Any]]:
    """In at most ``most`` processes, not more than cores; in this one where one is enough.

    Raises InputError, with the words ``killed``, where the system killed a process.
    """
    # macOS knows no affinity
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    processes = min(most, len(tasks), len(cores(0)))
    if processes <= 1:
        yield from ((task, function(task)) for task in tasks)
        return
    # Not fork: the parent may hold threads of torch and Arrow. The server that is forked instead
    # has imported what the function needs, once for all: torch alone takes 300 MB.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent)
    try:
        futures = {pool.submit(function, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
    except BrokenProcessPool:
        raise InputError(killed) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    assert parent
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
