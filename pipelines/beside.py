"""Work in another thread while this one goes on: engines start and end by waiting."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def begun(work: Callable[[], T]) -> Future[T]:
    """What the work will give, or raise. The process may end before it: nobody waits for it."""
    done = Future[T]()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, name="beside", daemon=True).start()
    return done


@contextmanager
def beside(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Does the work while the body runs and ends when both have; raises what either raises, the
    work's error where both do."""
    done = begun(work)
    try:
        yield done
    finally:
        done.result()
