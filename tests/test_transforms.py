import colorsys
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.pixels import (
    PADDING,
    largest_share,
    pad,
    photometric_distortion,
    resize_image,
    resize_labels,
    shift_brightness,
    swap_sides,
)
from segcore.transforms import MEAN, STD, Augmentation, draw_factors, normalise, random_crop
from segcore.types import IGNORE, Sample

PLAIN = Augmentation((24, 32), scale=(1.0, 1.0), max_class_share=1.0, flip=0.0, photometric=False)


def smooth(height: int, width: int) -> Tensor:
    """Waves of about 60 pixels: neighbours differ by at most 13 levels, curvature is below 1.4."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [torch.sin(x / 9 + c) + torch.cos(y / 10 - c) for c in range(3)]
    return (127.5 + 60 * torch.stack(waves)).round().to(torch.uint8)


def blobs(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((x // 17 + 3 * (y // 13)) % 7).to(torch.uint8)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- scale and crop ------------------------------------------------------------------------------


def draw_of(how: Augmentation, height: int, width: int, seed: int) -> tuple[float, int, int]:
    """The factor and the window's corner that ``random_crop`` draws first."""
    generator = seeded(seed)
    factor = generator.uniform(*how.scale)
    windows = [min(round(c / factor), s) for c, s in zip(how.crop, (height, width), strict=True)]
    top = int(generator.integers(height - windows[0] + 1))
    return factor, top, int(generator.integers(width - windows[1] + 1))


@pytest.mark.parametrize("seed", range(12))
def test_window_first_is_resize_the_whole_then_crop(seed):
    """At the sub-pixel place of the window, within 1.25 levels: one rounding, and curvature."""
    how = replace(PLAIN, crop=(64, 80), scale=(0.6, 2.0))
    image, labels = smooth(150, 190), blobs(150, 190)
    crop, cropped_labels = random_crop(image, labels, seeded(seed), how)
    factor, top, left = draw_of(how, 150, 190, seed)
    # the factor of each axis is exact up to the rounding of the window to whole pixels
    factors = [c / round(c / factor) for c in how.crop]
    assert factors == pytest.approx([factor, factor], rel=0.02)
    whole = resize_whole(image, [round(150 * factors[0]), round(190 * factors[1])])
    inside = slice(4, -4)
    rows = ((torch.arange(64) + 0.5) / factors[0] + top)[inside]  # in source pixels
    columns = ((torch.arange(80) + 0.5) / factors[1] + left)[inside]
    expected = sampled(whole, rows / 150, columns / 190)
    assert (crop[:, inside, inside].float() - expected).abs().max() <= 1.25
    nearest = labels[rows.long()][:, columns.long()]
    assert cropped_labels[inside, inside].equal(nearest)


def resize_whole(image: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]


