"""Writes what a row's search and training follow, and nothing of what comes after them.

For DVC, which would else train a row again where only a protocol was added: ``tune`` and ``train``
depend on this file, and read ``params.yaml`` themselves.
"""

from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.files import write_json


def main(key: str, project: Project) -> None:
    # without defaults, so that a key that is new to the project concerns no row that lacks it
    recipe = project.row(key).recipe().model_dump(mode="json", exclude_defaults=True)
    write_json(project.run(key) / "recipe.json", recipe)


if __name__ == "__main__":
    run_stage(main)
