"""docs/method.md followed to the letter: its method goes through the contract, its code runs."""

import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from segcore import models
from segcore.errors import InputError
from tests.models import test_contract as contract
from tests.narrow_networks import NARROW

DOCUMENT = (Path(__file__).parents[2] / "docs/method.md").read_text()
CHECKS = [each for name, each in vars(contract).items() if name.startswith("test_")]


def blocks(language):
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found
    return found


METHOD, *PYTHON = blocks("python")
(ROW,) = map(json.loads, blocks("json"))


@pytest.fixture(scope="module", autouse=True)
def _foonet(tmp_path_factory):
    """The method's file lies where methods are looked for."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "foonet.py").write_text(METHOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "__path__", [*models.__path__, str(folder)])
        patch.setattr(contract, "ROWS", [ROW])
        yield
    sys.modules.pop("segcore.models.foonet")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_method_keeps_the_contract(check):
    given = {"name": "foonet", "case": "narrow", "backbone": "narrow", "size": (65, 97), "row": ROW}
    if "model" in (wanted := inspect.signature(check).parameters):
        given["model"] = contract.build("foonet").eval()
    check(**{key: given[key] for key in wanted})


def test_there_was_something_to_check():
    assert len(CHECKS) >= 11


def test_its_value_is_refused_as_it_says():
    with pytest.raises(InputError, match="method foonet: gate is sigmoid or hard, not 'soft'"):
        contract.build("foonet", gate="soft")
    with pytest.raises(InputError, match="width must be a whole number of at least 1, not 0"):
        contract.build("foonet", width=0)


def test_its_count_is_that_of_its_layers():
    trunk, auxiliary = 23_527_264, 2_364_691
    head = (2048 + 2) * 128 + 2048 * 128 + (128 + 1) * 19 + (256 + 1) * 19
    assert ROW["without_auxiliary"] == trunk + head
    assert ROW["parameters"] - ROW["without_auxiliary"] == auxiliary


def test_the_code_runs():
    names = {}
    for block in PYTHON:
        exec(block, names)
    assert names["loss"].isfinite()
    assert names["model"](torch.rand(2, 3, 64, 64)).logits.shape == (2, 19, 16, 16)


def test_the_widths_that_it_names_are_those_that_are_known():
    said = DOCUMENT[DOCUMENT.index("`NARROW` in") :]
    said = said[: said.index("An option for")]
    assert set(re.findall(r"`(\w+)`", said)) - {"NARROW"} == set(NARROW)
