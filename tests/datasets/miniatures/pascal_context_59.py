from pathlib import Path

from tests.datasets.context_files import build_context
from tests.datasets.miniatures import Expected


def build(folder: Path) -> Expected:
    return build_context(folder, 59)
