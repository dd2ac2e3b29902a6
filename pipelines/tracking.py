"""The record of what ran (MLflow's runs) and the shelf of what came out of it (its registry).

The stage's own process is the only writer. Once a run has started, its server may die: that costs
one printed line, and what MLflow missed is replayed from ``metrics.jsonl``, which is the truth.
"""

import fcntl
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from pipelines.lineage import is_alive, this_process, who
from segcore.errors import InputError, suggestion
from segcore.files import hash_of, sha256_of

# MLflow reads these while it is imported; its own defaults wait minutes for a server that is gone.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient, artifacts, entities
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as database
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from sqlalchemy.exc import SQLAlchemyError

database.MAX_RETRY_COUNT = 2  # its ten tries at a database that cannot be read take 100 s
LOST = (MlflowException, SQLAlchemyError, OSError)
MODEL_FILES = ("weights.safetensors", "config.json", "classes.json")
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
LONGEST_VALUE = 6000
"""Three limits of MLflow."""


class Version(NamedTuple):
    """A version of a registered model."""

    number: int
    aliases: list[str]
    run_id: str
    tags: dict[str, str]


def open_store(root: Path) -> "Store":
    """The store that MLFLOW_TRACKING_URI names, else ``mlflow.db`` and ``mlartifacts`` in ``root``.

    Raises InputError, within some ten seconds, where it does not answer or cannot be read.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"
    store = Store(uri, root)
    with store.asked(), store.locked():  # two processes that create a database at once ruin it
        if uri.startswith("http"):
            _knock(uri)
        store.client.search_experiments(max_results=1)
    return store


def _knock(uri: str) -> None:
    try:
        urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
    except HTTPError as error:  # it answers; a gateway need not know this page
        error.close()


class Connection:
    """One MLflow store, and the project root that it serves."""

    def __init__(self, uri: str, root: Path) -> None:
        self.uri = uri
        self.root = root.resolve()

    @cached_property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri, self.uri)  # this already creates tables: first used locked

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Turns failures of the store into an InputError that names it and the remedy."""
        try:
            yield
        except LOST as error:
            what, remedy = self.uri, "make it readable and writable, or move a damaged one aside"
            if os.environ.get("MLFLOW_TRACKING_URI"):
                what, remedy = f"MLFLOW_TRACKING_URI={self.uri}", "unset it or start the server"
            raise InputError(f"{what}: tracking failed ({_first_line(error)}); {remedy}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process of this root at a time."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "mlflow.db.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def tried(self, call: Callable[..., Any], *arguments: Any, quiet: bool = False) -> bool:
        """Whether the store took the call; says so in one line where it did not."""
        try:
            call(*arguments)
        except LOST as error:
            if not quiet:
                print(f"{self.uri} missed {call.__name__}: {_first_line(error)}", file=sys.stderr)
            return False
        return True


class Runs(Connection):
    """Runs. What returns a bool never raises for a store that is gone."""

    def start(
        self,
        experiment: str,
        name: str,
        *,
        config: dict[str, Any],
        tags: dict[str, Any] | None = None,
        parent: str | None = None,
        key: str | None = None,
    ) -> str:
        """The id of a run that is now RUNNING: new, or the earlier one with the same ``key``.

        ``config`` becomes parameters and the file ``config.json``, which proves that files can be
        written. Runs whose process has died are ended as KILLED. Raises InputError.
        """
        marks = self._marks(tags or {}, parent, key)
        with self.asked(), self.locked():
            place = self._experiment(experiment)
            self._end_dead_runs(place)
            same = self.client.search_runs([place], f"tags.`segcore.key` = '{key}'") if key else []
            run = same[0] if same else self.client.create_run(place, tags=marks, run_name=name)
            run_id = run.info.run_id
            self.client.update_run(run_id, "RUNNING")
            self._describe(run, _flat(config), marks)
            self.client.log_dict(run_id, config, "config.json")
        return run_id

    @contextmanager
    def run(self, experiment: str, name: str, **options: Any) -> Iterator[str]:
        """``start``, and the end that fits: FINISHED, FAILED, or KILLED where it was stopped."""
        run_id, status = self.start(experiment, name, **options), "FAILED"
        try:
            yield run_id
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            self.finish(run_id, status)

    def finish(self, run_id: str, status: str = "FINISHED") -> bool:
        """Ends a run as FINISHED, FAILED or KILLED."""
        return self.tried(self.client.set_terminated, run_id, status)

    def log_metrics(self, run_id: str, values: dict[str, float], step: int = 0) -> bool:
        now = int(time.time() * 1000)
        metrics = [entities.Metric(name, value, now, step) for name, value in values.items()]
        return self.tried(self.client.log_batch, run_id, metrics)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> bool:
        return self.tried(self.client.log_artifact, run_id, str(path), folder)

    def log_table(
        self, run_id: str, name: str, columns: Sequence[str], rows: Sequence[Any]
    ) -> bool:
        """``<name>.json`` in the form in which MLflow keeps tables; replaces an earlier one."""
        table = {"columns": list(columns), "data": [list(row) for row in rows]}
        return self.tried(self.client.log_dict, run_id, table, f"{name}.json")

    def log_dataset(
        self, run_id: str, name: str, data_hash: str, source: str, context: str
    ) -> bool:
        """Names the data of a run; ``context`` is what for, such as "training"."""
        where = json.dumps({"uri": source, "hash": data_hash})
        dataset = entities.Dataset(name, data_hash[:36], "local", where)  # 36: MLflow's limit
        context_tag = entities.InputTag("mlflow.data.context", context)
        named = entities.DatasetInput(dataset, [context_tag])
        return self.tried(self.client.log_inputs, run_id, [named])

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Samples processor, memory, disk, network and GPUs into the run meanwhile."""
        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def _marks(self, tags: dict[str, Any], parent: str | None, key: str | None) -> dict[str, str]:
        marks = _flat(tags)
        marks |= {"mlflow.user": who(self.root), "segcore.process": this_process()}
        special = {
            "mlflow.source.git.commit": marks.get("commit"),
            "mlflow.parentRunId": parent,
            "segcore.key": key,
        }
        return marks | {name: value for name, value in special.items() if value}

    def _describe(self, run: entities.Run, values: dict[str, str], marks: dict[str, str]) -> None:
        """A parameter that a run already has keeps its value: MLflow refuses another."""
        run_id, known = run.info.run_id, run.data.params
        params = [entities.Param(*item) for item in values.items() if item[0] not in known]
        for first in range(0, len(params), PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=params[first : first + PARAMS_PER_CALL])
        self.client.log_batch(run_id, tags=[entities.RunTag(*item) for item in marks.items()])

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            served = self.uri.startswith(("http", "databricks"))  # a server has its own place
            place = None if served else (self.root / "mlartifacts" / name).as_uri()
            return self.client.create_experiment(name, artifact_location=place)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _end_dead_runs(self, experiment_id: str) -> None:
        for run in self.client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
            if not is_alive(run.data.tags.get("segcore.process", "")):
                self.client.set_terminated(run.info.run_id, "KILLED")


class Decision(NamedTuple):
    """What the gate before ``champion`` decided, and why."""

    promoted: bool
    reason: str


def decide(facts: dict[str, str], champion: dict[str, str] | None, because: str | None) -> Decision:
    """Whether a model becomes champion, from its ``score`` and ``data_hash`` and its rival's.

    The first one passes; a later one must score higher on the same data. Scores on different data
    say nothing about which model is better: then only a person's reason (``because``) promotes.
    """
    if not math.isfinite(float(facts["score"])):
        return Decision(False, f"refused: its score is {facts['score']}")
    if because:
        return Decision(True, because)
    if champion is None:
        return Decision(True, f"first champion, score {facts['score']}")
    if champion.get("data_hash") != facts["data_hash"]:
        return Decision(
            False,
            f"refused: scored on data {facts['data_hash']}, the champion on "
            f"{champion.get('data_hash', 'none')}; score the champion on this data, or promote by "
            "hand with a reason",
        )
    old, new = champion["score"], facts["score"]
    if float(new) > float(old):
        return Decision(True, f"score {new} is better than {old} on the same data")
    return Decision(False, f"refused: score {new} is not better than {old} on the same data")


def move_record(root: Path, alias: str, before: int | None, after: int, why: str) -> dict[str, Any]:
    """One move of an alias from version ``before`` (None: it had none) to version ``after``."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": who(root),
        "why": why,
        "alias": alias,
        "from": before,
        "to": after,
    }


