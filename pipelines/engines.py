"""What a training or a search stands on: a store, and a cluster that is held no longer than needed.

Ray starts and ends by waiting, for seconds: what else takes some is done meanwhile. It starts in
the main thread, as its processes end with the thread that starts them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

from pipelines.beside import beside
from pipelines.cluster.connection import cluster
from pipelines.project import Project
from pipelines.tracking import Store, open_store
from segcore.row import Run
from segcore.runs import check


@contextmanager
def engines(
    run: Run, num_classes: int, project: Project
) -> Iterator[tuple[Store, Callable[[], AbstractContextManager[None]]]]:
    """The store, and a context for the work on the cluster: when that is over, however it ends, the
    cluster goes, beside whatever comes after. It is entered once.

    Raises InputError where the row cannot be built and where the store or the cluster does not
    answer: nothing has begun then, so the store shows no run.
    """
    with ExitStack() as held, ExitStack() as after:
        with beside(partial(store_for, run, num_classes, project), "store") as store:
            held.enter_context(cluster())

        @contextmanager
        def on_cluster() -> Iterator[None]:
            try:
                yield
            finally:
                after.enter_context(beside(held.close, "end of ray"))

        yield store.result(), on_cluster


def store_for(run: Run, num_classes: int, project: Project) -> Store:
    """For a row that can be built; raises InputError on any other."""
    check(run, num_classes)
    return open_store(project.root)
