"""The server: what it answers, what it refuses, what its door lets in."""

import asyncio
import base64
import io
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from uvicorn.config import Config
from uvicorn.server import ServerState

from pipelines import serve as serve_module
from pipelines.registration import register
from pipelines.serve import serve
from pipelines.serving import admission, door, patience
from pipelines.serving.answers import cause_of
from pipelines.serving.door import Door
from pipelines.serving.patience import Patient
from pipelines.tracking import open_store
from segcore.errors import InputError
from segcore.inference import predict_labels
from segcore.model_files import build_network, load_model, save_model
from segcore.row import Run
from segcore.segmenter import Segmenter
from segcore.transforms import normalise
from segcore.types import ClassTable
from tests.pipelines.tiny_project import stage_command, started, wait_until

NAME = "fcn-resnet18-shapes"
JSON = {b"content-type": b"application/json"}

# --- the door ------------------------------------------------------------------------------------


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that says what it got; a path is the status of its answer."""
    body = (await receive())["body"]
    status = int(scope["path"])
    answer = body if status == 200 else json.dumps({"message": body.decode()}).encode()
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": answer})


def ask(
    parts: list[bytes], headers: dict[bytes, bytes] | None = None, status: int = 200
) -> tuple[int, bytes]:
    """What the door answers to a body that comes in parts; one that ends unless it is cut."""
    scope = {"type": "http", "method": "POST", "path": str(status)}
    scope["headers"] = list((JSON if headers is None else headers).items())
    messages: list[Any] = [
        {"type": "http.request", "body": part, "more_body": number + 1 < len(parts)}
        for number, part in enumerate(parts)
    ]
    sent = list[Any]()

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Door(echo)(scope, receive, send))
    assert [message.get("more_body", False) for message in sent[1:]] == [True, False]
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_a_request_passes_the_door_as_it_came():
    assert ask([b'{"a":', b" 1}"]) == (200, b'{"a": 1}')
    kind = {b"content-type": b"application/json; charset=UTF-8"}
    assert ask([b"{}"], kind) == (200, b"{}")


@pytest.mark.parametrize(
    ("parts", "headers", "status", "said"),
    [
        ([b"a,b\n1,2"], {b"content-type": b"text/csv"}, 415, "Content-Type: application/json"),
        ([b"PAR1"], {b"content-type": b"application/vnd.apache.parquet"}, 415, "application/json"),
        ([b"{}"], {}, 415, "application/json"),
        ([b"{}"], {b"content-type": b"application/json; charset=utf-16"}, 415, "UTF-8"),
        ([b"{"], None, 400, "not valid JSON"),
        ([b""], None, 400, "not valid JSON"),
        ([b"\xff\xfe\xfd"], None, 400, "not valid JSON"),
        ([b"[1]"], None, 400, "must be like"),
        ([b'{"inputs":' + b"[" * 100_000], None, 400, "recursion"),
        ([b"9" * 5000], None, 400, "not valid JSON"),
        ([b"[" * (1 << 20), b"{" * (1 << 20), b"["], None, 413, "at most 2097152 lists"),
        ([b" " * (24 << 20), b" "], None, 413, "at most 25165824 bytes"),
        ([b"{}", b" " * (24 << 20), b"{}"], None, 413, "at most 25165824 bytes"),
    ],
)
def test_what_does_not_pass_is_told_why(
    parts: list[bytes], headers: dict[bytes, bytes] | None, status: int, said: str
):
    found, body = ask(parts, headers)
    assert found == status
    assert said in json.loads(body)["error"]


def test_a_body_that_says_it_is_too_long_is_not_waited_for_where_the_client_asks_first():
    headers = JSON | {b"expect": b"100-continue", b"content-length": b"99999999999999999999999"}
    assert ask([], headers)[0] == 413
    assert ask([], JSON) == (400, b'{"error": "the request was cut short"}')


def test_an_endless_body_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    read = list[int]()

    async def endless() -> Any:
        read.append(1 << 20)
        return {"type": "http.request", "body": bytes(1 << 20), "more_body": True}

    with pytest.raises(admission.RefusedError):
        asyncio.run(admission.read({}, endless))
    assert admission.MOST_HEARD < sum(read) <= admission.MOST_HEARD + (1 << 20)


def test_a_body_that_trickles_in_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(admission, "SECONDS_TO_ARRIVE", 0.05)

    async def trickle() -> Any:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    with pytest.raises(admission.RefusedError) as refused:
        asyncio.run(admission.read({}, trickle))
    assert refused.value.args == (408, "the request did not arrive within 0.05 seconds")


def test_a_refusal_says_the_cause_and_neither_the_input_nor_a_traceback():
    secret = json.dumps({"x": "y" * 100_000 + "\nError: image 0 is damaged"}).encode()
    status, body = ask([secret], status=400)
    assert status == 400
    assert json.loads(body) == {"error": 'image 0 is damaged"}'}
    answered = {"message": "no model. Error: it has no file", "stack_trace": "line 1"}
    assert cause_of(json.dumps(answered).encode()) == "it has no file"
    assert cause_of(b'{"detail": "Not Found"}') == "Not Found"
    assert cause_of(b"Internal Server Error") == "Internal Server Error"


class Client:
    """Asks a door for the answer to ``{}``, and takes it only when it is let."""

    def __init__(self, keeper: Door) -> None:
        self.statuses, self.takes = list[int](), asyncio.Event()
        self.reading = asyncio.Event()
        scope = {"type": "http", "method": "POST", "path": "200", "headers": [*JSON.items()]}
        self.task = asyncio.ensure_future(keeper(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def _send(self, message: Any) -> None:
        self.statuses += [message["status"]] if "status" in message else []
        self.reading.set()
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await self.takes.wait()


def test_who_takes_an_answer_slowly_keeps_nobody_waiting():
    async def ask_twice() -> None:
        keeper = Door(echo)
        slow, quick = Client(keeper), Client(keeper)
        await slow.reading.wait()
        quick.takes.set()
        await asyncio.wait_for(quick.task, 20)
        assert (quick.statuses, slow.task.done()) == ([200], False)
        assert list(keeper.held.values()) == [2]
        slow.takes.set()
        await slow.task
        assert (keeper.held, keeper.waiting) == ({}, 0)

    asyncio.run(ask_twice())


def test_more_requests_than_may_wait_are_refused_at_once():
    async def ask_often() -> None:
        inside = asyncio.Event()

        async def slowly(scope: Any, receive: Any, send: Any) -> None:
            await inside.wait()
            await echo(scope, receive, send)

        keeper = Door(slowly)
        clients = [Client(keeper) for _ in range(door.MOST_WAITING + 3)]
        for client in clients:
            client.takes.set()
        await asyncio.wait([client.task for client in clients], return_when="FIRST_COMPLETED")
        await asyncio.sleep(0)
        inside.set()
        await asyncio.gather(*(client.task for client in clients))
        statuses = [client.statuses for client in clients]
        assert statuses == [[200]] * door.MOST_WAITING + [[503]] * 3
        assert (keeper.held, keeper.waiting) == ({}, 0)

    asyncio.run(ask_often())


def test_bodies_that_would_fill_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(door, "MOST_HELD", 8)
    assert ask([b'{"a":', b"10}"]) == (200, b'{"a":10}')
    status, body = ask([b'{"a":', b"100}"])
    assert status == 503
    assert json.loads(body) == {"error": "too many requests at a time; ask again later"}


def test_an_application_that_fails_is_answered_in_json():
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret")

    async def ask_it() -> Client:
        client = Client(Door(broken))
        client.takes.set()
        await client.task
        return client

    assert asyncio.run(ask_it()).statuses == [500]


# --- connections ---------------------------------------------------------------------------------

HEAD = b"POST /200 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"


@asynccontextmanager
async def listening(application: Any) -> AsyncIterator[int]:
    """The port of a server whose connections are patient ones."""
    config = Config(application, ws="none", lifespan="off", log_level="critical")
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Patient(config, state, {}), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def in_time(action: Awaitable[None]) -> None:
    async def run() -> None:
        await asyncio.wait_for(action, 60)

    asyncio.run(run())


async def slow_echo(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(1)
    await echo(scope | {"path": "200"}, receive, send)


@pytest.mark.long
@pytest.mark.parametrize("begun", [b"", HEAD, HEAD + b"\r\n{}"])
def test_a_connection_on_which_nobody_asks_is_cut(monkeypatch: pytest.MonkeyPatch, begun: bytes):
    """It may be new, in the midst of a head, or one that was answered."""
    monkeypatch.setattr(patience, "SECONDS_TO_ASK", 0.3)

    async def ask_nothing() -> None:
        async with listening(Door(slow_echo)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            answer = await reader.read()  # to the end
            assert answer.startswith(b"HTTP/1.1 200 OK") == begun.endswith(b"{}")
            writer.close()
            await writer.wait_closed()

    in_time(ask_nothing())


def test_a_head_that_trickles_in_gets_no_more_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "SECONDS_TO_ASK", 0.2)

    async def trickle() -> None:
        async with listening(Door(echo)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            end = asyncio.ensure_future(reader.read())
            while not end.done():
                writer.write(b"P")
                await asyncio.sleep(0.02)
            writer.close()
            with suppress(ConnectionError):
                assert await end == b""
                await writer.wait_closed()

    in_time(trickle())


def test_an_answer_that_nobody_takes_is_let_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "SECONDS_TO_TAKE", 1.0)
    keeper = Door(large)

    async def take_nothing() -> None:
        async with listening(keeper) as port:
            plug = socket.create_connection(("127.0.0.1", port))
            plug.sendall(HEAD + b"\r\n{}")
            await asyncio.to_thread(plug.recv, 1, socket.MSG_PEEK)
            assert list(keeper.held.values()) == [64 << 20]
            while keeper.held:
                await asyncio.sleep(0.02)
            plug.close()

    in_time(take_nothing())


async def large(scope: Any, receive: Any, send: Any) -> None:
    """More than the buffers of two sockets."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(64 << 20)})


