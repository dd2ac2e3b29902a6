"""Videos and folders labelled frame by frame."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import predict
from pipelines.tracking import open_store
from segcore.errors import InputError
from segcore.inference import predict_labels
from segcore.model_files import build_network, load_model, save_model
from segcore.row import Run
from segcore.types import ClassTable
from segcore.videos import opened_video

NAME = "fcn-resnet18-shapes"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one champion, at random weights, and a video of six frames."""
    root = tmp_path_factory.mktemp("labelled")
    torch.manual_seed(0)
    classes = ClassTable(("road", "sky"), ((200, 0, 0), (0, 0, 200)), (0, 1))
    run = Run(
        method="fcn",
        backbone="resnet18",
        backbone_options={"channels": [8, 16, 16, 16]},
        dataset="shapes",
        steps=1,
        batch_size=1,
        crop=(32, 32),
        evaluate_every=1,
        save_every=1,
    )
    folder = root / "runs" / NAME
    save_model(folder, build_network(run, 2).state_dict(), NAME, run, classes)
    store = open_store(root)
    run_id = store.start("shapes", NAME, config={})
    number = store.register(run_id, NAME, folder)
    store.promote(NAME, number, score=0.5, data_hash="d1")
    (root / "clips").mkdir()
    writer = cv2.VideoWriter(
        str(root / "clips/ride.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 48)
    )
    for number in range(6):
        frame = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        writer.write(cv2.resize(frame, (64, 48), interpolation=cv2.INTER_CUBIC))
    writer.release()
    return root


@pytest.fixture(autouse=True)
def _in_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_a_video_gives_labels_of_each_frame_and_an_overlay_video(root: Path, tmp_path: Path):
    predict.predict([root / "clips"], NAME, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ride-labels", "ride-overlay.mp4"]
    network = load_model(root / "runs" / NAME).network
    with opened_video(root / "clips/ride.avi") as video:
        assert (video.length, video.rate) == (6, 12.0)
        frames = list(video.frames)
    assert len(frames) == 6
    for number, frame in enumerate(frames):
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous()
        with Image.open(tmp_path / f"ride-labels/{number:06d}.png") as labels:
            np.testing.assert_array_equal(np.asarray(labels), predict_labels(network, image)[0])
    with opened_video(tmp_path / "ride-overlay.mp4") as painted:
        assert (painted.length, painted.rate) == (6, 12.0)
        assert [frame.shape for frame in painted.frames] == [(48, 64, 3)] * 6


def test_a_file_that_is_no_video_is_told_and_leaves_nothing(root: Path, tmp_path: Path):
    (tmp_path / "cut.mp4").write_bytes((root / "clips/ride.avi").read_bytes()[:200])
    with pytest.raises(InputError, match=r"cut\.mp4 cannot be read as a video"):
        predict.predict([tmp_path / "cut.mp4"], NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_files_with_one_output_are_refused_before_work(tmp_path: Path):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"a/1\.png and .*b/1\.png would have the same output"):
        predict.predict([tmp_path], NAME, tmp_path / "out")
    assert not (tmp_path / "out").exists()
