"""Work in another thread while this one goes on."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def begun(work: Callable[[], T], name: str) -> Future[T]:
    """What the work will give, or raise, in a thread of that name, for which the process does not
    wait when it ends."""
    done = Future[T]()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, name=name, daemon=True).start()
    return done


@contextmanager
def beside(work: Callable[[], T], name: str) -> Iterator[Future[T]]:
    """Does the work while the body runs and ends when both have; raises what either raises, the
    body's where both do: it may be an interrupt."""
    done = begun(work, name)
    try:
        yield done
    except BaseException:
        done.exception()  # waits
        raise
    done.result()
