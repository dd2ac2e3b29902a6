"""Raw files of a dataset -> shards, their manifest and its audit."""

from segcore.preparation.audit import described
from segcore.preparation.processes import Mapper, in_processes
from segcore.preparation.survey import Survey, prepare

__all__ = ["Mapper", "Survey", "described", "in_processes", "prepare"]
