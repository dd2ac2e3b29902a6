"""Brings a dataset's raw files to ``data/raw/<dataset>``; writes their inventory."""

from contextlib import ExitStack

from pipelines.progress import PlainBar, TerminalBar, progress
from pipelines.project import Project
from pipelines.stage import run_stage
from segcore.acquisition.watch import Listener
from segcore.download import INVENTORY, download
from segcore.files import write_json


class Shown(Listener):
    """A bar from the first byte on: a dataset whose files are all there needs none."""

    def __init__(self, what: str, stack: ExitStack) -> None:
        self.what, self.stack, self.bytes = what, stack, 0
        self.bar: PlainBar | TerminalBar | None = None

    def advance(self, count: int, total: int) -> None:
        if self.bar is None:
            self.bar = self.stack.enter_context(progress(self.what, megabytes(total), "MB"))
        before, self.bytes = self.bytes, self.bytes + count
        self.bar.expect(megabytes(total))
        self.bar.advance(megabytes(self.bytes) - megabytes(before))

    def say(self, message: str) -> None:
        if isinstance(self.bar, TerminalBar):
            self.bar.bar.console.print(message, markup=False, highlight=False)
        else:
            print(message, flush=True)


def megabytes(count: int) -> int:
    """Begun ones count, so that the last one is reached."""
    return -(-count // 1_000_000)


def main(key: str, project: Project) -> None:
    if address := project.params.dataset(key).shards:
        write_json(project.raw(key) / INVENTORY, {"files": []})
        print(f"{key}: no raw files are needed, its shards are in {address}")
        return
    dataset, _ = project.dataset(key)
    if dataset.licence:
        print(f"{key}: licence {dataset.licence}; {dataset.home}")
    with ExitStack() as stack:
        shown = Shown(f"download {key}", stack)
        inventory = download(dataset, project.raw(key), project.drop(key), shown)
    print(f"{key}: {len(inventory['files'])} raw files")


if __name__ == "__main__":
    run_stage(main)
