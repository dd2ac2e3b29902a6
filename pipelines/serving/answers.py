"""What the application of a model server says, kept whole before anybody takes it."""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from pipelines.serving.admission import Message, Receive

Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

LONGEST_MESSAGE = 500
LOG = logging.getLogger("uvicorn.error")


class Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def answered(
    application: Application, scope: Message, body: bytes, receive: Receive
) -> Answer:
    """Answers pass as they are; of a refusal only what it says of the cause."""
    said = list[Message]()

    async def keep(message: Message) -> None:
        said.append(message)

    try:
        await application(scope, _replayed(body, receive), keep)
    except Exception:
        LOG.exception("the application failed")
        return refused(500, "the server failed; its log says why")
    start, *parts = said
    content = b"".join(part.get("body", b"") for part in parts)
    said.clear()  # the application's frames may live on in a cycle, and an answer with them
    if start["status"] >= 400:
        return refused(start["status"], cause_of(content))
    return Answer(start["status"], start["headers"], content)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body, then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


def cause_of(told: bytes) -> str:
    """The end of MLflow's message, which begins with the input; a traceback goes into the log."""
    try:
        values = json.loads(told)
    except ValueError:
        return told[:LONGEST_MESSAGE].decode(errors="replace")
    if trace := values.get("stack_trace"):
        LOG.error("%s", trace)
    message = str(values.get("message") or values.get("detail"))
    return message.rpartition("Error: ")[2][:LONGEST_MESSAGE]


def refused(status: int, message: str) -> Answer:
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    return Answer(status, headers, body)


async def give(send: Send, answer: Answer) -> None:
    """Returns when the client has taken nearly all of it, or is gone."""
    start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})  # waits for the body to be taken
