"""Videos and folders labelled frame by frame."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipelines import predict
from pipelines.tracking import open_store
from segcore import videos
from segcore.errors import InputError
from segcore.files import write_json
from segcore.inference import predict_labels, predictor
from segcore.model_files import build_network, load_model, save_model
from segcore.row import Run
from segcore.tables import TestTime
from segcore.types import ClassTable
from segcore.videos import opened_video, written_video

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


@torch.no_grad()
def evened(network: nn.Module) -> None:
    """Of two classes, none is more likely than the other on the whole: labels then vary."""
    images = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    means = network(images).logits.mean((0, 2, 3))
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == 2 and module.bias is not None:
            module.bias -= means


@pytest.fixture(autouse=True)
def _in_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.mark.long
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


def test_an_image_is_looked_at_once_as_the_row_says(root: Path, tmp_path: Path):
    look = {"resize": 40, "window": (32, 32), "stride": (20, 20)}
    how = TestTime(scales=(1.0, 2.0), flip=True, **look)
    loaded = load_model(root / "runs" / NAME)
    evened(loaded.network)
    row = loaded.config.model_copy(update={"test_time": how})
    save_model(tmp_path, loaded.network.state_dict(), "windows", row, loaded.classes)
    pixels = np.random.default_rng(3).integers(0, 256, (64, 48, 3), np.uint8)
    _, labels = predict._labelled(pixels, load_model(tmp_path))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    expected = predictor(TestTime(**look), (0, 1))(loaded.network, image)[0]
    assert torch.equal(labels, expected)
    assert not torch.equal(labels, predict_labels(loaded.network, image)[0])


def test_the_best_row_labels_images_unless_it_is_not_clear_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no report says which row is best yet; name one: --model"):
        predict._best_row()
    rows = [("moves", "segfix", "camvid"), ("good", "ocrnet", "camvid"), ("fair", "fcn", "camvid")]
    board = [{"row": row, "method": method, "dataset": data} for row, method, data in rows]
    write_json(tmp_path / "reports/leaderboard.json", board)
    assert predict._best_row() == "good"
    other = {"row": "other", "method": "fcn", "dataset": "voc2012"}
    write_json(tmp_path / "reports/leaderboard.json", [*board, other])
    with pytest.raises(InputError, match=r"name one: .*good \(camvid\), other \(voc2012\)"):
        predict._best_row()
    write_json(tmp_path / "reports/leaderboard.json", board[:1])
    with pytest.raises(InputError, match="no report says which row is best yet"):
        predict._best_row()


def test_a_video_that_cannot_be_written_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fourcc, closed = cv2.VideoWriter.fourcc, SimpleNamespace(isOpened=lambda: False)
    writer = MagicMock(return_value=closed, fourcc=fourcc)
    monkeypatch.setattr(videos.cv2, "VideoWriter", writer)
    said = r"ride\.mp4 cannot be written: this OpenCV has no MPEG-4 encoder"
    with (
        pytest.raises(InputError, match=said),
        written_video(tmp_path / "ride.mp4", 25.0) as write,
    ):
        write(torch.zeros(3, 48, 64, dtype=torch.uint8))
    assert list(tmp_path.iterdir()) == []
