"""Text files that name the samples of a split, a line each."""

from pathlib import Path

from segcore.errors import InputError


def lines_of(path: Path, remedy: str) -> list[tuple[int, str]]:
    """The lines that say something, with their numbers; a byte-order mark says nothing.

    Raises InputError, with ``remedy``, where the file is missing, and where it is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{path} is missing; {remedy}") from None
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is no UTF-8"
        raise InputError(f"{path}: {problem}; save it with that encoding") from None
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in lines if line]
