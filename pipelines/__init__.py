"""The verbs of the pipeline: thin stages that read ``params.yaml`` and call ``segcore``."""

import gc

# Of the first seconds of each process a quarter is Python's search for cycles among the objects of
# the modules that it imports, of which none is garbage.
gc.set_threshold(10_000, *gc.get_threshold()[1:])
