"""``shapes``: street-like scenes drawn by the program itself, so that everything runs offline.

Material and shape tell the classes apart; colour does not, since every object draws its own from
one distribution, and position helps little, since horizon, tilt and layout vary.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from segcore.acquisition.watch import NOBODY, Listener
from segcore.datasets import Dataset, Pair, read_class_table
from segcore.errors import InputError
from segcore.files import written_whole
from segcore.types import IGNORE, ClassTable

__all__ = ["Shapes"]

Mask = Bool[np.ndarray, "h w"]
Tone = Float[np.ndarray, "h w"]
"""Relative brightness of a material: 0 leaves its colour as it is, 0.5 adds one half."""

SMALLEST_SIDE = 32
"""Pixels; below it poles and markings vanish."""


class Shapes(Dataset):
    """Ten classes, thin and rare ones among them, with a void pixel behind every outline.

    ``train`` and ``val`` count images; ``height`` and ``width`` are pixels. The bytes of a file
    depend on (``seed``, split, index) and the size alone: more images leave the first unchanged.
    Raises InputError on a count below one, a side below 32 pixels, or a negative seed.
    """

    home = "drawn by segcore/datasets/shapes.py"
    licence = "Apache-2.0"

    def __init__(
        self, train: int = 240, val: int = 60, height: int = 96, width: int = 128, seed: int = 0
    ) -> None:
        given = {"train": train, "val": val, "height": height, "width": width, "seed": seed}
        for option, value in given.items():
            least = {"height": SMALLEST_SIDE, "width": SMALLEST_SIDE, "seed": 0}.get(option, 1)
            if type(value) is not int or value < least:
                remedy = f"give a whole number of at least {least}"
                raise InputError(f"dataset shapes: {option} is {value!r}; {remedy}")
        self.classes, self.train_ids, self.known = read_class_table("shapes")
        self.split_sizes = {"train": train, "val": val}
        self.height, self.width, self.seed = height, width, seed

    def acquire(self, raw: Path, drop: Path, listener: Listener = NOBODY) -> None:
        for split, pairs in self.pairs(raw).items():
            for index, pair in enumerate(pairs):
                image, labels = self.draw(split, index)
                write_png(pair.image, image)
                write_png(pair.label, labels)

    def pairs(self, raw: Path) -> dict[str, list[Pair]]:
        return {
            split: [
                Pair(
                    name,
                    raw / "images" / split / f"{name}.png",
                    raw / "labels" / split / f"{name}.png",
                )
                for name in (f"{index:05d}" for index in range(size))
            ]
            for split, size in self.split_sizes.items()
        }

    def draw(
        self, split: str, index: int
    ) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Image and labels of one sample."""
        random = np.random.default_rng([self.seed, list(self.split_sizes).index(split), index])
        scene = Scene(random, self.height, self.width, self.classes)
        draw_background(scene)
        draw_road(scene)
        draw_objects(scene)
        return photograph(scene), np.where(scene.outlines(), IGNORE, scene.labels).astype(np.uint8)


def write_png(path: Path, pixels: UInt8[np.ndarray, "..."]) -> None:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format="png")
    with written_whole(path) as aside:
        aside.write_bytes(encoded.getvalue())


