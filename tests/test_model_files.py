"""Model folders: what is saved predicts the same, what is broken is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segcore.checkpoints import Kept
from segcore.errors import InputError
from segcore.inference import predict_labels
from segcore.model_files import WEIGHTS, build_network, load_model, save_kept, save_model
from segcore.shards import Manifest, ShardReader
from tests.tiny_training import last_of, row


@pytest.fixture
def saved(tiny, tmp_path) -> tuple[Path, dict[str, torch.Tensor]]:
    checkpoint, classes = last_of(row(steps=2), tiny), Manifest.read(tiny).classes
    assert checkpoint.best_weights is not None
    save_model(tmp_path / "model", checkpoint.best_weights, "fcn-tiny", row(steps=2), classes)
    return tmp_path / "model", checkpoint.best_weights


def test_a_saved_model_predicts_what_it_did(tiny, saved):
    folder, weights = saved
    loaded = load_model(folder)
    assert loaded.config == row(steps=2)
    assert loaded.classes == Manifest.read(tiny).classes
    assert not loaded.network.training
    network = build_network(row(), 4)
    network.load_state_dict(weights)
    reader = ShardReader(tiny, "val")
    for index in range(len(reader)):
        image = reader[index].image[None]
        expected = predict_labels(network.eval(), image)
        assert torch.equal(predict_labels(loaded.network, image), expected)


def test_weights_in_any_memory_layout_are_saved(tiny, saved, tmp_path):
    folder, weights = saved
    network = build_network(row(), 4).to(memory_format=torch.channels_last)
    network.load_state_dict(weights)
    state = network.state_dict()
    save_model(tmp_path / "again", state, "fcn-tiny", row(steps=2), Manifest.read(tiny).classes)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["classes.json", "config.json", "weights.safetensors"]
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_weights_of_another_class_count_are_refused(saved):
    folder, _ = saved
    table = json.loads((folder / "classes.json").read_text())
    fewer = {key: values[:3] for key, values in table.items()}
    (folder / "classes.json").write_text(json.dumps(fewer))
    with pytest.raises(InputError, match=r"with 3 classes \(.*\); train the row fcn-tiny again"):
        load_model(folder)


@pytest.mark.parametrize("kept", [0, 100, 100_000])
def test_weights_cut_short_are_refused(saved, kept):
    folder, _ = saved
    os.truncate(folder / WEIGHTS, kept)
    with pytest.raises(InputError, match=r"weights\.safetensors does not hold the weights of fcn"):
        load_model(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "classes.json"])
def test_a_model_folder_that_lacks_a_file_is_refused(saved, name):
    folder, _ = saved
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        load_model(folder)


def test_what_was_kept_is_a_file_each_and_nothing_else_stays(tmp_path):
    def kept(*steps: int) -> list[Kept]:
        return [Kept(step, step / 100, {"w": torch.full((2,), float(step))}) for step in steps]

    save_kept(tmp_path / "kept", kept(80, 40))
    save_kept(tmp_path / "kept", kept(120, 80))
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["kept.json", "step-0000080.safetensors", "step-0000120.safetensors"]
    scores = json.loads((tmp_path / "kept/kept.json").read_text())
    assert list(scores) == ["step-0000120.safetensors", "step-0000080.safetensors"]
    assert scores["step-0000120.safetensors"] == {"step": 120, "miou": 1.2}
    for name, score in scores.items():
        assert load_file(tmp_path / "kept" / name)["w"].tolist() == [score["step"]] * 2
