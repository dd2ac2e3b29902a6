"""What a request to the server must be before anything is made of it: its kind, its size."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
"""Of ASGI, the protocol between a web server and a Python application."""
Receive = Callable[[], Awaitable[Message]]

MOST_BYTES = 24 << 20
"""Of a body: 18 MB of image files in base64."""
MOST_HEARD = 10 * MOST_BYTES
"""Of a body that is too long, before the connection is cut."""
MOST_LISTS = 1 << 21
"""Lists and objects in a body: an empty one takes thirty times its two characters of memory."""

SECONDS_TO_ARRIVE = 30.0


class RefusedError(Exception):
    """A request that is not let in: an HTTP status, and why."""


def check_kind(headers: dict[bytes, bytes]) -> None:
    """CSV and Parquet, which MLflow would unpack, are not let in."""
    kind, _, rest = headers.get(b"content-type", b"").lower().partition(b";")
    if kind.strip() != b"application/json" or rest.strip() not in (b"", b"charset=utf-8"):
        raise RefusedError(415, "send JSON in UTF-8, and the header Content-Type: application/json")


async def read(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The body, if it arrives in time and is not too long."""
    try:
        return await asyncio.wait_for(_read(headers, receive), SECONDS_TO_ARRIVE)
    except TimeoutError:
        late = f"the request did not arrive within {SECONDS_TO_ARRIVE} seconds"
        raise RefusedError(408, late) from None


async def _read(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """A body that is too long is read on, not kept: most clients hear an answer only when they
    have sent everything; those that ask before they send are told at once."""
    length, body, received = headers.get(b"content-length", b""), bytearray(), 0
    too_long = RefusedError(413, f"a request holds at most {MOST_BYTES} bytes; send fewer images")
    if b"expect" in headers and length.isdigit() and int(length[:20]) > MOST_BYTES:
        raise too_long
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the request was cut short")
        received += len(part := message.get("body", b""))
        if received <= MOST_BYTES:
            body += part
        elif received > MOST_HEARD or not message.get("more_body"):
            raise too_long
        else:
            body.clear()
        if not message.get("more_body"):
            return bytes(body)


def check_body(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") > MOST_LISTS:
        raise RefusedError(413, f"a request holds at most {MOST_LISTS} lists; send image files")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the request is not valid JSON ({str(error)[:100]})") from None
    if not isinstance(request, dict):
        raise RefusedError(400, 'the request must be like {"inputs": [{"image": "<base64>"}]}')
