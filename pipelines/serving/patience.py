"""Connections of the model server: uvicorn's own would wait for a client for ever."""

from asyncio import TimerHandle, Transport

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_ASK = 10.0
"""From the opening of a connection, or from an answer, to the end of a request's head."""
SECONDS_TO_TAKE = 60.0
"""From a full buffer to one that is nearly empty again: no answer takes longer."""


class Patient(H11Protocol):
    """Cuts a connection on which nobody asks, and one whose answer nobody takes.

    The door has a patience of its own with bodies (``admission``).
    """

    def connection_made(self, transport: Transport) -> None:
        self.timers = dict[str, TimerHandle]()
        super().connection_made(transport)
        self._wait_for_a_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_a_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_a_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("taking", SECONDS_TO_TAKE)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("taking")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop("asking")
        self._stop("taking")
        super().connection_lost(exc)

    def _wait_for_a_head(self) -> None:
        """Unless a request is under way. Bytes of a head that is not whole give no more time."""
        if self.cycle and not self.cycle.response_complete:
            self._stop("asking")
        else:
            self._start("asking", SECONDS_TO_ASK)

    def _start(self, name: str, seconds: float) -> None:
        """One that runs goes on."""
        if name not in self.timers:
            self.timers[name] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, name: str) -> None:
        if timer := self.timers.pop(name, None):
            timer.cancel()
