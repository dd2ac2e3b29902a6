import hashlib
import json
import os

import pytest

from segcore.errors import InputError
from segcore.files import hash_of, read_json, read_yaml, sha256_of, write_json, written_whole


def test_a_file_has_its_name_only_when_whole(tmp_path):
    path = tmp_path / "new folder" / "a.txt"
    with written_whole(path) as aside:
        aside.write_text("half")
        assert not path.exists()
        assert aside.parent == path.parent  # a rename across file systems is not atomic
    assert path.read_text() == "half"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with written_whole(path) as aside:
            aside.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_two_who_write_a_file_do_not_meet(tmp_path):
    """Nor where both are process 1, of two containers that share a folder."""
    path = tmp_path / "a.txt"
    with written_whole(path) as first, written_whole(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first", "the one who ended last"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_round_trip_keeps_order_and_letters(tmp_path):
    value = {"z": [1, 2.5, None], "a": "Straße"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert list(read_json(tmp_path / "a.json")) == ["z", "a"]
    assert "Straße" in (tmp_path / "a.json").read_bytes().decode("utf-8")


def test_json_that_cannot_be_read_is_told(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"a\.json is missing; the stage"):
        read_json(path)
    for content in (b"", b'{"a": ', b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.json is not whole .*delete it"):
            read_json(path)


def test_hashes_are_those_of_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert hash_of({"b": 1, "a": [2]}) == hash_of({"a": [2], "b": 1})
    assert hash_of({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a":[2],"b":1}').hexdigest()[:10]
    assert hash_of({"b": 1}) != hash_of({"b": 2})


NUMBERS = {
    "1e-3": 0.001,
    "1E3": 1000.0,
    "-2e-4": -0.0002,
    "1.e2": 100.0,
    "5.e-1": 0.5,
    ".5e1": 5.0,
    "1.5e-3": 0.0015,
    "+3e0": 3.0,
    "0.5e1": 5.0,
    "0e9": 0.0,
    "12": 12,
    "0.25": 0.25,
}


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_yaml_reads_every_way_to_write_a_number(tmp_path, text, value):
    (tmp_path / "a.yaml").write_text(f"key: {text}\nlist: [{text}]\n")
    found = read_yaml(tmp_path / "a.yaml")
    assert found == {"key": value, "list": [value]}
    assert type(found["key"]) is type(value)


@pytest.mark.parametrize("text", ["e3", "1e", "1e3x", "'1e-3'", "1-e3", "v1e3"])
def test_yaml_leaves_other_text_alone(tmp_path, text):
    (tmp_path / "a.yaml").write_text(f"key: {text}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"key": text.strip("'")}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: 1\nb: 2\na: 3\n", 3), ("rows:\n  x: {b: 1}\n  x: {b: 2}\n", 3), ("a: {b: 1, b: 1}", 1)],
)
def test_yaml_refuses_a_key_that_stands_twice(tmp_path, text, line):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"(?s)'\w' stands twice; remove one.*line {line}"):
        read_yaml(tmp_path / "a.yaml")


def test_yaml_merge_keys_still_give_way_to_own_keys(tmp_path):
    text = "base: &base {a: 1, b: 2}\nother: &other {c: 3}\nrow: {<<: *base, <<: *other, b: 5}\n"
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml")["row"] == {"a": 1, "b": 5, "c": 3}


def test_no_yaml_is_told(tmp_path):
    for content in (b"a: [1,", b"a: b: c", b"\xff\xfe\xfa"):
        (tmp_path / "a.yaml").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.yaml is not valid YAML"):
            read_yaml(tmp_path / "a.yaml")


def test_json_text_is_json(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert (tmp_path / "a.json").read_bytes().endswith(b"\n")
