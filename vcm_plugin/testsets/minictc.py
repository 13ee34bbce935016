# SPDX-License-Identifier: BSD-3-Clause
"""The built-in test set "mini-CTC": drawn scenes with COCO-layout boxes and masks, no download.

Every pixel comes from additions, multiplications, divisions, square roots and comparisons of
float64 values, which IEEE 754 defines to the last bit, and from the raw doubles of PCG64. There is
no sine, exponential or reduction whose result depends on the machine, so the pixels and the
annotations are the same bytes everywhere; DIGESTS holds their sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from vcm_plugin.errors import InputError

CLASS_NAMES = ("ball", "ring", "crate", "star", "gear", "leaf", "cross", "crescent")
# Disjoint seeds: picture i of a split is drawn from FIRST_SEED[split] + i.
FIRST_SEED = {"train": 1_000_000, "val": 2_000_000, "test": 3_000_000}
PICTURES = {"train": 6000, "val": 64, "test": 64}
# (height, width), most of them landscape; the last is resized and padded by the detector.
PICTURE_SIZES = ((256, 320), (256, 320), (256, 320), (320, 256), (288, 384))
SUPERSAMPLING = 3
SURFACE_CELLS = (16, 8, 4, 2)  # pixels, of the grain of an object
MIN_VISIBLE_PIXELS = 48
MIN_VISIBLE_SHARE = 0.3

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]
Grain = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SceneObject:
    """One object: its class, the affine map into the unit frame of its outline, and its looks."""

    category: int
    centre: tuple[float, float]  # (y, x) in pixels
    radius: float  # in pixels
    axes: tuple[float, float, float, float]  # 2x2 map from pixel offsets / radius to (u, v)
    colours: np.ndarray  # (2, 3) in 0..1
    pattern: int
    pattern_scale: float
    light: tuple[float, float]
    noise_seed: int


def generate(split: str, folder: Path, count: int | None = None) -> Path:
    """Draw `count` pictures of a split (all by default) and write them in COCO layout.

    Writes folder/images/<id>.png and folder/instances.json and returns the latter. Raises
    InputError for an unknown split. A complete split is checked against its sha256 in DIGESTS.
    """
    if split not in FIRST_SEED:
        raise InputError(f"mini-CTC: expected the split train, val or test, found {split!r}")
    count = PICTURES[split] if count is None else count
    (folder / "images").mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    images, annotations = [], []
    for index in range(count):
        picture, objects = draw_picture(FIRST_SEED[split] + index)
        name = f"{index + 1:06d}.png"
        Image.fromarray(picture).save(folder / "images" / name, compress_level=1)
        height, width = picture.shape[:2]
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for category, mask in objects:
            annotations.append(annotation(len(annotations) + 1, index + 1, category, mask))
        digest.update(picture.tobytes())
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASS_NAMES)]
    layout = {"images": images, "annotations": annotations, "categories": categories}
    text = json.dumps(layout, separators=(",", ":"), sort_keys=True)
    digest.update(text.encode())
    if count == PICTURES[split] and digest.hexdigest() != DIGESTS[split]:
        raise InputError(
            f"mini-CTC {split}: expected sha256 {DIGESTS[split]}, drew {digest.hexdigest()}; "
            f"numpy {np.__version__} draws other pictures here: please report it with this line"
        )
    path = folder / "instances.json"
    path.write_text(text)
    return path


def draw_picture(seed: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one picture.

    Returns the picture, uint8 (H, W, 3) in RGB, and for every object that is visible enough its
    class (index into CLASS_NAMES) and its visible mask, bool (H, W).
    """
    random = np.random.Generator(np.random.PCG64(seed)).random
    height, width = PICTURE_SIZES[int(random() * len(PICTURE_SIZES))]
    canvas = background(random, height, width)
    for _ in range(3 + int(random() * 5)):
        paint(canvas, random_object(random, height, width, category=-1))
    objects = [
        random_object(random, height, width, category=int(random() * len(CLASS_NAMES)))
        for _ in range(4 + int(random() * 7))
    ]
    visible = paint_objects(canvas, objects)
    canvas *= vignette(random, height, width)[..., None]
    canvas += (random((height, width, 1)) - 0.5) * 0.03  # sensor noise
    return to_picture(canvas), visible


def paint_objects(canvas: np.ndarray, objects: list[SceneObject]) -> list[tuple[int, np.ndarray]]:
    """Paint objects over the canvas, in place; class and visible mask of those seen enough."""
    ordered = sorted(objects, key=lambda o: o.centre[0] + o.radius)  # nearer ones cover others
    return paint_in_order(canvas, [(item, None) for item in ordered])