class Registry(Connection):
    """Registered models: versions, aliases, and the gate before ``champion``."""

    def register(
        self,
        run_id: str,
        name: str,
        folder: Path,
        *,
        tags: dict[str, Any] | None = None,
        metrics: dict[str, float] | None = None,
    ) -> int:
        """The version that holds the folder's MODEL_FILES; it becomes ``candidate``.

        The same files again are the same version. Raises InputError where a file is missing.
        """
        if absent := [file for file in MODEL_FILES if not (folder / file).is_file()]:
            raise InputError(f"{folder} lacks {', '.join(absent)}; run its training to the end")
        facts = _flat((tags or {}) | (metrics or {}))
        facts["content"] = hash_of([sha256_of(folder / file) for file in MODEL_FILES])
        with self.asked():
            number = self._held(name, facts["content"]) or self._add(run_id, name, folder)
            self._note(name, number, facts)
            with self.locked():
                self._move(name, "candidate", number, f"registered by run {run_id}")
        return number

    def fetch(self, name: str, version: int | str) -> Path:
        """A folder with the MODEL_FILES of a version (number or alias). Never write to it.

        It is the store's own where that is local, else a temporary copy. Raises InputError.
        """
        with self.asked():
            number = self._number(name, version)
            if number is None:
                raise InputError(self._absence(name, version))
            if not self.has(name, number):
                raise InputError(
                    f"version {number} of {name!r} has lost its files; register it again"
                )
            return Path(artifacts.download_artifacts(**self._files(name, number)))

    def has(self, name: str, version: int | str) -> bool:
        """Whether the registry knows the version or alias and still holds its files."""
        with self.asked():
            if (number := self._number(name, version)) is None:
                return False
            held = artifacts.list_artifacts(**self._files(name, number))
        return {Path(each.path).name for each in held} >= set(MODEL_FILES)

    def promote(
        self, name: str, version: int, *, score: float, data_hash: str, because: str | None = None
    ) -> Decision:
        """Makes a version ``champion`` if ``decide`` lets it; notes it on the version.

        ``because`` is a person's reason to promote it whatever the scores say.
        """
        facts = {"score": repr(score), "data_hash": data_hash}
        with self.asked(), self.locked():
            champion = next((v for v in self.versions(name) if "champion" in v.aliases), None)
            rival = None if champion is None or champion.number == version else champion.tags
            decision = decide(facts, rival, because)
            self._note(name, version, facts | {"gate": decision.reason})
            if decision.promoted:
                self._move(name, "champion", version, decision.reason)
        return decision

    def versions(self, name: str) -> list[Version]:
        """Every version, oldest first; none where there is no such model."""
        with self.asked():
            found = self.client.search_model_versions(f"name = '{name}'")
            owners = self._model(name)[0]
        listed = list[Version]()
        for each in sorted(found, key=lambda each: int(each.version)):
            aliases = sorted(alias for alias in owners if owners[alias] == int(each.version))
            listed.append(Version(int(each.version), aliases, each.run_id or "", each.tags))
        return listed

    def aliases(self, name: str, version: int) -> list[str]:
        return [
            alias
            for each in self.versions(name)
            if each.number == version
            for alias in each.aliases
        ]

    def history(self, name: str) -> list[dict[str, Any]]:
        """The moves of aliases, oldest first: when, who, why, alias, from, to."""
        with self.asked():
            return json.loads(self._model(name)[1].get("history", "[]"))

    def _files(self, name: str, number: int) -> dict[str, str]:
        place = self.client.get_model_version_download_uri(name, str(number))
        return {"artifact_uri": f"{place}/artifacts/model", "tracking_uri": self.uri}

    def _model(self, name: str) -> tuple[dict[str, int], dict[str, str]]:
        """Aliases and tags of a registered model; both empty where there is none."""
        try:
            model = self.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}, {}
        return {alias: int(number) for alias, number in model.aliases.items()}, model.tags

    def _number(self, name: str, version: int | str) -> int | None:
        for each in self.versions(name):
            if str(version) in (str(each.number), *each.aliases):
                return each.number
        return None

    def _absence(self, name: str, version: int | str) -> str:
        known = [word for v in self.versions(name) for word in (str(v.number), *v.aliases)]
        if known:
            return (
                f"model {name!r} has no version {str(version)!r}{suggestion(str(version), known)}"
            )
        names = [each.name for each in self.client.search_registered_models()]
        return f"the registry has no model {name!r}{suggestion(name, names)}"

    def _held(self, name: str, content: str) -> int | None:
        same = (v.number for v in self.versions(name) if v.tags.get("content") == content)
        return next((number for number in same if self.has(name, number)), None)

    def _note(self, name: str, number: int, facts: dict[str, str]) -> None:
        for tag, value in facts.items():
            self.client.set_model_version_tag(name, str(number), tag, value)

    def _add(self, run_id: str, name: str, folder: Path) -> int:
        from pipelines.served_model import pack  # not above: it imports torch

        experiment_id = self.client.get_run(run_id).info.experiment_id
        model = self.client.create_logged_model(experiment_id, name, run_id)
        with TemporaryDirectory() as packed:
            pack([folder / file for file in MODEL_FILES], Path(packed), run_id)
            self.client.log_model_artifacts(model.model_id, packed)
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [entities.LoggedModelOutput(model.model_id, 0)])
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Not the usual "models:/ID": MLflow would look that up in a store of its own choosing.
        place, identity = model.artifact_location, model.model_id
        return int(self.client.create_model_version(name, place, run_id, model_id=identity).version)

    def _move(self, name: str, alias: str, number: int, why: str) -> None:
        owners, tags = self._model(name)
        if owners.get(alias) == number:
            return
        move = move_record(self.root, alias, owners.get(alias), number, why)
        self.client.set_registered_model_alias(name, alias, str(number))
        self._note(name, number, {f"moved.{alias}": json.dumps(move)})
        history = [*json.loads(tags.get("history", "[]")), move]
        # A tag holds 100 000 characters; each version keeps its own last moves besides.
        self.client.set_registered_model_tag(name, "history", json.dumps(history[-200:]))


