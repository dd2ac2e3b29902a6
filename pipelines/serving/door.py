"""The application of ``mlflow models serve``, behind a door that hostile requests do not pass.

MLflow's own reads a body of any size and answers a mistake with the whole input and a traceback.
``uvicorn`` runs this in a process that has imported nothing of ``segcore``: the model brings its
own.
"""

import asyncio
from collections.abc import Awaitable, Callable

from pipelines.serving.admission import (
    MOST_BYTES,
    Message,
    Receive,
    RefusedError,
    check_body,
    check_kind,
    read,
)
from pipelines.serving.answers import Answer, Application, Send, answered, give, refused

MOST_WAITING = 16
"""Requests that have arrived and are not computed yet."""
MOST_HELD = 1 << 29
"""Bytes of all requests that arrive and of all answers that are taken, at a time."""
BUSY = 503, "too many requests at a time; ask again later"


def build() -> "Door":
    """MLflow's application with the model that it reads from the environment, behind the door."""
    from mlflow.pyfunc.scoring_server.app import app

    return Door(app)


class Door:
    """Lets one request in at a time: what a request needs in memory is then needed once.

    Whoever sends or takes slowly does so outside, and keeps nobody waiting.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.inside = asyncio.Semaphore(1)
        self.waiting = 0
        self.held = dict[object, int]()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.application(scope, receive, send)
            return
        request = object()
        try:
            answer = await self._answer(scope, self._held(request, receive))
            self.held[request] = len(answer.body)
            await give(send, answer)
        finally:
            self.held.pop(request, None)

    def _held(self, request: object, receive: Receive) -> Receive:
        """Refuses what arrives when all requests together would take too much memory."""

        async def next_message() -> Message:
            message = await receive()
            size = self.held.get(request, 0) + len(message.get("body", b""))
            self.held[request] = min(size, MOST_BYTES)  # of a longer one nothing is kept
            if sum(self.held.values()) > MOST_HELD:
                raise RefusedError(*BUSY)
            return message

        return next_message

    async def _answer(self, scope: Message, receive: Receive) -> Answer:
        headers = dict(scope["headers"])
        try:
            check_kind(headers)
            body = await read(headers, receive)
            return await self._in_turn(lambda: self._inside(scope, body, receive))
        except RefusedError as refusal:
            return refused(*refusal.args)

    async def _in_turn(self, action: Callable[[], Awaitable[Answer]]) -> Answer:
        if self.waiting >= MOST_WAITING:
            raise RefusedError(*BUSY)
        self.waiting += 1
        try:
            async with self.inside:
                return await action()
        finally:
            self.waiting -= 1

    async def _inside(self, scope: Message, body: bytes, receive: Receive) -> Answer:
        await asyncio.to_thread(check_body, body)
        return await answered(self.application, scope, body, receive)
