"""What a training or a search stands on: a store, and a cluster that is held no longer than needed.

Ray starts and ends by waiting, for seconds; whatever else takes some is done meanwhile.
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
) -> Iterator[tuple[Store, Callable[[], AbstractContextManager[object]]]]:
    """The store, and a context that gives the cluster back while its body runs.

    Raises InputError where the row cannot be built, the store or the cluster does not answer."""
    with ExitStack() as held:
        with beside(partial(store_for, run, num_classes, project)) as store:
            held.enter_context(cluster())
        yield store.result(), partial(beside, held.close)


def store_for(run: Run, num_classes: int, project: Project) -> Store:
    """For a row that can be built; raises InputError on any other."""
    check(run, num_classes)
    return open_store(project.root)
