from pathlib import Path

import pytest

from segcore.errors import InputError
from segcore.formats.lists import lines_of


def test_lines_are_numbered_and_blank_ones_passed_over(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\r\n  two words \nthree".encode())
    assert lines_of(path, "make it") == [(1, "one"), (3, "two words"), (4, "three")]
    path.write_bytes(b"")
    assert lines_of(path, "make it") == []


def test_what_cannot_be_read_is_told_with_a_remedy(tmp_path: Path):
    for place in (tmp_path / "gone.txt", tmp_path):
        with pytest.raises(InputError, match=rf"{place.name} is missing; make it$"):
            lines_of(place, "make it")
    for encoding, at in (("latin-1", 2), ("utf-16", 0)):
        path = tmp_path / f"{encoding}.txt"
        path.write_bytes("böse\n".encode(encoding) if at == 0 else "zwölf\n".encode(encoding))
        with pytest.raises(InputError, match=rf"{encoding}\.txt: byte {at} is no UTF-8; save it"):
            lines_of(path, "make it")
