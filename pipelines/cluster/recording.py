"""What a training leaves in its folder while it goes on: a journal and checkpoints, whole before
anyone is told of them. So a worker that is killed at any moment goes on bit for bit.

Ray's own keeping of checkpoints is not used: it rewrites its list of them in place, and a kill
within that ends a training for good.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import rmtree

from pipelines.cluster.watchdog import stacks_of, watched
from segcore.distributed import as_rank_0, rank
from segcore.errors import InputError
from segcore.files import read_json, write_json
from segcore.journal import METRICS, Journal
from segcore.training import Event, Saved

KEPT = 2
"""Checkpoints. A worker that is cut off may write one more while its successors read the last."""
REFUSAL, LAST_WORDS = "refused.json", "last_words.json"


def checkpoint_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:07d}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def newest(folder: Path, after: int = -1) -> Path | None:
    """The newest checkpoint past a step, as rank 0 sees it: all workers start from the same."""
    found = max(folder.glob("step-*"), default=None)
    return as_rank_0(found if found and step_of(found) > after else None)


def recorded(
    events: Iterator[Event], folder: Path, stall_seconds: float, keep: int = 0
) -> Iterator[Event]:
    """The events, each in the folder before it is told. Rank 0 writes; it keeps the newest
    checkpoints and that of the step ``keep``, which others may start from. A worker without an
    event for ``stall_seconds`` says where it stands, and ends."""
    with ExitStack() as stack:
        alive = stack.enter_context(watched(stacks_of(folder, rank()), stall_seconds))
        journal: Journal | None = None
        for event in events:
            alive()
            if not rank():
                if journal is None:
                    journal = Journal(folder / METRICS, event.number - 1)
                    stack.enter_context(journal.file)
                journal.record(event)
                if isinstance(event, Saved):
                    _save(event, folder, keep)
            yield event
            alive()


def _save(event: Saved, folder: Path, keep: int) -> None:
    event.checkpoint.write(checkpoint_of(folder, event.number))
    for older in sorted(folder.glob("step-*"))[:-KEPT]:
        if step_of(older) != keep:
            rmtree(older, ignore_errors=True)  # whoever drops the whole folder may be faster


@contextmanager
def noting(folder: Path) -> Iterator[None]:
    """Notes in the folder why a worker ends: a refusal, after which trying again cannot help, or
    its last words, which are told when it has failed for good."""
    try:
        yield
    except InputError as error:
        write_json(folder / REFUSAL, str(error))
        raise
    except Exception as error:
        write_json(folder / LAST_WORDS, f"{type(error).__name__}: {error}".splitlines()[0])
        raise


def noted(folder: Path, name: str) -> str:
    path = folder / name
    return read_json(path) if path.exists() else ""


def forget(folder: Path) -> None:
    """What former attempts noted."""
    for name in (REFUSAL, LAST_WORDS):
        (folder / name).unlink(missing_ok=True)
