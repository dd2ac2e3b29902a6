"""Whether every node sees what its workers will read and write, asked before any work."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from segcore.errors import InputError
from segcore.shards import Manifest

ANSWER_SECONDS = 60
"""A node whose disk hangs answers never."""


def check_places(folder: Path, shards: str) -> None:
    """Raises InputError where this machine cannot write to ``folder``, or another node does not
    share it or cannot read ``shards``; it names the node and the path."""
    if problems := blind_nodes(folder, shards):
        raise InputError(
            f"{'; '.join(f'{node} {what}' for node, what in problems.items())}: workers need a "
            "disk that all nodes share for checkpoints, and shards that all can read (a disk, or "
            "storage in the table); unset RAY_ADDRESS to train on this machine alone"
        )


def blind_nodes(folder: Path, shards: str = "") -> dict[str, str]:
    """What is wrong with each node that does not see ``folder`` as this machine does, or
    cannot read ``shards``. Raises InputError where this machine cannot write there."""
    problems = dict[str, str]()
    with _token(folder) as token:
        answers = {_look_on(node["NodeID"], token, shards): node for node in _other_nodes()}
        if answers:
            ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS)
        for answer, node in answers.items():
            what = _answer(answer)
            if not what and not _mark(token, node["NodeID"]).exists():
                what = f"has another {folder} than this machine"
            if what:
                problems[node["NodeName"]] = what
    return problems


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    token = folder / f".seen-by-all-nodes-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        token.write_text(token.name)
    except OSError as error:
        remedy = "make it writable, or work in a folder that is"
        raise InputError(f"{folder} cannot be written ({error.strerror}); {remedy}") from None
    try:
        yield token
    finally:
        for path in folder.glob(f"{token.name}*"):
            path.unlink(missing_ok=True)


def _other_nodes() -> list[dict[str, Any]]:
    own = ray.get_runtime_context().get_node_id()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != own]


def _look_on(node: str, token: Path, shards: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_look)
    return task.options(scheduling_strategy=where).remote(token, _mark(token, node), shards)


def _mark(token: Path, node: str) -> Path:
    """What a node leaves beside the token, to show that it can write there."""
    return token.with_name(f"{token.name}-{node}")


def _look(token: Path, mark: Path, shards: str) -> str:
    """On the node: what is wrong, or nothing."""
    try:
        if token.read_text() != token.name:
            return f"has another {token.parent} than this machine"
        mark.write_text(mark.name)
    except FileNotFoundError:
        return f"does not see {token.parent}"
    except OSError as error:
        return f"cannot write to {token.parent} ({error.strerror})"
    try:
        if shards:
            Manifest.read(shards)
    except (InputError, OSError) as error:
        return f"cannot read {shards} ({error})"
    return ""


def _answer(answer: Any) -> str:
    try:
        return ray.get(answer, timeout=0)
    except TimeoutError:
        return f"does not answer within {ANSWER_SECONDS} s"
    except RayError as error:  # the project is not installed there, or the node is gone
        last = [line for line in str(error).splitlines() if line.strip()][-1]
        return f"cannot run this project ({last.strip()})"
