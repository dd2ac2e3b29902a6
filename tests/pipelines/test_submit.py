"""A row's labels, packed for a test server."""

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import submit as submitting
from pipelines.project import Project
from pipelines.submit import submit
from segcore.errors import InputError
from segcore.inference import predict_labels
from segcore.model_files import load_model
from segcore.shards import ShardReader
from segcore.submissions import Form
from tests.pipelines.tiny_project import PLAIN

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_labels_of_a_split_and_of_a_folder(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(submitting, "form_of", lambda dataset: Form(folder="results"))
    reader = ShardReader(str(finished.shards("tiny")), "val")
    network, images = load_model(finished.run(PLAIN)).network, tmp_path / "images"
    images.mkdir()
    for index in range(len(reader)):
        pixels = reader[index].image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(images / f"{reader[index].id.replace('/', '-')}.png")
    for source, out in (("val", tmp_path / "a.zip"), (str(images), tmp_path / "b.zip")):
        assert submit(finished, PLAIN, source, out) == out
        with zipfile.ZipFile(out) as archive:
            assert len(archive.namelist()) == len(reader)
            for index in range(len(reader)):
                name = reader[index].id if source == "val" else reader[index].id.replace("/", "-")
                with Image.open(BytesIO(archive.read(f"results/{name}.png"))) as image:
                    labels = torch.from_numpy(np.array(image))
                assert torch.equal(labels, predict_labels(network, reader[index].image[None])[0])


def test_what_no_server_takes(finished: Project):
    with pytest.raises(InputError, match="no test server is known for 'shapes'"):
        submit(finished, PLAIN, "val", None)
