"""Labels images and videos with a registered model: overlays to look at and label PNGs.

Images, videos and folders of both; without any, a scene that the project draws itself. Of a video
come an overlay video and a folder with the labels of each frame.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from pipelines.gathering import drawn_scene, gathered, read_image
from pipelines.progress import PlainBar, TerminalBar, progress
from pipelines.stage import run_safely
from pipelines.tracking import open_store
from segcore import videos
from segcore.decoding import Pixels
from segcore.errors import InputError
from segcore.files import read_json
from segcore.inference import predictor
from segcore.model_files import LoadedModel, load_model
from segcore.pictures import label_png, overlay, save_png
from segcore.runs import device_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="IMAGE|VIDEO|FOLDER")
    parser.add_argument("--model", help="ROW[@alias or version]; the best row unless given")
    parser.add_argument("--out", type=Path, default=Path("predictions"))
    arguments = parser.parse_args()
    run_safely(lambda: predict(arguments.files, arguments.model, arguments.out))


def predict(paths: list[Path], model: str | None, out: Path) -> None:
    name, _, version = (model or _best_row()).partition("@")
    files = gathered(paths)
    loaded = load_model(open_store(Path.cwd()).fetch(name, version or "champion"))
    loaded.network.to(device_of(loaded.config.model_copy(update={"device": "auto"})))
    if files:
        _label_all(files, loaded, out)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _label_all([drawn_scene(Path(folder))], loaded, out)


def _best_row() -> str:
    board, best = Path("reports/leaderboard.json"), dict[str, str]()
    for entry in read_json(board) if board.exists() else []:  # of a dataset the best one first
        if entry["method"] != "segfix":  # it labels where pixels move, not what they show
            best.setdefault(entry["dataset"], entry["row"])
    if not best:
        raise InputError("no report says which row is best yet; name one: --model ROW")
    if len(best) > 1:
        rows = ", ".join(f"{row} ({dataset})" for dataset, row in best.items())
        raise InputError(f"each dataset has a best row; name one: --model ROW; there are {rows}")
    (row,) = best.values()
    return row


def _label_all(files: Sequence[Path], model: LoadedModel, out: Path) -> None:
    with progress("predict", len(files), "images") as bar:
        for path in files:
            if path.suffix.lower() in videos.SUFFIXES:
                _label_video(path, model, out, bar)
            else:
                image, labels = _labelled(read_image(path), model)
                save_png(overlay(image, labels, model.classes), out / f"{path.stem}-overlay.png")
                label_png(labels, model.classes, out / f"{path.stem}-labels.png")
            bar.advance()
    print(f"{len(files)} file(s): overlays and labels are in {out}")


def _label_video(path: Path, model: LoadedModel, out: Path, bar: PlainBar | TerminalBar) -> None:
    target, folder = out / f"{path.stem}-overlay.mp4", out / f"{path.stem}-labels"
    with videos.opened_video(path) as video, videos.written_video(target, video.rate) as write:
        for number, pixels in enumerate(video.frames):
            image, labels = _labelled(pixels, model)
            write(overlay(image, labels, model.classes))
            label_png(labels, model.classes, folder / f"{number:06d}.png")
            bar.advance(0, f"frame {number + 1} of {video.length}")


def _labelled(pixels: Pixels, model: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    predict = predictor(model.config.test_time.single(), model.classes.mirror)
    return image, predict(model.network, image[None])[0].cpu()


if __name__ == "__main__":
    main()