class Scene:
    """A canvas. Lengths are in image heights; the camera is tilted by a few degrees."""

    def __init__(
        self, random: np.random.Generator, height: int, width: int, classes: ClassTable
    ) -> None:
        self.random, self.names = random, classes.names
        # A class's display colour shows through by a fifth; single objects stray further.
        means = 120 + 0.2 * (np.array(classes.colours) - 120)
        self.colours = dict(zip(self.names, means, strict=True))
        tilt = random.uniform(-0.09, 0.09)
        rows, columns = (np.mgrid[:height, :width] + 0.5) / height
        self.breadth = width / height
        middle = self.breadth / 2
        self.y = 0.5 + (rows - 0.5) * np.cos(tilt) + (columns - middle) * np.sin(tilt)
        self.x = middle + (columns - middle) * np.cos(tilt) - (rows - 0.5) * np.sin(tilt)
        self.horizon = random.uniform(0.28, 0.58)
        self.vanishing = random.uniform(0.2, 0.8) * self.breadth
        self.drop = np.maximum(self.y - self.horizon, 1e-3)
        """How far a ground pixel lies below the horizon; its inverse is its distance."""
        self.image = np.zeros((height, width, 3))
        self.labels = np.zeros((height, width), np.uint8)
        self.layer = np.zeros((height, width), np.int32)

    def paint(self, name: str, mask: Mask, tone: Tone) -> None:
        """One more object in front of all others, in a colour of its own."""
        colour = self.random.normal(self.colours[name], 20) + self.random.uniform(-48, 48)
        self.image[mask] = (colour * (1 + tone[..., None]))[mask]
        self.labels[mask] = self.names.index(name)
        self.layer[mask] = self.layer.max() + 1

    def outlines(self) -> Mask:
        """The pixels just behind an outline: a neighbour lies further in front."""
        padded = np.pad(self.layer, 1, mode="edge")
        neighbours = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        return np.maximum.reduce(neighbours) > self.layer

    def waves(self, frequency: float) -> Tone:
        """Soft blobs, about ``frequency`` per image height: plane waves in random directions."""
        angle, phase = self.random.uniform(0, 2 * np.pi, (2, 7))
        wave = 2 * np.pi * frequency
        ways = zip(wave * np.cos(angle), wave * np.sin(angle), phase, strict=True)
        return np.sum([np.sin(self.x * c + self.y * s + p) for c, s, p in ways], axis=0) / 3.5


def draw_background(scene: Scene) -> None:
    """Sky (smooth, clouded), pavement (slabs in perspective) and buildings (rows of windows)."""
    random, everywhere = scene.random, np.ones_like(scene.labels, bool)
    fade = random.uniform(-0.4, 0.4) * (scene.y - scene.horizon)
    scene.paint("sky", everywhere, fade + 0.1 * scene.waves(random.uniform(0.8, 1.6)))
    sideways = (scene.x - scene.vanishing) / scene.drop
    slabs = np.sign(np.sin(9 * sideways + random.uniform(0, 6)) * np.sin(5 / scene.drop))
    scene.paint("pavement", scene.y > scene.horizon, 0.28 * slabs)
    for left in np.arange(-0.2, scene.breadth, 0.3):
        if random.random() < 0.75:
            draw_building(scene, left + random.uniform(-0.1, 0.1))


def draw_building(scene: Scene, left: float) -> None:
    random = scene.random
    foot = scene.horizon + random.uniform(0.01, 0.08)
    top = foot - random.uniform(0.2, 0.6)
    right = left + random.uniform(0.25, 0.5)
    spacing = random.uniform(0.11, 0.16)
    inside = ((scene.y - top) / spacing % 1 > 0.45) & ((scene.x - left) / spacing % 1 > 0.4)
    tone = random.choice([-0.5, 0.5]) * inside
    facade = (scene.x > left) & (scene.x < right) & (scene.y > top) & (scene.y < foot)
    scene.paint("building", facade, tone)


def draw_road(scene: Scene) -> None:
    """Asphalt (coarse grain) with lines towards the vanishing point and, at times, a crossing."""
    random = scene.random
    sideways = (scene.x - scene.vanishing) / scene.drop
    middle, half = random.uniform(-0.5, 0.5), random.uniform(0.7, 1.6)
    road = (np.abs(sideways - middle) < half) & (scene.y > scene.horizon)
    scene.paint("road", road, 0.16 * random.standard_normal(road.shape))
    near = road & (scene.drop > 0.16)
    dashes = (random.uniform(0.35, 0.6) / scene.drop + random.random()) % 1 < 0.55
    lines = near & dashes & (np.abs(sideways - middle) < 0.13)
    for side in (-0.85, 0.85):
        if random.random() < 0.5:
            lines |= near & (np.abs(sideways - middle - side * half) < 0.12)
    if random.random() < 0.5:
        start = random.uniform(0.18, 0.34)
        crossing = (scene.drop > start) & (scene.drop < start + 0.14)
        lines |= road & crossing & (sideways / 0.7 % 1 < 0.5)
    scene.paint("marking", lines, np.full(road.shape, 0.45))


