"""The shelf of what came out: registered models, their versions, aliases and gate."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from mlflow import artifacts, entities
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pipelines.tracking.connection import Connection
from pipelines.tracking.gate import Decision, decide, move_record
from pipelines.tracking.runs import flat
from segcore.errors import InputError, suggestion
from segcore.files import hash_of, sha256_of

MODEL_FILES = ("weights.safetensors", "config.json", "classes.json")
CARD, WITHDRAWN = "model_card.md", "withdrawn"
LONGEST_DESCRIPTION, MOST_MODELS = 5000, 1000
"""Two limits of MLflow."""


class Version(NamedTuple):
    """A version of a registered model."""

    number: int
    aliases: list[str]
    run_id: str
    tags: dict[str, str]


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
        facts = flat((tags or {}) | (metrics or {})) | {"content": content_of(folder)}
        with self.asked():
            held = self.holding(name, folder)
            number = held.number if held else self._add(run_id, name, folder)
            self._note(name, number, facts)
            with self.locked():
                self._move(name, "candidate", number, f"registered by run {run_id}")
        return number

    def holding(self, name: str, folder: Path) -> Version | None:
        """The version that holds the folder's MODEL_FILES. Raises InputError as ``register``."""
        content = content_of(folder)
        same = (each for each in self.versions(name) if each.tags.get("content") == content)
        return next((each for each in same if self.has(name, each.number)), None)

    def fetch(self, name: str, version: int | str) -> Path:
        """A folder with the MODEL_FILES of a version (number or alias). Never write to it.

        It is the store's own where that is local, else a temporary copy. Raises InputError.
        """
        number = self.version(name, version).number
        self._check_files(name, number)
        with self.asked():
            return Path(artifacts.download_artifacts(**self._files(name, number)))

    def package(self, name: str, version: int | str) -> Path:
        """As ``fetch``, with all that MLflow serves: the code and the model card, too."""
        number = self.version(name, version).number
        self._check_files(name, number)
        with self.asked():
            place = self.client.get_model_version_download_uri(name, str(number))
            return Path(artifacts.download_artifacts(artifact_uri=place, tracking_uri=self.uri))

    def version(self, name: str, version: int | str) -> Version:
        """The version with this number or alias. Raises InputError on one that is not there."""
        known = self.versions(name)
        for each in known:
            if str(version) in (str(each.number), *each.aliases):
                return each
        if not known:
            names = self.names()
            raise InputError(f"the registry has no model {name!r}{suggestion(name, names)}")
        words = [word for each in known for word in (str(each.number), *each.aliases)]
        hint = suggestion(str(version), words)
        raise InputError(f"model {name!r} has no version {str(version)!r}{hint}")

    def names(self) -> list[str]:
        """Of all registered models."""
        with self.asked():
            found = self.client.search_registered_models(max_results=MOST_MODELS)
        return sorted(each.name for each in found)

    def has(self, name: str, version: int | str) -> bool:
        """Whether the registry knows the version or alias and still holds its files."""
        known = self.versions(name)
        found = [v.number for v in known if str(version) in (str(v.number), *v.aliases)]
        if not found:
            return False
        with self.asked():
            held = artifacts.list_artifacts(**self._files(name, found[0]))
        return {Path(each.path).name for each in held} >= set(MODEL_FILES)

    def promote(
        self,
        name: str,
        version: int,
        *,
        score: float,
        data_hash: str,
        measured: str | None = None,
        because: str | None = None,
    ) -> Decision:
        """Makes a version ``champion`` if ``decide`` lets it; notes it on the version.

        ``measured`` are the split and the protocol of the score; ``because`` is a person's reason
        to promote it whatever the scores say.
        """
        self._check_files(name, version)
        facts = {"score": repr(score), "data_hash": data_hash}
        facts |= {"measured": measured} if measured else {}
        with self.asked(), self.locked():
            known = {each.number: each for each in self.versions(name)}
            champion = next((v for v in known.values() if "champion" in v.aliases), None)
            rival = None if champion is None or champion.number == version else champion.tags
            why = known[version].tags.get(WITHDRAWN)
            decision = decide(facts | ({WITHDRAWN: why} if why else {}), rival, because)
            self._note(name, version, facts | {"gate": decision.reason})
            if decision.promoted:
                if why:
                    self.client.delete_model_version_tag(name, str(version), WITHDRAWN)
                self._move(name, "champion", version, decision.reason)
        return decision

    def withdraw(self, name: str, version: int, why: str) -> None:
        """From now on the gate refuses the version, until a person has a reason to promote it."""
        with self.asked():
            self._note(name, version, {WITHDRAWN: why})

    def describe(self, name: str, version: int, card: str) -> None:
        """Gives a version its model card: as its description, and as a file beside the model."""
        with self.asked(), TemporaryDirectory() as folder:
            self.client.update_model_version(name, str(version), card[:LONGEST_DESCRIPTION])
            Path(folder, CARD).write_text(card, encoding="utf-8")
            place = self.client.get_model_version_download_uri(name, str(version))
            get_artifact_repository(place, self.uri).log_artifacts(folder)

    def figures(self, version: Version) -> tuple[dict[str, float], dict[str, str]]:
        """The scores and the configuration of the run that a version comes from."""
        with self.asked():
            data = self.client.get_run(version.run_id).data
        return data.metrics, data.params

    def fetch_file(self, run_id: str, name: str) -> Path | None:
        """A file that was logged with a run, None where there is none. Never write to it."""
        with self.asked():
            there = any(each.path == name for each in self.client.list_artifacts(run_id))
            return Path(self.client.download_artifacts(run_id, name)) if there else None

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

    def _check_files(self, name: str, number: int) -> None:
        if not self.has(name, number):
            lost = f"version {number} of {name!r} has lost its files; register it again"
            raise InputError(f"{lost}: python -m pipelines.evaluate ROW, for its row")

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


def content_of(folder: Path) -> str:
    """One hash for the folder's MODEL_FILES. Raises InputError where a file is missing."""
    if absent := [file for file in MODEL_FILES if not (folder / file).is_file()]:
        raise InputError(f"{folder} lacks {', '.join(absent)}; run its training to the end")
    return hash_of([sha256_of(folder / file) for file in MODEL_FILES])
