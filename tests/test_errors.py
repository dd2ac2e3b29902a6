import pytest
from pydantic import BaseModel, ConfigDict

from segcore.errors import InputError, suggestion, validated


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid")
    height: float


class Orchard(BaseModel):
    model_config = ConfigDict(extra="forbid")
    owner: str
    trees: dict[str, Tree] = {}
    size: tuple[int, int] = (1, 1)


def problem(values, layers=None) -> str:
    with pytest.raises(InputError) as caught:
        validated(Orchard, values, "orchard.yaml", layers)
    return str(caught.value)


def test_suggestion_is_the_nearest_or_everything():
    assert suggestion("learnig_rate", ["momentum", "learning_rate"]) == (
        "; did you mean 'learning_rate'?"
    )
    assert suggestion("zzz", {"b", "a"}) == "; there is a, b"
    assert suggestion("zzz", []) == ""


def test_what_fits_is_returned():
    orchard = validated(Orchard, {"owner": "Ada", "trees": {"old": {"height": 3}}}, "here")
    assert orchard.trees["old"].height == 3.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"owner": "A", "ownr": "B"}, "unknown key 'ownr'; did you mean 'owner'?"),
        (
            {"owner": "A", "trees": {"x": {"height": 1, "hieght": 2}}},
            "unknown key 'trees.x.hieght'; did you mean 'height'?",
        ),
        ({}, "'owner' is missing"),
        ({"owner": None}, "owner is empty; give it a value, or remove it"),
        ({"owner": "A", "size": [4]}, "size.1: Field required (got [4])"),
    ],
)
def test_a_problem_names_place_and_remedy(values, message):
    assert problem(values) == f"orchard.yaml: {message}"


def test_all_problems_stand_in_one_message():
    text = problem({"ownr": "A", "size": [1, "x"]})
    assert text.count(";") >= 2
    for part in ("'owner' is missing", "'ownr'", "size.1", "got 'x'"):
        assert part in text


def test_a_problem_is_placed_in_the_layer_that_says_it():
    layers = {"mine": {"owner": "A"}, "theirs": {"size": [0, "x"], "owner": 1}}
    text = problem({"owner": "A", "size": [0, "x"]}, layers)
    assert "theirs.size.1" in text
    assert "mine.owner" in problem({"owner": 1}, {"mine": {"owner": 1}, "theirs": {"owner": "B"}})