def paint_in_order(
    canvas: np.ndarray, objects: list[tuple[SceneObject, Grain | None]]
) -> list[tuple[int, np.ndarray]]:
    """Paint objects with their grain over the canvas, a later one over the earlier ones."""
    masks, areas = [], []
    for item, grain in objects:
        mask = paint(canvas, item, grain)
        for earlier in masks:
            earlier &= ~mask
        masks.append(mask)
        areas.append(np.count_nonzero(mask))
    visible = []
    for (item, _), mask, area in zip(objects, masks, areas):
        pixels = np.count_nonzero(mask)
        if pixels >= max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * area):
            visible.append((item.category, mask))
    return visible


def to_picture(canvas: np.ndarray) -> np.ndarray:
    """A canvas of 0..1 as uint8."""
    return np.floor(np.clip(canvas, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def annotation(annotation_id: int, image_id: int, category: int, mask: np.ndarray) -> dict:
    """The COCO annotation of an object of a class (from 0) with its mask, bool (H, W)."""
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category + 1,
        "bbox": [int(v) for v in coco_mask.toBbox(rle)],
        "area": int(coco_mask.area(rle)),
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
        "iscrowd": 0,
    }


def random_object(random: Callable, height: int, width: int, category: int) -> SceneObject:
    """Draw the class-independent looks of an object; category -1 is unlabelled clutter."""
    r = random()
    radius = 11.0 + 47.0 * r * r  # diameters 22 .. 116 pixels, small ones more often
    t = random() * 2.0 - 1.0  # rotation by 2 atan(t), as a rational point of the circle
    cosine, sine = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
    if random() < 0.5:
        cosine, sine = -cosine, -sine
    squeeze = 1.0 / (0.65 + 0.35 * random())  # foreshortening
    return SceneObject(
        category=category,
        centre=(random() * height, random() * width),
        radius=radius,
        axes=(cosine, sine, -sine * squeeze, cosine * squeeze),
        colours=random((2, 3)) * 0.8 + 0.1,
        pattern=int(random() * 4),
        pattern_scale=2.0 + 5.0 * random(),
        light=(random() - 0.5, random() - 0.5),
        noise_seed=int(random() * 2**32),
    )


def paint(canvas: np.ndarray, item: SceneObject, grain: Grain | None = None) -> np.ndarray:
    """Paint an object and its shadow over the canvas, in place; returns its mask, bool (H, W).

    grain: (u, v) -> the noise of its surface, 0..1; by default drawn on the pixels it covers.
    """
    height, width = canvas.shape[:2]
    reach = int(item.radius * 1.25) + 2
    top, left = max(0, int(item.centre[0]) - reach), max(0, int(item.centre[1]) - reach)
    bottom = min(height, int(item.centre[0]) + reach + 1)
    right = min(width, int(item.centre[1]) + reach + 1)
    mask = np.zeros((height, width), dtype=bool)
    if top >= bottom or left >= right:
        return mask
    steps = SUPERSAMPLING
    y = (np.arange(top * steps, bottom * steps) + 0.5) / steps - item.centre[0]
    x = (np.arange(left * steps, right * steps) + 0.5) / steps - item.centre[1]
    u, v = unit_frame(item, y[:, None], x[None, :])
    inside = OUTLINES[item.category](u, v)
    cover = box_filter(inside.astype(np.float64))
    shadow_u, shadow_v = unit_frame(item, y[:, None] - 0.12 * item.radius, x[None, :])
    shade = box_filter(OUTLINES[item.category](shadow_u, shadow_v).astype(np.float64))
    region = canvas[top:bottom, left:right]
    region *= 1.0 - 0.45 * shade[..., None]
    half = steps // 2
    u, v = u[half::steps, half::steps], v[half::steps, half::steps]
    if grain is None:
        random = np.random.Generator(np.random.PCG64(item.noise_seed)).random
        noise = fractal_noise(random, *u.shape, cells=SURFACE_CELLS)
    else:
        noise = grain(u, v)
    region += cover[..., None] * (surface(item, u, v, noise) - region)
    mask[top:bottom, left:right] = cover >= 0.5
    return mask


def unit_frame(item: SceneObject, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d = item.axes
    return (a * x + b * y) / item.radius, (c * x + d * y) / item.radius


def box_filter(fine: np.ndarray) -> np.ndarray:
    """Mean over SUPERSAMPLING x SUPERSAMPLING samples, summed in a fixed order."""
    steps = SUPERSAMPLING
    total = np.zeros((fine.shape[0] // steps, fine.shape[1] // steps))
    for i in range(steps):
        for j in range(steps):
            total += fine[i::steps, j::steps]
    return total / (steps * steps)


def surface(item: SceneObject, u: np.ndarray, v: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) of an object: its pattern, its class's inner structure, and light.

    u, v: of the pixels in the unit frame. noise: the grain of the object at them, 0..1.
    """
    scaled_u, scaled_v = u * item.pattern_scale, v * item.pattern_scale
    if item.pattern == 0:  # stripes
        mix = _triangle_wave(scaled_u)
    elif item.pattern == 1:  # checks
        mix = ((np.floor(scaled_u) + np.floor(scaled_v)) % 2.0) * 0.8 + 0.1
    elif item.pattern == 2:  # dots
        du, dv = scaled_u - np.floor(scaled_u) - 0.5, scaled_v - np.floor(scaled_v) - 0.5
        mix = np.where(du * du + dv * dv < 0.1, 0.9, 0.1)
    else:  # marble
        mix = _triangle_wave(scaled_v + 2.0 * noise)
    colours = item.colours[0] + mix[..., None] * (item.colours[1] - item.colours[0])
    colours = colours * (0.75 + 0.5 * noise[..., None])
    colours = colours * (1.0 - 0.45 * DETAILS[item.category](u, v)[..., None])
    bulge = np.sqrt(np.maximum(0.0, 1.0 - 0.8 * (u * u + v * v)))
    light = 0.55 + 0.5 * bulge + item.light[0] * u + item.light[1] * v
    return np.clip(colours * light[..., None], 0.02, 1.0)


def background(random: Callable, height: int, width: int) -> np.ndarray:
    """Ground, float64 (H, W, 3): three colours mixed by two 1/f noise fields, and blades."""
    grey = random((3, 1)) * 0.55 + 0.2
    palette = grey + (random((3, 3)) - 0.5) * 0.3
    broad = fractal_noise(random, height, width, cells=(96, 48, 24, 12, 6, 3))
    fine = fractal_noise(random, height, width, cells=(24, 12, 6, 3, 2))
    canvas = palette[0] + broad[..., None] * (palette[1] - palette[0])
    canvas = canvas + (fine * broad)[..., None] * (palette[2] - canvas)
    grain = 0.15 + 0.35 * random()
    canvas *= (1.0 - grain / 2 + grain * fine)[..., None]
    for _ in range(int(random() * 60)):
        _blade(canvas, random, palette)
    return canvas


def _blade(canvas: np.ndarray, random: Callable, palette: np.ndarray) -> None:
    """Paint one thin stroke of a few pixels' width, like a blade of grass or a twig, in place."""
    height, width = canvas.shape[:2]
    length, slope = 6 + int(random() * 30), random() * 2.0 - 1.0
    y0, x0 = int(random() * height), random() * width
    colour = palette[int(random() * 3)] * (0.5 + random())
    for step in range(length):
        y, x = y0 + step, int(x0 + slope * step)
        if y < height and 0 <= x < width - 2:
            canvas[y, x : x + 2] += 0.6 * (colour - canvas[y, x : x + 2])


def vignette(random: Callable, height: int, width: int) -> np.ndarray:
    """Global light, (H, W): a plane with a random direction."""
    y = (np.arange(height) / height - 0.5)[:, None]
    x = (np.arange(width) / width - 0.5)[None, :]
    return 0.95 + 0.5 * (random() - 0.5) * y + 0.5 * (random() - 0.5) * x


def fractal_noise(random: Callable, height: int, width: int, cells: tuple[int, ...]) -> np.ndarray:
    """Value noise in 0..1: octaves of smooth lattice noise whose amplitude falls with the cell."""
    total, weight = np.zeros((height, width)), 0.0
    for octave, cell in enumerate(cells):
        amplitude = 0.62**octave
        rows, columns = height // cell + 2, width // cell + 2
        lattice = random((rows, columns))
        ys, fy = _lattice_position(height, cell)
        xs, fx = _lattice_position(width, cell)
        upper = lattice[ys] + fy[:, None] * (lattice[ys + 1] - lattice[ys])
        total += amplitude * (upper[:, xs] + fx * (upper[:, xs + 1] - upper[:, xs]))
        weight += amplitude
    return np.clip((total / weight - 0.5) * 1.8 + 0.5, 0.0, 1.0)


def _lattice_position(length: int, cell: int) -> tuple[np.ndarray, np.ndarray]:
    position = np.arange(length) / cell
    index = np.floor(position).astype(np.int64)
    fraction = position - index
    return index, fraction * fraction * (3.0 - 2.0 * fraction)


def _triangle_wave(x: np.ndarray) -> np.ndarray:
    phase = x - np.floor(x)
    return np.where(phase < 0.5, 2.0 * phase, 2.0 - 2.0 * phase)


def _rotated(points: list[tuple[float, float]], cosine: float, sine: float, turns: int) -> list:
    """The points, and the points turned by one step, two steps ..., as one closed polygon."""
    polygon = []
    for _ in range(turns):
        polygon += points
        points = [(x * cosine - y * sine, x * sine + y * cosine) for x, y in points]
    return polygon


def _polygon(u: np.ndarray, v: np.ndarray, points: list[tuple[float, float]]) -> np.ndarray:
    """Even-odd rule."""
    inside = np.zeros(np.broadcast(u, v).shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1]):
        crosses = (y0 > v) != (y1 > v)
        inside ^= crosses & (u < x0 + (v - y0) * ((x1 - x0) / (y1 - y0) if y1 != y0 else 0.0))
    return inside


def _disc(u: np.ndarray, v: np.ndarray, radius: float = 1.0, x: float = 0.0, y: float = 0.0):
    return (u - x) * (u - x) + (v - y) * (v - y) < radius * radius


def _box(u: np.ndarray, v: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return (np.abs(u) < half_width) & (np.abs(v) < half_height)


# cos and sin of 72 and of 45 degrees, as literals: libm may round them differently.
_STAR = _rotated([(1.0, 0.0), (0.34, 0.247)], 0.30901699437494745, 0.9510565162951535, 5)
_TOOTH = [(0.74, -0.2), (1.0, -0.14), (1.0, 0.14), (0.74, 0.2)]
_GEAR = _rotated(_TOOTH, 0.7071067811865476, 0.7071067811865475, 8)
_SHARD = [(0.9, 0.1), (0.3, 0.7), (-0.5, 0.6), (-0.9, -0.1), (-0.2, -0.8), (0.5, -0.6)]

# Outline of each class in the unit frame; the last one (index -1) is unlabelled clutter.
OUTLINES: tuple[Outline, ...] = (
    lambda u, v: _disc(u, v, 0.95),
    lambda u, v: _disc(u, v, 0.97) & ~_disc(u, v, 0.5),
    lambda u, v: _box(u, v, 0.8, 0.8),
    lambda u, v: _polygon(u, v, _STAR),
    lambda u, v: _polygon(u, v, _GEAR) & ~_disc(u, v, 0.28),
    lambda u, v: _disc(u, v, 1.25, 0.0, 0.75) & _disc(u, v, 1.25, 0.0, -0.75),
    lambda u, v: _box(u, v, 0.95, 0.33) | _box(u, v, 0.33, 0.95),
    lambda u, v: _disc(u, v, 0.97) & ~_disc(u, v, 0.8, 0.5, 0.0),
    lambda u, v: _polygon(u, v, _SHARD),
)
# Darkening (0..1) that each class carries inside its outline, whatever its pattern.
DETAILS: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda u, v: _box(u, v, 1.0, 0.14).astype(np.float64),
    lambda u, v: (_disc(u, v, 0.8) & ~_disc(u, v, 0.68)).astype(np.float64),
    lambda u, v: (~_box(u, v, 0.6, 0.6) | (np.abs(u - v) < 0.16)).astype(np.float64),
    lambda u, v: _disc(u, v, 0.2).astype(np.float64),
    lambda u, v: (_disc(u, v, 0.6) & ~_disc(u, v, 0.45)).astype(np.float64),
    lambda u, v: (np.abs(v) < 0.08).astype(np.float64),
    lambda u, v: _box(u, v, 0.3, 0.3).astype(np.float64),
    lambda u, v: np.zeros(np.broadcast(u, v).shape),
    lambda u, v: np.zeros(np.broadcast(u, v).shape),
)

# sha256 over the RGB bytes of all pictures of a split in order, then over its instances.json.
DIGESTS = {
    "train": "10fa435b80bbf2ab4d7de11bf5386c595ea3cf12bdc350c1a4f616dd81159f58",
    "val": "db10105a426d9fcaad989d08a7ff6a07e44a2dc901de55abf07185d4876f6cc5",
    "test": "3069062d6628aa99d183d424725e6925731b0cbcc2deb48655d78ac336f69774",
}