def sampled(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear values at fractions of height and width."""
    grid = torch.stack(torch.meshgrid(columns * 2 - 1, rows * 2 - 1, indexing="xy"), -1)
    return F.grid_sample(image[None], grid[None], align_corners=False, padding_mode="border")[0]


def test_without_scaling_a_crop_is_a_slice():
    image, labels = smooth(60, 70), blobs(60, 70)
    corners = set()
    for seed in range(20):
        crop, cropped = random_crop(image, labels, seeded(seed), PLAIN)
        _, top, left = draw_of(PLAIN, 60, 70, seed)
        assert crop.equal(image[:, top : top + 24, left : left + 32])
        assert cropped.equal(labels[top : top + 24, left : left + 32])
        corners.add((top, left))
    assert len(corners) > 15


def test_every_place_of_a_crop_can_be_drawn():
    image, labels = smooth(6, 5), blobs(6, 5)
    image[0] = torch.arange(30, dtype=torch.uint8).view(6, 5)
    how = replace(PLAIN, crop=(4, 4))
    corners = {int(random_crop(image, labels, seeded(s), how)[0][0, 0, 0]) for s in range(100)}
    assert corners == {0, 1, 5, 6, 10, 11}


@pytest.mark.parametrize(("factor", "covered"), [(0.5, (10, 20)), (1.0, (20, 32)), (2.0, (24, 32))])
def test_what_is_smaller_than_the_crop_is_padded(factor, covered):
    how = replace(PLAIN, scale=(factor, factor))
    crop, labels = random_crop(smooth(20, 40), blobs(20, 40), seeded(), how)
    height, width = covered
    assert crop.shape == (3, 24, 32)
    inside = torch.zeros(24, 32, dtype=torch.bool)
    inside[:height, :width] = True
    assert labels[inside].max() < IGNORE
    assert (labels[~inside] == IGNORE).all()
    assert (crop[:, ~inside] == torch.tensor(PADDING)[:, None]).all()


def test_padding_is_zero_once_normalised():
    image, labels = pad(
        torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.uint8), (3, 4)
    )
    assert (image[:, :2, :2] == 0).all()
    assert labels.tolist() == [[0, 0, 255, 255], [0, 0, 255, 255], [255] * 4]
    assert normalise(image[None])[0, :, 2, 3].abs().max() < 0.01


def test_image_as_large_as_the_crop_stays():
    image, labels = smooth(24, 32), blobs(24, 32)
    crop, cropped = random_crop(image, labels, seeded(), PLAIN)
    assert crop.equal(image)
    assert cropped.equal(labels)


def test_resizing_by_hand_values():
    row = torch.tensor([0, 100, 200], dtype=torch.uint8).expand(3, 1, 3)
    # half-pixel centres: output pixel i lies at (i + 0.5) / 2 - 0.5 of the source
    assert resize_image(row, (1, 6))[0].tolist() == [[0, 25, 75, 125, 175, 200]]
    labels = torch.tensor([[3, 9, 255]], dtype=torch.uint8)
    assert resize_labels(labels, (1, 6)).tolist() == [[3, 3, 9, 9, 255, 255]]
    assert resize_labels(labels, (1, 2)).tolist() == [[3, 255]]
    assert resize_labels(torch.arange(4, dtype=torch.uint8)[None], (1, 2)).tolist() == [[1, 3]]


def test_labels_are_never_mixed():
    labels = torch.tensor([[0, 255], [9, 4]], dtype=torch.uint8)
    assert set(resize_labels(labels, (7, 9)).unique().tolist()) == {0, 4, 9, 255}


@pytest.mark.parametrize("scale", [(0.5, 0.5), (1.0, 1.0), (1.7, 1.7), (0.5, 2.0)])
def test_window_first_gives_the_label_statistics_of_resize_then_crop(scale):
    """Shares of seven classes in 600 crops of each kind, within four deviations of the means."""
    labels = blobs(90, 120)
    labels[:30, :50] = IGNORE
    how = replace(PLAIN, crop=(32, 40), scale=scale)
    ours = [random_crop(smooth(90, 120), labels, seeded(s), how)[1] for s in range(600)]
    slow = [resized_then_cropped(labels, seeded(10_000 + s), how) for s in range(600)]
    shares = [np.stack([histogram(crop) for crop in crops]) for crops in (ours, slow)]
    means = [share.mean(0) for share in shares]
    error = np.sqrt(sum(share.var(0) for share in shares) / 600)
    assert (np.abs(means[0] - means[1]) <= 4 * error + 1e-3).all()
    spread = [share.std(0) for share in shares]
    np.testing.assert_allclose(spread[0], spread[1], rtol=0.15, atol=5e-3)


def histogram(labels: Tensor) -> np.ndarray:
    return np.bincount(labels.numpy().ravel(), minlength=256)[[*range(7), IGNORE]] / labels.numel()


def resized_then_cropped(labels: Tensor, generator, how: Augmentation) -> Tensor:
    """The whole image first, as the published code does."""
    factor = generator.uniform(*how.scale)
    size = [round(side * factor) for side in labels.shape]
    whole = F.interpolate(labels[None, None], size, mode="nearest-exact")[0, 0]
    top, left = (
        int(generator.integers(max(side - crop, 0) + 1))
        for side, crop in zip(size, how.crop, strict=True)
    )
    crop = torch.full(how.crop, IGNORE, dtype=torch.uint8)
    part = whole[top : top + how.crop[0], left : left + how.crop[1]]
    crop[: part.shape[0], : part.shape[1]] = part
    return crop


# --- resize, aspect, rotation --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resize", "size"),
    [(60, (60, 90)), (30, (30, 45)), ((50, 50), (50, 50)), ((24, 32), (24, 32)), (None, (80, 120))],
)
def test_images_are_resized_before_everything_else(resize, size):
    """A crop as large as what the image becomes is all of it."""
    image, labels = smooth(80, 120), blobs(80, 120)
    how = replace(PLAIN, crop=size, resize=resize)
    crop, cropped = random_crop(image, labels, seeded(), how)
    expected = resize_whole(image, list(size))
    assert (crop.float() - expected).abs().max() <= 1.01
    # a place on the border of two pixels is as near to one as to the other
    below, above = (nearest(labels, size, side) for side in (-1e-6, 1e-6))
    mixed = nearest(labels, size, -1e-6, 1e-6), nearest(labels, size, 1e-6, -1e-6)
    assert (torch.stack([below, above, *mixed]) == cropped).any(0).all()


def nearest(labels: Tensor, size: tuple[int, int], down: float, right: float = 0.0) -> Tensor:
    shifts = down, right or down
    rows, columns = (
        ((torch.arange(n, dtype=torch.float64) + 0.5) * (side / n) + shift).long()
        for n, side, shift in zip(size, labels.shape, shifts, strict=True)
    )
    return labels[rows][:, columns]


def test_scale_is_relative_to_the_resized_image():
    how = replace(PLAIN, scale=(0.5, 0.5), resize=64, crop=(64, 64))
    _, labels = random_crop(smooth(128, 192), blobs(128, 192), seeded(), how)
    assert (labels[:32, :48] < IGNORE).all()
    assert (labels[32:] == IGNORE).all()
    assert (labels[:, 48:] == IGNORE).all()


def test_aspect_distorts_and_keeps_the_area():
    """Width over height in the range, uniform; the product of both factors is scale squared."""
    how = replace(PLAIN, scale=(0.8, 0.8), aspect=(0.9, 1.1))
    pairs = np.array([draw_factors((80, 120), seeded(s), how) for s in range(500)])
    np.testing.assert_allclose(pairs.prod(1), 0.64)
    ratios = pairs[:, 1] / pairs[:, 0]
    assert 0.9 <= ratios.min() < 0.91
    assert 1.09 < ratios.max() <= 1.1
    assert np.abs(ratios.mean() - 1) < 4 * 0.2 / np.sqrt(12 * 500)


def test_aspect_stretches_pixels():
    image, labels = smooth(80, 120), blobs(80, 120)
    how = replace(PLAIN, crop=(100, 160), aspect=(1.44, 1.44))
    crop, cropped = random_crop(image, labels, seeded(), how)
    size = round(80 / 1.2), round(120 * 1.2)
    expected = resize_whole(image, list(size))
    assert (crop[:, : size[0], : size[1]].float() - expected).abs().max() <= 1.01
    assert (cropped[: size[0], : size[1]] < IGNORE).all()
    assert (cropped[size[0] :] == IGNORE).all()


def turned_by_hand(image: Tensor, labels: Tensor, how: Augmentation, seed: int):
    """Each pixel of the crop alone, in float64: image values (nan outside), labels, the angle."""
    generator, (height, width) = seeded(seed), labels.shape
    factor = generator.uniform(*how.scale)
    degrees = generator.uniform(-how.rotation, how.rotation) if generator.random() < 0.5 else 0.0
    if not degrees:
        return None
    resized = [round(height * factor), round(width * factor)]
    corner = [int(generator.integers(s - c + 1)) for s, c in zip(resized, how.crop, strict=True)]
    values = np.full((3, *how.crop), np.nan)
    nearest = np.full(how.crop, IGNORE, np.uint8)
    turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    for v in range(how.crop[0]):
        for u in range(how.crop[1]):
            # up is positive in the complex plane
            x, y = u + 0.5 + corner[1] - resized[1] / 2, resized[0] / 2 - (v + 0.5 + corner[0])
            back = complex(x, y) / turn
            x = (back.real + resized[1] / 2) * width / resized[1] - 0.5
            y = (resized[0] / 2 - back.imag) * height / resized[0] - 0.5
            if 0 <= x < width - 1 and 0 <= y < height - 1:
                (i, j), (s, t) = (int(y), int(x)), (y % 1, x % 1)
                part = image[:, i : i + 2, j : j + 2].double().numpy()
                weights = np.array([[(1 - s) * (1 - t), (1 - s) * t], [s * (1 - t), s * t]])
                values[:, v, u] = (part * weights).sum((1, 2))
                nearest[v, u] = labels[round(y), round(x)]
    return values, nearest, degrees


@pytest.mark.parametrize("rotation", [10.0, 45.0])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.8, 1.6)])
def test_rotation_pixel_by_pixel(rotation, scale):
    how = replace(PLAIN, crop=(40, 48), scale=scale, rotation=rotation)
    image, labels = smooth(70, 80), blobs(70, 80)
    angles = list[float]()
    for seed in range(12):
        crop, cropped = random_crop(image, labels, seeded(seed), how)
        if (slow := turned_by_hand(image, labels, how, seed)) is None:
            continue
        values, nearest, degrees = slow
        angles.append(degrees)
        inside = ~np.isnan(values[0])
        # a rounding, and what OpenCV's 1/32 of a pixel makes of slopes of 13 levels
        assert np.abs(crop.numpy() - values)[:, inside].max() <= 1.5
        assert (cropped.numpy() == nearest)[inside].mean() >= 0.98
    assert min(angles) < 0 < max(angles)


def test_what_is_turned_in_from_outside_is_padding():
    how = replace(PLAIN, crop=(40, 40), rotation=45.0)
    image, labels = torch.full((3, 40, 40), 9, dtype=torch.uint8), blobs(40, 40)
    crops = [random_crop(image, labels, seeded(s), how) for s in range(40)]
    turned = [(crop, cropped) for crop, cropped in crops if (cropped == IGNORE).any()]
    assert 8 <= len(turned) <= 32  # every second one
    for crop, cropped in turned:
        corner = cropped[0, 0] == IGNORE
        assert not corner or crop[:, 0, 0].tolist() == list(PADDING)
        assert cropped[20, 20] == labels[20, 20]
    straight = [pair for pair in crops if not (pair[1] == IGNORE).any()]
    assert any(crop.equal(image) and cropped.equal(labels) for crop, cropped in straight)


def test_a_turned_image_smaller_than_the_crop_is_padded():
    how = replace(PLAIN, crop=(64, 64), rotation=10.0)
    for seed in range(6):
        crop, labels = random_crop(smooth(30, 40), blobs(30, 40), seeded(seed), how)
        assert crop.shape == (3, 64, 64)
        assert (labels[30:] == IGNORE).all()
        assert (labels[:, 40:] == IGNORE).all()
        assert labels[15, 20] < IGNORE


# --- the 75 % rule -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "share"),
    [([1, 1, 1, 2], 0.75), ([1, 255, 255, 255], 1), ([0, 1, 2, 255], 1 / 3), ([255] * 4, 1)],
)
def test_largest_share_counts_labelled_pixels(labels, share):
    assert largest_share(torch.tensor([labels], dtype=torch.uint8)) == pytest.approx(share)


def test_crops_of_one_class_are_drawn_again():
    """A third of the places is mixed: one draw hits 1/3, ten miss with (2/3)^10 = 2 %."""
    labels = torch.zeros(8, 300, dtype=torch.uint8)
    labels[4:, :100] = 1
    image, how = smooth(8, 300), replace(PLAIN, crop=(8, 10), max_class_share=0.75)
    mixed = [
        largest_share(random_crop(image, labels, seeded(s), how)[1]) <= 0.75 for s in range(200)
    ]
    free = replace(how, max_class_share=1.0)
    unruled = [
        largest_share(random_crop(image, labels, seeded(s), free)[1]) <= 0.75 for s in range(200)
    ]
    assert 0.2 <= np.mean(unruled) <= 0.47
    assert np.mean(mixed) >= 0.93


def test_crops_without_labels_are_drawn_again():
    labels = torch.full((8, 300), IGNORE, dtype=torch.uint8)
    labels[:4, 150:], labels[4:, 150:] = 0, 1
    how = replace(PLAIN, crop=(8, 10), max_class_share=0.75)
    crops = [random_crop(smooth(8, 300), labels, seeded(s), how)[1] for s in range(100)]
    assert sum(bool((crop == IGNORE).all()) for crop in crops) <= 2


def test_the_tenth_crop_is_taken_whatever_it_holds():
    labels = torch.zeros(60, 60, dtype=torch.uint8)
    generator = seeded()
    random_crop(smooth(60, 60), labels, generator, replace(PLAIN, max_class_share=0.75))
    expected = seeded()
    expected.uniform(1, 1)
    for _ in range(10):
        expected.integers(60 - 24 + 1)
        expected.integers(60 - 32 + 1)
    assert generator.random() == expected.random()


# --- flip ----------------------------------------------------------------------------------------


def test_flip_mirrors_the_image_and_swaps_sides():
    labels = torch.tensor([[0, 1, 2, 255]], dtype=torch.uint8)
    image = torch.arange(12, dtype=torch.uint8).view(3, 1, 4)
    how = replace(PLAIN, crop=(1, 4), flip=1.0, mirror=(0, 2, 1))
    flipped = how(Sample("a", image, labels), seeded())
    assert flipped.id == "a"
    assert flipped.image.tolist() == [[[3, 2, 1, 0]], [[7, 6, 5, 4]], [[11, 10, 9, 8]]]
    assert flipped.labels.tolist() == [[255, 1, 2, 0]]
    twice = how(flipped, seeded())
    assert twice.image.equal(image)
    assert twice.labels.equal(labels)


@pytest.mark.parametrize("mirror", [(), (0, 1, 2)])
def test_classes_without_sides_stay(mirror):
    labels = torch.tensor([[0, 1, 2, 255]], dtype=torch.uint8)
    assert swap_sides(labels, mirror).equal(labels)


def test_flip_comes_as_often_as_asked():
    image, labels = smooth(24, 32), blobs(24, 32)
    how = replace(PLAIN, flip=0.25)
    flips = [not how(Sample("a", image, labels), seeded(s)).image.equal(image) for s in range(400)]
    assert 0.18 <= np.mean(flips) <= 0.32  # three deviations


# --- colours -------------------------------------------------------------------------------------

COLOURS = torch.cat(
    [
        torch.rand(3, 1, 400, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        .t()[:, None]
        .contiguous(),
    ],
    dim=-1,
)


def by_steps(image: Tensor, generator: np.random.Generator) -> Tensor:
    """SSD's order, one pixel at a time."""
    brightness = generator.uniform(-32, 32) if generator.random() < 0.5 else 0.0
    contrast = generator.uniform(0.5, 1.5) if generator.random() < 0.5 else 1.0
    first = generator.random() < 0.5
    saturation = generator.uniform(0.5, 1.5) if generator.random() < 0.5 else 1.0
    hue = generator.uniform(-36, 36) if generator.random() < 0.5 else 0.0
    result = image.clone()
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            colour = [min(max(c + brightness, 0), 255) for c in image[:, y, x].tolist()]
            if first:
                colour = [min(c * contrast, 255) for c in colour]
            h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
            colour = colorsys.hsv_to_rgb((h + hue / 360) % 1, min(s * saturation, 1), v)
            scale = 255 if first else 255 * contrast
            shades = [round(min(c * scale, 255)) for c in colour]
            result[:, y, x] = torch.tensor(shades, dtype=torch.uint8)
    return result


@pytest.mark.parametrize("seed", range(24))
def test_photometric_distortion_pixel_by_pixel(seed):
    image = (COLOURS[:, :, :64] * 255).round().to(torch.uint8).view(3, 8, 8)
    difference = (
        photometric_distortion(image, seeded(seed)).int() - by_steps(image, seeded(seed)).int()
    )
    assert difference.abs().max() <= 1  # float32 against float64, at a rounding edge
    assert (difference != 0).float().mean() <= 0.02


def test_photometric_distortion_changes_15_of_16_images():
    image = (COLOURS[:, :, :64] * 255).round().to(torch.uint8).view(3, 8, 8)
    same = [photometric_distortion(image, seeded(s)).equal(image) for s in range(400)]
    assert 0.03 <= np.mean(same) <= 0.1


@pytest.mark.parametrize("seed", range(8))
def test_brightness_adds_one_whole_number(seed):
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 256).repeat(3, 1, 1)
    found = shift_brightness(image, seeded(seed), 10).int()
    shift = int(seeded(seed).integers(-10, 11))
    assert found.equal((image.int() + shift).clamp(0, 255))


