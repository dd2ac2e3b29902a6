"""Brings a dataset's raw files to ``data/raw/<dataset>``; writes their inventory."""

from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.download import download


def main(key: str, project: Project) -> None:
    dataset, _ = project.dataset(key)
    inventory = download(dataset, project.raw(key), project.drop(key))
    if dataset.licence:
        print(f"{key}: licence {dataset.licence}; {dataset.home}")
    print(f"{key}: {len(inventory['files'])} raw files")


if __name__ == "__main__":
    run_stage(main)
