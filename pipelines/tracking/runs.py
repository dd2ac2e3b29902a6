"""The record of what ran: MLflow's experiments and runs."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import entities
from mlflow.exceptions import MlflowException

from pipelines.lineage import git_diff, who
from pipelines.processes import this_process
from pipelines.tracking.connection import Connection
from pipelines.tracking.heartbeat import BEAT, Heartbeat, is_dead, now
from pipelines.tracking.system import SystemMetrics

PARAMS_PER_CALL = 100
LONGEST_VALUE = 6000
"""Two limits of MLflow."""


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
        written; what git has no commit of becomes ``uncommitted.diff``, but in children. Runs
        whose process has died are ended as KILLED. Raises InputError.
        """
        marks = self._marks(tags or {}, parent, key)
        with self.asked(), self.locked():
            place = self._experiment(experiment)
            self._end_dead_runs(place)
            same = self.client.search_runs([place], f"tags.`segcore.key` = '{key}'") if key else []
            run = same[0] if same else self.client.create_run(place, tags=marks, run_name=name)
            with self._ended_on_error(run.info.run_id):
                self.client.update_run(run.info.run_id, "RUNNING")
                self._describe(run, flat(config), marks)
                self._keep(run.info.run_id, config, parent is None)
        return run.info.run_id

    @contextmanager
    def run(self, experiment: str, name: str, **options: Any) -> Iterator[str]:
        """``start``, and the end that fits: FINISHED, FAILED, or KILLED where it was stopped.

        Raises InputError where it is over and the store stays away, which must hear of that.
        """
        run_id = self.start(experiment, name, **options)
        with self._ended_on_error(run_id):
            with Heartbeat(self, run_id):
                yield run_id
            self.await_back()
            self.insist(self.finish(run_id))

    @contextmanager
    def _ended_on_error(self, run_id: str) -> Iterator[None]:
        """Ends the run where what happens within does not come to its end."""
        try:
            yield
        except BaseException as error:
            self.finish(run_id, status_of(error))
            raise

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
        monitor = SystemMetrics(run_id, resume_logging=True, tracking_uri=self.uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def _keep(self, run_id: str, config: dict[str, Any], with_diff: bool) -> None:
        self.client.log_dict(run_id, config, "config.json")
        if with_diff and (diff := git_diff(self.root)):
            self.client.log_text(run_id, diff, "uncommitted.diff")

    def _marks(self, tags: dict[str, Any], parent: str | None, key: str | None) -> dict[str, str]:
        marks = flat({name: value for name, value in tags.items() if value is not None})
        marks |= {"mlflow.user": who(self.root), "segcore.process": this_process()}
        special = {
            "mlflow.source.git.commit": marks.get("commit"),
            "mlflow.source.name": marks.get("command"),
            "mlflow.source.type": "LOCAL",
            "mlflow.parentRunId": parent,
            "segcore.key": key,
            BEAT: None if parent else now(),
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
            kind = {"mlflow.experimentKind": "custom_model_development"}  # opens at its runs
            try:
                return self.client.create_experiment(name, place, kind)
            except MlflowException as error:  # another root was first: its lock is not ours
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._experiment(name)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _end_dead_runs(self, experiment_id: str) -> None:
        """A child has no heartbeat of its own: it lives and dies with its parent."""
        found = self.client.search_runs([experiment_id], "attributes.status = 'RUNNING'")
        running = {run.info.run_id: run.data.tags for run in found}
        for run_id, tags in running.items():
            parent = running.get(tags.get("mlflow.parentRunId", ""), {})
            if (is_dead(tags) or is_dead(parent)) and self._is_running(run_id):
                self.client.set_terminated(run_id, "KILLED")

    def _is_running(self, run_id: str) -> bool:
        """A process may have ended its run and itself since the runs were listed."""
        return self.client.get_run(run_id).info.status == "RUNNING"


def status_of(error: BaseException) -> str:
    """Of a run that ended so: what is no mistake is a person or a system that stops a process."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"a": {"b": [1, 2]}}`` as ``{"a.b": "[1, 2]"}``, within what MLflow takes."""
    result = dict[str, str]()
    for name, value in values.items():
        if isinstance(value, dict) and value:
            result |= flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            result[f"{prefix}{name}"] = text[:LONGEST_VALUE]
    return result