class Store(Runs, Registry):
    """Runs and registered models of one store. Made by ``open_store``."""


class Mirror(Thread):
    """Follows a ``metrics.jsonl`` while it grows, and copies it into a run.

    Which steps the run already has is asked of the run, so a store that was away, a second start
    and steps repeated after a resume leave neither a gap nor a double. A point's time is the run's
    start plus the seconds of the steps before it: the same in every replay. ``every`` thins steps
    (a long training would fill the store); ``on_event`` gets each new line, for progress.
    """

    def __init__(
        self,
        store: Runs,
        run_id: str,
        path: Path,
        *,
        every: int = 1,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
        interval_seconds: float = 1.0,
        retry_seconds: float = 20.0,
    ) -> None:
        super().__init__(name="metrics mirror", daemon=True)
        self.store, self.run_id, self.path = store, run_id, path
        self.every, self.on_event = every, on_event
        self.interval_seconds, self.retry_seconds = interval_seconds, retry_seconds
        self._closing = Event()
        self._inode, self._offset = 0, 0
        self._elapsed, self._seen = 0.0, dict[str, int]()
        self._waiting: list[Point] = []
        self._origin: int | None = None
        self._retry_at: float | None = None

    def __enter__(self) -> "Mirror":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self) -> None:
        while not self._closing.wait(self.interval_seconds):
            self._read()
            if self._retry_at is None or time.monotonic() >= self._retry_at:
                self._send()

    def close(self) -> bool:
        """Copies what is left and ends the thread; False where the store did not take all of it."""
        self._closing.set()
        if self.is_alive():
            self.join()
        self._read()
        return self._send()

    def _read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != self._inode or stat.st_size < self._offset:
                self._inode, self._offset = stat.st_ino, 0  # rewritten by a resume: read it again
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # its writer was killed within the line
                continue
            self.on_event(event)
            self._queue(event)

    def _queue(self, event: dict[str, Any]) -> None:
        kind, step = event["event"], event.get("step", -1)
        if step <= self._seen.get(kind, -1):
            return
        self._seen[kind] = step
        self._elapsed += event.get("seconds", 0.0)
        values = {name: value for name, value in event.items() if name not in ("event", "step")}
        if values and (kind != "step" or step % self.every == 0):
            self._waiting.append(Point(kind, step, self._elapsed, values))

    def _send(self) -> bool:
        taken = self.store.tried(self._deliver, quiet=self._retry_at is not None)
        self._retry_at = None if taken else time.monotonic() + self.retry_seconds
        return taken

    def _deliver(self) -> None:
        if self._waiting and self._origin is None:
            self._skip_held()
        origin, self._origin = self._origin, None  # a failure below leaves in doubt what arrived
        while self._waiting and origin is not None:
            count = METRICS_PER_CALL // max(len(point.values) for point in self._waiting)
            metrics = [each for point in self._waiting[:count] for each in point.metrics(origin)]
            self.store.client.log_batch(self.run_id, metrics)
            del self._waiting[:count]
        self._origin = origin

    def _skip_held(self) -> None:
        """Asks the run for its start and for its last step of each kind of event."""
        client, reached = self.store.client, dict[str, int]()
        for point in self._waiting:
            if point.kind not in reached:
                history = client.get_metric_history(self.run_id, next(iter(point.values)))
                reached[point.kind] = max((metric.step for metric in history), default=-1)
        self._waiting = [point for point in self._waiting if point.step > reached[point.kind]]
        self._origin = client.get_run(self.run_id).info.start_time


class Point(NamedTuple):
    """One line on its way to MLflow; ``elapsed`` in seconds of training."""

    kind: str
    step: int
    elapsed: float
    values: dict[str, float]

    def metrics(self, origin: int) -> list[entities.Metric]:
        when = origin + round(self.elapsed * 1000)
        return [
            entities.Metric(name, value, when, self.step) for name, value in self.values.items()
        ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"a": {"b": [1, 2]}}`` as ``{"a.b": "[1, 2]"}``, within what MLflow takes."""
    flat = dict[str, str]()
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[f"{prefix}{name}"] = text[:LONGEST_VALUE]
    return flat


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