# --- the server ----------------------------------------------------------------------------------


PIXELS = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)


def image_of(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


@torch.no_grad()
def undecided(network: Segmenter) -> Segmenter:
    """No class is more likely than another on the mean over ``PIXELS``: labels then vary."""
    means = network.eval()(normalise(image_of(PIXELS))).logits.mean((0, 2, 3))
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == 3 and module.bias is not None:
            module.bias -= means
    return network


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose registry has one champion, at random weights."""
    root = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    classes = ClassTable(("road", "pole", "sky"), ((0, 0, 0), (9, 9, 9), (5, 5, 5)), (0, 1, 2))
    table: dict[str, Any] = {"method": "fcn", "backbone": "resnet18", "dataset": "shapes"}
    table |= {"steps": 1, "batch_size": 1, "crop": (32, 32), "evaluate_every": 1, "save_every": 1}
    run = Run(**table, backbone_options={"channels": [8, 16, 16, 16]})
    folder = root / "runs" / NAME
    save_model(folder, undecided(build_network(run, 3)).state_dict(), NAME, run, classes)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = open_store(root)
    run_id = store.start("shapes", NAME, config=table)
    number = register(store, run_id, NAME, folder, 0.5, "d1")
    assert store.promote(NAME, number, score=0.5, data_hash="d1").promoted
    return root


@pytest.fixture(scope="module")
def port(root: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with started(root, *stage_command("serve", NAME, "--port", str(free))) as process:
        wait_until(lambda: process.poll() is not None or answers(free), "the server answers")
        assert process.poll() is None, process.communicate()
        yield free
        assert process.poll() is None, "it died"
        assert process.stdout
        assert process.stdout.readline().startswith(f"{NAME}@champion: http://127.0.0.1:{free}/")
        os.kill(process.pid, signal.SIGINT)
        process.wait(timeout=20)


def answers(port: int) -> bool:
    try:
        return get(port, "/ping") == 200
    except OSError:
        return False


def get(port: int, path: str) -> int:
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


def post(port: int, body: bytes | dict[str, Any]) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body)
    with closing(HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("POST", "/invocations", content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def encoded(pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.cluster
def test_every_json_form_of_mlflow_is_answered_with_the_networks_labels(root: Path, port: int):
    network = load_model(root / "runs" / NAME).network
    expected = predict_labels(network, image_of(PIXELS))[0]
    assert len(expected.unique()) > 1
    image = encoded(PIXELS)
    forms: list[dict[str, Any]] = [
        {"inputs": [{"image": image}]},
        {"inputs": {"image": [image]}},
        {"dataframe_records": [{"image": image}]},
        {"dataframe_split": {"columns": ["image"], "data": [[image]]}},
    ]
    for form in forms:
        status, answered = post(port, form)
        assert status == 200
        (row,) = answered["predictions"]
        with Image.open(io.BytesIO(base64.b64decode(row["labels"]))) as labels:
            np.testing.assert_array_equal(np.asarray(labels), expected.numpy())
        with Image.open(io.BytesIO(base64.b64decode(row["overlay"]))) as painted:
            assert painted.size == (70, 45)
    status, answered = post(port, {"inputs": [{"pixels": PIXELS.tolist()}]})
    assert status == 200
    np.testing.assert_array_equal(answered["predictions"][0]["label_map"], expected.numpy())


@pytest.mark.cluster
def test_hostile_requests_are_refused_and_the_server_goes_on(port: int):
    bomb = encoded(np.zeros((6000, 6000, 3), np.uint8))
    refused: list[tuple[Any, int, str]] = [
        (b"{", 400, "not valid JSON"),
        (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "recursion"),
        ({"rows": []}, 400, "input"),
        ({"prompt": "hello"}, 400, "holds no image"),
        ({"inputs": "hello"}, 400, "holds no image"),
        ({"inputs": [{"image": bomb}]}, 400, "image 0 is 6000x6000: a request holds at most"),
        ({"inputs": [{"image": "!!"}]}, 400, "no JPEG or PNG"),
        ({"dataframe_records": [{"image": None}]}, 400, ""),
        ({"inputs": [{"pixels": [[[0, 0, 0]]]}]}, 400, "smaller than the network's stride"),
        (b'{"inputs": "' + b"A" * (30 << 20) + b'"}', 413, "at most 25165824 bytes"),
    ]
    for body, status, said in refused:
        found, answered = post(port, body)
        assert (found, said in answered["error"]) == (status, True), (body[:60], answered)
        assert len(json.dumps(answered)) < 700
    assert get(port, "/ping") == 200
    assert get(port, "/etc/passwd") == 404


@pytest.mark.cluster
def test_idle_connections_and_slow_readers_keep_nobody_waiting(port: int):
    """More of them than requests may wait; what one does not read is more than buffers hold."""
    noise = np.random.default_rng(1).integers(0, 256, (1600, 1600, 3), np.uint8)
    body = json.dumps({"inputs": [{"image": encoded(noise)}]}).encode()
    head = HEAD.replace(b"/200", b"/invocations").replace(b": 2\r\n", b": %d\r\n" % len(body))
    with ExitStack() as sockets:
        for _ in range(20):
            idle = sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
            idle.sendall(b"POST /invoc")
        slow = sockets.enter_context(socket.socket())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(120)
        slow.connect(("127.0.0.1", port))
        slow.sendall(head + b"\r\n" + body)
        assert slow.recv(12) == b"HTTP/1.1 200"
        for _ in range(3):
            assert post(port, {"inputs": [{"image": encoded(PIXELS)}]})[0] == 200


@pytest.mark.cluster
def test_what_the_server_is_started_with(root: Path, monkeypatch: pytest.MonkeyPatch):
    became = list[Any]()
    monkeypatch.chdir(root)
    monkeypatch.setattr(serve_module.os, "execve", lambda *given: became.append(given))
    serve(NAME, "127.0.0.1", 0)
    ((_, command, environment),) = became
    assert command[command.index("--http") + 1] == "pipelines.serving.patience:Patient"
    assert int(environment["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"]) == 24 * 60 * 60


@pytest.mark.cluster
def test_what_cannot_be_served_is_told_at_once(
    root: Path, port: int, monkeypatch: pytest.MonkeyPatch
):
    command = stage_command("serve", NAME, "--port", str(port))
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"127.0.0.1:{port} cannot be served on" in done.stderr
    for model, said in (
        (f"{NAME}@champoin", "did you mean 'champion'"),
        ("fcn-resnet18-shape", f"did you mean '{NAME}'"),
    ):
        monkeypatch.chdir(root)
        with pytest.raises(InputError, match=said):
            serve(model, "127.0.0.1", port)