def test_brightness_draws_every_level():
    image = torch.full((3, 1, 1), 100, dtype=torch.uint8)
    found = {int(shift_brightness(image, seeded(s), 3)[0, 0, 0]) for s in range(100)}
    assert found == set(range(97, 104))
    how = replace(PLAIN, crop=(1, 1), brightness=3)
    labels = torch.zeros(1, 1, dtype=torch.uint8)
    assert {
        int(how(Sample("a", image, labels), seeded(s)).image[0, 0, 0]) for s in range(100)
    } == found


# --- the whole -----------------------------------------------------------------------------------


def test_an_augmentation_is_a_function_of_its_generator():
    sample = Sample("a", smooth(60, 70), blobs(60, 70))
    before = sample.image.clone(), sample.labels.clone()
    how = Augmentation(
        (24, 32),
        mirror=(0, 2, 1, 3, 4, 5, 6),
        resize=50,
        aspect=(0.9, 1.1),
        rotation=10.0,
        brightness=10,
    )
    results = [how(sample, seeded(s)) for s in (7, 7, 8)]
    assert results[0].image.equal(results[1].image)
    assert results[0].labels.equal(results[1].labels)
    assert not results[0].image.equal(results[2].image)
    assert sample.image.equal(before[0])
    assert sample.labels.equal(before[1])


def test_normalise_by_hand_values():
    images = torch.zeros(2, 3, 1, 2, dtype=torch.uint8)
    images[1] = 255
    normalised = normalise(images)
    assert normalised.dtype == torch.float32
    # the figures that torchvision's recipes print, on a scale of 0 to 1
    means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for c in range(3):
        assert math.isclose(MEAN[c] / 255, means[c], abs_tol=1e-9)
        assert math.isclose(STD[c] / 255, deviations[c], abs_tol=1e-9)
        assert normalised[0, c, 0, 1].item() == pytest.approx(-means[c] / deviations[c], rel=1e-5)
        assert normalised[1, c, 0, 0].item() == pytest.approx(
            (1 - means[c]) / deviations[c], rel=1e-5
        )


def test_normalise_gives_the_same_values_in_either_layout():
    images = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for given in (images, images.contiguous()):
        plain, last = (normalise(given, channels_last=each) for each in (False, True))
        assert torch.equal(plain, last)
        assert plain.is_contiguous()
        assert last.is_contiguous(memory_format=torch.channels_last)
