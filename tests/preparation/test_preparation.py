import hashlib
import io
import json
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segcore import errors
from segcore.datasets import build_dataset
from segcore.datasets.folder import Folder
from segcore.errors import InputError
from segcore.preparation import Survey, images, pairs, prepare, processes, tasks
from segcore.preparation import survey as preparation
from segcore.shards import Manifest, ShardReader
from segcore.tables import DatasetTable
from segcore.types import IGNORE

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 9, "val": 4}
TRAIN_IDS = {10: 0, 11: 0, 20: 1, 30: 2, 255: IGNORE}
"""Raw label value -> train id, as ``options_of`` states it."""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """13 images of several sizes, JPEG and PNG, with labels; the last one is not labelled."""
    folder = tmp_path / "raw"
    for number in range(sum(COUNTS.values())):
        generator = np.random.default_rng(number)
        size = (12 + number % 3, 16 + number % 2)
        split = "train" if number < COUNTS["train"] else "val"
        values = [255] if number == 12 else [10, 11, 20, 20, 255] + [30] * (number % 2)
        save(folder / split / f"{number:02d}.png", generator.choice(values, size).astype(np.uint8))
        smooth = generator.integers(0, 256, (3, 4, 3), np.uint8)
        image = np.asarray(Image.fromarray(smooth).resize(size[::-1]))
        save(folder / split / f"{number:02d}.{'jpg' if number % 2 else 'tif'}", image)
    for path in folder.rglob("*.tif"):  # a PNG under any name stays a PNG
        Image.open(path).save(path, "PNG")
        path.rename(path.with_suffix(".jpg"))
    return folder


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def options_of(raw: Path) -> dict[str, Any]:
    return {
        "root": str(raw),
        "images": {"train": "train/{stem}.jpg", "val": "val/{stem}.jpg"},
        "labels": "{split}/{stem}.png",
        "classes": {"road": [10, 11], "sky": 20, "rare": 30, "never": 40},
    }


def dataset_of(raw: Path, **changes: Any) -> Folder:
    dataset = build_dataset("folder", options_of(raw) | changes)
    assert isinstance(dataset, Folder)
    return dataset


def prepared(dataset: Folder, folder: Path, **keys: Any) -> list[int]:
    table = DatasetTable.model_validate({"images_per_shard": 4} | keys)
    return list(prepare("toy", dataset, Path(), folder / "out", folder / "work", table))