def draw_objects(scene: Scene) -> None:
    """Trees, poles, signs, cars and pedestrians, the far ones first."""
    random = scene.random
    counts = {draw_tree: 3, draw_pole: 3, draw_sign: 2, draw_car: 3, draw_pedestrian: 4}
    kinds = [draw for draw, most in counts.items() for _ in range(random.integers(0, most + 1))]
    feet = scene.horizon + 0.06 + (0.94 - scene.horizon) * random.uniform(0, 0.8, len(kinds))
    for index in np.argsort(feet):
        nearness = 0.55 + 0.6 * (feet[index] - scene.horizon)
        kinds[index](scene, random.uniform(0.05, 0.95) * scene.breadth, feet[index], nearness)


def draw_tree(scene: Scene, x: float, foot: float, size: float) -> None:
    height, radius = 0.5 * size, scene.random.uniform(0.18, 0.26) * size
    across, up = scene.x - x, foot - scene.y
    angle = np.arctan2(up - height, across)
    ragged = radius * (1 + 0.15 * np.sin(5 * angle + x * 40) + 0.1 * np.sin(9 * angle))
    crown = np.hypot(across, up - height) < ragged
    trunk = (np.abs(across) < 0.04 * size) & (up > 0) & (up < height)
    scene.paint("tree", crown | trunk, 0.45 * scene.waves(9.0))


def draw_pole(scene: Scene, x: float, foot: float, size: float) -> None:
    half = scene.random.uniform(0.018, 0.027)
    across, up = scene.x - x, foot - scene.y
    shaft = (np.abs(across) < half) & (up > 0) & (up < scene.random.uniform(0.5, 0.9) * size)
    scene.paint("pole", shaft, 0.5 * across / half)


def draw_sign(scene: Scene, x: float, foot: float, size: float) -> None:
    height, radius = 0.6 * size, scene.random.uniform(0.14, 0.18) * size
    draw_pole(scene, x, foot, height / 0.9)
    across, up = np.abs(scene.x - x), scene.y - foot + height
    outlines = [np.hypot(across, up), np.maximum(across, np.abs(up)), across + np.abs(up) * 0.8]
    distance = outlines[scene.random.integers(3)] / radius
    scene.paint("sign", distance < 1, np.where(distance > 0.6, 0.6, -0.4))


def draw_car(scene: Scene, x: float, foot: float, size: float) -> None:
    length, height = scene.random.uniform(0.48, 0.62) * size, 0.28 * size
    across, up = (scene.x - x) / length * 2, (foot - scene.y) / height
    body = (np.abs(across) < 1) & (up > 0.15) & (up < 0.6)
    cabin = (np.abs(across) < 0.95 - 0.45 * up) & (up >= 0.6) & (up < 1)
    wheels = np.hypot((np.abs(across) - 0.6) * length / 2, (up - 0.18) * height) < 0.05 * size
    windows = cabin & (up < 0.92) & (np.abs(across) > 0.06)
    tone = np.where(wheels, -0.75, np.where(windows, -0.5, 0.15))
    scene.paint("car", body | cabin | wheels, tone)


def draw_pedestrian(scene: Scene, x: float, foot: float, size: float) -> None:
    height = scene.random.uniform(0.42, 0.54) * size
    across, up = (scene.x - x) / height, (foot - scene.y) / height
    head = np.hypot(across, up - 0.88) < 0.12
    torso = (np.abs(across) < 0.19) & (up > 0.4) & (up < 0.8)
    legs = (np.abs(np.abs(across) - 0.1) < 0.07) & (up > 0) & (up <= 0.4)
    stripes = np.where(torso, np.sign(np.sin(2 * np.pi * up / 0.16)), 0)
    scene.paint("pedestrian", head | torso | legs, 0.4 * stripes)


def photograph(scene: Scene) -> UInt8[np.ndarray, "h w 3"]:
    """Shadow, slanting light, tint, exposure and sensor noise, different in every image."""
    random = scene.random
    angle = random.uniform(0, 2 * np.pi)
    along = scene.x * np.cos(angle) + scene.y * np.sin(angle)
    shadow = np.where(np.abs(along - along.mean()) < random.uniform(0.0, 0.2), 0.65, 1.0)
    light = shadow * (1 + random.uniform(0, 0.35) * (along - along.mean()))
    tint = random.uniform(0.7, 1.2) * random.uniform(0.85, 1.15, 3)
    noise = random.uniform(1, 5) * random.standard_normal(scene.image.shape)
    return np.clip(scene.image * light[..., None] * tint + noise, 0, 255).astype(np.uint8)
