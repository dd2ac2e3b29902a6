"""The application of ``mlflow models serve``, behind a door that hostile requests do not pass.

MLflow's own reads a body of any size and answers a mistake with the whole input and a traceback.
``uvicorn`` runs this in a process that has imported nothing of ``segcore``: the model brings its
own.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

from pipelines.admission import Message, Receive, RefusedError, check_body, check_kind, read

Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

LONGEST_MESSAGE = 500


def build() -> "Door":
    """MLflow's application with the model that it reads from the environment, behind the door."""
    from mlflow.pyfunc.scoring_server.app import app

    return Door(app)


class Door:
    """Lets one request in at a time: what a request needs in memory is then needed once."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.inside = asyncio.Semaphore(1)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            check_kind(headers)
            body = await read(headers, receive)
            async with self.inside:
                await asyncio.to_thread(check_body, body)
                await self.application(scope, replayed(body, receive), shortened(send))
        except RefusedError as refusal:
            await say(send, *refusal.args)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body, then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def shortened(send: Send) -> Send:
    """Answers pass as they are; of a refusal only what it says of the cause."""
    status, told = 200, bytearray()

    async def pass_on(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        if status < 400:
            await send(message)
        elif message["type"] == "http.response.body":
            told.extend(message.get("body", b""))
            if not message.get("more_body"):
                await say(send, status, cause_of(bytes(told)))

    return pass_on


def cause_of(told: bytes) -> str:
    """The end of MLflow's message, which begins with the input; a traceback goes into the log."""
    try:
        values = json.loads(told)
    except ValueError:
        return told[:LONGEST_MESSAGE].decode(errors="replace")
    if trace := values.get("stack_trace"):
        logging.getLogger("uvicorn.error").error("%s", trace)
    message = str(values.get("message") or values.get("detail"))
    return message.rpartition("Error: ")[2][:LONGEST_MESSAGE]


async def say(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
