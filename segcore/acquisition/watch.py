"""Between the threads that do long work and the one who waits for it."""

from threading import Event, Lock


class StoppedError(Exception):
    """The process was told to end."""


class Listener:
    """What is told while files come; this one tells nobody. Called by one thread at a time."""

    def advance(self, count: int, total: int) -> None:
        """``count`` more bytes have come (fewer, where a file begins anew), of ``total`` by now."""

    def say(self, message: str) -> None:
        """A line for a person."""


NOBODY = Listener()


class Watch:
    """Adds up what several threads have done for one listener, and can stop them."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._lock, self._stopped = listener, Lock(), Event()
        self._reached = dict[str, tuple[int, int]]()

    def reached(self, name: str, position: int, total: int) -> None:
        """``name`` stands at ``position`` of ``total`` bytes. Raises StoppedError."""
        self.pause(0.0)
        with self._lock:
            before, _ = self._reached.get(name, (0, 0))
            self._reached[name] = position, total
            totals = sum(total for _, total in self._reached.values())
            self._listener.advance(position - before, totals)

    def say(self, message: str) -> None:
        with self._lock:
            self._listener.say(message)

    def pause(self, seconds: float) -> None:
        """Waits. Raises StoppedError as soon as the process is to end."""
        if self._stopped.wait(seconds):
            raise StoppedError

    def beat(self) -> None:
        self.pause(0.0)

    def stop(self) -> None:
        self._stopped.set()