def surveyed(dataset: Folder, folder: Path, **keys: Any) -> Survey:
    return Survey("toy", dataset, Path(), DatasetTable.model_validate(keys), folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def problems(dataset: Folder, folder: Path, **options: Any) -> list[str]:
    """The lines of the one message; nothing may be left that a later run would believe."""
    with pytest.raises(InputError) as caught:
        prepared(dataset, folder, **options)
    assert not (folder / "out").exists()
    for path in (folder / "work").iterdir():
        assert path.name != "manifest.json"
        assert not path.name.endswith(".part")
        assert path.suffix == ".parquet" or path.with_suffix(".parquet").exists()
    return str(caught.value).splitlines()


# --- what is written -----------------------------------------------------------------------------


def test_progress_is_told_in_images(raw, tmp_path):
    assert prepared(dataset_of(raw), tmp_path) == [13, 3, 3, 3, 4]
    assert not (tmp_path / "work").exists()
    assert sorted(contents(tmp_path / "out")) == [
        "manifest.json",
        "train-00000-of-00003.parquet",
        "train-00001-of-00003.parquet",
        "train-00002-of-00003.parquet",
        "val-00000-of-00001.parquet",
    ]


def test_manifest_equals_a_slow_recount(raw, tmp_path):
    prepared(dataset_of(raw), tmp_path)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["dataset"] == "toy"
    assert manifest["classes"]["names"] == ["road", "sky", "rare", "never"]
    for split, count in COUNTS.items():
        images = [np.asarray(Image.open(p)) for p in sorted((raw / split).glob("*.jpg"))]
        labels = [np.asarray(Image.open(p)) for p in sorted((raw / split).glob("*.png"))]
        pixels, present, void, unlabelled = [0] * 4, [0] * 4, 0, 0
        for label in labels:
            ids = [TRAIN_IDS[value] for value in label.ravel().tolist()]
            for k in range(4):
                pixels[k] += ids.count(k)
                present[k] += k in ids
            void += ids.count(IGNORE)
            unlabelled += set(ids) == {IGNORE}
        entry = manifest["splits"][split]
        assert entry["images"] == count == sum(shard["rows"] for shard in entry["shards"])
        assert entry["pixels"] == pixels
        assert entry["void_pixels"] == void
        assert entry["images_with"] == present
        assert entry["unlabelled_images"] == unlabelled == (split == "val")
        flat = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
        assert entry["mean"] == pytest.approx(flat.mean(0), abs=1e-4)
        assert entry["std"] == pytest.approx(flat.std(0), abs=1e-4)
        assert entry["smallest"] == np.min([image.shape[:2] for image in images], 0).tolist()
        assert entry["largest"] == np.max([image.shape[:2] for image in images], 0).tolist()


def test_hashes_are_those_of_the_files(raw, tmp_path):
    prepared(dataset_of(raw), tmp_path)
    manifest = Manifest.read(str(tmp_path / "out"))
    printed = ""
    for path in sorted((tmp_path / "out").glob("*.parquet")):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        printed += f"{sha256}  {path.name}\n"
        shards = manifest.split(path.name.split("-")[0])["shards"]
        assert {"name": path.name, "sha256": sha256} in [
            {key: shard[key] for key in ("name", "sha256")} for shard in shards
        ]
    assert manifest.data_hash == hashlib.sha256(printed.encode()).hexdigest()


def test_samples_come_back_in_order(raw, tmp_path):
    prepared(dataset_of(raw), tmp_path)
    for split in COUNTS:
        reader = ShardReader(str(tmp_path / "out"), split)
        paths = sorted((raw / split).glob("*.jpg"))
        assert len(reader) == len(paths)
        for index, path in enumerate(paths):
            sample = reader[index]
            assert sample.id == path.stem
            assert np.array_equal(sample.image.permute(1, 2, 0), np.asarray(Image.open(path)))
            values = np.asarray(Image.open(path.with_suffix(".png")))
            expected = np.vectorize(TRAIN_IDS.__getitem__)(values)
            assert np.array_equal(sample.labels, expected)


def test_rgb_files_are_stored_as_they_are(raw, tmp_path):
    prepared(dataset_of(raw), tmp_path)
    rows = pq.read_table(tmp_path / "out/val-00000-of-00001.parquet").to_pylist()
    assert [row["image"] for row in rows] == [
        path.read_bytes() for path in sorted((raw / "val").glob("*.jpg"))
    ]


# --- the same bytes ------------------------------------------------------------------------------


@pytest.mark.long
def test_one_process_and_two_and_again_give_the_same_bytes(raw, tmp_path, monkeypatch):
    for name in ("first", "again"):
        prepared(dataset_of(raw), tmp_path / name)
    monkeypatch.setattr(preparation, "IMAGES_WORTH_A_PROCESS", 6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    pools = []
    executor = processes.ProcessPoolExecutor
    monkeypatch.setattr(
        processes,
        "ProcessPoolExecutor",
        lambda count, **options: pools.append(count) or executor(count, **options),
    )
    done = prepared(dataset_of(raw), tmp_path / "two")
    assert pools == [2]
    assert sorted(done) == [3, 3, 3, 4, 13]
    first = contents(tmp_path / "first/out")
    assert len(first) == 5
    assert contents(tmp_path / "again/out") == first
    assert contents(tmp_path / "two/out") == first


def test_few_images_are_not_worth_a_process(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.delattr(processes, "ProcessPoolExecutor")
    assert prepared(dataset_of(raw), tmp_path)[0] == 13


def test_a_new_run_replaces_the_old_output(raw, tmp_path):
    prepared(dataset_of(raw), tmp_path, images_per_shard=1)
    assert len(contents(tmp_path / "out")) == 14
    prepared(dataset_of(raw), tmp_path)
    prepared(dataset_of(raw), tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh/out")


# --- kills ---------------------------------------------------------------------------------------

KILLED = """
import json, os, sys
from pathlib import Path
from segcore.preparation import survey as preparation
from segcore.datasets import build_dataset
from segcore.tables import DatasetTable

def main():
    folder, options, blocked, processes = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
    dataset = build_dataset("folder", options)
    blocked = Path(blocked)
    blocked.rename(blocked.with_suffix(".kept"))
    os.mkfifo(blocked)  # whoever opens it waits for ever
    preparation.IMAGES_WORTH_A_PROCESS = 1 if processes > 1 else 1000
    os.sched_getaffinity = lambda _: range(processes)
    for count in preparation.prepare("toy", dataset, Path(), folder / "out", folder / "work",
                                     DatasetTable(images_per_shard=4)):
        print(count, flush=True)

if __name__ == "__main__":
    main()
"""


def killed(raw: Path, folder: Path, blocked: Path, processes: int, shards: int) -> list[int]:
    """Kills a run that is stuck in a shard, with ``shards`` done; returns its processes."""
    (folder / "killed.py").write_text(KILLED)
    arguments = [json.dumps(value) for value in (options_of(raw), str(blocked), processes)]
    process = subprocess.Popen(
        [sys.executable, folder / "killed.py", folder, *arguments],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(shards + 1)]
        assert all(lines), "it ended before it was killed"
        wait_for(lambda: list((folder / "work").glob(".*.part")))
        family = [process.pid, *children_of(process.pid)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout and process.stdout.close()
    blocked.unlink()
    blocked.with_suffix(".kept").rename(blocked)
    return family


def wait_for(condition: Any, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came true"
        time.sleep(0.02)


def children_of(parent: int) -> list[int]:
    """And their children, and so on."""
    found = list[int]()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            child = int(status.parent.name)
            found += [child, *children_of(child)]
    return found


@pytest.mark.long
def test_a_killed_run_continues_with_the_same_bytes(raw, tmp_path):
    prepared(dataset_of(raw), tmp_path / "whole")
    killed(raw, tmp_path, raw / "train/04.png", processes=1, shards=1)
    work = tmp_path / "work"
    left = {path.name for path in work.iterdir()}
    done = {"train-00000-of-00003.parquet", "train-00000-of-00003.json"}
    assert done < left
    assert len(left) == 3
    assert any(name.endswith(".part") for name in left)
    assert not (tmp_path / "out").exists()
    first = (work / "train-00000-of-00003.parquet").stat()
    assert prepared(dataset_of(raw), tmp_path) == [13, 3, 3, 3, 4]
    kept = (tmp_path / "out/train-00000-of-00003.parquet").stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
@pytest.mark.long
def test_processes_end_with_their_killed_parent(raw, tmp_path):
    family = killed(raw, tmp_path, raw / "val/09.png", processes=2, shards=3)
    assert len(family) >= 5, "itself, two servers, two workers"
    try:
        wait_for(lambda: not any(is_running(pid) for pid in family))
    finally:
        for pid in filter(is_running, family):
            os.kill(pid, signal.SIGKILL)
    assert prepared(dataset_of(raw), tmp_path)[0] == 13
    prepared(dataset_of(raw), tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_killed_worker_is_told(raw, tmp_path, monkeypatch):
    class Breaking(processes.ProcessPoolExecutor):
        def submit(self, function: Any, *arguments: Any) -> Any:
            return super().submit(os._exit, 9)

    fork = multiprocessing.get_context("fork")  # starts at once
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setattr(processes, "ProcessPoolExecutor", Breaking)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    monkeypatch.setattr(preparation, "IMAGES_WORTH_A_PROCESS", 1)
    with pytest.raises(InputError, match=r"was killed; was memory short.*finished shards are kept"):
        prepared(dataset_of(raw), tmp_path)


def half_done(raw: Path, folder: Path) -> Folder:
    """Every shard is in the work folder but the last one, whose label is damaged."""
    dataset = dataset_of(raw)
    label = raw / "val/12.png"
    whole = label.read_bytes()
    label.write_bytes(b"")
    assert len(problems(dataset, folder)) == 2
    label.write_bytes(whole)
    assert len(list((folder / "work").glob("*.json"))) == 3
    return dataset


def rewritten(dataset: Folder, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that a second run does not take over."""
    names, write = list[str](), tasks.write_shard
    monkeypatch.setattr(
        tasks,
        "write_shard",
        lambda path, *rest: names.append(path.name) or write(path, *rest),
    )
    prepared(dataset, folder)
    return names


def test_only_what_is_not_done_is_written(raw, tmp_path, monkeypatch):
    dataset = half_done(raw, tmp_path)
    assert rewritten(dataset, tmp_path, monkeypatch) == ["val-00000-of-00001.parquet"]


@pytest.mark.parametrize("name", ["train/04.jpg", "train/04.png"])
def test_a_changed_raw_file_is_read_again(raw, tmp_path, monkeypatch, name):
    dataset = half_done(raw, tmp_path)
    path = raw / name
    os.utime(path, ns=(1, 1))
    assert rewritten(dataset, tmp_path, monkeypatch) == [
        "train-00001-of-00003.parquet",
        "val-00000-of-00001.parquet",
    ]


def test_a_changed_class_table_is_not_mixed_with_the_old_one(raw, tmp_path):
    half_done(raw, tmp_path)
    classes = {"sky": 20, "road": [10, 11], "rare": 30}
    prepared(dataset_of(raw, classes=classes), tmp_path)
    prepared(dataset_of(raw, classes=classes), tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh/out")


def test_a_spoilt_finished_shard_is_written_again(raw, tmp_path, monkeypatch):
    dataset = half_done(raw, tmp_path)
    shard = tmp_path / "work/train-00002-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    assert rewritten(dataset, tmp_path, monkeypatch) == [shard.name, "val-00000-of-00001.parquet"]


def test_what_lies_in_the_work_folder_does_not_get_out(raw, tmp_path):
    half_done(raw, tmp_path)
    prepared(dataset_of(raw), tmp_path, images_per_shard=100)
    names = ["manifest.json", "train-00000-of-00001.parquet", "val-00000-of-00001.parquet"]
    assert sorted(contents(tmp_path / "out")) == names


# --- what is wrong -------------------------------------------------------------------------------


def test_every_problem_is_told_at_once(raw, tmp_path):
    dataset = dataset_of(raw)
    for name, lost in {"train/00.jpg": 300, "train/01.jpg": 20, "val/09.png": 60}.items():
        path = raw / name
        path.write_bytes(path.read_bytes()[:-lost])
    (raw / "train/03.jpg").write_bytes(b"")
    (raw / "train/04.png").write_bytes(b"")
    (raw / "train/05.jpg").write_bytes(b"<html>not found</html>")
    save(raw / "train/06.png", np.full((5, 7), 10, np.uint8))
    labels = np.full((12 + 7 % 3, 17), 10, np.uint8)
    labels[0, :3], labels[1, 0] = 77, 12
    save(raw / "train/07.png", labels)
    (raw / "val/10.jpg").unlink()
    (raw / "val/11.png").unlink()
    save(raw / "val/12.png", np.full((12, 16, 3), 10, np.uint8))
    head, *lines = problems(dataset, tmp_path)
    remedy = "mend them and run it again, nothing was prepared"
    assert head == f"dataset toy: 11 problem(s); {remedy}"
    told = {line.strip().removeprefix(f"{raw}/") for line in lines}
    expected = [
        ("train/00.jpg", "cannot be decoded: "),
        ("train/01.jpg", "cannot be decoded: image file is truncated"),
        ("train/03.jpg", "(0 bytes) is no image"),
        ("train/04.png", "(0 bytes) is no image"),
        ("train/05.jpg", "(22 bytes) is no image"),
        ("train/06.jpg", f"is 16x12 pixels but its labels {raw}/train/06.png are 7x5"),
        ("train/07.png", ": label values outside the class table: 12 (1 pixels), 77 (3 pixels)"),
        ("val/09.png", "cannot be decoded: "),
        ("val/10.jpg", "is missing"),
        ("val/11.png", "is missing"),
        ("val/12.png", ": an index image was expected, this one is RGB"),
    ]
    assert len(told) == len(expected)
    for name, text in expected:
        (line,) = [line for line in told if line.startswith(name)]
        assert text in line
        assert "0x" not in line  # no address of an object


def test_many_problems_are_counted(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "SHOWN", 5)
    for path in raw.rglob("*.jpg"):
        path.write_bytes(b"")
    lines = problems(dataset_of(raw), tmp_path)
    assert lines[0].startswith("dataset toy: 13 problem(s)")
    assert lines[-1].strip() == "... and 8 more"
    assert len(lines) == 7


def test_a_failed_run_succeeds_once_mended(raw, tmp_path):
    dataset = half_done(raw, tmp_path)
    prepared(dataset, tmp_path)
    prepared(dataset_of(raw), tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh/out")


def test_what_is_wrong_with_splits_stands_in_the_same_list(raw, tmp_path):
    dataset = dataset_of(raw)
    dataset.split_sizes = {"train": 9, "val": 6}
    dataset._pairs["val"][2] = dataset._pairs["train"][3]
    dataset._pairs["val"].append(dataset._pairs["val"][1]._replace(image=raw / "train/05.jpg"))
    dataset._pairs["test"] = []
    (raw / "train/04.jpg").write_bytes(b"")
    told = "\n".join(problems(dataset, tmp_path))
    assert "split val has 5 images, 6 expected; complete the raw files" in told
    assert "split test has 0 images, some expected" in told
    assert "03.jpg is in split train and again in val; keep it in one place" in told
    assert "05.jpg is in split train and again in val" in told
    assert "train/04.jpg (0 bytes) is no image" in told
    assert "train/05.jpg is 17x14 pixels but its labels" in told


def test_a_name_that_stands_twice_is_refused(raw, tmp_path):
    dataset = dataset_of(raw)
    dataset._pairs["train"][3] = dataset._pairs["train"][3]._replace(id="02")
    (_, line) = problems(dataset, tmp_path)
    assert line.endswith("train/03.jpg: split train has the name 02 twice")


@pytest.mark.parametrize("per_shard", [1, 2, 4, 5, 9, 100])
def test_shards_share_the_images_evenly(raw, tmp_path, per_shard):
    survey = surveyed(dataset_of(raw), tmp_path, images_per_shard=per_shard)
    train = [task for task in survey.tasks if task.split == "train"]
    sizes = [len(task.pairs) for task in train]
    assert max(sizes) <= per_shard
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-9 // per_shard)
    ids = [pair.id for task in train for pair in task.pairs]
    assert ids == [f"{number:02d}" for number in range(9)]


# --- kinds of images -----------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    return encoded(Image.fromarray(PIXELS), "JPEG", exif=exif)


RGB = Image.fromarray(PIXELS)
KINDS: dict[str, tuple[bytes, np.ndarray | None]] = {
    "grey PNG": (encoded(RGB.convert("L"), "PNG"), np.array(RGB.convert("L").convert("RGB"))),
    "grey JPEG": (encoded(RGB.convert("L"), "JPEG"), None),
    "black and white": (
        encoded(RGB.convert("1"), "PNG"),
        np.array(RGB.convert("1").convert("RGB")),
    ),
    "CMYK JPEG": (encoded(RGB.convert("CMYK"), "JPEG"), None),
    "alpha": (encoded(RGB.convert("RGBA"), "PNG"), PIXELS),
    "grey with alpha": (
        encoded(RGB.convert("LA"), "PNG"),
        np.array(RGB.convert("L").convert("RGB")),
    ),
    "palette": (encoded(RGB.quantize(256), "PNG"), np.array(RGB.quantize(256).convert("RGB"))),
    "palette with transparency": (
        encoded(RGB.quantize(256), "PNG", transparency=bytes(range(256))),
        np.array(RGB.quantize(256).convert("RGB")),
    ),
    "GIF": (encoded(RGB.quantize(256), "GIF"), np.array(RGB.quantize(256).convert("RGB"))),
    "BMP": (encoded(RGB, "BMP"), PIXELS),
    "WebP": (encoded(RGB, "WEBP", lossless=True), PIXELS),
    "TIFF": (encoded(RGB, "TIFF"), PIXELS),
    "orientation in EXIF": (with_exif(), None),
    "two pictures": (encoded(RGB, "MPO", save_all=True, append_images=[RGB.rotate(90)]), None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_becomes_rgb(raw, tmp_path, kind):
    content, pixels = KINDS[kind]
    if pixels is None:  # a lossy form: what Pillow decodes, as it is stored
        pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    (raw / "train/00.jpg").write_bytes(content)
    save(raw / "train/00.png", np.full((12, 16), 20, np.uint8))
    prepared(dataset_of(raw), tmp_path)
    sample = ShardReader(str(tmp_path / "out"), "train")[0]
    assert np.array_equal(sample.image.permute(1, 2, 0), pixels)
    table = pq.read_table(tmp_path / "out/train-00000-of-00003.parquet")
    stored = table.column("image")[0].as_py()
    with Image.open(io.BytesIO(stored)) as image:
        assert image.mode == "RGB"
        assert image.format in ("PNG", "JPEG", "MPO", "WEBP")
    kept = kind in ("orientation in EXIF", "two pictures", "WebP")  # RGB already
    assert (stored == content) == kept


def test_orientation_would_turn_the_image():
    """The file of the test above does ask for it: labels fit the stored pixels alone."""
    from PIL import ImageOps

    image = Image.open(io.BytesIO(KINDS["orientation in EXIF"][0]))
    assert image.size == (16, 12)
    assert ImageOps.exif_transpose(image).size == (12, 16)


def sixteen_bits() -> dict[str, bytes]:
    grey = encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG")
    return {"I;16": grey, "RGB": rgb_png_of_16_bits()}


def rgb_png_of_16_bits() -> bytes:
    """By hand, since Pillow does not write it: PNG specification, clauses 5 and 11."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    wide = np.repeat(PIXELS, 2, axis=-1)  # 0xAB -> 0xABAB
    lines = b"".join(b"\0" + line.tobytes() for line in wide)
    header = struct.pack(">IIBBBBB", 16, 12, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("mode", ["I;16", "RGB"])
def test_sixteen_bits_are_refused(raw, tmp_path, mode):
    (raw / "train/00.jpg").write_bytes(sixteen_bits()[mode])
    (_, line) = problems(dataset_of(raw), tmp_path)
    assert f"{raw}/train/00.jpg cannot be decoded: 8 bits per channel are expected" in line
    assert f"this is {mode}, 16 bits" in line


def rgb_tiff_of_16_bits() -> bytes:
    """By hand: TIFF 6.0, one strip, little endian; Pillow would drop the lower bytes."""
    import struct

    samples = PIXELS.astype("<u2").tobytes()
    fields = [(256, 3, 1, 16), (257, 3, 1, 12), (258, 3, 3, 8 + len(samples)), (259, 3, 1, 1)]
    fields += [(262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, 12)]
    fields += [(279, 4, 1, len(samples))]
    entries = b"".join(struct.pack("<HHII", *entry) for entry in fields)
    bits = struct.pack("<HHH", 16, 16, 16)
    head = b"II*\0" + struct.pack("<I", 8 + len(samples) + len(bits))
    return head + samples + bits + struct.pack("<H", len(fields)) + entries + b"\0\0\0\0"


def test_sixteen_bits_of_colour_in_a_tiff_are_refused(raw, tmp_path):
    (raw / "train/00.jpg").write_bytes(rgb_tiff_of_16_bits())
    with Image.open(raw / "train/00.jpg") as image:
        assert image.mode == "RGB", "Pillow reads it without a word"
    (_, line) = problems(dataset_of(raw), tmp_path)
    assert f"{raw}/train/00.jpg cannot be decoded: 8 bits per channel are expected" in line
    assert "this is RGB, 16 bits" in line


def test_an_image_beyond_all_measure_is_refused_unless_something_is_said(
    raw, tmp_path, monkeypatch
):
    monkeypatch.setattr(images, "MOST_PIXELS", 16 * 12)
    dataset = dataset_of(raw)
    lines = problems(dataset, tmp_path)[1:]
    assert len(lines) == 10
    assert lines[0].endswith("has more than 192 pixels; set max_side or tile to use it")
    prepared(dataset, tmp_path, max_side=16)
    entry = manifest_of(tmp_path)["splits"]["train"]
    assert entry["largest"] == [14, 16]


# --- the audit, and what is asked of the images --------------------------------------------------


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out/manifest.json").read_text())


def test_the_audit_stands_in_the_manifest(raw, tmp_path):
    prepared(dataset_of(raw), tmp_path)
    manifest = manifest_of(tmp_path)
    assert manifest["treatment"]["image_format"] == "keep"
    assert manifest["skipped"] == []
    assert manifest["same_pictures"] == {"across_splits": 0, "within_splits": 0, "first": []}
    val = manifest["splits"]["val"]
    assert val["absent"] == ["never"]
    assert val["unlabelled"] == ["12"]
    assert val["ignored"] == pytest.approx(
        val["void_pixels"] / (val["void_pixels"] + sum(val["pixels"])), abs=1e-6
    )
    assert sum(images for *_, images in val["commonest_sizes"]) == 4
    assert {(height, width) for height, width, _ in val["commonest_sizes"]} == {
        (12 + number % 3, 16 + number % 2) for number in range(9, 13)
    }
    for weights in val["class_weights"].values():
        assert len(weights) == 4


def test_the_same_picture_in_two_splits_of_ones_own_is_refused(raw, tmp_path):
    for source, copy in (("train/04", "val/09"), ("train/05", "train/08")):
        with Image.open(raw / f"{source}.jpg") as picture:
            picture.save(raw / f"{copy}.jpg", "BMP")  # the same pixels in other bytes
            save(raw / f"{copy}.png", np.full(picture.size[::-1], 20, np.uint8))
    head, line = problems(dataset_of(raw), tmp_path)
    assert head.startswith("dataset toy: 1 problem(s)")
    assert line.strip() == (
        "the same picture stands in several splits: 04 of train, 09 of val; keep it in one"
    )
    published = dataset_of(raw)
    published.copies_across_splits = "tell"
    prepared(published, tmp_path)
    assert manifest_of(tmp_path)["same_pictures"] == {
        "across_splits": 1,
        "within_splits": 1,
        "first": [[["train", "04"], ["val", "09"]], [["train", "05"], ["train", "08"]]],
    }


def test_a_run_killed_while_it_drew_pictures_keeps_its_shards(raw, tmp_path, monkeypatch):
    def die(folder: Path) -> None:
        (folder / "half.png").write_bytes(b"half")
        raise KeyboardInterrupt

    dataset = dataset_of(raw)
    table, given = DatasetTable(images_per_shard=4), whole_of(dataset, raw, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(prepare(*given, table, illustrate=die))
    assert not (tmp_path / "out").exists()
    assert rewritten(dataset, tmp_path, monkeypatch) == []
    prepared(dataset_of(raw), tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


def test_bad_samples_are_left_out_where_that_is_allowed(raw, tmp_path):
    dataset = dataset_of(raw)
    (raw / "train/03.jpg").write_bytes(b"")
    (raw / "val/11.png").unlink()
    head, *lines = problems(dataset, tmp_path, skip_bad=1)
    assert head.endswith("nothing was prepared (skip_bad allows 1 of these 2)")
    assert len(lines) == 2
    list(prepare(*whole_of(dataset, raw, tmp_path), DatasetTable(skip_bad=2, images_per_shard=4)))
    manifest = manifest_of(tmp_path)
    assert manifest["treatment"]["skip_bad"] == 2
    assert manifest["skipped"] == [
        {
            "split": "train",
            "id": "03",
            "reason": f"train/03.jpg (0 bytes) is no image; {pairs.KINDS}",
        },
        {"split": "val", "id": "11", "reason": "val/11.png is missing"},
    ]
    assert [entry["images"] for entry in manifest["splits"].values()] == [8, 3]
    ids = [sample.id for sample in ShardReader(str(tmp_path / "out"), "train")]
    assert ids == [f"{number:02d}" for number in range(9) if number != 3]


def test_a_shard_or_a_split_that_is_bad_throughout(raw, tmp_path):
    dataset = dataset_of(raw)
    for number in (0, 1, 2):
        (raw / f"train/{number:02d}.jpg").write_bytes(b"")
    prepared(dataset, tmp_path, skip_bad=3)
    assert [shard["rows"] for shard in manifest_of(tmp_path)["splits"]["train"]["shards"]] == [3, 3]
    assert sorted(contents(tmp_path / "out")) == [
        "manifest.json",
        "train-00001-of-00003.parquet",
        "train-00002-of-00003.parquet",
        "val-00000-of-00001.parquet",
    ]
    shutil.rmtree(tmp_path / "out")
    for path in (raw / "val").glob("*.png"):
        path.write_bytes(b"")
    _, line = problems(dataset, tmp_path, skip_bad=9)
    assert line.strip() == "split val has no sample left; mend some"


def whole_of(dataset: Folder, raw: Path, folder: Path) -> tuple[str, Folder, Path, Path, Path]:
    return "toy", dataset, raw, folder / "out", folder / "work"


def test_a_full_disk_is_told(raw, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0" * 2 * count)
    aside = work / ".train-00001-of-00003.parquet.00000000.part"
    aside.symlink_to("/dev/full")
    said = f"no space left below {work}; make room and run it again; what is complete is kept"
    with pytest.raises(InputError, match=re.escape(said)):
        prepared(dataset_of(raw), tmp_path)
    assert {path.name for path in work.iterdir()} == {
        "train-00000-of-00003.json",
        "train-00000-of-00003.parquet",
    }
    assert not (tmp_path / "out").exists()
    prepared(dataset_of(raw), tmp_path)
    prepared(dataset_of(raw), tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


def test_treated_images_are_stored_and_recorded(raw, tmp_path):
    keys = {"max_side": 15, "image_format": "jpeg", "tile": {"size": [8, 10], "overlap": 2}}
    prepared(dataset_of(raw), tmp_path, **keys)
    manifest = manifest_of(tmp_path)
    assert manifest["treatment"] == {**keys, "skip_bad": 0}
    entry = manifest["splits"]["val"]
    reader = ShardReader(str(tmp_path / "out"), "val")
    assert entry["images"] == len(reader) == 4 * 4
    assert entry["largest"] == [8, 10]
    assert entry["overlap_pixels"] > 0
    plain = tmp_path / "plain"
    prepared(dataset_of(raw), plain, max_side=15)
    whole = manifest_of(plain)["splits"]["val"]
    for key in ("pixels", "void_pixels"):
        assert entry[key] == whole[key]
    assert whole["overlap_pixels"] == 0
    for row in pq.read_table(tmp_path / "out/val-00000-of-00001.parquet").to_pylist():
        assert Image.open(io.BytesIO(row["image"])).format == "JPEG"


def test_a_picture_that_its_format_cannot_hold_is_one_problem(raw, tmp_path):
    save(raw / "train/00.jpg", np.zeros((1, 16400, 3), np.uint8))
    save(raw / "train/00.png", np.full((1, 16400), 20, np.uint8))
    (_, line) = problems(dataset_of(raw), tmp_path, image_format="webp")
    assert "train/00.jpg cannot be stored: webp holds at most 16383 pixels a side" in line


def test_pictures_are_drawn_before_the_folder_takes_its_place(raw, tmp_path):
    def draw(folder: Path) -> None:
        assert Manifest.read(str(folder)).dataset == "toy"
        assert len(ShardReader(str(folder), "train")) == 9
        assert not (tmp_path / "out").exists()
        (folder / "sheet.png").write_bytes(b"picture")

    dataset, out, work = dataset_of(raw), tmp_path / "out", tmp_path / "work"
    list(prepare("toy", dataset, Path(), out, work, illustrate=draw))
    assert sorted(contents(out)) == [
        "manifest.json",
        "sheet.png",
        "train-00000-of-00001.parquet",
        "val-00000-of-00001.parquet",
    ]


def test_a_shard_with_a_sample_left_out_is_not_written_again(raw, tmp_path, monkeypatch):
    def die(folder: Path) -> None:
        raise KeyboardInterrupt

    dataset = dataset_of(raw)
    (raw / "train/03.jpg").write_bytes(b"")
    table, given = DatasetTable(images_per_shard=4, skip_bad=1), whole_of(dataset, raw, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(prepare(*given, table, illustrate=die))
    written, write = list[str](), tasks.write_shard
    monkeypatch.setattr(
        tasks, "write_shard", lambda path, *rest: written.append(path.name) or write(path, *rest)
    )
    list(prepare(*given, table))
    assert written == []
    assert [bad["id"] for bad in manifest_of(tmp_path)["skipped"]] == ["03"]


def test_a_file_that_may_be_read_now_is_read_again(raw, tmp_path):
    (task, *_) = surveyed(dataset_of(raw), tmp_path, images_per_shard=4).tasks
    before = task.source()
    (raw / "train/00.jpg").chmod(0o600)
    assert task.source() != before


def test_the_decoder_of_training_is_part_of_what_a_shard_means():
    library = Path(preparation.__file__).parents[1]
    read = {path.name for part in preparation.READS_LABELS for path in library.glob(part)}
    assert {"decoding.py", "image_files.py", "pairs.py", "shards.py"} <= read


def test_the_same_pictures_are_looked_for_once(raw, tmp_path, monkeypatch):
    calls, find = list[int](), preparation.same_pictures
    monkeypatch.setattr(preparation, "same_pictures", lambda parts: calls.append(1) or find(parts))
    prepared(dataset_of(raw), tmp_path)
    assert calls == [1]
