"""Where a result comes from: code, person, machine, versions. For ``lineage.json`` and tags."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.hardware import hardware
from pipelines.processes import answer_of
from segcore.files import sha256_of

PACKAGES = ("segcore", "torch", "torchvision", "timm", "numpy", "ray", "mlflow", "dvc")
LOCKS = ("dvc.lock", "requirements.lock")
OWN_FILES = ("--", ".", ":!dvc.lock")
"""Of git: those of the project, without what its pipeline writes."""
CODE = ("*.py", "*.yaml", "*.csv")
"""What new files are shown of: others may be data, or a secret."""
LONGEST_DIFF = 1_000_000


def lineage(root: Path) -> dict[str, Any]:
    """All of it as a JSON value; the commit is None where ``root`` is no git work tree.

    The commit is DVC's revision as well; ``locks`` are the hashes of the files that pin data and
    packages, where they are there.
    """
    return {
        "commit": git_commit(root),
        "dirty": git_dirty(root),
        "who": who(root),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "locks": {name: sha256_of(root / name) for name in LOCKS if (root / name).exists()},
        "hardware": hardware(),
        "versions": versions(),
    }


def git_commit(root: Path) -> str | None:
    """The full hash of HEAD; None without git, a repository or a first commit."""
    return answer_of("git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD") or None


def git_dirty(root: Path) -> bool:
    """Whether a file differs from HEAD or is new to git; ``dvc.lock``, a result, does not count."""
    return bool(answer_of("git", "-C", str(root), "status", "--porcelain", *OWN_FILES))


def git_diff(root: Path) -> str:
    """From HEAD to the files as they are; of new ones those that are ``CODE``.

    Empty where nothing differs and where there is no commit.
    """
    if not git_commit(root) or not git_dirty(root):
        return ""
    git = ["git", "-C", str(root)]
    index = answer_of(*git, "rev-parse", "--path-format=absolute", "--git-path", "index")
    with TemporaryDirectory() as place:  # new files are named in a copy of the index, not in it
        shutil.copy(index, place)
        environment = {**os.environ, "GIT_INDEX_FILE": str(Path(place) / Path(index).name)}
        listing = [*git, "ls-files", "--others", "--exclude-standard", "-z", "--", *CODE]
        new = subprocess.run(listing, capture_output=True, check=True).stdout
        adding = [*git, "add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul"]
        if new:
            subprocess.run(adding, input=new, env=environment, capture_output=True, check=True)
        showing = [*git, "diff", "--no-ext-diff", "--no-color", "HEAD", *OWN_FILES]
        with subprocess.Popen(showing, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout
            text = process.stdout.read(LONGEST_DIFF).decode(errors="replace")
            process.kill()  # does nothing where it has said all
    return text


def who(root: Path) -> str:
    """The person as git knows her, else the account."""
    return (
        answer_of("git", "-C", str(root), "config", "user.name")
        or os.environ.get("USER")
        or f"user {os.getuid()}"
    )


def versions() -> dict[str, str]:
    """Python and those of the packages that decide numbers and that are installed."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in PACKAGES if any(distributions(name=name))
    }
